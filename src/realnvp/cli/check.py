"""realnvp check: is the flow invertible, and its log-det right?"""

from dataclasses import dataclass

from realnvp.cli.inputs import load, own_data
from realnvp.cli.options import Device, Json, RunDir, Threads, Which
from realnvp.cli.output import print_json, print_table, say


@dataclass
class Check:
    """Check a run's flow on its data: inverses, log-det, batch norm, finite values. Exits with
    1 if a check fails.

    Example: realnvp check runs/photos
    """

    run: RunDir
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        import numpy as np

        from realnvp.data import channels_first
        from realnvp.evaluation.check import check, how_many
        from realnvp.flows.flow import config_of

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        data, count = own_data(flow, self.run), how_many(config_of(flow))
        # All over the training images: their files may lie in order.
        spread = np.linspace(0, len(data.train) - 1, min(count, len(data.train))).astype(int)
        test, training = map(channels_first, (data.test[:count], data.train[spread]))
        checks = check(flow, test, training=training)
        failed = sum(not entry.ok for entry in checks)
        if self.json:
            entries = [entry._asdict() | {"ok": entry.ok} for entry in checks]
            print_json({"ok": not failed, "checks": entries})
        else:
            rows = [
                (e.name, f"{e.value:.1e}", f"{e.bound:.0e}", e.unit, "ok" if e.ok else "FAILED")
                for e in checks
            ]
            print_table(("check", "measured", "allowed", "unit", ""), rows)
            outcome = f"{failed} of {len(checks)} checks failed"
            say(outcome if failed else f"all {len(checks)} checks passed")
        return 1 if failed else 0
