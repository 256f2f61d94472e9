"""The laws of a bijection, for every one and for composed flows.

All with weights away from their start, where errors cannot hide; the inverse also with fresh ones.
"""

import pytest
import torch
from flows import CASES, LARGE, Case, drawn, moved, normal

from realnvp import bijections
from realnvp.bijections import Bijection, Chain, FactorOut, Logit, Squeezed, checkerboard

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_case_and_large = pytest.mark.parametrize(
    "case", (CASES | LARGE).values(), ids=(CASES | LARGE).keys()
)


def make(case: Case, *, fresh: bool = False) -> tuple[Bijection, torch.Tensor]:
    bijection, x = drawn(case)
    return (bijection.double().eval() if fresh else moved(bijection, x)), x


def test_there_is_a_case_of_every_bijection() -> None:
    """Alone or within another; each leaves `inverse`, which refuses training mode, to the base
    class.
    """
    found = {type(module) for case in CASES.values() for module in make(case)[0].modules()}
    subclasses = {
        kind
        for kind in vars(bijections).values()
        if isinstance(kind, type) and issubclass(kind, Bijection) and kind is not Bijection
    }
    assert subclasses - found == set()
    assert {kind.inverse for kind in subclasses} == {Bijection.inverse}


def test_no_inverse_in_training_mode() -> None:
    with pytest.raises(RuntimeError, match=r"eval"):
        Chain([]).train().inverse(torch.zeros(1, 1))


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "moved"])
@every_case_and_large
def test_keeps_the_shape_and_inverts(case: Case, fresh: bool) -> None:
    bijection, x = make(case, fresh=fresh)
    with torch.no_grad():
        z, log_det = bijection(x)
        assert z.shape == x.shape
        assert log_det.shape == (len(x),)
        assert z.isfinite().all()
        assert (bijection.inverse(z) - x).abs().max() < 1e-10 * x.abs().max()
        back = bijection(bijection.inverse(z))[0]
        assert (back - z).abs().max() < 1e-10 * max(1, z.abs().max())


@every_case
def test_log_det_is_the_jacobians(case: Case) -> None:
    bijection, x = make(case)
    log_det = bijection(x)[1].detach()
    for i in range(len(x)):
        jacobian = torch.func.jacrev(lambda v: bijection(v[None])[0][0])(x[i]).reshape(
            x[i].numel(), -1
        )
        assert (
            abs(torch.linalg.slogdet(jacobian.detach()).logabsdet - log_det[i])
            < 1e-9 * x[i].numel()
        )


@every_case_and_large
def test_each_example_is_mapped_on_its_own(case: Case) -> None:
    bijection, x = make(case)
    with torch.no_grad():
        z, log_det = bijection(x)
        alone = [bijection(x[i : i + 1]) for i in range(len(x))]
        assert (torch.cat([z for z, _ in alone]) - z).abs().max() < 1e-11 * max(1, z.abs().max())
        assert (torch.cat([term for _, term in alone]) - log_det).abs().max() < 1e-10 * max(
            1, log_det.abs().max()
        )


@every_case
def test_a_backward_pass_after_another(case: Case) -> None:
    """Buffers that carry a graph would make the second one fail."""
    bijection, x = make(case)
    bijection.train()
    x.requires_grad_()
    for _ in range(2):
        z, log_det = bijection(x)
        (z.square().sum() + log_det.sum()).backward()
    assert all(not buffer.requires_grad for buffer in bijection.buffers())
    assert all(p.grad is None or p.grad.isfinite().all() for p in bijection.parameters())


@every_case_and_large
def test_the_map_of_log_det_sums_to_it(case: Case) -> None:
    bijection, x = make(case)
    with torch.no_grad():
        z, log_det = bijection(x)
        same_z, terms = bijection.pointwise_log_det(x)
    assert torch.equal(same_z, z)
    assert terms.shape == x.shape
    assert (terms.flatten(1).sum(1) - log_det).abs().max() < 1e-9


@pytest.mark.parametrize("by_colour", [True, False])
def test_the_map_of_log_det_is_where_it_acts(by_colour: bool) -> None:
    """The logit acts on each entry: squeezed and factored out, it must find its place again."""
    x = normal(2, 3, 4, 6)
    terms = Logit(levels=1).pointwise_log_det(x.sigmoid())[1]
    squeezed = Squeezed(Logit(levels=1), by_colour=by_colour).pointwise_log_det(x.sigmoid())[1]
    assert torch.equal(squeezed, terms)
    odd = checkerboard(x.shape, x.device)
    factored_out = FactorOut(Logit(levels=1)).pointwise_log_det(x.sigmoid())[1]
    assert torch.equal(factored_out, terms.where(odd, 0))
