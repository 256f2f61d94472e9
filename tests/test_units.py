"""Data of wrong units, types and shapes never give a number."""

import numpy as np
import pytest
import torch

import realnvp
from realnvp.evaluation.likelihood import bits_per_dim
from realnvp.flows.flow import Flow


@pytest.fixture(scope="module")
def flow() -> Flow:
    """A small flow of color images of 256 levels, in eval mode. Only read it."""
    model = realnvp.ModelConfig("modern", num_scales=1, width=4, num_blocks=0, num_couplings=2)
    config = realnvp.Config(data=realnvp.ImageData(shape=(3, 8, 8)), model=model)
    return realnvp.build(config).eval()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 8, 8), np.float32),
        np.full((2, 3, 8, 8), 4000, np.uint16),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
    ],
)
def test_bits_per_dim_is_of_integers_of_the_flows_shape(flow: Flow, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"images|pixel|level|expected"):
        bits_per_dim(flow, images)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (3, 8, 8), (2, 1, 8, 8)])
def test_log_prob_is_of_batches_of_the_flows_shape(flow: Flow, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        flow.log_prob(torch.zeros(shape))


def test_fit_takes_numpy_and_refuses_whole_levels(flow: Flow) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 2))
    first, again = (
        realnvp.vector_flow(2, num_couplings=2, width=8, num_blocks=1) for _ in range(2)
    )
    assert (
        realnvp.fit(first, rows, max_steps=3).loss
        == realnvp.fit(again, torch.from_numpy(rows), max_steps=3).loss
    )
    assert len(realnvp.fit(first, np.arange(40).reshape(20, 2) ** 2, max_steps=2).loss) == 2
    with pytest.raises(ValueError, match=r"^x"):
        realnvp.fit(flow, np.zeros((5, 3, 8, 8), np.uint8))


def test_a_fresh_flow_needs_eval_to_sample() -> None:
    with pytest.raises(RuntimeError, match="eval"):
        realnvp.vector_flow(2).sample(3)
