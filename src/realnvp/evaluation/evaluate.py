"""The evaluation of a run: what `realnvp evaluate` reports, with all that one must know to quote the number."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realnvp.config import Config, Kind, Shape, paper_bits_per_dim
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD, Unit, unit_of
from realnvp.data import Dataset, Split, codec_bits_per_dim, find_rows, find_split, open_splits, splits_of_run
from realnvp.data.prepared import DESCRIPTION
from realnvp.evaluation.likelihood import log_probs, summarise
from realnvp.evaluation.views import views_of
from realnvp.files.records import DamagedError
from realnvp.files.run_dir import RunDir
from realnvp.flows.flow import Flow, config_of, refuse_fast
from realnvp.progress import chunks, progress

CHUNK = 256


def evaluate(
    flow: Flow,
    run: str | Path,
    *,
    split: str = "test",
    source: Path | None = None,
    noise_draws: int = 1,
    seed: int = 0,
    views: bool = False,
    codecs: bool = False,
) -> dict[str, Any]:
    """Bits/dim, of a table nats a row, of the run's flow on a split of the run's data, or of other data from `source`.

    views: also of the density averaged over the views that training showed, `views_of`. codecs: also what PNG and lossless
    WebP take. ValueError if the data do not fit the flow.
    """
    refuse_fast(flow, "report the numbers of")
    config = config_of(flow)
    unit = unit_of(config)
    for_images = {"--codecs": codecs, "--views": views, "--noise-draws": noise_draws != 1}
    if unit is LOG_LIKELIHOOD and any(for_images.values()):
        raise ValueError(f"{next(flag for flag in for_images if for_images[flag])}: is for images; {run} is of a table")
    data, split = _judged(config, Path(run), split, source)
    images, groups = data.splits[split], (data.groups or {}).get(split)
    paper = _paper(data, config) if split == "test" else None
    try:
        count = len(views_of(config.data, data.shape)) if views else 1
    except ValueError as error:
        raise ValueError(f"--{error}, {source or run}") from None
    nats = partial(_nats, flow, images, unit, noise_draws=noise_draws, seed=seed)
    evaluation = _numbers(nats(), unit, data.shape, groups) | {
        "standard_error_over": unit.things if groups is None else f"{len(set(groups))} photographs",
        f"num_{unit.things}": len(images),
        "split": split,
        "dataset": data.name,
        "dataset_version": data.version,
        "seed": seed,
        "shape": data.shape,
    }
    if unit is BITS_PER_DIM:
        evaluation |= {"noise_draws": noise_draws, "dequantisation": config.model.dequantisation}
        evaluation |= {"paper": paper, "comparable": data.comparable}
    if views:
        evaluation["views"] = {"count": count} | _numbers(nats(views=True), unit, data.shape, groups)
    return evaluation | ({"codecs": _codecs(images)} if codecs else {})


def _judged(config: Config, run: Path, split: str, source: Path | None) -> tuple[Dataset, str]:
    """The run's data, a prepared folder, or other data, and the split to take; ValueError if the flow is of another kind."""
    if source is None or (source / DESCRIPTION).exists():
        if source:
            data = _other_splits(source, run, config, split)
        else:
            data = splits_of_run(run, config, verify=[split])
            if changed := RunDir(run).changed_data(data.folder, data.sha256):
                raise ValueError(f"{changed}; --data.source evaluates them all the same")
        if config.data.columns and data.columns not in (None, config.data.columns):
            raise ValueError(f"{source or run}: its columns are not those of the flow, {', '.join(config.data.columns)}")
    elif config.kind is Kind.TABLE:
        data, split = find_rows(source, split, config.data.columns)
    else:
        data, split = find_split(source, split, levels=config.levels)
    if (len(data.shape), data.shape[0]) != (len(config.shape), config.shape[0]):
        raise ValueError(f"{source}: {_words(data.shape)}, but the flow was trained on {_words(config.shape)}")
    return data, split


def _numbers(nats: torch.Tensor, unit: Unit, shape: Shape, groups: Sequence[int] | None) -> dict[str, Any]:
    """The mean in this unit, its standard error, and how many are not finite."""
    found = summarise(unit.of(nats, shape), groups)
    return {unit.key: found.mean, "standard_error": found.standard_error, "nonfinite": found.nonfinite}


def _words(shape: Sequence[int]) -> str:
    return f"rows of {shape[0]} columns" if len(shape) == 1 else f"images of {shape[0]} channels"


def _other_splits(source: Path, run: Path, config: Config, split: str) -> Dataset:
    """The prepared data in a folder; warns if they are another version of what the run was trained on."""
    splits = open_splits(source, held_out=config.data.held_out, seed=config.seed, verify=[split])
    try:
        own = splits_of_run(run, config)
    except (ValueError, DamagedError):  # not there any more
        return splits
    if own.name == splits.name and own.version != splits.version:
        versions = f"{splits.version or 'of no version'}, the run was trained on {own.version or 'no version'}"
        warnings.warn(f"{source}: {splits.name} is {versions}: their bits/dim are not comparable", stacklevel=4)
    return splits


def _paper(data: Dataset, config: Config) -> float | None:
    """The paper's bits/dim, if it is about this model and these images."""
    paper = paper_bits_per_dim(config)
    if paper is None or data.name != config.data.set or not data.folder:
        return None
    if not data.comparable:
        warnings.warn(f"{data.name} is {data.version}: not comparable with the paper's {paper} bits/dim", stacklevel=3)
        return None
    return paper


def _nats(flow: Flow, split: Split, unit: Unit, *, views: bool = False, **how: Any) -> torch.Tensor:
    """log p of all that is in the split. how: what `log_probs` takes."""
    found = []
    with progress("image, all views" if views else unit.things[:-1], len(split)) as report:
        for chunk in chunks(len(split), CHUNK if unit is BITS_PER_DIM else 16 * CHUNK, report):
            indices = np.arange(chunk.start, chunk.stop)
            images = np.moveaxis(split[indices], -1, 1)
            found.append(log_probs(flow, images, indices=indices.tolist(), views=views, **how))
    return torch.cat(found)


def _codecs(split: Split) -> dict[str, float]:
    totals: dict[str, float] = {}
    with progress("codecs", len(split)) as report:
        for chunk in chunks(len(split), CHUNK, report):
            images = split[chunk]
            for name, bits in codec_bits_per_dim(images).items():
                totals[name] = totals.get(name, 0.0) + bits * len(images)
    return {name: total / len(split) for name, total in totals.items()}
