"""What people do with a trained flow: evaluate, sample, score, check, info."""

import contextlib
import csv
import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from realnvp.cli.output import note, print_json, print_table, thousands, to_json
from realnvp.config import Config
from realnvp.folders import check_fields, ours, read_json, write_file

if TYPE_CHECKING:
    from realnvp.flow import Flow

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE", help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print one JSON object.")]
Which = Annotated[
    Literal["best", "last"], tyro.conf.arg(help="The best model by validation bits/dim, or that of the last evaluation.")
]
Fast = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Several times as fast, in low precision; how far it is off is measured and printed."),
]
RunDir = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN", help="A run directory, a saved flow's folder, photos-small, digits-small, or its id on the Hub."
    ),
]
Split = Literal["train", "validation", "test"]
Command = TypeVar("Command", bound=Callable[[], int])


def parse(command: type[Command], argv: Sequence[str], *, prog: str, default: Command | None = None) -> Command:
    """The command with the values of its flags; ValueError, in one line, names a wrong flag."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Command = tyro.cli(command, args=argv, prog=prog, default=default)  # type: ignore[assignment]  # never None
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
        lines = [line for line in said.getvalue().splitlines()[1:] if re.search(r"\w", line)]  # a title, and rules
        raise ValueError(" ".join(line.strip(" │") for line in lines)) from None
    return parsed


@dataclass
class Evaluate:
    """Print the bits/dim of a run's flow on one split, with its standard error; of its own data also to RUN/evaluation.json.

    A bound on the bits that a lossless code needs for each channel of each pixel (uniform dequantisation). Of a table: the mean
    log-density of its rows, in nats, in the units of its columns.

    Example: realnvp evaluate runs/photos --split test --noise-draws 4
    """

    run: RunDir
    split: Split = "test"
    """Which images or rows."""
    noise_draws: int = 1
    """Draws of the dequantisation noise for each image; log p is averaged over them."""
    source: Annotated[Path | None, tyro.conf.arg(name="data.source")] = None
    """Other data than the run's own: a folder, an .npy file, a table, a prepared folder; all of it where it has no splits."""
    which: Which = "best"
    codecs: Flag = False
    """Also print what PNG and lossless WebP need for the same images."""
    seed: int = 0
    """Seed of the noise."""
    json: Json = False
    device: Device = "auto"

    def __call__(self) -> int:
        result = self.write()
        if self.json:
            print_json(result)
        else:
            _print_evaluation(result)
        return 1 if result["nonfinite"] else 0

    def write(self) -> dict[str, Any]:
        """The evaluation, which also goes to RUN/evaluation.json if it is of the run's own data."""
        from realnvp.evaluate import evaluate

        flow, facts = load(self.run, self.device, which=self.which)
        began = time.monotonic()
        result = evaluate(
            flow, self.run, split=self.split, source=self.source, noise_draws=self.noise_draws, seed=self.seed, codecs=self.codecs
        )
        result["seconds"] = round(time.monotonic() - began, 2)
        result |= {"which": self.which, "step": facts.get("step")}
        if self.source is None and Path(self.run, "metrics.jsonl").exists():
            write_file(Path(self.run, "evaluation.json"), to_json(result) + "\n")
        return result


def _print_evaluation(result: dict[str, Any]) -> None:
    from realnvp.evaluate import measured

    version = f" ({result['dataset_version']})" if result["dataset_version"] else ""
    where, error = f"{result['dataset']}{version}, {result['split']}", f"standard error over {result['standard_error_over']}"
    if "num_rows" in result:
        print(f"{where}: {result['num_rows']} rows")
        print(f"  {measured(result)} ({error}): the mean log-density of a row, in the units of the columns")
        if result["nonfinite"]:
            print(f"  {result['nonfinite']} rows have no finite log-density")
        return
    print(f"{where}: {result['num_images']} images, noise draws: {result['noise_draws']}")
    print(f"  {measured(result)} ({error}); an upper bound (uniform dequantisation)")
    if result["nonfinite"]:
        print(f"  {result['nonfinite']} images have no finite log-density")
    for name, bits in result.get("codecs", {}).items():
        print(f"  {bits:.3f} bits/dim by lossless {name}")
    if result["paper"] is not None:
        print(f"  {result['paper']:.2f} bits/dim in the paper")


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
    """A .png or .npy file, of a table also .csv; RUN/samples.png (.csv) when not given, or here if RUN is no folder."""
    beside_data: Flag = False
    """In a PNG, show as many test images (rows) of the run on the left."""
    which: Which = "best"
    fast: Fast = False
    json: Json = False
    device: Device = "auto"

    def __call__(self) -> int:
        from realnvp.folded import fast
        from realnvp.sampling import fast_error, write_rows, write_samples

        if self.n < 1:
            raise ValueError(f"-n: must be at least 1, got {self.n}")
        flow, _ = load(self.run, self.device, which=self.which)
        things, suffixes = ("rows", [".csv", ".npy", ".png"]) if _of_table(flow) else ("images", [".png", ".npy"])
        out = self.out or beside(self.run) / f"samples{suffixes[0]}"
        if out.suffix not in suffixes:
            raise ValueError(f"--out: {out} must end in {' or '.join(suffixes)}")
        make_way("--out", out)
        data = _test_split(flow, self.run)[: self.n] if self.beside_data else None
        error = None
        if self.fast:
            quick = fast(flow)
            error = fast_error(flow, quick, seed=self.seed, temperature=self.temperature)
            note(f"fast: on the first 8 samples, half of the pixels are off by more than {error:.2f} grey levels")
            flow = quick
        write: Any = write_rows if _of_table(flow) else write_samples
        nonfinite = write(flow, out, n=self.n, seed=self.seed, temperature=self.temperature, data=data)
        if self.json:
            facts = {"out": str(out), f"num_{things}": self.n, "seed": self.seed, "temperature": self.temperature}
            print_json(facts | {"nonfinite": nonfinite} | ({} if error is None else {"fast_error_grey_levels": error}))
        else:
            print(f"{out}: {self.n} samples" + (f", {nonfinite} of them not finite" if nonfinite else ""))
        return 1 if nonfinite else 0


def _of_table(flow: "Flow") -> bool:
    assert flow.config is not None
    return flow.config.data.levels is None


def _test_split(flow: "Flow", run: str) -> Any:
    from realnvp.data import splits_of_run

    assert flow.config is not None
    return splits_of_run(Path(run), flow.config, verify=["test"]).test


@dataclass
class Score:
    """Score image files: log-density in nats, bits/dim, and their rank, 1 = the least likely.

    Of a table its rows, with the columns path, row, log_prob, rank.

    Example: realnvp score runs/photos picture.png more-pictures/ --out scores.csv

    A table: realnvp score runs/table new.csv --out scores.csv
    """

    run: RunDir
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Image files, or folders of them; tables."""
    out: Path | None = None
    """A CSV file to write, with the columns path, log_prob, bits_per_dim, rank; else it goes to stdout."""
    noise_draws: int = 1
    """Draws of the dequantisation noise for each image; log p is averaged over them."""
    which: Which = "best"
    seed: int = 0
    """Seed of the noise."""
    fast: Fast = False
    json: Json = False
    device: Device = "auto"

    def __call__(self) -> int:
        from realnvp.units import unit_of

        if not self.paths:
            raise ValueError("score: name image files or folders, or tables, after the run")
        make_way("--out", self.out)
        flow, _ = load(self.run, self.device, which=self.which)
        scores, facts = self._rows(flow) if _of_table(flow) else self._images(flow)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(type(scores[0])._fields)
        table.writerows(scores)
        if self.out:
            write_file(self.out, text.getvalue())
        if self.json:
            print_json({"scores": [entry._asdict() for entry in scores]} | facts)
        elif self.out:
            least = min(scores, key=lambda entry: entry.rank)
            what = f", row {least.row}: {least.log_prob:.3f} nats" if _of_table(flow) else f", {least.bits_per_dim:.3f} bits/dim"
            print(f"{self.out}: {len(scores)} {unit_of(flow.config).things}; the least likely is {least.path}{what}")
        else:
            print(text.getvalue(), end="")
        return 0

    def _images(self, flow: "Flow") -> tuple[Any, dict[str, float]]:
        """The scores of image files, and by how much those of --fast are off."""
        from realnvp.folded import fast
        from realnvp.progress import progress
        from realnvp.score import fast_error, files_of, score

        files = files_of(self.paths)
        make_way("--out", self.out)
        with progress("image", len(files)) as report:
            used = fast(flow) if self.fast else flow
            scores = score(used, files, noise_draws=self.noise_draws, seed=self.seed, report=report)
        if not self.fast:
            return scores, {}
        error = fast_error(flow, scores, noise_draws=self.noise_draws, seed=self.seed)
        note(f"fast: off by up to {error:.5f} bits/dim on the first {min(16, len(files))} images")
        return scores, {"fast_error_bits_per_dim": error}

    def _rows(self, flow: "Flow") -> tuple[Any, dict[str, float]]:
        """The scores of a table's rows."""
        from realnvp.score import score_rows

        if self.fast or self.noise_draws != 1:
            raise ValueError(f"--{'fast' if self.fast else 'noise-draws'}: is for images; {self.run} is of a table")
        make_way("--out", self.out)
        return score_rows(flow, self.paths), {}


@dataclass
class Check:
    """Check a run's flow on its data: inverses, log-det, batch norm, finite values. Exits with 1 if a check fails.

    Example: realnvp check runs/photos
    """

    run: RunDir
    which: Which = "best"
    json: Json = False
    device: Device = "auto"

    def __call__(self) -> int:
        import numpy as np

        from realnvp.check import check

        flow, _ = load(self.run, self.device, which=self.which)
        count = 1024 if _of_table(flow) else 64
        checks = check(flow, np.moveaxis(_test_split(flow, self.run)[:count], -1, 1))
        failed = sum(not entry.ok for entry in checks)
        if self.json:
            print_json({"ok": not failed, "checks": [entry._asdict() | {"ok": entry.ok} for entry in checks]})
        else:
            rows = [(e.name, f"{e.value:.1e}", f"{e.bound:.0e}", e.unit, "ok" if e.ok else "FAILED") for e in checks]
            print_table(("check", "measured", "allowed", "unit", ""), rows)
            print(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
        return 1 if failed else 0


@dataclass
class Info:
    """Print what a run directory or saved flow holds.

    Example: realnvp info runs/photos
    """

    run: RunDir
    json: Json = False

    def __call__(self) -> int:
        from realnvp.checkpoint import read_run_config
        from realnvp.config import flat
        from realnvp.evaluate import measured
        from realnvp.locate import locate
        from realnvp.memory import count_parameters

        folder = locate(self.run)
        config = read_run_config(folder)
        facts: dict[str, Any] = {"run": self.run, "config": asdict(config)}
        facts["parameters"] = count_parameters(config) if config.data.shape else None
        facts |= _stored_facts(folder, config)
        if self.json:
            print_json(facts)
            return 0
        longer = ("config", "environment", "evaluation", "parameters", "facts")
        known = facts | facts.get("facts", {})
        rows = [(key, str(value)) for key, value in known.items() if key not in longer]
        rows += [("parameters", thousands(facts["parameters"]) if facts["parameters"] else "of the data's size")]
        rows += [(name, str(value)) for name, value in flat(config).items()]
        if evaluation := known.get("evaluation"):
            rows.append(("evaluation", f"{measured(evaluation)} on {evaluation['split']}"))
        print_table(("", ""), rows)
        return 0


def _stored_facts(folder: Path, config: Config) -> dict[str, Any]:
    """What files of the run say about it, each if it is there."""
    from realnvp.checkpoint import last_state
    from realnvp.environment import read_sittings
    from realnvp.table import evaluation_fields, read_evaluation
    from realnvp.units import unit_of

    facts: dict[str, Any] = {}
    if state := last_state(folder):
        facts |= {"step": state.step, "seconds": round(state.seconds, 1)}
        facts |= {f"best_validation_{unit_of(config).key}": state.best}
        facts |= {"best_step": state.best_step, "skipped_steps": state.skipped}
    if (folder / "evaluation.json").exists():
        facts["evaluation"] = read_evaluation(folder)
    if (folder / "environment.json").exists():
        facts["environment"] = read_sittings(folder)
    if (folder / "facts.json").exists():
        facts["facts"] = stored = read_json(folder / "facts.json", kind=dict)
        if "evaluation" in stored:
            with ours():
                check_fields(stored["evaluation"], folder / "facts.json", evaluation_fields(config))
    return facts


def beside(run: str) -> Path:
    """Where what is made from a flow goes: its folder, or this one for a shipped flow or one from the Hub."""
    return Path(run) if Path(run).exists() else Path()


def make_way(flag: str, out: Path | None) -> None:
    """Make the folder of a file to be written; ValueError or OSError before anything is computed, if that cannot be."""
    if out and out.is_dir():
        raise ValueError(f"{flag}: {out} is a folder; name a file")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)


def load(run: str, device: str, *, which: Literal["best", "last"]) -> "tuple[Flow, dict[str, Any]]":
    """The run's flow on the device, and what is known of it."""
    from realnvp.checkpoint import load_model
    from realnvp.device import keep_freed_memory, pick_device

    place = pick_device(device)
    keep_freed_memory()
    flow, facts = load_model(run, which)
    return flow.to(place), facts
