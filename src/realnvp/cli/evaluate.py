"""realnvp presets, evaluate and check."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from realnvp.cli.options import (
    Background,
    Colours,
    Depth,
    Device,
    Flag,
    Json,
    RunDir,
    Threads,
    Which,
    chosen_reading,
    given_class,
    load,
    own_data,
    print_json,
    print_table,
    say,
    thousands,
)
from realnvp.config import PAPER, PRESETS, TableData

if TYPE_CHECKING:
    from realnvp.evaluation.record import Evaluation

Split = Literal["train", "validation", "test"]


@dataclass
class Evaluate:
    """Print the bits/dim of a run's flow on one split, with its standard error; of its own data
    also to RUN/evaluation.json.

    A bound on the bits that a lossless code needs for each channel of each pixel (uniform
    dequantization, or the flow's own). Of a table: the mean log-density of a row in nats, in
    the units of its columns.

    Example: realnvp evaluate runs/photos --split test --noise-draws 4
    """

    run: RunDir
    split: Split = "test"
    """Which images or rows."""
    noise_draws: int = 1
    """Draws of the dequantization noise for each image; log p is averaged over them."""
    source: Annotated[Path | None, tyro.conf.arg(name="data.source")] = None
    """Other data than the run's own: a folder, an .npy file, a table, a prepared folder; all of
    it where it has no splits.
    """
    crop: int | None = None
    """With --data.source: pictures of any sizes, of each up to 64 fixed crops of this side; the
    run's own when not given.
    """
    background: Background = None
    color_mode: Colours = None
    bit_depth: Depth = None
    which: Which = "best"
    views: Flag = False
    """Also print the bits/dim of the density averaged over all views that training showed:
    mirrored, turned, recoloured.
    """
    codecs: Flag = False
    """Also print what PNG, lossless WebP and `realnvp compress` need for the same images; JPEG
    XL, too, where imagecodecs is installed.
    """
    seed: int = 0
    """Seed of the noise."""
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        result = self.evaluated()
        if self.json:
            print_json(result.as_json())
        else:
            say("\n".join(result.lines()))
        self.save(result)  # last: where nothing can be written the number is known all the same
        return 0 if result.finite else 1

    def evaluated(self) -> "Evaluation":
        """The evaluation, not yet saved."""
        from realnvp.codec.images import file_bits_per_dim
        from realnvp.evaluation.evaluate import evaluate

        flow, facts = load(self.run, self.device, threads=self.threads, which=self.which)
        return evaluate(
            flow,
            self.run,
            split=self.split,
            source=self.source,
            reading=chosen_reading(self.background, self.color_mode, self.bit_depth),
            crop=self.crop,
            noise_draws=self.noise_draws,
            seed=self.seed,
            views=self.views,
            codecs=self.codecs,
            file_bits_per_dim=file_bits_per_dim,
            which=self.which,
            step=facts.get("step"),
        )

    def save(self, result: "Evaluation") -> None:
        """Save the evaluation of a run's own data, in its folder."""
        if self.source is None and Path(self.run, "metrics.jsonl").exists():
            result.save(Path(self.run))


@dataclass
class Check:
    """Check a run's flow on its data: inverses, log-det, batch norm, finite values. Exits with
    1 if a check fails.

    Example: realnvp check runs/photos
    """

    run: RunDir
    context: str | None = None
    """Of a flow given classes: the class whose p(x | class) is checked; the most frequent when not
    given.
    """
    which: Which = "best"
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        import numpy as np

        from realnvp.data import channels_first
        from realnvp.evaluation.check import check, how_many
        from realnvp.flows.context import Classes
        from realnvp.flows.flow import config_of
        from realnvp.progress import progress

        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        data, count = own_data(flow, self.run), how_many(config_of(flow))
        if data.context_values and data.labels:
            flow = flow.condition_on(data.labels["test"][0])  # the columns of one row, for all
        context = given_class(flow, self.context) or data.most_frequent
        if isinstance(flow.condition, Classes):
            flow = flow.condition_on(context)
        train, test = data.of_class("train", context), data.of_class("test", context)
        # All over the training images: their files may lie in order.
        spread = np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)
        with progress("check", 0):
            checks = check(
                flow,
                channels_first(test[:count]),
                training=channels_first(train[spread]),
            )
        failed = sum(not entry.ok for entry in checks)
        if self.json:
            print_json(
                {
                    "ok": not failed,
                    "checks": [entry._asdict() | {"ok": entry.ok} for entry in checks],
                }
            )
        else:
            print_table(
                ("check", "measured", "allowed", "unit", ""),
                [
                    (e.name, f"{e.value:.1e}", f"{e.bound:.0e}", e.unit, "ok" if e.ok else "FAILED")
                    for e in checks
                ],
            )
            say(
                f"{failed} of {len(checks)} checks failed"
                if failed
                else f"all {len(checks)} checks passed"
            )
        return 1 if failed else 0


@dataclass
class Presets:
    """Print what can be trained by name: image size, parameters, the paper's bits/dim.

    Example: realnvp presets
    """

    json: Json = False

    def __call__(self) -> int:
        from realnvp.flows.build import count_parameters

        rows = {
            name: {
                "shape": config.data.shape,
                "levels": None if isinstance(config.data, TableData) else config.data.levels,
                "num_scales": config.model.num_scales,
                "parameters": count_parameters(config) if config.data.shape else None,
                "paper": PAPER.get(name),
            }
            for name, config in PRESETS.items()
        }
        if self.json:
            print_json(rows)
            return 0
        print_table(
            ("preset", "image", "scales", "parameters", "bits/dim in the paper"),
            [(name, *_cells(row)) for name, row in rows.items()],
        )
        print(
            "ImageNet 64x64: 4.01 is of the paper's first version (2016), its last (2017) has 3.98"
        )
        return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        "of your data" if row["shape"] is None else "{1}x{2}x{0}".format(*row["shape"]),
        "" if row["levels"] is None else str(row["num_scales"] or "by size"),
        "" if row["parameters"] is None else thousands(row["parameters"]),
        "" if row["paper"] is None else f"{row['paper']:.2f}",
    )
