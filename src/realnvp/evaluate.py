"""The evaluation of a run: what `realnvp evaluate` reports, with all that one must know to quote the number."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from realnvp.config import Config, paper_bits_per_dim
from realnvp.data import Part, Splits, array_part, codec_bits_per_dim, find_split, open_splits, splits_of_run
from realnvp.data.splits import DESCRIPTION
from realnvp.flow import Flow
from realnvp.folders import DamagedError
from realnvp.likelihood import in_bits_per_dim, log_probs, refuse_fast, summarise
from realnvp.progress import progress

CHUNK = 256


def evaluate(
    flow: Flow,
    run: str | Path,
    *,
    split: str = "test",
    source: Path | None = None,
    noise_draws: int = 1,
    seed: int = 0,
    codecs: bool = False,
) -> dict[str, Any]:
    """Bits/dim of the run's flow on a split of the run's data, or of other images from `source`.

    codecs: also what PNG and lossless WebP take. ValueError if the images do not fit the flow.
    """
    refuse_fast(flow)
    assert flow.config is not None
    assert flow.config.data.shape is not None
    if source is None or (source / DESCRIPTION).exists():
        run, config = Path(run), flow.config
        splits = _other_splits(source, run, config, split) if source else splits_of_run(run, config, verify=[split])
        part, shape = array_part(getattr(splits, split)), splits.shape
        groups = (splits.groups or {}).get(split)
        name, version = splits.name, splits.version
        paper = _paper(splits, flow.config) if split == "test" else None
    else:
        part, shape, split = find_split(source, split, levels=flow.config.data.levels)
        name, version, groups, paper = str(source), None, None, None
    if shape[0] != flow.config.data.shape[0]:
        raise ValueError(f"{source}: images of {shape[0]} channels, but the flow was trained on {flow.config.data.shape[0]}")
    nats = _nats(flow, part, noise_draws=noise_draws, seed=seed)
    result = summarise(in_bits_per_dim(nats, shape), groups)
    return {
        "bits_per_dim": result.mean,
        "standard_error": result.standard_error,
        "standard_error_over": "images" if groups is None else f"{len(set(groups))} photographs",
        "num_images": part.count,
        "noise_draws": noise_draws,
        "nonfinite": result.nonfinite,
        "split": split,
        "dataset": name,
        "dataset_version": version,
        "paper": paper,
        "seed": seed,
        "shape": shape,
    } | ({"codecs": _codecs(part)} if codecs else {})


def _other_splits(source: Path, run: Path, config: Config, split: str) -> Splits:
    """The prepared data in a folder; warns if they are another version of what the run was trained on."""
    splits = open_splits(source, held_out=config.data.held_out, seed=config.seed, verify=[split])
    try:
        own = splits_of_run(run, config)
    except (ValueError, DamagedError):  # not there any more
        return splits
    if own.name == splits.name and own.version != splits.version:
        versions = f"{splits.version or 'of no version'}, the run was trained on {own.version or 'no version'}"
        warnings.warn(f"{source}: {splits.name} is {versions}: their bits/dim are not comparable", stacklevel=3)
    return splits


def _paper(splits: Splits, config: Config) -> float | None:
    """The paper's bits/dim, if it is about this model and these images."""
    paper = paper_bits_per_dim(config)
    if paper is None or splits.name != config.data.set:
        return None
    if not splits.comparable:
        warnings.warn(f"{splits.name} is {splits.version}: not comparable with the paper's {paper} bits/dim", stacklevel=3)
        return None
    return paper


def _nats(flow: Flow, part: Part, *, noise_draws: int, seed: int) -> torch.Tensor:
    chunks = []
    with progress("image", part.count) as report:
        for indices in _chunks(part):
            images = part.read(indices).transpose(0, 3, 1, 2)
            chunks.append(log_probs(flow, images, noise_draws=noise_draws, seed=seed, indices=indices.tolist()))
            report(int(indices[-1]) + 1)
    return torch.cat(chunks)


def _codecs(part: Part) -> dict[str, float]:
    totals: dict[str, float] = {}
    with progress("codecs", part.count) as report:
        for indices in _chunks(part):
            for name, bits in codec_bits_per_dim(part.read(indices)).items():
                totals[name] = totals.get(name, 0.0) + bits * len(indices)
            report(int(indices[-1]) + 1)
    return {name: total / part.count for name, total in totals.items()}


def _chunks(part: Part) -> Iterator[NDArray[np.int64]]:
    """The indices of all images, so many at a time that memory does not grow with their number."""
    for start in range(0, part.count, CHUNK):
        yield np.arange(start, min(start + CHUNK, part.count))


def measured(result: dict[str, Any]) -> str:
    """The bits/dim of an evaluation and its standard error, as text: '3.492 +- 0.012'."""
    bits, error = result["bits_per_dim"], result["standard_error"]
    known = [f"{value:.3f}" if value is not None and math.isfinite(value) else "not finite" for value in (bits, error)]
    return " +- ".join(known)
