"""realnvp package and realnvp export: a flow for the Hub, and for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from realnvp.cli.options import Json, RunDir, Which, load, prepare_output, print_json

Call = Literal[
    "log_prob", "pixel_log_prob", "encode", "decode", "mixture_log_prob", "class_log_probs"
]


@dataclass
class Package:
    """Write a folder for the Hugging Face Hub from an evaluated run: weights, configuration and a
    model card, README.md, without the paths of this machine.

    Example: realnvp package runs/photos my-flow --license mit
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """An evaluated run directory."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder to write; new or empty."""
    license: str | None = None
    """License of the weights, as the Hub names it: mit, cc-by-4.0, ..."""
    sources: str | None = None
    """Origin and licenses of the training data, for the card."""
    json: Json = False

    def __call__(self) -> int:
        from realnvp.hub import package

        package(self.run, self.folder, license=self.license, sources=self.sources)
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        if self.json:
            print_json({"folder": str(self.folder), "bytes": size})
        else:
            print(f"{self.folder}: {size / 1e6:.2f} MB; upload: hf upload USER/NAME {self.folder}")
        return 0


@dataclass
class Export:
    """Write one method of a flow as an ONNX file (.onnx) or a torch.export program (.pt2).

    Inputs are batches of any size: x = v + u, images with their noise, or z for decode. A flow
    with classes has the class, an integer, as a second input.

    Example: realnvp export runs/photos --out log_prob.onnx
    """

    run: RunDir
    out: Path
    """The .onnx or .pt2 file to write."""
    call: Call = "log_prob"
    """The method; the last two are of flows with classes."""
    which: Which = "best"
    json: Json = False

    def __call__(self) -> int:
        import torch

        from realnvp.export import export_onnx, export_program

        if self.out.suffix not in (".onnx", ".pt2"):
            raise ValueError(f"--out: {self.out} must end in .onnx or .pt2")
        flow, _ = load(self.run, "cpu", which=self.which)
        prepare_output("--out", self.out)
        if self.out.suffix == ".onnx":
            export_onnx(flow, self.out, call=self.call)
        else:
            torch.export.save(export_program(flow, call=self.call), self.out)
        size = self.out.stat().st_size
        if self.json:
            print_json({"out": str(self.out), "call": self.call, "bytes": size})
        else:
            print(f"{self.out}: {self.call}, {size / 1e6:.2f} MB")
        return 0
