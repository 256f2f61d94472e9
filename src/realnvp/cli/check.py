"""realnvp check: is the flow invertible, and its log-det right?"""

from dataclasses import dataclass

from realnvp.cli.given import load, of_table, test_split
from realnvp.cli.options import Device, Json, RunDir, Threads, Which
from realnvp.cli.output import print_json, print_table


@dataclass
class Check:
    """Check a run's flow on its data: inverses, log-det, batch norm, finite values. Exits with 1 if a check fails.

    Example: realnvp check runs/photos
    """

    run: RunDir
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        import numpy as np

        from realnvp.check import check

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        count = 1024 if of_table(flow) else 64
        checks = check(flow, np.moveaxis(test_split(flow, self.run)[:count], -1, 1))
        failed = sum(not entry.ok for entry in checks)
        if self.json:
            print_json({"ok": not failed, "checks": [entry._asdict() | {"ok": entry.ok} for entry in checks]})
        else:
            rows = [(e.name, f"{e.value:.1e}", f"{e.bound:.0e}", e.unit, "ok" if e.ok else "FAILED") for e in checks]
            print_table(("check", "measured", "allowed", "unit", ""), rows)
            print(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
        return 1 if failed else 0
