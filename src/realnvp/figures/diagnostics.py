"""Can this run be trusted? How it went; latents, extreme images, neighbours of a run of images."""

import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realnvp.bijections.base import float64_like
from realnvp.config.units import in_bits_per_dim, unit_of
from realnvp.data import channels_first, dequantize
from realnvp.evaluation import latent
from realnvp.evaluation.likelihood import log_probs
from realnvp.figures import plots
from realnvp.figures.drawing import Drawing, TrainedRun
from realnvp.figures.grids import Array, Pixels, colors, grid, stacked
from realnvp.flows.flow import evaluating
from realnvp.io.files import DamagedError
from realnvp.random import Purpose, uniform

COLUMNS = 10  # of test images beside their maps
EXAMINED = 256  # test images whose latents are looked at
SAMPLED = 128  # samples, and as many test images, whose nearest training images are looked for


def latents(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether a density can be trusted.

    Compares z with N(0, 1), as a whole and at each pixel. Shows the images of extreme density, and
    the training images nearest to samples.
    """
    images = run.some(run.splits.test, EXAMINED)
    if not len(images):
        raise run.too_few("test images", 0)
    x = torch.from_numpy(channels_first(images))
    noise = uniform(x.shape[1:], run.seed, Purpose.EVALUATE, indices=range(len(x)))
    z = latent.encode(run.flow, dequantize(x, noise), report=run.telling("encode", len(x))).cpu()
    scales = latent.by_scale(z, run.config.model.num_scales or 1)
    picture = plots.histograms_and_quantiles(
        scales,
        [latent.normal_quantiles(scale) for scale in scales],
        [
            f"scale {i}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}"
            for i, v in enumerate(scales)
        ],
    )
    yield Drawing("latents", picture, {"z": z.numpy()})
    mean, deviation = (values.numpy() for values in latent.pixel_moments(z))
    yield Drawing(
        "latents-maps", plots.maps(mean, deviation), {"mean": mean, "deviation": deviation}
    )
    bits = in_bits_per_dim(log_probs(run.flow, x, seed=run.seed), x.shape[1:]).numpy()
    yield _extremes(run, images, bits)
    yield _places(run, images[: 2 * COLUMNS], dequantize(x, noise)[: 2 * COLUMNS])
    yield from _neighbours(run)


def _extremes(run: TrainedRun, images: Pixels, bits: Array) -> Drawing:
    """The images with the fewest and with the most bits/dim."""
    order, pictures = np.argsort(bits), []
    arrays: dict[str, Array] = {}
    for words, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        picture = run.grid(
            images[chosen],
            columns=10,
            side=96,
            title=f"{words} bits/dim of {len(bits)} test images",
            under=[f"{value:.2f}" for value in bits[chosen]],
        )
        pictures.append(picture)
        arrays |= {words: images[chosen], f"{words}-bits_per_dim": bits[chosen]}
    return Drawing("latents-extremes", stacked(pictures), arrays)


def _places(run: TrainedRun, images: Pixels, x: Tensor) -> Drawing:
    """Test images above the bits that each of their pixels costs, which add up to bits/dim."""
    with evaluating(run.flow):
        nats = run.flow.pixel_log_prob(x.to(float64_like(run.flow))).cpu().numpy()
    bits = -nats / (math.log(2) * x.shape[1])
    low, high = np.quantile(bits, [0.02, 0.98])
    coloured = colors(((bits - low) / (high - low + 1e-12)).clip(0, 1)).round().astype(np.uint8)
    pictures = []
    for row in range(0, len(images), COLUMNS):
        part = slice(row, row + COLUMNS)
        pictures += [
            run.grid(images[part], columns=COLUMNS, side=96),
            grid(coloured[part], levels=256, columns=COLUMNS, side=96),
        ]
    words = f"bits/dim of each pixel, of test images: yellow {low:.1f}, violet {high:.1f}"
    pictures[0] = run.grid(images[:COLUMNS], columns=COLUMNS, side=96, title=words)
    return Drawing("latents-nats", stacked(pictures, gap=4), {"bits_per_dim": bits})


def _neighbours(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether the flow memorised training images.

    Shows the samples that are nearest to a training image. Compares the distances from samples to
    their nearest training image with the distances from test images.
    """
    train, data, drawn = run.splits.train, run.some(run.splits.test, SAMPLED), run.sampled(SAMPLED)
    found = latent.nearest_neighbours(
        torch.from_numpy(np.concatenate([drawn, data])),
        train,
        views=run.views(),
        report=run.telling("training image", len(train)),
    )
    near, usual = found.distance[: len(drawn)].numpy(), found.distance[len(drawn) :].numpy()
    order = np.argsort(near)[:20]
    pairs = drawn[order], np.stack([train[i] for i in found.where.numpy()[order]])
    rows = np.concatenate([images[at : at + 10] for at in (0, 10) for images in pairs])
    picture = run.grid(
        rows,
        columns=10,
        side=96,
        title="samples nearest to a training image, above that image",
        left=["sample", "training"] * 2,
    )
    yield Drawing("latents-neighbours", picture, {"samples": pairs[0], "training": pairs[1]})
    picture = plots.distances(
        {"samples": near, "test images": usual},
        xlabel="distance to the nearest training image (root mean square, grey levels)",
    )
    yield Drawing("latents-distances", picture, {"samples": near, "test": usual})


def curves(run: TrainedRun) -> Iterator[Drawing]:
    """Bits/dim, or nats a row, of train and validation over steps and over time."""
    path, unit = run.folder / "metrics.jsonl", unit_of(run.config)
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    try:
        entries = [json.loads(line) for line in lines]
        train = _series(entries, value=f"train_{unit.key}")
        validation = _series(
            entries, value=f"validation_{unit.key}", maybe={"error": "validation_standard_error"}
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedError(f"{path}: not the metrics of a training") from None
    if not len(train["value"]) or not len(validation["value"]):
        raise ValueError(f"{path}: no {unit.words} in it yet")
    yield Drawing(
        "curves",
        plots.curves(train, validation, unit.words),
        {f"train-{key}": values for key, values in train.items()}
        | {f"validation-{key}": values for key, values in validation.items()},
    )


def _series(
    entries: list[dict[str, Any]], *, value: str, maybe: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Array]:
    """Step, seconds and value of the entries that have all three.

    Values that were not finite are null there. maybe: more keys that may be null; nan then.
    """
    keys = {"value": value, "step": "step", "seconds": "seconds"}
    chosen = [
        entry for entry in entries if all(entry.get(key) is not None for key in keys.values())
    ]
    return {
        name: np.array([entry.get(key) for entry in chosen], float)
        for name, key in (keys | {**maybe}).items()
    }
