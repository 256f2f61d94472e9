"""The codec: each step undoes itself to the bit, files have the size that bits/dim says, and nothing
that is damaged, hostile or of another flow does harm.
"""

import copy
import dataclasses
import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flows import moved
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import realnvp
from realnvp.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    Bijection,
    FactorOut,
    InvertibleLinear,
    Squeezed,
    channelwise,
    data_dependent_init,
)
from realnvp.codec import (
    archive,
    cells,
    choice,
    chunk,
    compress,
    decompress,
    encoder,
    exact,
    lifting,
    rounding,
)
from realnvp.codec.archive import Archive
from realnvp.codec.cells import Cells
from realnvp.codec.choice import flow_bits
from realnvp.codec.exact import ExactNet
from realnvp.codec.header import packed, unpacked
from realnvp.codec.index import Index, index_of
from realnvp.codec.leaves import Leaf, first_leaves, leaves_of
from realnvp.codec.lifting import Mix
from realnvp.codec.mosaic import bytes_alone
from realnvp.codec.noise import Noise
from realnvp.codec.plan import IntegerFlow, integer_steps
from realnvp.codec.prior import Normal
from realnvp.codec.rounding import Unfit, nearest
from realnvp.codec.side import best_side
from realnvp.codec.stack import Empty, Stack, packed_states, unpacked_states
from realnvp.codec.tiles import Tile, count_tiles, tiles_of
from realnvp.config import Config, ImageData, ModelConfig
from realnvp.data.dataset import quantize
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow
from realnvp.io.files import DamagedError
from realnvp.moments import averaging
from realnvp.nets.convnet import ConvNet
from realnvp.nets.resnet import ChannelSplitNet

RNG = np.random.default_rng(0)
BITS = 13


def stack(words: int = 20_000, lanes: int = 16) -> Stack:
    random = np.random.default_rng(1)
    return Stack(random.integers(0, 1 << 16, words).astype(np.uint16), lanes)


def same(a: Stack, b: Stack) -> bool:
    return np.array_equal(a.states, b.states) and np.array_equal(a.words(), b.words())


def bits(a: Stack) -> float:
    return 16 * a.count + float(np.log2(a.states).sum())


def smooth(*shape: int, levels: int = 256) -> np.ndarray:
    """Images, (N, C, H, W), that a flow can learn something of: random walks."""
    steps = np.random.default_rng(2).normal(0, levels / 60, shape)
    walk = steps.cumsum(-1).cumsum(-2) / 4 + levels / 2
    return walk.clip(0, levels - 1).astype(np.uint8 if levels <= 256 else np.uint16)


# The stack

operations = st.lists(
    st.tuples(
        st.booleans(), st.lists(st.integers(1, 1 << 16), min_size=1, max_size=8), st.integers(0)
    ),
    max_size=60,
)


@given(operations)
@settings(max_examples=60, deadline=None)
def test_pops_and_pushes_undo_each_other_for_any_sizes(operations: list) -> None:
    start = stack(lanes=8)
    now, done = start.copy(), []
    for is_pop, sizes, seed in operations:
        n = np.array(sizes)
        digits = now.pop(n) if is_pop else np.array([seed % size for size in sizes])
        if not is_pop:
            now.push(digits, n)
        assert ((digits >= 0) & (digits < n)).all()
        assert ((now.states >= 1 << 16) & (now.states < 1 << 32)).all()
        done.append((is_pop, n, digits))
    for is_pop, n, digits in reversed(done):
        if is_pop:
            now.push(digits, n)
        else:
            assert np.array_equal(now.pop(n), digits)
    assert same(now, start)


def test_a_digit_takes_the_logarithm_of_its_size() -> None:
    now = stack()
    before = bits(now)
    for _ in range(500):
        now.push(RNG.integers(0, 999, 16), np.full(16, 999))
    assert bits(now) - before == pytest.approx(8000 * np.log2(999), rel=1e-5)


def test_an_empty_stack_says_so() -> None:
    with pytest.raises(Empty):
        stack(words=20, lanes=16).pop_all(np.full(100, 1 << 16))


def test_a_lane_takes_its_bits_and_four_to_say_how_many() -> None:
    states = np.append((2 ** RNG.uniform(16, 32, 99)).astype(np.int64), [1 << 16, (1 << 32) - 1])
    content = packed_states(states)
    assert len(content) == np.ceil((4 + np.floor(np.log2(states))).sum() / 8)
    back, rest = unpacked_states(content + b"words", len(states))
    assert np.array_equal(back, states)
    assert rest == b"words"
    for length in (0, 40, len(content) - 1):
        with pytest.raises(ValueError, match="cut off"):
            unpacked_states(content[:length], len(states))


# The steps

WIDTH = 4


def _coupling(kind: type[AffineCoupling | AdditiveCoupling], per_channel: int) -> Bijection:
    return kind(
        channelwise, ChannelSplitNet(ConvNet(2, WIDTH, 2 * per_channel, num_blocks=1), flip=False)
    )


LAYERS: dict[str, Callable[[], Bijection]] = {
    "act norm": lambda: ActNorm(4),
    "batch norm": lambda: BatchNorm(4),
    "mixing": lambda: InvertibleLinear(4),
    "affine coupling": lambda: _coupling(AffineCoupling, 2),
    "additive coupling": lambda: _coupling(AdditiveCoupling, 1),
    "squeezed": lambda: Squeezed(InvertibleLinear(16)),
    "squeezed by colour": lambda: Squeezed(InvertibleLinear(16), by_colour=True),
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
    start, before = now.copy(), bits(now)
    with torch.no_grad():
        step, delta_z = integer_steps(layer, delta)
        repeat = delta.repeat(1, 2, 2)
        x = (real / repeat).floor().long()
        z = step.forward(x, now)
        expected, log_det = layer((x + 0.5) * repeat)
        assert ((z + 0.5) * delta_z.repeat(1, 2, 2) - expected).abs().max() < 2.0 ** (8 - BITS)
        coarser = (delta_z.log() - delta.log()).mean() * x.numel()
        taken = (before - bits(now)) * np.log(2)
        assert taken + coarser.item() == pytest.approx(log_det.sum().item(), abs=0.02 * x.numel())
        assert torch.equal(step.inverse(z, now), x)
    assert same(now, start)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("kind", ["uniform", "variational", "autoregressive", "oblique"])
@pytest.mark.parametrize("nonce", [0, 1, 3])
def test_cells_undo_themselves_and_stay_in_their_level(levels: int, kind: str, nonce: int) -> None:
    model = ModelConfig("modern", num_scales=1, width=4, num_couplings=1, num_blocks=1)
    alpha, learned = 0.2 if levels == 2 else 0.05, kind != "uniform"
    chosen = dataclasses.replace(model, dequantization=kind, alpha=alpha)
    flow = flow_of(chosen, (3, 8, 8), levels=levels)
    *noise, logit, _ = flow.double().bijection.bijections
    cells = Cells(logit, noise[0] if noise else None, BITS + learned)
    v = torch.from_numpy(RNG.integers(0, levels, (3, 3, 8, 8)))
    now = stack()
    start = now.copy()
    with torch.no_grad():
        x = cells.forward(v, now, nonce)
        inner = logit.inverse((x + 0.5) * 2.0 ** -(BITS + learned))
        assert torch.equal(noise[0]._cells(inner)[0] if noise else inner.floor(), v.double())
        assert torch.equal(cells.inverse(x, now, nonce), v)
    assert same(now, start)


@pytest.mark.parametrize("kind", ["variational", "autoregressive", "oblique"])
def test_learned_noise_is_the_flow_s(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """X is where the flow takes uniform noise to; in float64: machines round float32 otherwise."""
    model = ModelConfig("modern", num_scales=1, width=4, num_couplings=1, num_blocks=1)
    flow = flow_of(dataclasses.replace(model, dequantization=kind), (3, 8, 8)).double()
    layer, logit, _ = flow.bijection.bijections
    with torch.no_grad():
        layer.net.conv_out.bias.normal_(generator=torch.Generator().manual_seed(0))
        v = torch.from_numpy(RNG.integers(0, 256, (9, 3, 8, 8)))
        found, seen = Noise(layer, v, None, torch.float64), []
        scaled = cells.scaled_logit
        monkeypatch.setattr(
            cells, "scaled_logit", lambda *args: seen.append(args[1].dtype) or scaled(*args)
        )
        x = Cells(logit, layer, BITS + 1).forward(v, stack(), 0)
        assert set(seen) == {torch.float64}
        ends = logit.inverse((x.double() + 0.5) * 2.0 ** -(BITS + 1))
        u = layer.inverse(ends) - v
        for stage in range(len(found.stages)):
            bends = found.bends(stage, found.split(u))
            assert {number.dtype for bend in bends for number in bend} == {torch.float64}
        again = layer(v + u)[0]
    assert torch.allclose(again, ends, atol=1e-9)
    assert abs(u.mean() - 0.5) < 0.03
    assert abs(u.std() - 12**-0.5) < 0.02


def test_oblique_cells_of_grey_images_are_cubes() -> None:
    flow = flow_of(MODELS["oblique noise"], (1, 8, 8))
    coder, now = IntegerFlow(flow, BITS + 2), stack(lanes=32)
    start, images = now.copy(), torch.from_numpy(smooth(3, 1, 8, 8)).long()
    coder.push(images, now, 0)
    assert torch.equal(coder.pop(images.shape, now, 0), images)
    assert same(now, start)


def test_cells_that_are_moved_keep_all_their_pieces() -> None:
    """By rounding they may be narrower than all that are not: one step here."""
    model = dataclasses.replace(MODELS["oblique noise"], alpha=0.43752)
    with pytest.raises(ValueError, match="too near"):
        IntegerFlow(flow_of(model, (3, 8, 8)), 14)


def test_numbers_beyond_the_limit_are_told_also_of_parts() -> None:
    x = torch.zeros(3, 4, 2, 2)[:, ::2]
    x[1] = 2.0**30
    with pytest.raises(Unfit) as error:
        nearest(x)
    assert error.value.images == [1]


def test_later_nonces_change_the_pieces_of_the_noise() -> None:
    """The edge of a piece can be ambiguous itself: then other places in it are no way out."""
    for nonce, changes in {0: (False, False), 1: (True, False), 2: (True, True)}.items():
        place, piece = cells._turns(nonce, torch.Size((50,)))
        assert (place.any(), piece.any()) == changes


def test_a_mixing_of_uneven_channels_has_large_pivots() -> None:
    """The pivot that is nearest to the others would leave a factor of 1,000."""
    weight = torch.tensor([[1000, 1, 0], [1, 0.4, 0], [0, 0, 1]]).double()
    mix, now = Mix(weight, torch.ones(3).double()), stack()
    assert max(lift.matrix.abs().max() for lift in (mix.upper, mix.lower)) < 4 * lifting.FRACTION
    x = torch.from_numpy(RNG.integers(-1000, 1000, (2, 3, 4, 4)))
    assert torch.equal(mix.inverse(mix.forward(x, now), now), x)


def test_the_prior_undoes_itself_far_into_its_tails_and_is_near_the_normal() -> None:
    delta = torch.tensor([2.0**-13, 2.0**-11]).double()[:, None, None].expand(2, 2, 2)
    prior = Normal(delta)
    z = torch.from_numpy(RNG.normal(size=(20, 2, 8, 8)))
    integers = (z / delta.repeat(1, 4, 4)).floor().long()
    now = stack()
    start, before = now.copy(), bits(now)
    prior.push(integers, now)
    nats = 0.5 * z.square() + 0.5 * np.log(2 * np.pi) - delta.repeat(1, 4, 4).log()
    assert bits(now) - before == pytest.approx(nats.sum().item() / np.log(2), rel=2e-3)
    far = torch.tensor([5.99, 6, 6.01, 50, 2000, -5.99, -6, -6.01, -50, -2000]).double()
    for part in (far, far[[1, 6]]):
        tails = (part.repeat(2, 2 * len(part), 4)[None] / 2.0**-13).floor().long()[..., :8]
        prior.push(tails, now)
        assert torch.equal(prior.pop(tails.shape, now), tails)
    assert torch.equal(prior.pop(integers.shape, now), integers)
    assert same(now, start)


# The networks


def network() -> ConvNet:
    """One whose outputs are far from zero, as the flow's weights are: float32 numbers, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ConvNet(3, 24, 4, num_blocks=2, context=2)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=1 / 8)
    return net.double()


@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_an_exact_network_sums_as_integers_do_and_is_near_its_network(size: float) -> None:
    net, mask = network(), torch.ones((), dtype=torch.bool)
    x = size * torch.from_numpy(RNG.normal(size=(5, 3, 16, 16)))
    one_hot = torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0, 1]]
    with torch.no_grad():
        expected = net(x, mask, one_hot)
        found = ExactNet(net, torch.float32)(x, mask, one_hot)
        wide = ExactNet(net, torch.float64)(x, mask, one_hot)
        single = ExactNet(net, torch.float32)(x[1:2], mask, one_hot[1:2])
    assert torch.equal(found, wide)  # where every order of the sums is exact
    assert torch.equal(found[1:2], single)
    assert (found - expected).abs().mean() < 0.02 * expected.std()


def test_no_sum_of_an_exact_convolution_can_leave_the_integers_of_float32() -> None:
    conv = ExactNet(network(), torch.float32).conv_out
    assert torch.equal(conv.weight, conv.weight.round())
    sums = exact.MOST * conv.weight.abs().sum((1, 2, 3))
    assert sums.max() <= 2**24
    assert sums.min() > 2**22  # and they are as fine as they can be
    worst = exact.MOST * conv.weight[0].sign()[None]
    assert conv._convolved(worst)[0, 0, 1, 1] == sums[0]


def test_convolutions_that_do_more_than_add_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact.sum_type() == torch.float32
    plain = torch.nn.functional.conv2d

    def rounded(x: Tensor, *how: Any, **more: Any) -> Tensor:
        return plain(x, *how, **more) * (1 + 1e-7 * (x.dtype == torch.float32))

    def shortened(x: Tensor, weight: Tensor, **how: Any) -> Tensor:
        if weight.dtype == torch.float32:  # to the 11 bits of TF32
            mantissa, exponent = torch.frexp(weight)
            weight = torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)
        return plain(x, weight, **how)

    for conv2d in (rounded, shortened):
        monkeypatch.setattr(exact.F, "conv2d", conv2d)
        assert exact.sum_type() == torch.float64


def test_what_stands_for_silu_and_asinh() -> None:
    h = torch.linspace(-70, 70, 10_001)
    assert (exact.silu(h) - torch.nn.functional.silu(h)).abs().max() < 1e-4
    x = torch.linspace(-3e4, 3e4, 10_001).double()
    assert (exact.compressed(x) - 4 * torch.asinh(x / 4)).abs().max() < 1e-5
    exponents = torch.tensor([-126, 0, 5, 127], dtype=torch.int32)
    assert exact.power_of_two(exponents).tolist() == [2.0**-126, 1, 32, 2.0**127]


# Flows

MODELS = {
    "paper": ModelConfig(num_scales=2, width=4, num_blocks=1),
    "modern": ModelConfig("modern", num_scales=2, width=8, num_couplings=2, num_blocks=1),
    "additive": ModelConfig(
        "modern", "additive", num_scales=2, width=8, num_couplings=2, num_blocks=1
    ),
    "learned noise": ModelConfig(
        "modern",
        num_scales=1,
        width=8,
        num_couplings=2,
        num_blocks=1,
        dequantization="variational",
    ),
    "joint noise": ModelConfig(
        "modern",
        num_scales=1,
        width=8,
        num_couplings=1,
        num_blocks=1,
        dequantization="autoregressive",
    ),
}
MODELS["oblique noise"] = dataclasses.replace(MODELS["joint noise"], dequantization="oblique")


def flow_of(model: ModelConfig, shape: tuple[int, ...], *, levels: int = 256) -> Flow:
    """A flow near its start from smooth images, where no weight is zero."""
    names = tuple("abcdef"[: model.context_dim]) or None
    data = ImageData(shape=shape, levels=levels, classes=model.context_dim > 0, class_names=names)
    flow = realnvp.build(Config(data=data, model=model))
    x = torch.from_numpy(smooth(64, *shape, levels=levels).astype(np.float32)) + 0.5
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        with data_dependent_init(flow), averaging(flow):
            flow.train().log_prob(
                x, torch.arange(64) % model.context_dim if model.context_dim else None
            )
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
    return flow.eval()


@pytest.fixture(params=MODELS)
def flow(request: pytest.FixtureRequest) -> Flow:
    return flow_of(MODELS[request.param], (3, 16, 16))


def test_every_family_codes_exactly_and_near_its_bound(flow: Flow) -> None:
    coder = IntegerFlow(flow, BITS + 1)
    images = smooth(6, 3, 8, 8)
    now = stack(lanes=32)
    start, before = now.copy(), bits(now)
    coder.push(torch.from_numpy(images).long(), now, 0)
    nats = log_probs(flow, images, noise_draws=64)
    assert bits(now) - before == pytest.approx(-nats.sum().item() / np.log(2), rel=0.03)
    # Numbers beyond 6 take fewer bits than their density says.
    assert np.sum(now.bits) == pytest.approx(bits(now) - before, rel=0.03)
    assert now.bits == pytest.approx(-nats.numpy() / np.log(2), rel=0.05)
    back = coder.pop(torch.Size(images.shape), now, 0)
    assert np.array_equal(back, images)
    assert same(now, start)


def test_a_file_of_digits_has_the_size_of_their_bits_per_dim() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images[:400, None].astype(np.uint8)
    flow = realnvp.load_flow("digits-8")
    data = compress(flow, digits)
    bound = -log_probs(flow, digits).sum().item() / np.log(2) / 8
    assert len(data) < 1.06 * bound
    assert np.array_equal(decompress(flow, data), digits)


@pytest.fixture(scope="module")
def modern() -> Flow:
    return flow_of(MODELS["modern"], (3, 16, 16))


def test_what_was_given_comes_back(modern: Flow) -> None:
    images = smooth(3, 3, 12, 8)
    back = realnvp.codec.decompress(modern, realnvp.codec.compress(modern, images))
    assert isinstance(back, np.ndarray)
    assert np.array_equal(back, images)
    tensor = decompress(modern, compress(modern, torch.from_numpy(images)))
    assert isinstance(tensor, Tensor)
    assert torch.equal(tensor, torch.from_numpy(images))
    several = [images[0], images[1, :1, :7], smooth(1, 3, 70, 66)[0]]
    back = decompress(modern, compress(modern, several))
    assert isinstance(back, list)
    assert all(np.array_equal(a, b) for a, b in zip(several, back, strict=True))


def test_a_flow_given_classes_codes_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of(dataclasses.replace(MODELS["learned noise"], context=3), (3, 16, 16))
    coded = Coded(flow)
    bound, classes = flow_bits(flow, coded.places, list(coded.images))
    assert classes is not None
    each = torch.stack([log_probs(flow, coded.images, context=c) for c in range(3)])
    assert np.array_equal(classes, each.argmax(0).numpy())
    assert bound == pytest.approx(np.log2(3) - each.amax(0).numpy() / np.log(2))
    content = coded.encoded(classes=np.arange(9) % 3)
    assert np.array_equal(coded.decoded(content), coded.images)
    assert np.array_equal(decompress(flow, compress(flow, coded.images)), coded.images)
    monkeypatch.setattr(choice, "SURE", 0)  # all classes are known all the same
    images = quantize(flow.sample(9, seed=0, context=torch.arange(9) % 3)).numpy()
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


def test_images_of_16_bits() -> None:
    flow = flow_of(MODELS["modern"], (3, 16, 16), levels=65536)
    images = smooth(30, 3, 16, 16, levels=65536)
    random = np.random.default_rng(0)
    images += random.integers(0, 100, images.shape).astype(np.uint16)
    data = compress(flow, images)
    bound = -log_probs(flow, images).sum().item() / np.log(2) / 8
    assert len(data) < 1.1 * bound
    back = decompress(flow, data)
    assert back.dtype == np.uint16
    assert np.array_equal(back, images)
    with pytest.raises(ValueError, match="expected uint16"):
        compress(flow, smooth(1, 3, 16, 16))


def nasty() -> list[np.ndarray]:
    """Pictures unlike any that a flow has seen."""
    y, x = np.mgrid[:24, :24]
    random = np.random.default_rng(3)
    gray = [0 * x, 0 * x + 255, (x + y) % 2 * 255, x // 2 % 2 * 255, y % 2 * 255, (x == y) * 255]
    pictures = [np.broadcast_to(each, (3, 24, 24)) for each in gray]
    pictures += [random.integers(0, 256, (3, 24, 24)), random.integers(0, 2, (3, 24, 24)) * 255]
    pictures += [np.stack([255 + 0 * x, 0 * x, 0 * x]), random.integers(0, 256, (1, 24, 24))]
    pictures += [random.integers(0, 256, (3, 1, 1)), random.integers(0, 256, (3, 67, 1))]
    impulse = np.zeros((3, 24, 24))
    impulse[0, 5, 7] = 255
    return [np.ascontiguousarray(each, np.uint8) for each in [*pictures, impulse]]


def test_nasty_pictures_are_exact_alone_and_together(modern: Flow) -> None:
    pictures = nasty()
    for picture in pictures:
        data = compress(modern, [picture])
        assert len(data) < 1.01 * picture.size + 200
        assert np.array_equal(decompress(modern, data)[0], picture)
    mixed = [
        each
        for pair in zip(pictures, smooth(len(pictures), 3, 24, 24), strict=True)
        for each in pair
    ]
    back = decompress(modern, compress(modern, mixed))
    assert all(np.array_equal(a, b) for a, b in zip(mixed, back, strict=True))


def test_colour_pictures_fit_a_flow_of_grey_ones() -> None:
    flow = flow_of(MODELS["modern"], (1, 8, 8), levels=17)
    images = smooth(3, 3, 9, 8, levels=17)
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 17), (64, 65), (130, 64)])
@pytest.mark.parametrize(("planes", "channels"), [(3, 3), (1, 3), (3, 1), (1, 1)])
def test_tiles_cover_a_picture_once(size: tuple[int, int], planes: int, channels: int) -> None:
    picture = RNG.integers(0, 256, (planes, *size)).astype(np.uint8)
    tiles = list(tiles_of(picture.shape, channels, 8, 64))
    assert len(tiles) == count_tiles(picture.shape, channels, 8, 64)
    assert sum(np.prod(tile.shape) for tile in tiles) == picture.size
    back = np.zeros_like(picture)
    for tile in tiles:
        cut = tile.cut(picture)
        assert cut.shape == tile.padded
        last = tile.shape[1] - 1
        assert (cut[:, last:] == cut[:, last : last + 1]).all()  # again, and again
        assert cut.shape[1] % 8 == cut.shape[2] % 8 == 0
        tile.paste(cut, back)
    assert np.array_equal(back, picture)


LARGE_FIRST = [[3, 70, 300, 1], [1, 200, 130, 2], [3, 8, 8, 40]]
SMALL_FIRST = [[3, 8, 8, 4], [3, 256, 256, 1]]


@pytest.mark.parametrize("side", [None, 32, 128, 256])
@pytest.mark.parametrize("divided", [0, 1, 4, 12])
@pytest.mark.parametrize("shapes", [LARGE_FIRST, SMALL_FIRST])
def test_the_first_tiles_are_small_and_all_cover_the_pictures(
    side: int | None, divided: int, shapes: list[list[int]]
) -> None:
    index = Index("", 3, 8, 256, 13, shapes, divided=divided, side=side)
    places = list(index.places())
    assert len(places) == index.tiles
    covered = [np.zeros(shape, int) for shape in index.shapes()]
    for i, tile in places:
        covered[i][tile.planes, tile.rows, tile.columns] += 1
    assert all((times == 1).all() for times in covered)
    sizes = [max(tile.shape[1:]) for _, tile in places]
    assert max(sizes) <= (side or 64)
    if shapes == LARGE_FIRST:
        assert sizes[0] == (16 if divided else side or 64)


def test_a_head_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        Index("", 3, 8, 256, 13, [])


def test_tiles_are_as_large_as_the_flow_has_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of(MODELS["modern"], (3, 16, 16))
    pictures = list(smooth(2, 3, 256, 256))
    shapes = [picture.shape for picture in pictures]
    best = {1.0: 128, -1.0: 32}  # 256: too few tiles

    for gain, side in best.items():

        def bits(flow: Flow, places: list, tiles: list, gain: float = gain) -> tuple:
            each = [2 + gain / tile.shape[-1] ** 0.5 for tile in tiles]
            return np.array([e * tile.size for e, tile in zip(each, tiles, strict=True)]), None

        monkeypatch.setattr("realnvp.codec.side.flow_bits", bits)
        assert best_side(flow, shapes, pictures.__getitem__, 5.0) == side
        # Where all tiles are halved, a large one brings nothing.
        assert best_side(flow, shapes, pictures.__getitem__, 1e3) == 32


# What must not be left to chance


class Coded:
    """Images as a chunk: three by WebP, one raw, the rest by the flow."""

    def __init__(self, flow: Flow) -> None:
        self.coder, self.images = IntegerFlow(flow, BITS), smooth(9, 3, 16, 16)
        places = [tiles_of(image.shape, 3, flow.divisor, 64) for image in self.images]
        self.places = [place for tiles in places for place in tiles]

    def encoded(self, told: chunk.Told = lambda _: None, **how: Any) -> bytes:
        kinds = np.array(list("fwfwfrwff"))
        content, _ = encoder.encode(self.coder, self.places, [*self.images], kinds, told, **how)
        return content

    def decoded(self, content: bytes) -> list[np.ndarray]:
        return chunk.decode(self.coder, self.places, content, lambda _: None)


@pytest.fixture
def coded(modern: Flow) -> Coded:
    return Coded(modern)


def header_of(content: bytes) -> chunk.Header:
    length = int.from_bytes(content[:4], "little")
    return unpacked(chunk.Header, content[4 : 4 + length], 10**4)


def test_a_chunk_holds_all_kinds_of_tiles(coded: Coded) -> None:
    content = coded.encoded()
    assert header_of(content).kinds == "fwfwfrwff"
    assert header_of(content).nonces == {}
    assert np.array_equal(coded.decoded(content), coded.images)


def test_noise_is_drawn_again_where_machines_could_differ(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "MARGIN", 1e-4)
    content = coded.encoded()
    monkeypatch.undo()
    assert header_of(content).nonces
    assert np.array_equal(coded.decoded(content), coded.images)


def test_what_leaves_the_integers_is_stored_raw(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, wild = coded.coder.push, torch.from_numpy(coded.images[[0, 5]])

    def refuse(pixels: Tensor, to: Stack, nonce: int, classes: None) -> None:
        if found := [
            i for i, image in enumerate(pixels) if (image == wild).flatten(1).all(1).any()
        ]:
            raise Unfit(found)
        push(pixels, to, nonce)

    monkeypatch.setattr(coded.coder, "push", refuse)
    told = list[int]()
    content = coded.encoded(told.append)
    assert header_of(content).kinds == "rwfwfrwff"
    assert sum(told) == 9
    assert np.array_equal(coded.decoded(content), coded.images)


def test_numbers_beyond_the_integers_are_named() -> None:
    with pytest.raises(Unfit) as error:
        rounding.nearest(
            torch.tensor([[1.0, 2], [3, torch.nan], [-1, 2], [torch.inf, 0], [0, 2.0**26]])
        )
    assert error.value.images == [1, 3, 4]


def test_the_first_tiles_are_halved_until_there_are_bits_for_a_whole_one(coded: Coded) -> None:
    told = list[int]()
    kinds = np.array(list("f" * 9))
    content, _ = encoder.encode(coded.coder, coded.places, [*coded.images], kinds, told.append)
    header = header_of(content)
    assert header.kinds.endswith("fff")
    leaves = leaves_of(coded.places, header.kinds)
    assert leaves[0].kind == "w"
    # A smallest one needs few bits, so few are by WebP.
    by_webp = sum(np.prod(leaf.place.shape) for leaf in leaves if leaf.kind == "w")
    assert by_webp < 1.5 * coded.images[0].size
    assert any(leaf.kind == "f" and leaf.place.shape == (3, 8, 8) for leaf in leaves)
    assert sum(told) == 9
    assert np.array_equal(coded.decoded(content), coded.images)


def test_seeds_are_the_first_leaves_and_large(coded: Coded) -> None:
    places = tiles_of((3, 64, 64), 3, 4, 32)
    whole = [Leaf(i, place.alone()) for i, place in enumerate(places)]

    def shapes(numbers: int) -> list[tuple[int, ...]]:
        return [leaf.place.shape for leaf in first_leaves(whole, numbers)]

    assert shapes(0) == []
    assert shapes(1) == shapes(383) == [(3, 8, 8)]
    assert shapes(3000) == [(3, 16, 32)]
    assert shapes(2 * 3 * 32 * 32 + 400) == [(3, 32, 32), (3, 32, 32), (3, 8, 16)]
    assert len(shapes(10**6)) == 4


@pytest.mark.parametrize("drawing", [None, 0, 1, 3])
def test_the_flow_codes_without_a_look_where_webp_takes_many_bits(
    modern: Flow, monkeypatch: pytest.MonkeyPatch, drawing: int | None
) -> None:
    coded, looks, told = Coded(modern), list[int](), list[int]()
    coded.images = quantize(modern.sample(9, seed=0)).numpy()
    if drawing is not None:  # many bits by the flow, few by WebP; 1 is halved, 3 is not
        coded.images[drawing] = 255 * (np.arange(16) % 2)

    def counted(flow: Flow, places: list[Tile], tiles: list[np.ndarray]) -> Any:
        looks.append(len(tiles))
        return flow_bits(flow, places, tiles)

    def smallest(sure: float) -> tuple[bytes, float]:
        monkeypatch.setattr(choice, "SURE", sure)
        return choice.smallest(modern, coded.coder, coded.places, [*coded.images], told.append)

    whole, bound = smallest(9)
    monkeypatch.setattr(choice, "flow_bits", counted)
    content, found = smallest(0)
    assert content == whole
    kinds = [leaf.kind for leaf in leaves_of(coded.places, header_of(content).kinds)]
    assert kinds[-5:] == list("fffff")
    assert found == pytest.approx(bound, rel=0.005)
    assert sum(looks) < 9 if drawing is None else sum(looks) == 9
    assert sum(told) == 18
    assert (min(told) < 0) == (drawing in (1, 3))  # coded again, but not where one of 16 told


def test_webp_searches_long_only_where_it_could_win(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded, long = Coded(modern), list[int]()
    coded.images = quantize(modern.sample(40, seed=0)).numpy()
    coded.images[7] = 255 * (np.arange(16) % 2)
    coded.places = [place for _ in coded.images for place in tiles_of((3, 16, 16), 3, 4, 64)]

    def counted(tiles: np.ndarray, search: Any) -> Any:
        if search == "usual":
            long.append(len(tiles))
        return bytes_alone(tiles, search)

    monkeypatch.setattr(choice, "bytes_alone", counted)
    content, _ = choice.smallest(modern, coded.coder, coded.places, [*coded.images], lambda _: None)
    assert long == [3 + 1, 1]  # one of 16, the drawing; and the tile that is coded in halves
    assert np.array_equal(coded.decoded(content), coded.images)
    kinds = [leaf.kind for leaf in leaves_of(coded.places, header_of(content).kinds)]
    assert "w" in kinds


def test_what_repeats_itself_is_coded_by_webp() -> None:
    flow = realnvp.load_flow("photos-32")
    part = np.random.default_rng(0).integers(0, 64, (3, 48, 64)).astype(np.uint8)
    assert len(compress(flow, [np.tile(part, (1, 4, 4))])) < 1.2 * len(compress(flow, [part]))


def test_a_flat_corner_does_not_make_all_seeds(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded.images[0] = 0
    kinds = np.array(list("f" * 9))
    content, _ = encoder.encode(coded.coder, coded.places, [*coded.images], kinds, lambda _: None)
    leaves = leaves_of(coded.places, header_of(content).kinds)
    by_webp = sum(np.prod(leaf.place.shape) for leaf in leaves if leaf.kind == "w")
    assert by_webp < 3 * coded.images[0].size


def test_few_tries_find_enough_seeds(coded: Coded, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = list[int]()

    def counted(whole: list[Leaf], numbers: int) -> Any:
        tries.append(numbers)
        return first_leaves(whole, numbers)

    monkeypatch.setattr(encoder, "first_leaves", counted)
    encoder.encode(
        coded.coder, coded.places, [*coded.images], np.array(list("f" * 9)), lambda _: None
    )
    assert tries[0] == 0
    assert tries == sorted(tries)
    assert len(tries) < 5, tries


def test_many_tiles_start_in_large_parts(coded: Coded, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved() -> int:
        kinds = np.array(list("f" * 9))
        content, _ = encoder.encode(
            coded.coder, coded.places, [*coded.images], kinds, lambda _: None
        )
        assert np.array_equal(coded.decoded(content), coded.images)
        return header_of(content).kinds.count("h")

    few = halved()
    monkeypatch.setattr(encoder, "FEWEST_FOR_SEED", 1)
    monkeypatch.setattr(encoder, "SEED_SHARE", 3)
    assert halved() < few


def test_single_grey_pixels_have_seeds() -> None:
    flow = flow_of(MODELS["modern"], (1, 16, 16))
    coder, images = IntegerFlow(flow, BITS), list(smooth(40, 1, 1, 1))
    places = [place for _ in images for place in tiles_of((1, 1, 1), 1, flow.divisor, 64)]
    tiles = [place.pad(image) for place, image in zip(places, images, strict=True)]
    content, _ = encoder.encode(coder, places, tiles, np.array(["f"] * 40), lambda _: None)
    assert np.array_equal(chunk.decode(coder, places, content, lambda _: None), tiles)


def test_tiles_are_told_once_where_more_seeds_are_needed(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded.images = coded.images[..., :8, :8]
    coded.places = [place for _ in coded.images for place in tiles_of((3, 8, 8), 3, 4, 64)]
    push, calls, told = coded.coder.push, list[int](), list[int]()

    def short(pixels: Tensor, *how: Any) -> None:
        push(pixels, *how)
        calls.append(len(pixels))
        if 3 <= len(calls) < 6:  # a batch of two, of one, and that one as a tree
            raise Empty

    monkeypatch.setattr(coded.coder, "push", short)
    encoder.encode(coded.coder, coded.places, [*coded.images], np.array(list("f" * 9)), told.append)
    assert min(told) < 0
    assert sum(told) == 9


def test_letters_are_of_their_tiles(coded: Coded) -> None:
    places = coded.places[:2]
    leaves = leaves_of(places, "hhffwf")
    assert [(leaf.tile, leaf.kind) for leaf in leaves] == [(0, "f"), (0, "f"), (0, "w"), (1, "f")]
    assert [leaf.place.shape for leaf in leaves] == [(3, 8, 8), (3, 8, 8), (3, 8, 16), (3, 16, 16)]
    for wrong in ("f", "fff", "hhhfffff", "fx", "hf"):
        with pytest.raises(ValueError, match=r"not of these tiles|too small"):
            leaves_of(places, wrong)


def test_batches_shrink_where_bits_are_short(coded: Coded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded.coder, "borrowed", 0.01)
    content = coded.encoded()
    assert sum(header_of(content).batches) == 5
    assert np.array_equal(coded.decoded(content), coded.images)


def test_what_decodes_to_other_pictures_is_lost(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    monkeypatch.setattr(archive, "decode", lambda *how: [tile ^ 1 for tile in chunk.decode(*how)])
    with pytest.raises(DamagedError, match="2 of 2"):
        decompress(modern, data)
    with pytest.raises(RuntimeError, match="does not decode"):
        compress(modern, smooth(2, 3, 8, 8))


def test_the_flow_is_named_by_weights_and_choices(modern: Flow) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    other = flow_of(MODELS["modern"], (3, 8, 8))
    next(other.parameters()).data.view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"data: needs another flow"):
        decompress(other, data)


def test_flows_of_bfloat16_code_too() -> None:
    flow, images = flow_of(MODELS["modern"], (3, 8, 8)).bfloat16(), smooth(2, 3, 8, 8)
    assert np.array_equal(decompress(flow, compress(flow, images)), images)


def test_other_integers_are_refused(modern: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    data = compress(modern, smooth(2, 3, 8, 8))
    monkeypatch.setattr(IntegerFlow, "digest", lambda self: bytes(32))
    with pytest.raises(ValueError, match=r"rounds the flow to other integers"):
        decompress(modern, data)


def test_a_damaged_chunk_costs_its_pictures_alone(
    modern: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "CHUNK", 5)
    images = smooth(12, 3, 8, 8)
    data = bytearray(compress(modern, images))
    opened = Archive(io.BytesIO(data), "data")
    assert len(opened.chunks) == 3
    data[opened.chunks[1].start + 20] ^= 1
    with pytest.raises(DamagedError, match=r"5 of 12 images"):
        decompress(modern, bytes(data))
    back = list(Archive(io.BytesIO(data), "data").pictures(modern, lambda _: None))
    assert [each is None for each in back] == [False] * 5 + [True] * 5 + [False] * 2
    assert all(b is None or np.array_equal(a, b) for a, b in zip(images, back, strict=True))


def test_any_damage_is_told(modern: Flow) -> None:
    images = smooth(5, 3, 8, 8)
    data = compress(modern, images)
    random = np.random.default_rng(5)
    for _ in range(50):
        damaged = bytearray(data)
        match random.integers(3):
            case 0:
                damaged[random.integers(len(data))] ^= 1 << random.integers(8)
            case 1:
                del damaged[random.integers(len(data)) :]
            case 2:
                start = random.integers(len(data))
                damaged[start : start + 8] = random.bytes(8)
        if damaged != data:
            with pytest.raises((DamagedError, ValueError)):
                decompress(modern, bytes(damaged))


def test_damage_with_right_checksums_is_told(coded: Coded) -> None:
    """Whoever writes a file can write its checksums: then the coder meets what it never wrote."""
    content, random, told = coded.encoded(), np.random.default_rng(6), 0
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 3):
            damaged[at] = random.integers(256)
        try:
            tiles = coded.decoded(bytes(damaged))
        except ValueError:
            told += 1
        else:
            assert [tile.shape for tile in tiles] == [place.padded for place in coded.places]
    assert told > 20


def test_a_hostile_head_takes_no_memory(modern: Flow) -> None:
    index = index_of(modern, [(3, 8, 8)], list(smooth(1, 3, 8, 8)).__getitem__)
    data = compress(modern, smooth(1, 3, 8, 8))
    assert packed(dataclasses.replace(index, given_as="array")) in data
    for runs in (
        [[3, 8, 8, 10**12]],
        [[3, 10**6, 10**6, 1]],
        [[3, 0, 8, 1]],
        [[3, 8, -8, 1]],
        [[3]],
    ):
        hostile = copy.copy(index)
        object.__setattr__(hostile, "runs", runs)
        new = packed(hostile)
        head = data[: archive.HEAD.size - 4] + len(new).to_bytes(4, "little") + new
        words = "fewer bytes" if runs[0][-1] == 10**12 else "damaged"
        with pytest.raises(DamagedError, match=words):
            decompress(modern, head + zlib.crc32(head).to_bytes(4, "little") + bytes(100))


def test_a_head_that_does_not_fit_its_flow_is_told(modern: Flow) -> None:
    index = index_of(modern, [(3, 8, 8)], list(smooth(1, 3, 8, 8)).__getitem__, given_as="array")
    data = compress(modern, smooth(1, 3, 8, 8))
    for change in ({"divisor": 1 << 40}, {"channels": 1}, {"levels": 17}):
        new = packed(dataclasses.replace(index, **change))
        head = data[: archive.HEAD.size - 4] + len(new).to_bytes(4, "little") + new + bytes(16)
        with pytest.raises(DamagedError, match="does not fit its flow"):
            decompress(modern, head + zlib.crc32(head).to_bytes(4, "little"))


def test_a_batch_that_would_fill_the_memory_is_refused(
    coded: Coded, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = coded.encoded()
    monkeypatch.setattr(chunk, "NUMBERS", 3 * 16 * 16)
    assert max(header_of(content).batches) > 1
    with pytest.raises(ValueError, match="a batch of too many tiles"):
        coded.decoded(content)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 3, 8, 8)), "uint8"),
        (np.zeros((3, 8, 8), np.uint8), "uint8 \\(C, H, W\\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "none"),
        (np.zeros((2, 8, 8, 3), np.uint8), "C of 1 or 3"),
    ],
)
def test_what_is_no_image_is_refused(modern: Flow, images: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compress(modern, images)


def test_what_is_no_flow_no_list_and_no_bytes_is_named(modern: Flow) -> None:
    images = np.zeros((1, 3, 8, 8), np.uint8)
    for attempt, words in (
        (lambda: compress("photos-32", images), "flow: expected a Flow, .* got str"),
        (lambda: compress(modern, None), "images: expected an array or a list .* got NoneType"),
        (lambda: decompress(modern, "file.rnvp"), "data: expected bytes of compress, got str"),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()


def test_levels_that_the_flow_lacks_are_refused() -> None:
    flow = flow_of(MODELS["modern"], (1, 8, 8), levels=17)
    with pytest.raises(ValueError, match=r"a pixel is 17"):
        compress(flow, np.full((1, 1, 8, 8), 17, np.uint8))


def test_a_flow_of_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images"):
        compress(realnvp.vector_flow(2), np.zeros((1, 3, 8, 8), np.uint8))


def test_a_flow_that_has_no_integers_is_refused() -> None:
    for name, words in {"mean": "numbers beyond", "log_scale": "is no number"}.items():
        flow = flow_of(MODELS["modern"], (3, 16, 16))
        act_norm = flow.bijection.bijections[1].bijections[0].bijection.bijections[0]
        getattr(act_norm, name).data[0] = torch.nan
        with pytest.raises(ValueError, match=f"this flow has no form on integers: .*{words}"):
            compress(flow, smooth(1, 3, 16, 16))


# For ever, and everywhere


@pytest.mark.parametrize("channels", [2, 4])
def test_arrays_of_other_channels_than_a_picture_s(channels: int) -> None:
    flow = flow_of(MODELS["modern"], (channels, 8, 8))
    images = smooth(12, channels, 8, 8)
    images[:4] = RNG.integers(0, 256, images[:4].shape)
    data = compress(flow, images)
    assert set(header_of(data[Archive(io.BytesIO(data), "").chunks[0].start :]).kinds) >= set("wr")
    assert np.array_equal(decompress(flow, data), images)


FILES = Path(__file__).parent / "data" / "codec"
NAMES = sorted(path.stem for path in FILES.glob("*.rnvp"))
DECODE = """
import sys, numpy as np, torch, realnvp
from pathlib import Path
from realnvp.codec import decompress
torch.set_num_threads(int(sys.argv[1]))
for name in sys.argv[3:]:
    path = Path(sys.argv[2], name.split(".")[0] + ".safetensors")
    data = Path(sys.argv[2], f"{name}.rnvp").read_bytes()
    back = decompress(realnvp.load_flow(path), data)
    assert np.array_equal(back, np.load(path.with_suffix(".npy"))), name
"""


@pytest.mark.parametrize("name", NAMES)
def test_files_of_earlier_versions_decode(name: str) -> None:
    """tests/codec_files.py wrote them; those of version 2 have it in their name."""
    flow, _, version = name.partition(".")
    data, pixels = (FILES / f"{name}.rnvp").read_bytes(), np.load(FILES / f"{flow}.npy")
    opened = Archive(io.BytesIO(data), name)
    assert opened.version == int(version or 1)
    assert set(header_of(data[opened.chunks[0].start :]).kinds) >= set("fwr")
    back = decompress(realnvp.load_flow(FILES / f"{flow}.safetensors"), data)
    assert back.dtype == pixels.dtype
    assert np.array_equal(back, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("restricted", [False, True])
def test_files_decode_with_other_threads_and_instructions(threads: int, restricted: bool) -> None:
    """As on an old processor: what torch, its libraries and numpy may use is restricted."""
    old = {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config("dicts")["SIMD Extensions"]["found"]),
    }
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | (old if restricted else {})
    command = [sys.executable, "-c", DECODE, str(threads), str(FILES), *NAMES]
    subprocess.run(command, env=environment, check=True, timeout=300)
