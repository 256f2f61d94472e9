"""`realnvp evaluate`: a flow's number on a split of its data, or on other data."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from realnvp.config import Config, ImageData, TableData, paper_bits_per_dim
from realnvp.config.errors import ParameterError, as_colours, count_of
from realnvp.config.fields import AS_FOUND, DecodeOptions
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD, Unit, unit_of
from realnvp.data import (
    Dataset,
    Split,
    channels_first,
    codec_bits_per_dim,
    find_split,
    open_splits,
    splits_of_run,
)
from realnvp.data.dataset import Indices
from realnvp.data.prepared import DESCRIPTION
from realnvp.evaluation.classes import of_classes
from realnvp.evaluation.likelihood import log_probs, summarise, views_of
from realnvp.evaluation.record import Evaluation, OfImages, OfRows, OverViews
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, config_of, refuse_fast
from realnvp.io.files import DamagedError
from realnvp.io.run_dir import RunDir
from realnvp.progress import chunks, progress

CHUNK = 256


def evaluate(
    flow: Flow,
    run: str | Path,
    *,
    split: str = "test",
    source: Path | None = None,
    reading: DecodeOptions = AS_FOUND,
    crop: int | None = None,
    noise_draws: int = 1,
    seed: int = 0,
    views: bool = False,
    codecs: bool = False,
    file_bits_per_dim: Callable[[Flow, Split], float | None] | None = None,
    which: Literal["best", "last"] = "best",
    step: int | None = None,
) -> Evaluation:
    """The flow's bits/dim, of a table nats a row, on a split of the run's data.

    source: other data, a folder, an .npy file, a table or a prepared folder.
    reading: of image files of the source; choices left open are the run's.
    crop: the side of fixed crops of the source's pictures. None: the run's.
    noise_draws: draws of the dequantization noise; log p is averaged over them.
    seed: of the noise.
    views: also evaluate the density averaged over the views that training showed (`views_of`).
    codecs: also measure PNG, lossless WebP and, where there is a library, JPEG XL.
    file_bits_per_dim: measures the flow's own file of a split, with `codecs`.
    which, step: recorded as the model of the run that the flow is.

    ValueError if the data do not fit the flow.
    """
    began = time.monotonic()
    refuse_fast(flow, "report the numbers of")
    config, run = config_of(flow), Path(run)
    unit = unit_of(config)
    for_images = {"codecs": codecs, "views": views, "noise_draws": noise_draws != 1}
    if unit is LOG_LIKELIHOOD and (context := [name for name in for_images if for_images[name]]):
        raise ParameterError(context[0], f"is for images; {run} is of a table")
    of_files = {**reading.chosen(), **({"crop": crop} if crop else {})}
    files = source is not None and unit is BITS_PER_DIM and not (source / DESCRIPTION).exists()
    if of_files and not files:
        raise ParameterError(next(iter(of_files)), "is for pictures of --data.source, not prepared")
    data, split = _data(config, run, split, source, reading, crop)
    images, groups = data.splits[split], data.groups_of(split)
    try:
        count = len(views_of(config.data, data.shape)) if views else 1
    except ParameterError as error:
        raise ParameterError(error.name, f"{error.words}, {source or run}") from None

    condition = flow.condition if isinstance(flow.condition, Classes) else None
    known = flow.condition is not None and data.class_names == config.data.class_names
    labels = (data.labels or {}).get(split) if known else None

    def measure(**how: Any) -> dict[str, Any]:
        nats = _nats(flow, images, unit, context=labels, noise_draws=noise_draws, seed=seed, **how)
        found = summarise(unit.of(nats, data.shape), groups)
        return {
            unit.key: found.mean if math.isfinite(found.mean) else None,
            "standard_error": found.standard_error if math.isfinite(found.standard_error) else None,
            "nonfinite": found.nonfinite,
        }

    fields = measure() | {
        "standard_error_over": _clusters(data, groups) if groups else unit.things,
        f"num_{unit.things}": len(images),
        "split": split,
        "dataset": data.name,
        "dataset_version": data.version,
        "seed": seed,
        "shape": list(data.shape),
        "which": which,
        "step": step,
    }
    kind: type[Evaluation] = OfRows
    if unit is BITS_PER_DIM:
        kind = OfImages
        fields |= {
            "noise_draws": noise_draws,
            "dequantization": config.model.dequantization,
            "paper": _paper(data, config) if split == "test" else None,
            "comparable": data.comparable,
            "views": OverViews(count, **measure(views=True)) if views else None,
            "codecs": _codecs(images) if codecs else None,
            "file_bits_per_dim": (
                file_bits_per_dim(flow, images) if codecs and file_bits_per_dim else None
            ),
            "classes": None
            if labels is None or condition is None
            else of_classes(
                condition.joint(
                    [
                        _nats(flow, images, unit, context=c, noise_draws=noise_draws, seed=seed)
                        for c in range(config.model.context_dim)
                    ]
                ),
                labels,
                data.shape,
            ),
        }
    return kind(**fields, seconds=round(time.monotonic() - began, 2))


def _clusters(data: Dataset, groups: Sequence[int]) -> str:
    """What the images are crops of: '8 photographs'."""
    count = len({*groups})
    return f"{count} {'picture' if data.crop else 'photograph'}{'s' * (count != 1)}"


def _data(
    config: Config,
    run: Path,
    split: str,
    source: Path | None,
    reading: DecodeOptions,
    crop: int | None,
) -> tuple[Dataset, str]:
    """The run's data, a prepared folder or other data, opened, and the split to take.

    ValueError if the flow takes other columns, channels, or images in place of rows.
    """
    if source is None or (source / DESCRIPTION).exists():
        if source:
            data = _other_splits(source, run, config, split)
        else:
            data = splits_of_run(run, config, verify=[split])
            if changed := RunDir(run).changed_data(data.folder, data.sha256):
                raise ValueError(f"{changed}; --data.source evaluates them all the same")
        table = config.data if isinstance(config.data, TableData) else TableData()
        if data.context_values != table.context_values:
            raise ValueError(
                f"{source or run}: its given columns are not those of the flow, "
                f"{', '.join(table.context_columns or ('none',))}"
            )
        if table.columns and data.columns not in (None, table.columns):
            raise ValueError(
                f"{source or run}: its columns are not those of the flow, "
                f"{', '.join(table.columns)}"
            )
    elif isinstance(config.data, TableData):
        data, split = find_split(source, split, config.data)
    else:
        wanted = ImageData(
            levels=config.levels,
            crop=crop or config.images.crop,
            resize=config.images.resize,
            class_names=config.data.class_names,
            **config.images.decode_options.but(reading).chosen(),
        )
        data, split = find_split(source, split, wanted)
    if (len(data.shape), data.shape[0]) != (len(config.shape), config.shape[0]):
        readable = isinstance(config.data, ImageData) and data.shape[0] in (1, 3)
        flag = as_colours(config.shape[0]) if readable else ""
        raise ValueError(
            f"{source}: {_words(data.shape)}, but the flow was trained on {_words(config.shape)}"
            + (flag and f": {flag}")
        )
    return data, split


def _words(shape: Sequence[int]) -> str:
    things, part = ("rows", "column") if len(shape) == 1 else ("images", "channel")
    return f"{things} of {count_of(shape[0], part)}"


def _other_splits(source: Path, run: Path, config: Config, split: str) -> Dataset:
    """Open prepared data; warns if the run was trained on another version of them."""
    splits = open_splits(
        source, val_fraction=config.data.val_fraction, seed=config.seed, verify=[split]
    )
    try:
        own = splits_of_run(run, config)
    except (ValueError, DamagedError):  # not there
        return splits
    if own.name == splits.name and own.version != splits.version:
        warnings.warn(
            f"{source}: {splits.name} is {splits.version or 'of no version'}, the run was trained "
            f"on {own.version or 'no version'}: their bits/dim are not comparable",
            stacklevel=4,
        )
    return splits


def _paper(data: Dataset, config: Config) -> float | None:
    """The paper's bits/dim for this model and these images. None: there is none."""
    paper = paper_bits_per_dim(config)
    if paper is None or data.name != config.data.set or not data.folder:
        return None
    if not data.comparable:
        warnings.warn(
            f"{data.name} is {data.version}: not comparable with the paper's {paper} bits/dim",
            stacklevel=3,
        )
        return None
    return paper


def _nats(
    flow: Flow,
    split: Split,
    unit: Unit,
    *,
    context: int | Indices | None = None,
    views: bool = False,
    **how: Any,
) -> torch.Tensor:
    """log p of all that is in the split.

    given: the class of all images, or of each.
    how: what `log_probs` takes.
    """
    found = []
    with progress("image, all views" if views else unit.thing, len(split)) as report:
        for chunk in chunks(len(split), CHUNK if unit is BITS_PER_DIM else 16 * CHUNK, report):
            indices = np.arange(chunk.start, chunk.stop)
            found.append(
                log_probs(
                    flow,
                    channels_first(split[indices]),
                    context=context[chunk] if isinstance(context, np.ndarray) else context,
                    indices=indices.tolist(),
                    views=views,
                    **how,
                )
            )
    return torch.cat(found)


def _codecs(split: Split) -> dict[str, float]:
    totals: dict[str, float] = {}
    with progress("codecs", len(split)) as report:
        for chunk in chunks(len(split), CHUNK, report):
            images = split[chunk]
            for name, bits in codec_bits_per_dim(images).items():
                totals[name] = totals.get(name, 0.0) + bits * len(images)
    return {name: total / len(split) for name, total in totals.items()}
