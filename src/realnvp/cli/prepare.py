"""realnvp prepare."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from realnvp.cli.options import Background, Colours, Depth, Flag, chosen_reading, print_json, say
from realnvp.config.fields import BETWEEN_0_AND_1, SEED, check_number

Set = Literal[
    "cifar10",
    "imagenet32",
    "imagenet64",
    "celeba",
    "lsun-bedroom",
    "lsun-tower",
    "lsun-church-outdoor",
    "images",
]


@dataclass
class Prepare:
    """Turn a data set's files, as published, into train.npy, test.npy and dataset.json. Again:
    it goes on, or finds all done.

    The source is only read. What is held out of train for validation is cut at training time,
    by its seed and data.held-out.

    Example: realnvp prepare cifar10 --source cifar-10-binary.tar.gz --out data/cifar10

    Your own: realnvp prepare images --source photos.zip --out data/photos --resize 64
    """

    set: Annotated[Set, tyro.conf.Positional, tyro.conf.arg(metavar="SET")]
    """Which data set: cifar10, imagenet32, imagenet64, celeba, lsun-bedroom, lsun-tower,
    lsun-church-outdoor, images.
    """
    source: Path
    """The downloaded archive, or a folder with the downloads."""
    out: Path
    """The folder to write; name it as --data.source in training."""
    crop: str | None = None
    """images: SIDE or HEIGHTxWIDTH; the middle of each image, after --resize if both are given."""
    resize: str | None = None
    """images: HEIGHTxWIDTH scales to that; SIDE scales the smallest side to it and takes the
    middle square.
    """
    background: Background = None
    color_mode: Colours = None
    bit_depth: Depth = None
    val_fraction: float = 0.1
    """images: share of them that becomes the test split, where no folder is called test."""
    allow_partial: Flag = False
    """Take other numbers of images than the published ones; the version then says partial."""
    seed: int = 0
    """Seed of LSUN's 96x96 squares, and of the test split of images."""
    json: Flag = False
    """Print dataset.json's content as one JSON object."""

    def __call__(self) -> int:
        from realnvp.data.published.prepare import convert, parse_size

        if self.set != "images" and (self.crop or self.resize):
            raise ValueError(
                f"{'--crop' if self.crop else '--resize'}: {self.set} has a size of its own; "
                "it is for images only"
            )
        reading = chosen_reading(self.background, self.color_mode, self.bit_depth)
        if self.set != "images" and (chosen := reading.chosen()):
            raise ValueError(f"--{next(iter(chosen))}: is for images only, not for {self.set}")
        check_number("val_fraction", self.val_fraction, float, BETWEEN_0_AND_1)
        check_number("seed", self.seed, int, SEED)
        about = convert(
            self.set,
            self.source,
            self.out,
            crop=parse_size(self.crop, "crop"),
            resize=parse_size(self.resize, "resize"),
            allow_partial=self.allow_partial,
            val_fraction=self.val_fraction,
            seed=self.seed,
            **reading._asdict(),
        )
        if self.json:
            print_json(about)
        else:
            say(_summary(about, self.out))
        return 0


def _summary(about: dict[str, Any], out: Path) -> str:
    version = f" ({about['version']})" if about["version"] else ""
    channels, height, width = about["shape"]
    counts = ", ".join(f"{split} {count:,}" for split, count in about["counts"].items())
    preset = "images-modern" if about["name"] == "images" else about["name"]
    return (
        f"{out}: {about['name']}{version}, {height}x{width}x{channels}, {counts}; "
        f"{'was complete already' if about['already'] else 'written'}. "
        f"Next: {shlex.join(['realnvp', 'train', preset, '--data.source', str(out)])}"
    )
