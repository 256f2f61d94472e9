"""Evaluations: a flow's number on a split, with all that one must know to quote it."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from realnvp.config import Config, TableData
from realnvp.config.errors import count_of
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD
from realnvp.io.files import damaged_if_invalid, fields_of, read_json, write_text
from realnvp.io.pretrained import read_model
from realnvp.io.run_dir import RunDir

FILE = "evaluation.json"
ORDER = (  # of the keys in the file
    *("bits_per_dim", "log_likelihood", "standard_error", "nonfinite", "standard_error_over"),
    *("num_images", "num_rows", "split", "dataset", "dataset_version", "seed", "shape"),
    *("noise_draws", "dequantization", "paper", "comparable", "views", "codecs", "classes"),
    "file_bits_per_dim",
    *("seconds", "which", "step"),
)


def with_error(value: float | None, error: float | None) -> str:
    """A number and its standard error: '3.492 +- 0.012'. None: not finite."""
    return " +- ".join("not finite" if x is None else f"{x:.3f}" for x in (value, error))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The mean log-density of a split under a run's flow.

    The fields of this class and its two kinds are the keys of RUN/evaluation.json (docs/files.md).
    A number that is not finite is None. Fields with a default are not in every file.
    """

    unit = BITS_PER_DIM

    standard_error: float | None
    nonfinite: int | None = None
    """How many images or rows have no finite log-density."""
    standard_error_over: str
    """"images", "rows", or so many photographs that the images were cut from."""
    split: str
    dataset: str
    dataset_version: str | None
    seed: int
    shape: list[int] | None = None
    """(C, H, W) of an image, (D,) of a row."""
    seconds: float | None = None
    which: Literal["best", "last"]
    """The model of the run."""
    step: int | None
    """The model's step."""

    @property
    def value(self) -> float | None:
        """The mean, in `unit`."""
        mean: float | None = getattr(self, self.unit.key)
        return mean

    @property
    def measured(self) -> str:
        """'3.492 +- 0.012 bits/dim'."""
        return f"{with_error(self.value, self.standard_error)} {self.unit.words}"

    @property
    def data(self) -> str:
        """The data set and its version: 'photos (skimage 0.25)'."""
        return self.dataset + (f" ({self.dataset_version})" if self.dataset_version else "")

    @property
    def things(self) -> str:
        """What was evaluated: '10,000 images'."""
        return count_of(getattr(self, f"num_{self.unit.things}"), self.unit.thing)

    def command(self, run: str | Path) -> str:
        """The command that evaluated the run so."""
        values = [
            f"--{name.replace('_', '-')} {getattr(self, name)}"
            for name in ("noise_draws", "seed", "which")
            if hasattr(self, name)
        ]
        flags = [f"--{name}" for name in ("views", "codecs") if getattr(self, name, None)]
        return " ".join(["realnvp evaluate", shlex.quote(str(run)), *values, *flags])

    def lines(self) -> list[str]:
        """The evaluation in words, for people."""
        lines = [
            f"{self.data}, {self.split}: {self.things}",
            f"  {self.measured} (standard error over {self.standard_error_over})",
        ]
        if self.nonfinite:
            have = "has" if self.nonfinite == 1 else "have"
            things = count_of(self.nonfinite, self.unit.thing)
            lines.append(f"  {things} {have} no finite log-density")
        return lines

    @property
    def finite(self) -> bool:
        """Whether each image or row has a finite log-density."""
        return not self.nonfinite

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return dict(sorted(fields_of(self).items(), key=lambda field: ORDER.index(field[0])))

    def save(self, run: Path) -> None:
        """Write RUN/evaluation.json."""
        write_text(run / FILE, json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True, kw_only=True)
class OfRows(Evaluation):
    """An evaluation on a table's rows."""

    unit = LOG_LIKELIHOOD

    log_likelihood: float | None
    """Mean of log p of a row, in nats and in the units of the columns."""
    num_rows: int

    def lines(self) -> list[str]:
        first, number, *more = super().lines()
        return [
            first,
            f"{number}: the mean log-density of a row, in the units of the columns",
            *more,
        ]


@dataclass(frozen=True)
class OverViews:
    """Bits/dim of the density averaged over the views of an image that training showed."""

    count: int
    """Views of an image."""
    bits_per_dim: float | None
    standard_error: float | None
    nonfinite: int | None = None

    @property
    def measured(self) -> str:
        """'3.480 +- 0.012 bits/dim'."""
        return f"{with_error(self.bits_per_dim, self.standard_error)} {BITS_PER_DIM.words}"


@dataclass(frozen=True, kw_only=True)
class OfClasses:
    """p(x) = sum_c p(c) p(x | c) and p(c | x), by Bayes' rule, of a flow given classes.

    A number that is not finite is None. Errors are standard errors over images.
    """

    count: int
    """Classes."""
    mixture_bits_per_dim: float | None
    mixture_standard_error: float | None
    accuracy: float
    """Share of the images whose class is the most likely."""
    accuracy_standard_error: float | None
    log_loss: float | None
    """Mean of -log p(c | x) of the class, in nats."""
    log_loss_standard_error: float | None
    calibration_error: float
    """Mean distance of accuracy from confidence, max p(c | x), over ten bins of equally many."""
    calibration_standard_error: float | None

    def as_rows(self) -> dict[str, str]:
        """What was measured, and its value in words."""
        mixture = with_error(self.mixture_bits_per_dim, self.mixture_standard_error)
        loss = with_error(self.log_loss, self.log_loss_standard_error)
        return {
            "mixture of all classes": f"{mixture} bits/dim",
            "accuracy by Bayes' rule": with_error(self.accuracy, self.accuracy_standard_error),
            "log-loss": f"{loss} nats",
            "calibration error": with_error(
                self.calibration_error, self.calibration_standard_error
            ),
        }

    def lines(self) -> list[str]:
        """In words, for people."""
        return [
            f"  given the class of each image, one of {self.count}",
            *(f"  {value}: {name}" for name, value in self.as_rows().items()),
        ]


@dataclass(frozen=True, kw_only=True)
class OfImages(Evaluation):
    """An evaluation on images."""

    bits_per_dim: float | None
    """Mean of -log2 p / D: a bound on the bits of a lossless code."""
    num_images: int
    noise_draws: int
    dequantization: str | None = None
    """uniform or learned."""
    paper: float | None
    """The paper's number, where it is about this model and these images."""
    comparable: bool | None = None
    """Whether these are the images of the paper's number, so that it may be compared."""
    views: OverViews | None = None
    codecs: dict[str, float] | None = None
    """Bits/dim of lossless image formats."""
    file_bits_per_dim: float | None = None
    """Of a file that `realnvp compress` writes of these images, or of the first of them."""
    classes: OfClasses | None = None
    """Of a flow given classes: bits_per_dim is given the class of each image."""

    @property
    def finite(self) -> bool:
        return not (self.nonfinite or (self.views and self.views.nonfinite))

    def lines(self) -> list[str]:
        first, number, *more = super().lines()
        lines = [
            f"{first}, noise draws: {self.noise_draws}",
            f"{number}; an upper bound ({self.dequantization} dequantization)",
            *more,
        ]
        if self.classes:
            lines += self.classes.lines()
        if self.views:
            lines.append(
                f"  {self.views.measured} of the density averaged over {self.views.count} views "
                "of each image, as training showed them"
            )
        if self.file_bits_per_dim is not None:
            lines.append(f"  {self.file_bits_per_dim:.3f} bits/dim in a file by realnvp compress")
        lines += [
            f"  {bits:.3f} bits/dim by lossless {name}"
            for name, bits in (self.codecs or {}).items()
        ]
        if advice := self._beaten():
            lines.append(f"  {advice}")
        return lines + ([] if self.paper is None else [f"  {self.paper:.2f} bits/dim in the paper"])

    def _beaten(self) -> str:
        """What to do where an image format needs fewer bits than the flow; '' where none does."""
        name, bits = min((self.codecs or {}).items(), key=lambda item: item[1], default=("", 0.0))
        if self.bits_per_dim is None or not name or bits >= self.bits_per_dim:
            return ""
        color = self.shape is not None and self.shape[0] == 3
        return (
            f"{name} is {self.bits_per_dim - bits:.3f} bits/dim better than this flow: train "
            f"longer, or start from a trained flow (realnvp train ... --init-from "
            f"{'photos-32' if color else 'RUN'}); flat drawings may stay {name}'s"
        )


def parse_evaluation(tree: Any, path: Path, config: Config) -> Evaluation:
    """The evaluation of a flow with this configuration, from JSON of a file.

    ValueError names the file, and the first field that is missing or of another type.
    """
    try:
        kind = OfRows if isinstance(config.data, TableData) else OfImages
        return TypeAdapter(kind).validate_python(tree)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_evaluation(run: Path) -> Evaluation:
    """Read RUN/evaluation.json.

    ValueError if there is none, DamagedError if it makes no sense.
    """
    config = RunDir(run).config
    tree = read_json(dict[str, Any], run / FILE)
    with damaged_if_invalid():
        return parse_evaluation(tree, run / FILE, config)


def current_evaluation(run: Path) -> Evaluation:
    """Read the evaluation of the run's present model on the test split.

    ValueError if the last evaluation was of another model or split.
    """
    path, maker = run / FILE, f"realnvp evaluate {run}"
    evaluation = read_evaluation(run)
    if evaluation.split != "test":
        raise ValueError(
            f"{path}: is of the {evaluation.split} split; {maker} takes the test split"
        )
    present = read_model(run, evaluation.which)[1].get("facts") or {}
    if present.get("step") != evaluation.step:
        raise ValueError(f"{path}: is of an earlier model; {maker} takes the present one")
    return evaluation
