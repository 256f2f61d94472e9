"""realnvp score: log-densities of images or rows; with normal ones, anomaly scores and p-values."""

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from realnvp.cli import options

if TYPE_CHECKING:
    from realnvp.evaluation.score import ImageFiles
    from realnvp.evaluation.score import Score as Record
    from realnvp.figures.plots import HeatMap
    from realnvp.flows.flow import Flow

    Judged = tuple[list[Record], dict[str, Any]]

FPR = 0.01
MAX_NORMAL = 2000  # validation images


@dataclass(kw_only=True)
class Score(options.FlowCommand):
    """Score image files, whole and of any size, or the rows of tables: log-density and rank.

    With --normal or --fpr also an anomaly score (lower is more anomalous), a conformal p-value and
    whether it is at most --fpr; entries are then sorted and ranked by the anomaly score.

    Example: realnvp score runs/photos picture.png more-pictures/ --out scores.csv

    Example: realnvp score runs/photos new/ --normal good/ --fpr 0.01 --heatmaps maps/

    Example: realnvp score runs/table new.csv --normal good.csv --out scores.csv
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Image files and folders of them, or tables."""
    out: Path | None = None
    """The CSV file to write; default: stdout."""
    normal: Path | None = None
    """Normal images or rows that training has not seen; default: the run's validation split."""
    fpr: float | None = None
    """False-positive rate: at most this fraction of normal images is called anomalous, on average;
    0.01 when not given."""
    heatmaps: Path | None = None
    """A folder for a heat map of each image."""
    report: Path | None = None
    """An HTML page to write about the most anomalous images."""
    picture: Path | None = None
    """A PNG to write with heat maps of the most anomalous images."""
    top: int = 10
    """Number of images on the page and in the picture."""
    noise_draws: int = 1
    """Draws of the dequantization noise over which scores are averaged."""
    seed: int = 0
    """Seed of the noise, and of the split of the normal images."""
    fast: options.Fast = False

    def __call__(self) -> int:
        from realnvp.evaluation.score import score_images, score_rows

        if not self.paths:
            raise ValueError("PATH: name image files, folders or tables")
        if self.fpr is not None and not 0 < self.fpr < 1:
            raise ValueError(f"--fpr: must be between 0 and 1, got {self.fpr}")
        if self.noise_draws < 1:
            raise ValueError(f"--noise-draws: must be at least 1, got {self.noise_draws}")
        flow = self.load(fast=self.fast)[0]
        inputs = [*self.paths, *([self.normal] if self.normal else [])]
        outputs = {"--out": self.out, "--report": self.report, "--picture": self.picture}
        for flag, path in outputs.items():
            if path:
                options.prepare_output(flag, path, read=inputs)
        if self.normal and self.normal.resolve() in {path.resolve() for path in self.paths}:
            raise ValueError(f"--normal: {self.normal} is scored, too, so it cannot calibrate")
        detect = any((self.normal, self.fpr, self.heatmaps, self.report, self.picture))
        facts: dict[str, Any] = {}
        if options.of_table(flow):
            scores = score_rows(flow, self.paths)
            if detect:
                scores, facts = self._judge_rows(flow, scores)
        elif detect:
            scores, facts = self._detect(flow)
        else:
            images = self._images(flow, self.paths)
            scores = score_images(flow, images, noise_draws=self.noise_draws, seed=self.seed)
        self._write(scores, facts)
        return 0

    def _write(self, scores: "list[Record]", facts: dict[str, Any]) -> None:
        from realnvp.io.files import write_text

        entries = [asdict(score) for score in scores]
        columns = [name for name in entries[0] if any(e[name] is not None for e in entries)]
        rows = [{name: entry[name] for name in columns} for entry in entries]
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        for row in rows:
            box = {"box": " ".join(map(str, row["box"]))} if "box" in row else {}
            table.writerow(row | box)
        if self.out:
            write_text(self.out, text.getvalue())
        if self.json or not self.out:
            self.show({"scores": rows} | facts, text.getvalue().rstrip("\n"))
        if facts:
            options.note(facts["summary"])

    def _judge_rows(self, flow: "Flow", scores: "list[Record]") -> "Judged":
        """Scores with p-values, sorted by them."""
        from realnvp.anomaly.detector import with_p_values
        from realnvp.evaluation.likelihood import log_probs
        from realnvp.evaluation.score import score_rows

        if self.normal:
            normal = [score.log_prob for score in score_rows(flow, [self.normal])]
        else:
            data = options.own_data(flow, self.run)
            context = data.labels["validation"] if data.labels else None
            normal = log_probs(flow, data.validation[:], context=context).tolist()
        scores = with_p_values(scores, normal, self.fpr or FPR)
        return scores, self._facts(scores, len(normal), f"{len(normal)} normal rows")

    def _images(self, flow: "Flow", paths: Sequence[Path]) -> "ImageFiles":
        from realnvp.evaluation.score import ImageFiles

        images = ImageFiles(flow, paths)
        folders = {file.resolve().parent for file in images.files}
        if self.heatmaps and self.heatmaps.resolve() in folders:
            raise ValueError(f"--heatmaps: {self.heatmaps} has images that are read")
        return images

    def _detect(self, flow: "Flow") -> "Judged":
        """Scores with p-values, sorted by the anomaly score; writes the pictures."""
        from realnvp.anomaly import AnomalyDetector
        from realnvp.data.dataset import channels_first
        from realnvp.evaluation.score import ranked
        from realnvp.figures import save_png
        from realnvp.figures.plots import HeatMap, heat_maps

        images = self._images(flow, self.paths)
        if self.normal:
            normal: Any = self._images(flow, [self.normal])
        else:
            data = options.own_data(flow, self.run)
            normal = channels_first(data.validation[:MAX_NORMAL])
        how: dict[str, int] = {"noise_draws": self.noise_draws, "seed": self.seed}
        detector = AnomalyDetector(flow, fpr=self.fpr or FPR, **how).fit(normal)
        if images[0].shape != normal[0].shape:
            options.note("realnvp: warning: new and normal images differ in size")
        if self.heatmaps:
            self.heatmaps.mkdir(parents=True, exist_ok=True)
        distinct = len({file.stem.casefold() for file in images.files}) == len(images)
        scores: list[Record] = []
        kept: list[tuple[float, int, HeatMap]] = []  # of the most anomalous images
        for index, (score, fractions) in enumerate(detector.results(images, paths=images.files)):
            assert score.box is not None
            assert score.score is not None
            path, verdict = Path(score.path), "anomalous" if score.anomalous else "normal"
            picture = images[index].transpose(1, 2, 0) / (images.config.levels - 1)
            caption = f"{path.name}: {verdict}, p = {score.p_value:.3g}"
            found = HeatMap(caption, picture, fractions, score.box)
            if self.heatmaps:
                name = f"{path.stem}.png" if distinct else f"{path.stem}-{index}.png"
                save_png(self.heatmaps / name, heat_maps([found]))
            scores.append(score)
            kept = sorted([*kept, (score.score, index, found)])[: self.top]
        maps = [found for _, _, found in kept]
        scores = sorted(ranked(scores), key=lambda score: score.rank)
        count, total = len(detector.normal_scores_), len(normal)
        split = f"{count} of {total} normal images calibrate, {total - count} set the reference"
        facts = self._facts(scores, count, split)
        if self.picture:
            save_png(self.picture, heat_maps(maps))
        if self.report:
            self._write_page(self.report, facts["summary"], scores, maps)
        return scores, facts

    def _write_page(
        self, path: Path, summary: str, scores: "list[Record]", maps: "list[HeatMap]"
    ) -> None:
        from realnvp.figures.grids import base64_png
        from realnvp.figures.plots import heat_maps
        from realnvp.io.files import render, write_text

        entries = [
            (score, found.caption, base64_png(heat_maps([found])))
            for score, found in zip(scores, maps, strict=False)
        ]
        command = shlex.join(["realnvp", *sys.argv[1:]])
        values = {"title": f"Anomalies: {self.run}", "summary": summary, "command": command}
        write_text(path, render("anomaly.html", entries=entries, **values))

    def _facts(self, scores: "list[Record]", count: int, normal: str) -> dict[str, Any]:
        """Counts for JSON, and their summary; count: of normal scores that calibrate."""
        fpr, lowest = self.fpr or FPR, 1 / (count + 1)
        anomalous = sum(bool(score.anomalous) for score in scores)
        few = f"; lowest possible rate {lowest:.2g}" if lowest > fpr * (1 + 1e-12) else ""
        rate = f"false-positive rate of at most {fpr:g}"
        summary = f"{anomalous} of {len(scores)} anomalous at a {rate} ({normal}{few})"
        return {"anomalous": anomalous, "fpr": fpr, "calibrating": count, "summary": summary}
