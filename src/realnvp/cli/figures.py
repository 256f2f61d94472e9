"""realnvp figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from realnvp.cli.inputs import beside, load
from realnvp.cli.options import Device, Flag, Json, RunDir, Threads, Which
from realnvp.cli.output import print_json, say


@dataclass
class Figures:
    """Draw the paper's figures from one trained run, and those that show whether its density
    can be trusted.

    samples, manifold (eq 14), extrapolation, compression, latents, curves; PNG files under
    RUN/figures.

    Example: realnvp figures runs/photos --only manifold --seed 1
    """

    run: RunDir
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Only this figure; may be repeated."""
    seed: int = 0
    """Seed of everything that is chosen or drawn at random."""
    out: Path | None = None
    """Another folder than RUN/figures."""
    arrays: Flag = False
    """Also write what was drawn, as .npy."""
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.evaluation.figures import drawn_figures

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        out = self.out or beside(self.run) / "figures"
        drawn = drawn_figures(
            flow, self.run, only=self.only, seed=self.seed, out=out, arrays=self.arrays
        )
        if self.json:
            files = [str(path) for path in drawn.files]
            facts = {"run": self.run, "seed": self.seed, "which": self.which}
            print_json(facts | {"files": files, "missing": drawn.missing})
        else:
            say("\n".join(map(str, drawn.files)))
        return 0
