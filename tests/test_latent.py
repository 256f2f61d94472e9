"""The mathematics of the figures against section 8 of the specification, without drawing."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import moved, normal, pixels
from torch import Tensor

from realnvp.config.fields import Config, ImageData, ModelConfig, Shape
from realnvp.data.dataset import quantize
from realnvp.evaluation import latent
from realnvp.flows.build import build
from realnvp.flows.flow import Flow, StandardNormal
from realnvp.io.pretrained import load_flow


def flow_of(shape: Shape, num_scales: int) -> Flow:
    """A flow in float64 whose weights are away from their start."""
    model = ModelConfig(num_scales=num_scales, width=4, num_blocks=1)
    flow = build(Config(data=ImageData(shape=shape), model=model))
    moved(flow.bijection, pixels(4, *shape))
    return flow.double().eval()


def test_eq_14_at_every_point() -> None:
    z = normal(4, 2, 3, 5)
    found = latent.manifold(z)
    assert found.z.shape == (8, 8, 2, 3, 5)
    for x in range(8):  # phi along x
        for y in range(8):  # phi' along y
            phi, other = x * math.pi / 4, y * math.pi / 4
            first = math.cos(phi) * (math.cos(other) * z[0] + math.sin(other) * z[1])
            expected = first + math.sin(phi) * (math.cos(other) * z[2] + math.sin(other) * z[3])
            torch.testing.assert_close(found.z[y, x], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_four_images_stand_on_the_manifold_bit_for_bit(dtype: torch.dtype) -> None:
    z = normal(4, 3, 8, 8).to(dtype)
    found = latent.manifold(z)
    assert found.corners == ((0, 0), (2, 0), (0, 2), (2, 2))
    for image, (row, column) in zip(z, found.corners, strict=True):
        assert torch.equal(found.z[row, column], image)
        assert torch.equal(found.z[row + 4, column + 4], image)


def test_fractions_of_the_latents() -> None:
    masks = [latent.kept(64, 64, num_scales=5, level=level) for level in range(5)]
    assert [mask.double().mean().item() for mask in masks] == [1, 0.5, 0.25, 0.125, 0.0625]
    assert all((finer >= coarser).all() for finer, coarser in pairwise(masks))
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    assert torch.equal(masks[1], (rows + columns) % 2 == 1)  # section 4: even squares first


@pytest.mark.parametrize("level", range(4))
def test_resampled_share_and_kept_latents(level: int) -> None:
    z = normal(3, 2, 16, 16).float()
    keep = latent.kept(16, 16, num_scales=4, level=level)
    changed = latent.compress(z, keep, StandardNormal(), seed=1, indices=range(3))
    same = changed == z
    assert torch.equal(same, keep.expand_as(z))
    assert (~same).double().mean().item() == 1 - 0.5**level
    fresh = changed[~same]
    if level:
        assert abs(fresh.mean()) < 5 / math.sqrt(len(fresh))
        assert abs(fresh.var() - 1) < 5 * math.sqrt(2 / len(fresh))


def test_noise_of_compression_is_a_function_of_seed_and_image() -> None:
    z = normal(4, 1, 8, 8)
    half, quarter = (latent.kept(8, 8, num_scales=3, level=level) for level in (1, 2))

    def compress(which: list[int], keep: Tensor = half, seed: int = 0) -> Tensor:
        return latent.compress(z[which], keep, StandardNormal(), seed=seed, indices=which)

    whole = compress([0, 1, 2, 3])
    assert torch.equal(compress([3, 1]), whole[[3, 1]])
    assert torch.equal(torch.where(half, z, compress([0, 1, 2, 3], quarter)), whole)
    assert (compress([0, 1, 2, 3], seed=1) != whole)[:, :, ~half].all()
    assert (whole[0] != whole[1])[:, ~half].all()


def test_level_0_is_the_identity_pixel_for_pixel(run_dir: Path) -> None:
    flow = load_flow(run_dir)
    images = torch.from_numpy(np.load(run_dir / "data" / "validation.npy")).permute(0, 3, 1, 2)
    with torch.no_grad():
        z = latent.encode(flow, images + 0.5)
        keep = latent.kept(8, 8, num_scales=2, level=0)
        same = latent.compress(z, keep, flow.prior, indices=range(len(z)))
        assert torch.equal(quantize(latent.decode(flow, same), levels=17), images)


def test_batches_change_nothing() -> None:
    flow, x = flow_of((1, 8, 8), 2), pixels(7, 1, 8, 8)
    with torch.no_grad():
        z = latent.encode(flow, x, batch_size=3)
        torch.testing.assert_close(z, flow.encode(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(latent.decode(flow, z, batch_size=2), x, rtol=0, atol=1e-9)


def test_latents_by_scale() -> None:
    z = normal(2, 3, 8, 8)
    parts = latent.by_scale(z, 3)
    assert [len(part) for part in parts] == [192, 96, 96]
    assert torch.equal(torch.cat(parts).sort().values, z.flatten().sort().values)
    finest = z[..., ~latent.kept(8, 8, num_scales=3, level=1)].flatten()
    assert torch.equal(parts[0].sort().values, finest.sort().values)


def test_quantiles() -> None:
    values = normal(100_000)
    expected, found = latent.normal_quantiles(values)
    assert expected.min() < -3.5
    assert expected.max() > 3.5
    middle = expected.abs() < 2
    torch.testing.assert_close(found[middle], expected[middle], rtol=0, atol=0.05)
    torch.testing.assert_close(latent.normal_quantiles(3 * values + 1)[1], 3 * found + 1)


@pytest.mark.parametrize("chunk", [1, 200, 2**22])
def test_nearest_neighbors(chunk: int) -> None:
    random = np.random.default_rng(0)
    data = random.integers(256, size=(50, 4, 4, 3)).astype(np.uint8)
    queries = random.integers(256, size=(9, 4, 4, 3)).astype(np.uint8)
    queries[3], queries[5] = data[17], data[23, :, ::-1]
    differences = np.sqrt(((queries[:, None].astype(float) - data[None]) ** 2).mean((2, 3, 4)))
    found, mirrored = (
        latent.nearest_neighbors(torch.from_numpy(queries), data, augment=augment, chunk=chunk)
        for augment in ((), ("hflip",))
    )
    assert found.nearest.tolist() == differences.argmin(1).tolist()
    np.testing.assert_allclose(found.distance, differences.min(1), rtol=1e-12)
    assert (int(found.nearest[3]), float(found.distance[3])) == (17, 0.0)
    assert found.distance[5] > 0
    assert (int(mirrored.nearest[5]), float(mirrored.distance[5])) == (23, 0.0)
    assert (mirrored.distance <= found.distance).all()


def test_augmented_images_are_all_that_training_may_have_shown() -> None:
    x = torch.arange(12).view(1, 3, 2, 2)
    every = latent.augmented(x, ("hflip", "rotate90", "channel_shuffle", "brightness"))
    assert torch.equal(every[0], x)
    assert len({tuple(each.flatten().tolist()) for each in every}) == len(every) == 6 * 4 * 2
