"""realnvp prepare."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realnvp.cli.options import Flag
from realnvp.progress import show_progress

Lsun = Literal["lsun-bedroom", "lsun-tower", "lsun-church-outdoor"]
Set = Literal["cifar10", "imagenet32", "imagenet64", "celeba", Lsun]


@dataclass
class Prepare:
    """Turn the published files of a data set into the arrays that training reads.

    Example: realnvp prepare cifar10 --source cifar-10-binary.tar.gz --out data/cifar10
    """

    set: Annotated[Set, tyro.conf.Positional, tyro.conf.arg(metavar="SET")]
    """cifar10, imagenet32, imagenet64, celeba, lsun-bedroom, lsun-tower or lsun-church-outdoor."""
    source: Path
    """The downloaded archive, or a folder with the downloads."""
    out: Path
    """The folder to write; --data.source of a training."""
    allow_partial: Flag = False
    """Accept other files and numbers of images than published; the version says partial."""
    seed: int = 0
    """Seed of LSUN's 96x96 squares."""

    def __call__(self) -> int:
        from realnvp.data.published import PUBLISHED, write_published

        with show_progress():
            found = write_published(
                PUBLISHED[self.set],
                self.set,
                self.source,
                self.out,
                allow_partial=self.allow_partial,
                seed=self.seed,
            )
        counts = ", ".join(f"{split} {count:,}" for split, count in found.counts.items())
        print(f"{self.out}: {self.set} ({found.version}), {counts}")
        return 0
