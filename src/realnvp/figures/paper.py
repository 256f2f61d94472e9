"""The paper's figures from one run of images."""

from collections.abc import Iterator

import numpy as np

from realnvp.evaluation import latent
from realnvp.figures.drawing import Drawing, TrainedRun
from realnvp.figures.grids import Pixels, beside, stacked

COLUMNS = 10  # images of a class
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0)


def samples(run: TrainedRun) -> Iterator[Drawing]:
    """Data beside samples (figures 5, 7-11), and the same latents at temperatures from 0.6 to 1."""
    if not len(run.splits.test):
        raise run.too_few("test images", 0)
    data, drawn = run.some(run.splits.test, 64), run.sampled(64)
    yield Drawing(
        "samples",
        beside([run.grid(data, title="data"), run.grid(drawn, title="samples")]),
        {"data": data, "samples": drawn},
    )
    rows = np.concatenate(
        [run.sampled(10, temperature=temperature) for temperature in TEMPERATURES]
    )
    yield Drawing(
        "samples-temperature",
        run.grid(
            rows, columns=10, side=96, title="temperature", left=[f"{t:.1f}" for t in TEMPERATURES]
        ),
        {"samples": rows},
    )


def classes(run: TrainedRun) -> Iterator[Drawing]:
    """A row for each class: data, and samples that have the same latents in each row."""
    flow, data = run.conditional, run.whole
    assert flow is not None
    names = data.class_names or ()
    rows = [np.asarray(data.of_class("train", name)[:COLUMNS]) for name in names]
    drawn = [run.pixels(flow.sample(COLUMNS, context=name, seed=run.seed)) for name in names]
    shown = [
        run.grid(
            np.concatenate([_filled(row, run.config.levels) for row in each]),
            columns=COLUMNS,
            title=title,
            left=[name[:24] for name in names] if each is rows else (),
        )
        for title, each in (("data", rows), ("samples: a column has the same latents", drawn))
    ]
    yield Drawing("classes", beside(shown), {"samples": np.stack(drawn)})


def _filled(images: Pixels, levels: int) -> Pixels:
    """A row of images, with white ones where there are too few."""
    missing = [(0, COLUMNS - len(images)), (0, 0), (0, 0), (0, 0)]
    return np.pad(images, missing, constant_values=levels - 1)


def manifold(run: TrainedRun) -> Iterator[Drawing]:
    """The images on the grid that four images span (eq 14, figures 6, 12-16)."""
    split = "train" if run.config.data.set == "celeba" else "validation"  # figure 13
    images = run.some(getattr(run.splits, split), 4)
    if len(images) < 4:
        raise run.too_few(f"four {split} images", len(images))
    grid = latent.manifold(run.encoded(images))
    z = grid.z.flatten(0, 1)
    points = run.pixels(latent.decode(run.flow, z, report=run.telling("image", len(z))))
    yield Drawing(
        "manifold",
        run.grid(points, columns=8, side=128, red=grid.corners),
        {"images": points, "corners": np.array(grid.corners)},
    )


def extrapolation(run: TrainedRun) -> Iterator[Drawing]:
    """Samples of the training size, 2 and 10 times as large, at one pixel size (figures 17-21)."""
    sizes = {1: (12, 4), 2: (6, 2), 10: (1, 1)}
    drawn = {factor: run.sampled(count, factor=factor) for factor, (count, _) in sizes.items()}
    one, two, ten = (
        run.grid(
            drawn[factor],
            columns=columns,
            side=96 * factor,
            title="{1}x{2}".format(*drawn[factor].shape),
        )
        for factor, (_, columns) in sizes.items()
    )
    yield Drawing(
        "extrapolation",
        beside([stacked([one, two]), ten]),
        {f"x{factor}": images for factor, images in drawn.items()},
    )


def compression(run: TrainedRun) -> Iterator[Drawing]:
    """Images from the coarsest 100, 50, 25, ... percent of their latents (figures 22-26).

    The rest of the latents is drawn again (appendix D).
    """
    images, num_scales = run.some(run.splits.validation, 16), run.config.model.num_scales or 1
    if not len(images):
        raise run.too_few("validation images", 0)
    if num_scales == 1:
        raise ValueError("needs two scales, the flow has one")
    z, shares, columns = run.encoded(images), latent.shares(num_scales), []
    for level in range(num_scales):
        keep = latent.kept(*z.shape[2:], num_scales=num_scales, level=level)
        mixed = latent.compress(z, keep, run.flow.prior, seed=run.seed, indices=range(len(z)))
        columns.append(run.pixels(latent.decode(run.flow, mixed)))
    table = np.stack(columns, 1)  # (images, shares, H, W, C)
    blocks = np.array_split(table, min(max(2, 8 // num_scales), len(table)))
    pictures = [
        run.grid(
            block.reshape(-1, *images.shape[1:]),
            columns=num_scales,
            side=96,
            above=[f"{100 * share:g} %" for share in shares],
        )
        for block in blocks
    ]
    yield Drawing("compression", beside(pictures), {"images": table, "shares": np.array(shares)})
