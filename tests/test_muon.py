"""The optimiser of the modern presets."""

import pytest
import torch

from realnvp.training.optim import COEFFICIENTS, STEPS, Muon, orthogonalized


def newton_schulz(x: torch.Tensor) -> torch.Tensor:
    """As it is written: x <- a x + b (x x') x + c (x x')^2 x."""
    a, b, c = COEFFICIENTS
    x = x / x.norm()
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (9, 9), (1, 5)])
def test_orthogonalized_is_newton_and_schulz(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for each, one in zip(orthogonalized(x), x, strict=True):
        # The quotient has 1e-7.
        torch.testing.assert_close(each, newton_schulz(one), rtol=1e-6, atol=1e-6)


def test_of_rank_one_it_is_finite_and_of_that_rank() -> None:
    x = torch.outer(torch.arange(1.0, 7), torch.arange(1.0, 20))
    values = torch.linalg.svdvals(orthogonalized(x))
    assert 0.6 < values[0] < 1.25
    assert values[1] < 1e-2
    assert orthogonalized(torch.zeros(3, 4)).eq(0).all()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_steps_are_those_of_torch(decay: float) -> None:
    """Which computes in bfloat16, 2^-8."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 30), (30, 4), (4, 30)]
    mine = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    torchs = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    how = {"lr": 0.1, "weight_decay": decay}
    optimizers = [Muon(mine, **how), torch.optim.Muon(torchs, **how)]
    for _ in range(5):
        for one, other in zip(mine, torchs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(mine, torchs, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


def test_a_weight_without_gradient_stays() -> None:
    weight, still = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([weight, still], lr=0.1)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert still.eq(1).all()
    assert weight.ne(1).all()
