"""The steps of the codec: each undoes itself to the bit and takes the bits of its log-det."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from codec_files import BITS, flow_of, same, stack
from flows import moved
from hypothesis import given, settings
from hypothesis import strategies as st

from realnvp.bijections import (
    ActNorm,
    Additive,
    Affine,
    BatchNorm,
    Bijection,
    Coupling,
    FactorOut,
    InvertibleLinear,
    Squeezed,
    channelwise,
)
from realnvp.bijections.dequantization import cells as cells_of
from realnvp.codec import exact_nets as exact
from realnvp.codec import steps
from realnvp.codec.dequantize import Cells
from realnvp.codec.exact_nets import ExactNet
from realnvp.codec.integers import Stack
from realnvp.codec.plan import integer_steps
from realnvp.codec.prior import Normal
from realnvp.codec.steps import Mix
from realnvp.codec.tiles import numbers_of, tiles_of
from realnvp.config.fields import ModelConfig
from realnvp.nets.convnet import ConvNet
from realnvp.nets.resnet import ChannelSplitNet

RNG = np.random.default_rng(0)


sizes = st.lists(st.integers(1, 1 << 16), min_size=1, max_size=8)
operations = st.lists(st.tuples(st.booleans(), sizes, st.integers(0)), max_size=60)


@given(operations, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_pops_and_pushes_undo_each_other_for_any_sizes(operations: list, digits: int) -> None:
    """Also where more is popped than there was."""
    start = stack(digits)
    now, done = start.copy(), []
    for is_pop, sizes, seed in operations:
        n = np.array(sizes)
        digits = now.pop(n) if is_pop else np.array([seed % size for size in sizes])
        if not is_pop:
            now.push(digits, n)
        assert ((digits >= 0) & (digits < n)).all()
        done.append((is_pop, n, digits))
    for is_pop, n, digits in reversed(done):
        if is_pop:
            now.push(digits, n)
        else:
            assert np.array_equal(now.pop(n), digits)
    assert same(now, start)


def test_a_digit_takes_the_logarithm_of_its_size() -> None:
    now = stack()
    before = now.count
    now.push(RNG.integers(0, 999, 8000), np.full(8000, 999))
    assert now.count - before == pytest.approx(8000 * np.log2(999), rel=2e-5)


def test_an_empty_stack_gives_zeros() -> None:
    now = Stack()
    assert not now.pop(np.full(100, 1 << 16)).any()
    assert now.count == now.lowest == 0


WIDTH = 4


def _coupling(kind: type[Affine | Additive]) -> Bijection:
    net = ConvNet(2, WIDTH, 2 * kind.outputs, num_blocks=1)
    return Coupling(channelwise, ChannelSplitNet(net, flip=False), kind)


LAYERS: dict[str, Callable[[], Bijection]] = {
    "act norm": lambda: ActNorm(4),
    "batch norm": lambda: BatchNorm(4),
    "mixing": lambda: InvertibleLinear(4),
    "affine coupling": lambda: _coupling(Affine),
    "additive coupling": lambda: _coupling(Additive),
    "squeezed": lambda: Squeezed(InvertibleLinear(16)),
    "squeezed by color": lambda: Squeezed(InvertibleLinear(16), by_color=True),
    "factor out": lambda: FactorOut(InvertibleLinear(8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_undoes_itself_is_near_its_layer_and_takes_its_log_det(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, real = LAYERS[name](), torch.randn(4, 4, 8, 8, dtype=torch.float64)
    moved(layer, real)
    delta = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()[:, None, None].expand(4, 4, 4) * 2.0**-BITS
    now = stack()
    start, before = now.copy(), now.count
    with torch.no_grad():
        step, delta_z = integer_steps(layer, delta)
        repeat = delta.repeat(1, 2, 2)
        x = (real / repeat).floor().long()
        z = step.forward(x, now)
        expected, log_det = layer((x + 0.5) * repeat)
        assert ((z + 0.5) * delta_z.repeat(1, 2, 2) - expected).abs().max() < 2.0 ** (8 - BITS)
        coarser = (delta_z.log() - delta.log()).mean() * x.numel()
        taken = (before - now.count) * np.log(2)
        assert taken + coarser.item() == pytest.approx(log_det.sum().item(), abs=0.02 * x.numel())
        assert torch.equal(step.inverse(z, now), x)
    assert same(now, start)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("kind", ["uniform", "learned"])
@pytest.mark.parametrize("nonce", [0, 1, 3])
def test_cells_undo_themselves_and_stay_in_their_level(levels: int, kind: str, nonce: int) -> None:
    model = ModelConfig("modern", num_scales=1, width=4, num_couplings=1, num_blocks=1)
    alpha, learned = 0.2 if levels == 2 else 0.05, kind != "uniform"
    chosen = dataclasses.replace(model, dequantization=kind, alpha=alpha)
    flow = flow_of(chosen, (3, 8, 8), levels=levels)
    *noise, logit, _ = flow.double().bijection.bijections
    cells = Cells(logit, noise[0] if noise else None, BITS + 2 * learned)
    v = torch.from_numpy(RNG.integers(0, levels, (3, 3, 8, 8)))
    now = stack()
    start = now.copy()
    with torch.no_grad():
        x = cells.forward(v, now, nonce)
        inner = logit.inverse((x + 0.5) * 2.0 ** -(BITS + 2 * learned))
        assert torch.equal(cells_of(inner)[0] if noise else inner.floor(), v.double())
        assert torch.equal(cells.inverse(x, now, nonce), v)
    assert same(now, start)


def test_a_mixing_of_uneven_channels_has_large_pivots() -> None:
    """The pivot that is nearest to the others would leave a factor of 1,000."""
    weight = torch.tensor([[1000, 1, 0], [1, 0.4, 0], [0, 0, 1]]).double()
    mix, now = Mix(weight, torch.ones(3).double()), stack()
    assert max(lift.matrix.abs().max() for lift in (mix.upper, mix.lower)) < 4 * steps.FRACTION
    x = torch.from_numpy(RNG.integers(-1000, 1000, (2, 3, 4, 4)))
    assert torch.equal(mix.inverse(mix.forward(x, now), now), x)


def test_the_prior_undoes_itself_far_into_its_tails_and_is_near_the_normal() -> None:
    delta = torch.tensor([2.0**-13, 2.0**-11]).double()[:, None, None].expand(2, 2, 2)
    prior = Normal(delta)
    z = torch.from_numpy(RNG.normal(size=(20, 2, 8, 8)))
    integers = (z / delta.repeat(1, 4, 4)).floor().long()
    now = stack()
    start, before = now.copy(), now.count
    prior.push(integers, now)
    nats = 0.5 * z.square() + 0.5 * np.log(2 * np.pi) - delta.repeat(1, 4, 4).log()
    assert now.count - before == pytest.approx(nats.sum().item() / np.log(2), rel=2e-3)
    far = torch.tensor([5.99, 6, 6.01, 50, 2000, -5.99, -6, -6.01, -50, -2000]).double()
    for part in (far, far[[1, 6]]):
        tails = (part.repeat(2, 2 * len(part), 4)[None] / 2.0**-13).floor().long()[..., :8]
        prior.push(tails, now)
        assert torch.equal(prior.pop(tails.shape, now), tails)
    assert torch.equal(prior.pop(integers.shape, now), integers)
    assert same(now, start)


def network() -> ConvNet:
    """One whose outputs are far from zero, as the flow's weights are: float32 numbers, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ConvNet(3, 24, 4, num_blocks=2, context=2)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=1 / 8)
    return net.double()


@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_an_exact_network_sums_as_integers_do_and_is_near_its_network(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, mask = network(), torch.ones((), dtype=torch.bool)
    x = size * torch.from_numpy(RNG.normal(size=(5, 3, 16, 16)))
    one_hot = torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0, 1]]
    with torch.no_grad():
        expected = net(x, mask, one_hot)
        found = ExactNet(net)(x, mask, one_hot)
        monkeypatch.setattr(exact, "sum_type", lambda *_: torch.float64)
        wide = ExactNet(net)(x, mask, one_hot)
        monkeypatch.undo()
        single = ExactNet(net)(x[1:2], mask, one_hot[1:2])
    assert torch.equal(found, wide)  # where every order of the sums is exact
    assert torch.equal(found[1:2], single)
    assert (found - expected).abs().mean() < 0.02 * expected.std()


def test_no_sum_of_an_exact_convolution_can_leave_the_integers_of_float32() -> None:
    conv = ExactNet(network()).conv_out
    assert torch.equal(conv.weight, conv.weight.round())
    sums = exact.MOST * conv.weight.abs().sum((1, 2, 3))
    assert sums.max() <= 2**24
    assert sums.min() > 2**22  # and they are as fine as they can be
    worst = exact.MOST * conv.weight[0].sign()[None]
    assert conv._convolved(worst)[0, 0, 1, 1] == sums[0]


def test_what_stands_for_silu_and_asinh() -> None:
    h = torch.linspace(-70, 70, 10_001)
    assert (exact.silu(h) - torch.nn.functional.silu(h)).abs().max() < 1e-4
    x = torch.linspace(-3e4, 3e4, 10_001).double()
    assert (exact.compressed(x) - 4 * torch.asinh(x / 4)).abs().max() < 1e-5
    exponents = torch.tensor([-126, 0, 5, 127], dtype=torch.int32)
    assert exact.power_of_two(exponents).tolist() == [2.0**-126, 1, 32, 2.0**127]


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 17), (64, 65), (130, 64)])
@pytest.mark.parametrize(("planes", "channels"), [(3, 3), (1, 3), (3, 1), (1, 1)])
def test_tiles_and_their_halves_cover_a_picture_once(
    size: tuple[int, int], planes: int, channels: int
) -> None:
    picture = RNG.integers(0, 256, (planes, *size)).astype(np.uint8)
    tiles = tiles_of([(0, picture.shape)], channels, 8, 64)
    parts = [part for tile in tiles for part in tile.halves() or [tile]]
    for cover in (tiles, parts):
        assert numbers_of(cover) == picture.size
        back = np.zeros_like(picture)
        for tile in cover:
            cut = tile.cut(picture)
            assert cut.shape == tile.padded
            last = tile.shape[1] - 1
            assert (cut[:, last:] == cut[:, last : last + 1]).all()  # again, and again
            assert cut.shape[1] % 8 == cut.shape[2] % 8 == 0
            tile.paste(cut, back)
        assert np.array_equal(back, picture)
