"""realnvp score: how likely each image or row is, and is it odd, where, and how sure?"""

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from realnvp.cli.options import (
    Background,
    Colours,
    Depth,
    Device,
    Fast,
    Flag,
    Json,
    RunDir,
    Threads,
    Which,
    chosen_reading,
    load,
    note,
    of_table,
    prepare_output,
    print_json,
    say,
)
from realnvp.config.errors import count_of
from realnvp.io.files import write_file

if TYPE_CHECKING:
    from realnvp.anomaly import AnomalyDetector
    from realnvp.anomaly.rows import Verdict
    from realnvp.evaluation.score import Opened
    from realnvp.flows.flow import Flow

SHOWN = 10
MOST_NORMAL = 2000  # validation images
DENSITY = ("path", "log_prob", "bits_per_dim")
OF_VERDICTS = {
    *("normal", "fpr", "resize", "noise_draws", "which", "seed", "fast"),
    *("background", "color_mode", "bit_depth"),
}
"""Flags that verdicts depend on."""


@dataclass
class Score:
    """Score image files: log-density in nats, bits/dim, and their rank, 1 = the least likely.

    With --normal, --false-alarms, --heatmaps, --report, --picture or --top also a verdict:
    percentile of bits/dim among normal images, score (the lower, the odder), p_value, odd, and the
    box of the oddest place. Images of any size are scored whole.

    Of a table its rows, with the columns path, row, log_prob, rank; with --normal, --false-alarms
    or --top also percentile, p_value, odd.

    Example: realnvp score runs/photos picture.png more-pictures/ --out scores.csv

    Odd ones: realnvp score runs/photos new/ --normal good/ --false-alarms 0.01 --heatmaps maps/

    A table: realnvp score runs/table new.csv --out scores.csv
    """

    run: RunDir
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Image files, or folders of them; tables."""
    out: Path | None = None
    """A CSV file to write, with the columns path, log_prob, bits_per_dim, rank, and those of the
    verdict; else it goes to stdout. Until it is whole, its rows are in FILE.partial.
    """
    normal: Path | None = None
    """A folder of normal images, or a table of normal rows, that training has not seen; when not
    given, the run's validation split.
    """
    fpr: float | None = None
    """The share of normal images that may be called odd; when not given, .01."""
    heatmaps: Path | None = None
    """A folder for a heat map of each image."""
    report: Path | None = None
    """An HTML page to write about the oddest images."""
    picture: Path | None = None
    """A PNG file to write: heat maps of the oddest images on one sheet."""
    top: int | None = None
    """How many of the oddest are on the sheet and the page, and are printed; when not given, 10,
    and none is printed.
    """
    resize: Flag = False
    """Bring images of other sizes to the training's: the middle, its smallest side scaled."""
    noise_draws: int = 1
    """Draws of the dequantization noise for each image; log p is averaged over them."""
    which: Which = "best"
    seed: int = 0
    """Seed of the noise."""
    fast: Fast = False
    background: Background = None
    color_mode: Colours = None
    bit_depth: Depth = None
    json: Json = False
    device: Device = "auto"
    threads: Threads = None

    def __call__(self) -> int:
        from realnvp.config.units import unit_of

        if not self.paths:
            raise ValueError("score: name image files or folders, or tables, after the run")
        if self.normal and not self.normal.exists():
            raise ValueError(f"--normal: {self.normal}: no such file or folder")
        flow, known = load(self.run, self.device, threads=self.threads, which=self.which)
        for flag, path in self._written().items():
            prepare_output(flag, path, read=filter(None, [*self.paths, self.normal]))
        scores: Any
        facts: dict[str, Any]
        if of_table(flow):
            scores, facts, last = self._rows(flow)
        elif self._asked():
            scores, facts, last = self._verdicts(flow)
        else:
            scores, facts, last = *self._images(flow), ""
        text, unit = _csv(scores), unit_of(flow.config)
        if self.out:
            write_file(self.out, text)
        if self.json:
            print_json({"scores": [entry._asdict() for entry in scores]} | facts)
            return 0
        if not self.out:
            print(text, end="")
        elif not last:
            least = min(scores, key=lambda entry: entry.rank)
            which = (
                f"{least.path}, row {least.row}: {least.log_prob:.3f} nats"
                if of_table(flow)
                else f"{least.path}, {least.bits_per_dim:.3f} bits/dim"
            )
            say(f"{self.out}: {count_of(len(scores), unit.thing)}; the least likely is {which}")
        if last:
            (say if self.out else note)(last)
        elif usual := known.get(f"validation_{unit.key}"):
            usual_ones = "ROWS" if of_table(flow) else "FOLDER"
            normal = "" if Path(self.run, "data").exists() else f"--normal {usual_ones} "
            more = f"; {normal}--top 10 says which of these {unit.things} are odd"
            note(
                f"realnvp: validation {unit.things} have {usual:.3f} {unit.words} on average{more}"
            )
        return 0

    def _written(self) -> dict[str, Path | None]:
        """Files to write, by flag."""
        return {"--out": self.out, "--report": self.report, "--picture": self.picture}

    def _asked(self) -> list[str]:
        """The flags that ask for a verdict."""
        names = ("normal", "fpr", "heatmaps", "report", "picture", "top")
        return [name for name in names if getattr(self, name) is not None]

    def _opened(self, flow: "Flow", paths: Sequence[Path]) -> "Opened":
        """Image files, of which it is known that they can be read."""
        from realnvp.evaluation.score import files_of, open_images

        reading = chosen_reading(self.background, self.color_mode, self.bit_depth)
        return open_images(flow, files_of(paths), resize=self.resize, reading=reading)

    def _images(self, flow: "Flow") -> tuple[Any, dict[str, float]]:
        """The scores of image files, and how far --fast is off."""
        from realnvp.evaluation.score import COMPARED, dropped, fast_error, score
        from realnvp.flows.fast import fast
        from realnvp.io.files import growing
        from realnvp.progress import progress

        images = self._opened(flow, self.paths)
        how: dict[str, Any] = {"noise_draws": self.noise_draws, "seed": self.seed}
        if told := dropped(images):
            note(f"realnvp: {told}")
        with (
            growing(self.out, DENSITY) as known,
            progress("image", len(images)) as report,
        ):
            scores = score(
                fast(flow) if self.fast else flow, images, **how, report=report, known=known
            )
        if not self.fast:
            return scores, {}
        error = fast_error(flow, images, scores, **how)
        note(
            f"fast: off by up to {error:.5f} bits/dim "
            f"on the first {count_of(min(COMPARED, len(images)), 'image')}"
        )
        return scores, {"fast_error_bits_per_dim": error}

    def _rows(self, flow: "Flow") -> tuple[Any, dict[str, Any], str]:
        """The scores of a table's rows, or verdicts on them, facts, and the last line."""
        from realnvp.anomaly.normal import FALSE_ALARMS
        from realnvp.anomaly.rows import oddest, of_validation, row_verdicts, summary
        from realnvp.evaluation.score import score_rows

        of_images = {"fast": self.fast, "noise-draws": self.noise_draws != 1, "resize": self.resize}
        of_images |= {name: getattr(self, name) for name in ("heatmaps", "report", "picture")}
        if context := [flag for flag, chosen in of_images.items() if chosen]:
            raise ValueError(f"--{context[0]}: is for images; {self.run} is of a table")
        self._check_top()
        scores = score_rows(flow, self.paths)
        if not self._asked():
            return scores, {}, ""
        rate = FALSE_ALARMS if self.fpr is None else self.fpr
        normal = (
            [entry.log_prob for entry in score_rows(flow, [self.normal])]
            if self.normal
            else of_validation(flow, Path(self.run))
        )
        found = row_verdicts(scores, normal, fpr=rate)
        if self.top and not self.json:
            (say if self.out else note)(oddest(found, self.top))
        facts = {
            "odd": sum(entry.odd for entry in found),
            "false_alarms": rate,
            "normal_rows": len(normal),
        }
        return found, facts, summary(found, len(normal), fpr=rate)

    def _check_top(self) -> None:
        """ValueError: --top is out of range."""
        if self.top is not None and self.top < 1:
            raise ValueError(f"--top: must be at least 1, got {self.top}")

    def _check_heatmaps(self, read: Sequence[Path]) -> None:
        """ValueError: heat maps, which have the images' names, would replace what is read."""
        if self.heatmaps and self.heatmaps.resolve() in {file.resolve().parent for file in read}:
            raise ValueError(f"--heatmaps: {self.heatmaps} holds images to read; name another")

    def _verdicts(self, flow: "Flow") -> "tuple[list[Verdict], dict[str, Any], str]":
        """The verdicts on image files, facts about them, and the last line."""
        from realnvp.anomaly.heatmaps import Shown
        from realnvp.anomaly.normal import least_rate
        from realnvp.anomaly.rows import (
            Verdict,
            other_size,
            too_few,
            verdict,
            verdict_summary,
            with_ranks,
        )
        from realnvp.evaluation.score import dropped
        from realnvp.io.files import growing
        from realnvp.progress import progress

        self._check_top()
        images = self._opened(flow, self.paths)
        if told := dropped(images):
            note(f"realnvp: {told}")
        shown = Shown(
            flow,
            self.top or SHOWN,
            folder=self.heatmaps,
            sheet=self.picture,
            page=self.report,
        )
        normal = self._normal(flow)
        self._check_heatmaps([*images.files, *getattr(normal, "files", [])])
        detector = self._detector(flow, normal)
        for told in filter(None, (too_few(detector), other_size(normal[0], images[0]))):
            note(f"realnvp: {told}")
        found: list[Verdict] = []
        columns = [name for name in Verdict._fields if name != "rank"]
        with growing(self.out, columns) as append, progress("image", len(images)) as report:
            examined = detector.examined(images, report=report)
            for path, (image, finding) in zip(images.files, examined, strict=True):
                entry = verdict(detector, str(path), len(image), finding)
                append(*(value for name, value in _cells(entry).items() if name != "rank"))
                shown.add(entry, image, finding)
                found.append(entry)
        found = with_ranks(found)
        last = verdict_summary(detector, found)
        shown.finish(run=self.run, last_line=last, command=self._command())
        if self.top and not self.json:
            (say if self.out else note)(shown.words())
        facts = {
            "odd": sum(entry.odd for entry in found),
            "false_alarms": detector.fpr,
            "normal_images": detector.calibrating,
            "least_false_alarms": least_rate(detector.calibrating),
        }
        return found, facts, last

    def _command(self) -> str:
        """The command line that comes to the same verdicts."""
        words = ["realnvp", "score", self.run, *map(str, self.paths)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in OF_VERDICTS and value != field.default:
                flag = f"--{field.name.replace('_', '-')}"
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    def _normal(self, flow: "Flow") -> Any:
        """Normal images, (C, H, W) each: of --normal, else of the run's validation split."""
        if self.normal:
            return self._opened(flow, [self.normal])
        return _validation_images(flow, self.run)

    def _detector(self, flow: "Flow", normal: Any) -> "AnomalyDetector":
        """A detector fitted to normal images."""
        from realnvp.anomaly import AnomalyDetector
        from realnvp.anomaly.normal import FALSE_ALARMS
        from realnvp.flows.fast import fast
        from realnvp.progress import progress

        detector = AnomalyDetector(
            fast(flow) if self.fast else flow,
            fpr=FALSE_ALARMS if self.fpr is None else self.fpr,
            noise_draws=self.noise_draws,
            seed=self.seed,
        )
        with progress("normal image", len(normal)) as report:
            return detector.fit(normal, report=report)


def _validation_images(flow: "Flow", run: str) -> Any:
    """The run's validation images, (N, C, H, W). ValueError names --normal where there are none."""
    from realnvp.data import channels_first, splits_of_run
    from realnvp.flows.flow import config_of

    try:
        images = splits_of_run(Path(run), config_of(flow)).splits["validation"]
    except (ValueError, OSError) as error:
        raise ValueError(f"--normal: name a folder of normal images, since {error}") from None
    return channels_first(images[: min(len(images), MOST_NORMAL)])


def _cells(entry: Any) -> dict[str, Any]:
    """The fields of a row as a CSV file has them; a box as four numbers between blanks."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in entry._asdict().items()
    }


def _csv(scores: Sequence[Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(scores[0]._fields)
    table.writerows(_cells(entry).values() for entry in scores)
    return text.getvalue()
