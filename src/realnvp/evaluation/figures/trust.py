"""Can this density be trusted? Latents, extreme images and neighbours of a run of images."""

from collections.abc import Iterator

import numpy as np
import torch

from realnvp.config.units import in_bits_per_dim
from realnvp.data import channels_first, dequantise
from realnvp.evaluation import latent
from realnvp.evaluation.figures import plots
from realnvp.evaluation.figures.grids import Pixels, stacked
from realnvp.evaluation.figures.run import Array, Drawing, TrainedRun
from realnvp.evaluation.likelihood import log_probs
from realnvp.noise import Purpose, uniform

EXAMINED = 256  # test images whose latents are looked at
SAMPLED = 128  # samples, and as many test images, whose nearest training images are looked for


def latents(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether a density can be trusted.

    Compares z with N(0, 1), as a whole and at each pixel. Shows the images of extreme density, and
    the training images nearest to samples.
    """
    images = run.some(run.splits.test, EXAMINED)
    x = torch.from_numpy(channels_first(images))
    noise = uniform(x.shape[1:], run.seed, Purpose.EVALUATE, indices=range(len(x)))
    z = latent.encode(run.flow, dequantise(x, noise), report=run.telling("encode", len(x))).cpu()
    scales = latent.by_scale(z, run.config.model.num_scales or 1)
    titles = [
        f"scale {i}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}"
        for i, v in enumerate(scales)
    ]
    picture = plots.histograms_and_quantiles(
        scales, [latent.normal_quantiles(scale) for scale in scales], titles
    )
    yield Drawing("latents", picture, {"z": z.numpy()})
    mean, deviation = (values.numpy() for values in latent.pixel_moments(z))
    yield Drawing(
        "latents-maps", plots.maps(mean, deviation), {"mean": mean, "deviation": deviation}
    )
    bits = in_bits_per_dim(log_probs(run.flow, x, seed=run.seed), x.shape[1:]).numpy()
    yield _extremes(run, images, bits)
    yield from _neighbours(run)


def _extremes(run: TrainedRun, images: Pixels, bits: Array) -> Drawing:
    """The images with the fewest and with the most bits/dim."""
    order, pictures = np.argsort(bits), []
    arrays: dict[str, Array] = {}
    for words, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        under, title = (
            [f"{value:.2f}" for value in bits[chosen]],
            f"{words} bits/dim of {len(bits)} test images",
        )
        pictures.append(run.grid(images[chosen], columns=10, side=96, title=title, under=under))
        arrays |= {words: images[chosen], f"{words}-bits_per_dim": bits[chosen]}
    return Drawing("latents-extremes", stacked(pictures), arrays)


def _neighbours(run: TrainedRun) -> Iterator[Drawing]:
    """Show whether the flow memorised training images.

    Shows the samples that are nearest to a training image. Compares the distances from samples to
    their nearest training image with the distances from test images.
    """
    train, data, drawn = run.splits.train, run.some(run.splits.test, SAMPLED), run.sampled(SAMPLED)
    queries, report = (
        torch.from_numpy(np.concatenate([drawn, data])),
        run.telling("training image", len(train)),
    )
    found = latent.nearest_neighbours(queries, train, views=run.views(), report=report)
    near, usual = found.distance[: len(drawn)].numpy(), found.distance[len(drawn) :].numpy()
    order = np.argsort(near)[:20]
    pairs = drawn[order], np.stack([train[i] for i in found.where.numpy()[order]])
    rows = np.concatenate([images[at : at + 10] for at in (0, 10) for images in pairs])
    title = "samples nearest to a training image, above that image"
    picture = run.grid(rows, columns=10, side=96, title=title, left=["sample", "training"] * 2)
    yield Drawing("latents-neighbours", picture, {"samples": pairs[0], "training": pairs[1]})
    xlabel = "distance to the nearest training image (root mean square, grey levels)"
    picture = plots.distances({"samples": near, "test images": usual}, xlabel=xlabel)
    yield Drawing("latents-distances", picture, {"samples": near, "test": usual})
