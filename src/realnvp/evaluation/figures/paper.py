"""The paper's figures, and those that show whether a density can be trusted, from one run of images."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from realnvp.config.units import in_bits_per_dim
from realnvp.data import dequantise
from realnvp.evaluation import latent
from realnvp.evaluation.figures import plots
from realnvp.evaluation.figures.grids import Pixels, beside, stacked
from realnvp.evaluation.figures.subject import Array, Drawing, Subject, channels_first
from realnvp.evaluation.likelihood import log_probs
from realnvp.noise import Purpose, uniform

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)
EXAMINED = 256  # test images whose latents are looked at
SAMPLED = 128  # samples, and as many test images, whose nearest training images are looked for


def samples(subject: Subject) -> Iterator[Drawing]:
    """Data beside samples (figures 5, 7-11), and the same latents at temperatures from 0.6 to 1."""
    data, drawn = subject.some(subject.splits.test, 64), subject.sampled(64)
    pair = [subject.grid(images, title=title) for images, title in ((data, "data"), (drawn, "samples"))]
    yield Drawing("samples", beside(pair), {"data": data, "samples": drawn})
    rows = np.concatenate([subject.sampled(10, temperature=temperature) for temperature in TEMPERATURES])
    picture = subject.grid(rows, columns=10, side=96, title="temperature", left=[f"{t:.1f}" for t in TEMPERATURES])
    yield Drawing("samples-temperature", picture, {"samples": rows})


def manifold(subject: Subject) -> Iterator[Drawing]:
    """The images on the grid that four images span (eq 14, figures 6, 12-16)."""
    split = "train" if subject.config.data.set == "celeba" else "validation"  # figure 13
    images = subject.some(getattr(subject.splits, split), 4)
    if len(images) < 4:
        raise ValueError(f"needs four {split} images, the run has {len(images)}")
    grid = latent.manifold(subject.encoded(images))
    z = grid.z.flatten(0, 1)
    points = subject.pixels(latent.decode(subject.flow, z, report=subject.telling("image", len(z))))
    picture = subject.grid(points, columns=8, side=128, red=grid.corners)
    yield Drawing("manifold", picture, {"images": points, "corners": np.array(grid.corners)})


def extrapolation(subject: Subject) -> Iterator[Drawing]:
    """Samples of the training size, twice and ten times as large, all pixels drawn at one size (figures 17-21)."""
    sizes, pictures = {1: (12, 4), 2: (6, 2), 10: (1, 1)}, []
    drawn = {factor: subject.sampled(count, factor=factor) for factor, (count, _) in sizes.items()}
    for factor, (_, columns) in sizes.items():
        title = "{1}x{2}".format(*drawn[factor].shape)
        pictures.append(subject.grid(drawn[factor], columns=columns, side=96 * factor, title=title))
    arrays = {f"x{factor}": images for factor, images in drawn.items()}
    yield Drawing("extrapolation", beside([stacked(pictures[:2]), pictures[2]]), arrays)


def compression(subject: Subject) -> Iterator[Drawing]:
    """Images from the coarsest 100, 50, 25, ... percent of their latents, the rest drawn again (appendix D, figures 22-26)."""
    images, num_scales = subject.some(subject.splits.validation, 16), subject.config.model.num_scales or 1
    z, shares, columns = subject.encoded(images), latent.shares(num_scales), []
    for level in range(num_scales):
        keep = latent.kept(*z.shape[2:], num_scales=num_scales, level=level)
        mixed = latent.compress(z, keep, subject.flow.prior, seed=subject.seed, indices=range(len(z)))
        columns.append(subject.pixels(latent.decode(subject.flow, mixed)))
    table = np.stack(columns, 1)  # (images, shares, H, W, C)
    words = [f"{100 * share:g} %" for share in shares]
    blocks = np.array_split(table, min(max(2, 8 // num_scales), len(table)))
    pictures = [subject.grid(block.reshape(-1, *images.shape[1:]), columns=num_scales, side=96, above=words) for block in blocks]
    yield Drawing("compression", beside(pictures), {"images": table, "shares": np.array(shares)})


def latents(subject: Subject) -> Iterator[Drawing]:
    """What one looks at to trust a density: z against N(0, 1), where it differs, extreme images, neighbours of samples."""
    images = subject.some(subject.splits.test, EXAMINED)
    x = channels_first(images)
    noise = uniform(x.shape[1:], subject.seed, Purpose.EVALUATE, indices=range(len(x)))
    z = latent.encode(subject.flow, dequantise(x, noise), report=subject.telling("encode", len(x))).cpu()
    scales = latent.by_scale(z, subject.config.model.num_scales or 1)
    titles = [f"scale {i}\nmean {v.mean():z.2f}, deviation {v.std(correction=0):.2f}" for i, v in enumerate(scales)]
    picture = plots.histograms_and_quantiles(scales, [latent.normal_quantiles(scale) for scale in scales], titles)
    yield Drawing("latents", picture, {"z": z.numpy()})
    mean, deviation = (values.numpy() for values in latent.pixel_moments(z))
    yield Drawing("latents-maps", plots.maps(mean, deviation), {"mean": mean, "deviation": deviation})
    bits = in_bits_per_dim(log_probs(subject.flow, x, seed=subject.seed), x.shape[1:]).numpy()
    yield _extremes(subject, images, bits)
    yield from _neighbours(subject)


def _extremes(subject: Subject, images: Pixels, bits: Array) -> Drawing:
    """The images with the fewest and with the most bits/dim."""
    order, pictures = np.argsort(bits), []
    arrays: dict[str, Array] = {}
    for words, chosen in (("fewest", order[:20]), ("most", order[::-1][:20])):
        under, title = [f"{value:.2f}" for value in bits[chosen]], f"{words} bits/dim of {len(bits)} test images"
        pictures.append(subject.grid(images[chosen], columns=10, side=96, title=title, under=under))
        arrays |= {words: images[chosen], f"{words}-bits_per_dim": bits[chosen]}
    return Drawing("latents-extremes", stacked(pictures), arrays)


def _neighbours(subject: Subject) -> Iterator[Drawing]:
    """Did it memorise? The samples nearest to training images, and how near samples and test images are to them."""
    train, data, drawn = subject.splits.train, subject.some(subject.splits.test, SAMPLED), subject.sampled(SAMPLED)
    queries, report = torch.from_numpy(np.concatenate([drawn, data])), subject.telling("training image", len(train))
    found = latent.nearest_neighbours(queries, train, views=subject.views(), report=report)
    near, usual = found.distance[: len(drawn)].numpy(), found.distance[len(drawn) :].numpy()
    order = np.argsort(near)[:20]
    pairs = drawn[order], np.stack([train[i] for i in found.where.numpy()[order]])
    rows = np.concatenate([images[at : at + 10] for at in (0, 10) for images in pairs])
    title = "samples nearest to a training image, above that image"
    picture = subject.grid(rows, columns=10, side=96, title=title, left=["sample", "training"] * 2)
    yield Drawing("latents-neighbours", picture, {"samples": pairs[0], "training": pairs[1]})
    xlabel = "distance to the nearest training image (root mean square, grey levels)"
    picture = plots.distances({"samples": near, "test images": usual}, xlabel=xlabel)
    yield Drawing("latents-distances", picture, {"samples": near, "test": usual})


FIGURES: dict[str, Callable[[Subject], Iterator[Drawing]]] = {
    "samples": samples,
    "manifold": manifold,
    "extrapolation": extrapolation,
    "compression": compression,
    "latents": latents,
}
