"""Splines keep their shape for any numbers, and give one column what an affine map cannot."""

import math

import numpy as np
import pytest
import torch

import realnvp
from realnvp.bijections.splines import END, STEEPEST, RQSpline

BINS = 6


def line(scale: float, *, seed: int = 0) -> RQSpline:
    """With raw numbers of this size; of m and l they are zeros."""
    random = torch.Generator().manual_seed(seed)
    raw = scale * torch.randn(3 * BINS + 1, dtype=torch.float64, generator=random)
    raw[:2] = 0
    return RQSpline.of(raw[None], torch.tensor(1.0))


def test_zeros_are_the_identity() -> None:
    x = torch.linspace(-2 * END, 2 * END, 101, dtype=torch.float64)
    y, log_slope = line(0.0)(x)
    assert (y - x).abs().max() < 1e-12
    assert log_slope.abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_rises_passes_through_its_knots_and_comes_back(scale: float) -> None:
    spline = line(scale)
    x = torch.linspace(-1.2 * END, 1.2 * END, 5001, dtype=torch.float64)
    y, log_slope = spline(x)
    assert (y.diff() > 0).all()
    assert log_slope.isfinite().all()
    assert (spline.inverse(y) - x).abs().max() < 1e-6
    at_knots, slopes = spline(spline.x[0])
    assert (at_knots - spline.y[0]).abs().max() < 1e-9
    assert (slopes.exp() / spline.slopes[0] - 1).abs().max() < 1e-6
    assert spline.slopes.max() <= 1.001 * STEEPEST


def test_derivative_has_no_jump_at_a_knot_nor_at_the_ends() -> None:
    spline, step = line(1.0), 1e-9
    before, behind = (spline(spline.x[0] + side)[1] for side in (-step, step))
    assert (before - behind).abs().max() < 1e-6


def test_one_column_given_another_is_no_gaussian() -> None:
    """y is near -1 or near 1, whatever c is: an affine map leaves log 2 - (half a log) and more."""
    random = np.random.default_rng(0)
    c = random.uniform(-1, 1, 3000)
    y = random.choice([-1, 1], 3000) + 0.2 * random.standard_normal(3000) + c
    flow = realnvp.vector_flow(1, context=1, width=16, num_blocks=1)
    realnvp.fit(flow, y[:2000, None], context=c[:2000], max_steps=400, lr=1e-2)
    found = flow.double().log_prob(torch.tensor(y[2000:, None]), context=c[2000:]).mean().item()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(0.2)
    gaussian = 0.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log(1.04)
    assert -gaussian + 0.4 < -entropy - 0.1 < found


def test_one_column_alone_is_bent_too() -> None:
    y = np.random.default_rng(0).exponential(size=2000)
    flow = realnvp.vector_flow(1, coupling="spline", width=8, num_blocks=1)
    realnvp.fit(flow, y[:1500, None], max_steps=300, lr=1e-2)
    found = flow.double().log_prob(torch.tensor(y[1500:, None])).mean().item()
    assert found > -1.2  # the truth has -1, a Gaussian -1.42


def test_splines_are_for_tables() -> None:
    with pytest.raises(ValueError, match=r"model\.coupling: 'spline' is for vector models"):
        realnvp.build(realnvp.Config(model=realnvp.ModelConfig(coupling="spline")))
