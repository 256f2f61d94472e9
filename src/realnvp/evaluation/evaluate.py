"""The evaluation of a run: what `realnvp evaluate` reports, with all that one must know to quote the number."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from realnvp.config import Config, Kind, Shape, paper_bits_per_dim
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD, Unit, unit_of
from realnvp.data import Part, Splits, array_part, codec_bits_per_dim, find_rows, find_split, open_splits, splits_of_run
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
    chosen = _chosen(config, Path(run), split, source)
    try:
        count = len(views_of(config.data, chosen.shape)) if views else 1
    except ValueError as error:
        raise ValueError(f"--{error}, {source or run}") from None
    nats = partial(_nats, flow, chosen.part, unit, noise_draws=noise_draws, seed=seed)
    evaluation = _numbers(nats(), unit, chosen) | {
        "standard_error_over": unit.things if chosen.groups is None else f"{len(set(chosen.groups))} photographs",
        f"num_{unit.things}": chosen.part.count,
        "split": chosen.split,
        "dataset": chosen.name,
        "dataset_version": chosen.version,
        "seed": seed,
        "shape": chosen.shape,
    }
    if unit is BITS_PER_DIM:
        evaluation |= {"noise_draws": noise_draws, "dequantisation": config.model.dequantisation}
        evaluation |= {"paper": chosen.paper, "comparable": chosen.comparable}
    if views:
        evaluation["views"] = {"count": count} | _numbers(nats(views=True), unit, chosen)
    return evaluation | ({"codecs": _codecs(chosen.part)} if codecs else {})


class _Chosen(NamedTuple):
    """What a flow is judged on."""

    part: Part
    shape: Shape
    split: str
    name: str
    version: str | None = None
    groups: Sequence[int] | None = None
    paper: float | None = None
    comparable: bool = False
    """Whether these are the images that the paper's number, and others', are about."""


def _chosen(config: Config, run: Path, split: str, source: Path | None) -> _Chosen:
    """A split of the run's data, of a prepared folder, or of other data; ValueError if the flow is of another kind."""
    if source is None or (source / DESCRIPTION).exists():
        if source:
            splits = _other_splits(source, run, config, split)
        else:
            splits = splits_of_run(run, config, verify=[split])
            if changed := RunDir(run).changed_data(splits.folder, splits.sha256):
                raise ValueError(f"{changed}; --data.source evaluates them all the same")
        groups = (splits.groups or {}).get(split)
        paper = _paper(splits, config) if split == "test" else None
        if config.data.columns and splits.columns not in (None, config.data.columns):
            raise ValueError(f"{source or run}: its columns are not those of the flow, {', '.join(config.data.columns)}")
        part = array_part(getattr(splits, split))
        chosen = _Chosen(part, splits.shape, split, splits.name, splits.version, groups, paper, splits.comparable)
    elif config.kind is Kind.TABLE:
        part, columns, split = find_rows(source, split, config.data.columns)
        chosen = _Chosen(part, (len(columns),), split, str(source))
    else:
        part, shape, split = find_split(source, split, levels=config.levels)
        chosen = _Chosen(part, shape, split, str(source))
    if (len(chosen.shape), chosen.shape[0]) != (len(config.shape), config.shape[0]):
        raise ValueError(f"{source}: {_words(chosen.shape)}, but the flow was trained on {_words(config.shape)}")
    return chosen


def _numbers(nats: torch.Tensor, unit: Unit, chosen: _Chosen) -> dict[str, Any]:
    """The mean in this unit, its standard error, and how many are not finite."""
    found = summarise(unit.of(nats, chosen.shape), chosen.groups)
    return {unit.key: found.mean, "standard_error": found.standard_error, "nonfinite": found.nonfinite}


def _words(shape: Sequence[int]) -> str:
    return f"rows of {shape[0]} columns" if len(shape) == 1 else f"images of {shape[0]} channels"


def _other_splits(source: Path, run: Path, config: Config, split: str) -> Splits:
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


def _paper(splits: Splits, config: Config) -> float | None:
    """The paper's bits/dim, if it is about this model and these images."""
    paper = paper_bits_per_dim(config)
    if paper is None or splits.name != config.data.set:
        return None
    if not splits.comparable:
        warnings.warn(f"{splits.name} is {splits.version}: not comparable with the paper's {paper} bits/dim", stacklevel=4)
        return None
    return paper


def _nats(flow: Flow, part: Part, unit: Unit, *, views: bool = False, **how: Any) -> torch.Tensor:
    """log p of all that is in the part. how: what `log_probs` takes."""
    found = []
    with progress("image, all views" if views else unit.things[:-1], part.count) as report:
        for chunk in chunks(part.count, CHUNK if unit is BITS_PER_DIM else 16 * CHUNK, report):
            indices = np.arange(chunk.start, chunk.stop)
            images = np.moveaxis(part.read(indices), -1, 1)
            found.append(log_probs(flow, images, indices=indices.tolist(), views=views, **how))
    return torch.cat(found)


def _codecs(part: Part) -> dict[str, float]:
    totals: dict[str, float] = {}
    with progress("codecs", part.count) as report:
        for chunk in chunks(part.count, CHUNK, report):
            indices = np.arange(chunk.start, chunk.stop)
            for name, bits in codec_bits_per_dim(part.read(indices)).items():
                totals[name] = totals.get(name, 0.0) + bits * len(indices)
    return {name: total / part.count for name, total in totals.items()}
