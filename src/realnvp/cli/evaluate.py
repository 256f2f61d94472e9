"""realnvp presets, evaluate and check."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from realnvp.cli import options
from realnvp.config.presets import PAPER, PRESETS

if TYPE_CHECKING:
    from realnvp.evaluation.evaluate import Evaluation

Split = Literal["train", "validation", "test"]


@dataclass(kw_only=True)
class Evaluate(options.FlowCommand):
    """Print the bits/dim of a flow on one split, with its standard error; of a table the mean
    log-density of a row in nats, in the units of its columns.

    Bits/dim bound the bits of a lossless code per channel and pixel. The result on a run's own
    data is also written to RUN/evaluation.json.

    Example: realnvp evaluate runs/photos --split test --noise-draws 4
    """

    split: Split = "test"
    """Images or rows to evaluate."""
    noise_draws: int = 1
    """Draws of the dequantization noise over which log p is averaged."""
    source: Annotated[Path | None, tyro.conf.arg(name="data.source")] = None
    """Other data than the run's own: a folder, an .npy file, a table, a prepared folder; all of it
    if it has no splits."""
    codecs: options.Flag = False
    """Also measure the bits/dim of PNG, lossless WebP, JPEG XL (with imagecodecs) and `realnvp
    compress`."""
    seed: int = 0
    """Seed of the noise."""

    def __call__(self) -> int:
        result = self.evaluated()
        self.show(result.as_json(), "\n".join(f"{k}: {v}" for k, v in result.rows().items()))
        self.save(result)  # last, so that the number is known if nothing can be written
        return 0 if result.finite else 1

    def evaluated(self) -> "Evaluation":
        """The evaluation, not yet saved."""
        from realnvp.codec.images import file_bits_per_dim
        from realnvp.evaluation.evaluate import evaluate

        flow, facts = self.load()
        return evaluate(
            flow,
            self.run,
            split=self.split,
            source=self.source,
            noise_draws=self.noise_draws,
            seed=self.seed,
            archive=file_bits_per_dim if self.codecs else None,
            which=self.which,
            step=facts.get("step"),
        )

    def save(self, result: "Evaluation") -> None:
        """Save the evaluation of a run's own data in its folder."""
        if self.source is None and Path(self.run, "metrics.jsonl").exists():
            result.save(Path(self.run))


@dataclass(kw_only=True)
class Check(options.FlowCommand):
    """Check a flow on its data: inverses, log-det, batch norm, finite values. Exits with 1 if a
    check fails.

    Example: realnvp check runs/photos
    """

    class_name: options.ClassName = None
    """Class whose p(x | class) is checked; default: the most frequent class."""

    def __call__(self) -> int:
        import numpy as np

        from realnvp.data.dataset import channels_first
        from realnvp.evaluation.check import check, num_checked
        from realnvp.flows.context import Classes
        from realnvp.flows.flow import config_of

        flow, _ = self.load()
        data, count = options.own_data(flow, self.run), num_checked(config_of(flow))
        name = options.given_class(flow, self.class_name)
        if isinstance(flow.condition, Classes):
            name = name or data.most_frequent
            flow = flow.condition_on(name)
        elif data.context_values and data.labels:
            flow = flow.condition_on(data.labels["test"][0])
        train, test = data.of_class("train", name), data.of_class("test", name)
        spread = np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)
        training = channels_first(train[spread])
        checks = check(flow, channels_first(test[:count]), training=training)
        failed = sum(not each.ok for each in checks)
        values = [each._asdict() | {"ok": each.ok} for each in checks]
        lines = [
            f"{'ok' if c.ok else 'FAILED'}  {c.name}: {c.value:.1e}, at most {c.bound:.0e} {c.unit}"
            for c in checks
        ]
        text = "\n".join([*lines, f"{failed} of {len(checks)} checks failed"])
        self.show({"ok": not failed, "checks": values}, text)
        return 1 if failed else 0


@dataclass(kw_only=True)
class Presets(options.Command):
    """List the presets: image size, parameters, the paper's bits/dim.

    Example: realnvp presets
    """

    def __call__(self) -> int:
        from realnvp.flows.build import count_parameters

        rows = {
            name: {
                "shape": config.data.shape,
                "levels": getattr(config.data, "levels", None),
                "num_scales": config.model.num_scales,
                "parameters": count_parameters(config) if config.data.shape else None,
                "paper": PAPER.get(name),
            }
            for name, config in PRESETS.items()
        }
        lines: list[Any] = [["preset", "shape", "levels", "scales", "parameters", "paper"]]
        lines += [
            [name, *("" if v is None else str(v) for v in rows[name].values())] for name in rows
        ]
        self.show(rows, "\n".join("{:24}{:14}{:8}{:8}{:12}{}".format(*line) for line in lines))
        return 0
