"""`Flow.pixel_log_prob`: the contribution of each pixel to log_prob."""

import pytest
import torch
from torch import Tensor, nn

import realnvp
from realnvp.bijections import Bijection, Chain, Logit
from realnvp.flows.flow import StandardNormal
from tests.flows import image_flow, moved, normal, pixels


def sums_to_log_prob(flow: realnvp.Flow, x: Tensor) -> Tensor:
    with torch.no_grad():
        nats, total = flow.pixel_log_prob(x), flow.log_prob(x)
    assert ((nats.flatten(1).sum(1) - total) / total).abs().max() < 1e-12
    return nats


@pytest.mark.parametrize("model", [{}, {"architecture": "modern"}], ids=["paper", "modern"])
def test_pixels_of_whole_images_of_any_size(model: dict[str, str]) -> None:
    x = pixels(2, 3, 8, 24)
    bijection = moved(image_flow(3, 8, 8, 2, **model), pixels(2, 3, 8, 8))
    flow = realnvp.Flow(bijection, StandardNormal()).eval()
    assert sums_to_log_prob(flow, x).shape == (2, 8, 24)
    fast = realnvp.fast(flow, dtype=torch.float64)
    assert (fast.pixel_log_prob(x) - flow.pixel_log_prob(x)).abs().max() < 1e-6


def test_columns_of_rows() -> None:
    flow = realnvp.vector_flow(3, width=8).double().eval()
    assert sums_to_log_prob(flow, normal(5, 3)).shape == (5, 3)


def test_a_pixel_without_density() -> None:
    flow = realnvp.Flow(Chain([Logit()]), StandardNormal()).eval()
    x = pixels(1, 1, 4, 4)
    x[0, 0, 1, 2] = 999
    places = flow.pixel_log_prob(x).isneginf().nonzero().tolist()
    assert places == [[0, 1, 2]]
    assert flow.log_prob(x).isneginf()


class Doubled(Bijection):
    """A bijection without `pointwise_log_det`."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return 2 * x, torch.full((len(x),), x[0].numel() * 2.0).log().to(x)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z / 2


class Laplace(nn.Module):
    """A prior without a map."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -(z.abs() + 2.0).flatten(1).sum(1)

    def sample(self, shape: object, generator: object) -> Tensor:
        raise NotImplementedError


def test_a_term_without_a_map_is_shared_equally() -> None:
    x = normal(2, 3, 4, 4)
    flow = realnvp.Flow(Chain([Doubled()]), Laplace()).eval()
    nats = sums_to_log_prob(flow, x)
    assert torch.equal(nats, nats[:, :1, :1].expand(2, 4, 4))
