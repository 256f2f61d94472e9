"""The laws of a bijection, with drawn masks, transforms, sizes and conditions.

Weights are away from their start, where errors cannot hide; the inverse also with fresh weights.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realnvp import bijections
from realnvp.bijections import Bijection, Chain, FactorOut, Logit, Squeezed, checkerboard
from tests.flows import KINDS, Case, large_flows, moved, normal

ALL = KINDS | {"large flow": large_flows()}
few = settings(max_examples=10, deadline=None, derandomize=True, database=None)


def drawn(data: st.DataObject, kind: str, *, fresh: bool = False) -> Case:
    """A bijection, its weights a function of the drawn case alone, and a batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bijection, x = data.draw(ALL[kind])
    return (bijection.double().eval() if fresh else moved(bijection, x)), x


def test_every_bijection_has_a_case_and_the_inverse_of_the_base_class() -> None:
    kinds = {
        kind
        for kind in vars(bijections).values()
        if isinstance(kind, type) and issubclass(kind, Bijection) and kind is not Bijection
    }
    found: set[type] = set()

    @few
    @given(st.tuples(*KINDS.values()))
    def collect(cases: tuple[Case, ...]) -> None:
        found.update(type(module) for bijection, _ in cases for module in bijection.modules())

    collect()
    assert kinds - found == set()
    assert {kind.inverse for kind in kinds} == {Bijection.inverse}


def test_no_inverse_in_training_mode() -> None:
    with pytest.raises(RuntimeError):
        Chain([]).train().inverse(torch.zeros(1, 1))


@pytest.mark.parametrize("kind", ALL)
@few
@given(data=st.data(), fresh=st.booleans())
def test_keeps_the_shape_and_inverts(kind: str, data: st.DataObject, fresh: bool) -> None:
    bijection, x = drawn(data, kind, fresh=fresh)
    with torch.no_grad():
        z, log_det = bijection(x)
        x_again = bijection.inverse(z)
        z_again = bijection(x_again)[0]
    assert (z.shape, log_det.shape) == (x.shape, (len(x),))
    assert (z.dtype, log_det.dtype) == (torch.float64, torch.float64)
    assert (x_again - x).abs().max() < 1e-10 * max(1, x.abs().max())
    assert (z_again - z).abs().max() < 1e-10 * max(1, z.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_log_det_is_the_jacobians(kind: str, data: st.DataObject) -> None:
    bijection, x = drawn(data, kind)
    log_det = bijection(x)[1].detach()
    for i in range(len(x)):
        jacobian = torch.func.jacrev(lambda v: bijection(v[None])[0][0])(x[i])
        square = jacobian.detach().reshape(x[i].numel(), -1)
        assert abs(torch.linalg.slogdet(square).logabsdet - log_det[i]) < 1e-9 * x[i].numel()


@pytest.mark.parametrize("kind", ALL)
@few
@given(data=st.data())
def test_each_example_is_mapped_on_its_own(kind: str, data: st.DataObject) -> None:
    bijection, x = drawn(data, kind)
    with torch.no_grad():
        z, log_det = bijection(x)
        alone = [torch.cat(each) for each in zip(*map(bijection, x.split(1)), strict=True)]
    assert torch.allclose(alone[0], z, rtol=1e-11, atol=1e-11)
    assert torch.allclose(alone[1], log_det, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ALL)
@few
@given(data=st.data())
def test_pointwise_log_det_sums_to_log_det(kind: str, data: st.DataObject) -> None:
    bijection, x = drawn(data, kind)
    with torch.no_grad():
        z, log_det = bijection(x)
        same_z, terms = bijection.pointwise_log_det(x)
    assert torch.equal(same_z, z)
    assert terms.shape == x.shape
    assert (terms.flatten(1).sum(1) - log_det).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_a_backward_pass_after_another(kind: str, data: st.DataObject) -> None:
    """Buffers that carry a graph would make the second pass fail."""
    bijection, x = drawn(data, kind)
    bijection.train()
    x.requires_grad_()
    for _ in range(2):
        z, log_det = bijection(x)
        (z.square().sum() + log_det.sum()).backward()
    assert not any(buffer.requires_grad for buffer in bijection.buffers())
    assert all(p.grad is None or p.grad.isfinite().all() for p in bijection.parameters())


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_float32_networks_in_a_float64_flow(kind: str, data: st.DataObject) -> None:
    """z and log-det have the type of x, and the round trip is as exact as this type."""
    bijection, x = drawn(data, kind)
    bijection.float()
    with torch.no_grad():
        for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
            z, log_det = bijection(x.to(dtype))
            back = bijection.inverse(z)
            assert z.dtype == log_det.dtype == back.dtype == dtype
            assert (back - x.to(dtype)).abs().max() < bound * max(1, x.abs().max())


@pytest.mark.parametrize("by_color", [True, False])
def test_pointwise_log_det_is_where_the_layer_acts(by_color: bool) -> None:
    """Terms of the logit, one for each entry, keep their pixel through squeezes and factoring out."""
    x = normal(2, 3, 4, 6).sigmoid()
    terms = Logit(levels=1).pointwise_log_det(x)[1]
    squeezed = Squeezed(Logit(levels=1), by_color=by_color).pointwise_log_det(x)[1]
    assert torch.equal(squeezed, terms)
    odd = checkerboard(x.shape, x.device)
    factored_out = FactorOut(Logit(levels=1)).pointwise_log_det(x)[1]
    assert torch.equal(factored_out, terms.where(odd, 0))
