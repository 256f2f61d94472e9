"""realnvp sample: images or rows from a flow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from realnvp.cli.options import (
    Device,
    Fast,
    Flag,
    Json,
    RunDir,
    Threads,
    Which,
    beside,
    given_class,
    given_table,
    load,
    note,
    of_table,
    own_data,
    prepare_output,
    print_json,
    say,
)
from realnvp.config.errors import count_of


@dataclass
class Sample:
    """Draw images from a run's flow and write them as one PNG, or as .npy, uint8 (N, H, W, C).

    Of a table rows, as .csv or .npy; where it has two columns, also as a scatter plot.

    Example: realnvp sample runs/photos -n 64 --seed 0 --temperature 0.8 --out samples.png
    """

    run: RunDir
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many."""
    seed: int = 0
    """Seed of the latents; sample i is the same whatever n is."""
    temperature: float = 1.0
    """Standard deviation of the latents; 1 gives exact samples of the model."""
    out: Path | None = None
    """A .png or .npy file, of a table also .csv; RUN/samples.png (.csv) when not given, or here
    if RUN is no folder.
    """
    context: str | None = None
    """The class, of a flow given classes; when not given each sample has a class of its own, as
    often as in the training's data. Of a flow given columns: a table with these columns, -n rows
    are drawn for each of its rows.
    """
    guidance: float = 0.0
    """Show the class more clearly: the networks say (1 + guidance) times what they say given the
    class, less guidance times what they say without. 0: samples of the model's density; 1: no
    longer.
    """
    beside_data: Flag = False
    """In a PNG, show as many test images (rows) of the run on the left."""
    which: Which = "best"
    fast: Fast = False
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.data.tables import read_cells
        from realnvp.evaluation.samples import fast_error, write_rows, write_samples
        from realnvp.flows.context import Classes
        from realnvp.flows.fast import fast
        from realnvp.flows.flow import config_of
        from realnvp.flows.guided import guided

        if self.n < 1:
            raise ValueError(f"-n: must be at least 1, got {self.n}")
        flow, _ = load(self.run, self.device, threads=self.threads, which=self.which)
        things, suffixes = (
            ("rows", [".csv", ".npy", ".png"]) if of_table(flow) else ("images", [".png", ".npy"])
        )
        out = self.out or beside(self.run) / f"samples{suffixes[0]}"
        if out.suffix not in suffixes:
            raise ValueError(f"--out: {out} must end in {' or '.join(suffixes)}")
        context = (
            given_table(flow, self.context) if of_table(flow) else given_class(flow, self.context)
        )
        prepare_output("--out", out, read=[Path(context)] if context and of_table(flow) else [])
        if self.guidance and self.fast:
            raise ValueError("--guidance: not with --fast")
        if self.guidance:
            flow = guided(flow, self.guidance)
        data = own_data(flow, self.run) if self.beside_data else None
        shown = data and data.of_class("test", None if of_table(flow) else context)[: self.n]
        how: dict[str, Any] = {"seed": self.seed, "temperature": self.temperature}
        mixture = flow.condition if isinstance(flow.condition, Classes) and not context else None

        def classes(count: int) -> Any:
            """Of so many samples; one class for all, or from p(c). None: not given classes."""
            return mixture.draw(range(count), self.seed) if mixture else context

        off = {}
        if self.fast:
            exact, flow = flow, fast(flow)
            off["fast_error_grey_levels"] = error = fast_error(
                exact, flow, context=classes(8), **how
            )
            note(
                "fast: on the first 8 samples, "
                f"half of the pixels are off by more than {error:.2f} grey levels"
            )
        write: Any = write_rows if of_table(flow) else write_samples
        condition = {"context": Path(context) if context else None}
        if not of_table(flow):
            condition = {"context": classes(self.n)}
        count = self.n
        if of_table(flow) and context:
            cells = read_cells(Path(context), config_of(flow).data.context_columns or ())
            count *= len(next(iter(cells.values())))
        nonfinite = write(flow, out, n=self.n, data=shown, **how, **condition)
        if self.json:
            print_json(
                {"out": str(out), f"num_{things}": count}
                | ({"context": context} if flow.condition else {})
                | ({"guidance": self.guidance} if self.guidance else {})
                | how
                | {"nonfinite": nonfinite}
                | off
            )
        else:
            guidance = ", not of the model's density: --guidance" if self.guidance else ""
            bad = f", {nonfinite} of them not finite" if nonfinite else ""
            say(f"{out}: {count_of(count, 'sample')}{bad}{guidance}")
        return 1 if nonfinite else 0
