"""realnvp package and realnvp export: a flow for others, and for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realnvp.cli.options import Json, RunDir, Which, load, prepare_output, print_json


@dataclass
class Package:
    """Write an evaluated run as a folder to share: weights, configuration and a model card.

    No path of this machine is in it. `hf upload user/name DIR` puts it on the Hugging Face Hub.

    Example: realnvp package runs/photos my-flow --license mit
    """

    run: Annotated[
        Path,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN", help="A run directory, evaluated before."),
    ]
    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="A new or empty folder.")
    ]
    license: str | None = None
    """Of the weights, as the Hub names it: mit, cc-by-4.0, ..."""
    sources: str | None = None
    """Where the training data come from, and their licenses."""

    def __call__(self) -> int:
        from realnvp.hub import package

        package(self.run, self.folder, license=self.license, sources=self.sources)
        print(f"{self.folder}: written; README.md is its model card")
        return 0


@dataclass
class Export:
    """Write one function of a flow as an ONNX file, for images of the training's size, any
    number at once.

    log_prob, pixel_log_prob and encode take x = v + u, pixels with their noise; decode takes z and
    gives x. Nothing is rounded.

    Example: realnvp export runs/photos --onnx log_prob.onnx
    """

    run: RunDir
    onnx: Path
    """The .onnx file to write."""
    call: Literal[
        "log_prob", "pixel_log_prob", "encode", "decode", "mixture_log_prob", "class_log_probs"
    ] = "log_prob"
    """Which function; the last two of flows given classes, whose other functions take the class,
    an integer, as a second input."""
    which: Which = "best"
    json: Json = False

    def __call__(self) -> int:
        from realnvp.export import export_onnx
        from realnvp.progress import progress

        flow, _ = load(self.run, "cpu", which=self.which)
        prepare_output("--onnx", self.onnx)
        with progress("export", 0):
            export_onnx(flow, self.onnx, call=self.call)
        if self.json:
            print_json(
                {"onnx": str(self.onnx), "call": self.call, "bytes": self.onnx.stat().st_size}
            )
        else:
            print(f"{self.onnx}: {self.call}, {self.onnx.stat().st_size / 1e6:.2f} MB")
        return 0
