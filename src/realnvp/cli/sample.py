"""realnvp sample: draw images or rows from a flow."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from realnvp.cli import options

if TYPE_CHECKING:
    from realnvp.flows.flow import Flow


@dataclass(kw_only=True)
class Sample(options.FlowCommand):
    """Draw samples: images to a PNG or .npy (N, H, W, C), rows of a table to a .csv or .npy.

    A .png of rows is a scatter plot of two columns.

    Example: realnvp sample runs/photos -n 64 --seed 0 --temperature 0.8 --out samples.png
    """

    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """Number of samples; with --context, for each row of that table."""
    seed: int = 0
    """Seed of the latents; sample i does not depend on n."""
    temperature: float = 1.0
    """Standard deviation of the latents; 1: exact samples of the model."""
    out: Path | None = None
    """The file to write, and its folder; default: samples.png or samples.csv beside the model."""
    class_name: options.ClassName = None
    """Class of all samples; default: classes at their frequencies in the training data."""
    context: Path | None = None
    """A table with the context columns of a conditional flow of a table."""
    beside_data: options.Flag = False
    """Show as many test images or rows beside the samples of a PNG."""
    fast: options.Fast = False

    def __call__(self) -> int:
        from realnvp.evaluation.samples import write_rows, write_samples

        if self.n < 1:
            raise ValueError(f"-n: must be at least 1, got {self.n}")
        flow, _ = self.load()
        table = options.of_table(flow)
        out = self._output(table)
        if table and (flow.condition is None) != (self.context is None):
            raise ValueError("--context: a table for flows with context columns, and for no other")
        context = self.context if table else self._classes(flow)
        data = None
        if self.beside_data:
            data = options.own_data(flow, self.run).of_class("test", self.class_name)[: self.n]
        facts: dict[str, Any] = {"out": str(out), "seed": self.seed}
        facts |= {"temperature": self.temperature, "class": self.class_name}
        if self.fast:
            flow, facts["fast_error_gray_levels"] = self._fast(flow)
        write: Any = write_rows if table else write_samples
        how: Any = {"seed": self.seed, "temperature": self.temperature}
        facts["nonfinite"] = write(flow, out, n=self.n, data=data, context=context, **how)
        self.show(facts, f"{out}: {facts['nonfinite']} samples not finite")
        return 1 if facts["nonfinite"] else 0

    def _output(self, table: bool) -> Path:
        suffixes = [".csv", ".npy", ".png"] if table else [".png", ".npy"]
        out = self.out or options.beside(self.run) / f"samples{suffixes[0]}"
        if out.suffix not in suffixes:
            raise ValueError(f"--out: {out} must end in {' or '.join(suffixes)}")
        options.prepare_output("--out", out, read=[self.context] if self.context else [])
        return out

    def _classes(self, flow: "Flow", count: int | None = None) -> Any:
        """The class of all samples, or of each sample; None: the flow has no classes."""
        name = options.given_class(flow, self.class_name)
        condition: Any = flow.condition
        if name is not None or condition is None:
            return name
        return condition.draw(range(count or self.n), self.seed)

    def _fast(self, flow: "Flow") -> "tuple[Flow, float]":
        """The fast flow, and its median error on a few samples."""
        from realnvp.evaluation.samples import fast_error
        from realnvp.flows.copies import fast

        quick = fast(flow)
        context = None if options.of_table(flow) else self._classes(flow, 8)
        how: Any = {"seed": self.seed, "temperature": self.temperature}
        error = fast_error(flow, quick, context=context, **how)
        options.note(f"realnvp: fast: median error {error:.2f} gray levels")
        return quick, error
