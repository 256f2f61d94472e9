"""The number of a flow on a split of its data, or on other data, as a record to quote."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from realnvp.config.fields import Config, ImageData, TableData
from realnvp.config.json import parse_json
from realnvp.config.presets import paper_bits_per_dim
from realnvp.data.dataset import Dataset, Split, channels_first
from realnvp.data.images import codec_bits_per_dim
from realnvp.data.prepared import DESCRIPTION, find_split, open_splits, splits_of_run
from realnvp.evaluation.likelihood import (
    BITS_PER_DIM,
    LOG_LIKELIHOOD,
    Mean,
    Unit,
    log_probs,
    summarize,
    unit_of,
)
from realnvp.flows.context import Classes
from realnvp.flows.flow import ROWS, Flow, config_of, refuse_fast
from realnvp.io.files import read_json, write_text
from realnvp.io.pretrained import read_model
from realnvp.io.run_dir import RunDir
from realnvp.progress import track_slices

FILE = "evaluation.json"
IMAGES = 256  # read at once
BINS, RESAMPLES = 10, 200  # of the calibration error, and of its bootstrap


@dataclass(frozen=True, kw_only=True)
class Evaluation(Mean):
    """The mean log-density of a split: bits/dim of images, of a table's rows nats.

    RUN/evaluation.json holds the fields that are not None, `mean` and `count` under the names of
    the unit: bits_per_dim and num_images, or log_likelihood and num_rows.
    """

    standard_error_over: str
    """images, rows, or the photographs that the images were cut from: '8 photographs'."""
    count: int
    split: str
    dataset: str
    dataset_version: str | None = None
    shape: tuple[int, ...]
    """(C, H, W) of an image, (D,) of a row."""
    seed: int
    noise_draws: int | None = None
    dequantization: str | None = None
    measures: dict[str, Mean] = field(default_factory=dict)
    """Of a flow with classes: mixture_bits_per_dim, accuracy, log_loss, calibration_error."""
    codecs: dict[str, float] = field(default_factory=dict)
    """Bits/dim of lossless image formats, and of an archive of `realnvp compress`."""
    paper: float | None = None
    """The paper's bits/dim for this model and these images."""
    comparable: bool = False
    """Whether these are the images of the paper's number."""
    which: Literal["best", "last"]
    step: int | None = None
    """The step of the model."""

    @property
    def unit(self) -> Unit:
        """Bits/dim or nats."""
        return LOG_LIKELIHOOD if len(self.shape) == 1 else BITS_PER_DIM

    @property
    def finite(self) -> bool:
        """Whether each image or row has a finite log-density."""
        return not any(each.nonfinite for each in (self, *self.measures.values()))

    def rows(self) -> dict[str, str]:
        """Names and values for readers, the mean first."""
        rows: dict[str, Any] = {
            self.unit.words: self,
            "standard error over": self.standard_error_over,
            "not finite": self.nonfinite,
            "data": f"{self.dataset} {self.dataset_version or ''}".strip(),
            self.unit.things: f"{self.count:,}, {self.split} split",
            "noise draws": self.noise_draws,
            "dequantization": self.dequantization and f"{self.dequantization}: an upper bound",
            **{name.replace("_", " "): value for name, value in self.measures.items()},
            **{f"bits/dim, {name}": f"{bits:.3f}" for name, bits in self.codecs.items()},
            "bits/dim in the paper": self.paper and f"{self.paper:.2f}",
        }
        return {name: str(value) for name, value in rows.items() if value}

    def as_json(self) -> dict[str, Any]:
        """The content of the file; numbers that are not finite become None."""
        fields = json.loads(TypeAdapter(Evaluation).dump_json(self, exclude_none=True))
        names = _names(self.unit)
        return {names.get(name, name): value for name, value in fields.items()}

    def save(self, run: Path) -> None:
        """Write RUN/evaluation.json."""
        write_text(run / FILE, json.dumps(self.as_json(), indent=2) + "\n")


def _names(unit: Unit) -> dict[str, str]:
    return {"mean": unit.key, "count": f"num_{unit.things}"}


def read_evaluation(run: Path) -> Evaluation:
    """RUN/evaluation.json. ValueError names the file and the field; OSError: there is none."""
    names = {value: name for name, value in _names(unit_of(RunDir(run).config)).items()}
    fields = read_json(dict[str, Any], run / FILE)
    text = json.dumps({names.get(name, name): value for name, value in fields.items()})
    return parse_json(Evaluation, text, run / FILE)


def current_evaluation(run: Path) -> Evaluation:
    """The evaluation of the run's present model on the test split.

    ValueError: the last evaluation is of another model or split.
    """
    evaluation = read_evaluation(run)
    facts = read_model(run, evaluation.which)[1].get("facts") or {}
    if evaluation.split != "test" or facts.get("step") != evaluation.step:
        raise ValueError(f"{run / FILE}: not of the present model on the test split")
    return evaluation


def evaluate(
    flow: Flow,
    run: str | Path,
    *,
    split: str = "test",
    source: Path | None = None,
    noise_draws: int = 1,
    seed: int = 0,
    archive: Callable[[Flow, Split], float | None] | None = None,
    which: Literal["best", "last"] = "best",
    step: int | None = None,
) -> Evaluation:
    """Evaluate a flow on a split of its run's data.

    source: other data: a folder, an .npy file, a table or a prepared folder.
    noise_draws: draws of the dequantization noise over which log p is averaged.
    archive: measures an archive of the codec, in bits/dim; then image formats are measured, too.
    which, step: recorded as the model of the run that the flow is.

    ValueError: the data do not fit the flow.
    """
    refuse_fast(flow, "report the numbers of")
    config = config_of(flow)
    unit, condition = unit_of(config), flow.condition
    data, split = _open(config, Path(run), split, source)
    examples, groups, shape = data.splits[split], data.groups_of(split), data.shape
    known = condition is not None and data.class_names == config.data.class_names
    context = (data.labels or {}).get(split) if known else None
    how: dict[str, Any] = {"noise_draws": noise_draws, "seed": seed}
    result = summarize(unit.of(_nats(flow, examples, context=context, **how), shape), groups)
    photographs = f"{len({*groups})} photographs" if groups else ""
    measures: dict[str, Mean] = {}
    if isinstance(condition, Classes) and context is not None:
        classes = range(len(condition.names))
        joint = condition.joint([_nats(flow, examples, context=c, **how) for c in classes])
        measures["mixture_bits_per_dim"] = summarize(unit.of(joint.logsumexp(1), shape), groups)
        measures |= classification(joint, context)
    images = unit is BITS_PER_DIM
    comparable = images and data.comparable and data.name == config.data.set
    return Evaluation(
        **asdict(result),
        standard_error_over=photographs or unit.things,
        count=len(examples),
        split=split,
        dataset=data.name,
        dataset_version=data.version,
        shape=tuple(shape),
        seed=seed,
        noise_draws=noise_draws if images else None,
        dequantization=config.model.dequantization if images else None,
        measures=measures,
        codecs=_codecs(examples, archive(flow, examples)) if archive and images else {},
        paper=paper_bits_per_dim(config) if comparable and split == "test" else None,
        comparable=comparable,
        which=which,
        step=step,
    )


def _open(config: Config, run: Path, split: str, source: Path | None) -> tuple[Dataset, str]:
    """The data and the split to take: the run's, a prepared folder's, or of other files."""
    table = config.data if isinstance(config.data, TableData) else None
    if source is None:
        data = splits_of_run(run, config, verify=[split])
        RunDir(run).check_data(data.folder, data.sha256)
    elif (source / DESCRIPTION).exists():
        fraction = config.data.val_fraction
        data = open_splits(source, val_fraction=fraction, seed=config.seed, verify=[split])
    elif table:
        data, split = find_split(source, split, table)
    else:
        own, names = config.images, ("levels", "crop", "resize", "class_names")
        alike = {name: getattr(own, name) for name in names} | own.decode_options.chosen()
        data, split = find_split(source, split, ImageData(**alike))
    if table:
        asked = table.context_values, table.columns or data.columns
        if (data.context_values, data.columns) != asked:
            raise ValueError(f"{source or run}: its columns are not those of the flow")
    if (len(data.shape), data.shape[0]) != (len(config.shape), config.shape[0]):
        raise ValueError(f"{source}: shape {data.shape}, the flow's is {config.shape}")
    return data, split


def _nats(
    flow: Flow, split: Split, *, context: int | NDArray[Any] | None = None, **how: Any
) -> Tensor:
    """`log_probs` of all examples of a split, read in parts; context: of all, or of each."""
    unit, found = unit_of(flow.config), []
    for part in track_slices(len(split), IMAGES if unit is BITS_PER_DIM else ROWS, unit.things):
        indices = np.arange(part.start, part.stop)
        c = context[part] if isinstance(context, np.ndarray) else context
        x = channels_first(split[indices])
        found.append(log_probs(flow, x, context=c, indices=indices.tolist(), **how))
    return torch.cat(found)


def classification(joint: Tensor, labels: NDArray[np.int64]) -> dict[str, Mean]:
    """Accuracy, log-loss and calibration error of p(c | x), by Bayes' rule.

    joint: (N, K), log p(c) + log p(x | c). labels: (N,), the true classes.
    """
    posterior, truth = joint.log_softmax(1), torch.from_numpy(labels)
    confidence, likeliest = posterior.exp().max(1)
    right = (likeliest == truth).double()
    return {
        "accuracy": summarize(right),
        "log_loss": summarize(-posterior.gather(1, truth[:, None])[:, 0]),
        "calibration_error": _calibration_error(confidence.numpy(), right.numpy()),
    }


def _calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> Mean:
    """Expected calibration error over bins of equally many; its error by the bootstrap."""
    rng, count = np.random.default_rng(0), len(right)

    def error(rows: NDArray[np.int64]) -> float:
        by_confidence = rows[np.argsort(confidence[rows], kind="stable")]
        bins = np.array_split(by_confidence, min(BINS, count))
        return float(sum(abs(np.sum(right[each] - confidence[each])) for each in bins) / count)

    resampled = [error(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    return Mean(error(np.arange(count)), float(np.std(resampled)))


def _codecs(split: Split, archive: float | None) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in track_slices(len(split), IMAGES, "codecs"):
        images = split[part]
        for name, bits in codec_bits_per_dim(images).items():
            totals[name] = totals.get(name, 0.0) + bits * len(images) / len(split)
    return totals if archive is None else totals | {"realnvp": archive}
