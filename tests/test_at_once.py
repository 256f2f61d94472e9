"""Threads share torch's generator and settings, a flow's layers, and the names of files."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import torch

import realnvp
from realnvp.device import full_precision
from realnvp.flows.copies import tiled

Result = TypeVar("Result")
THREADS = 4


def at_once(call: Callable[[], Result], times: int = 6) -> list[Result]:
    """Results of a call in each of four threads, which begin at once, several times."""
    barrier = Barrier(THREADS)

    def run(_: int) -> list[Result]:
        barrier.wait()
        return [call() for _ in range(times)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(run, range(THREADS)) for result in results]


def test_a_seed_gives_the_same_weights_in_threads_and_leaves_torchs_generator_alone() -> None:
    def weights() -> float:
        flow = realnvp.vector_flow(3, width=8, num_couplings=2, seed=1)
        return float(sum(weight.detach().abs().sum() for weight in flow.parameters()))

    before = torch.get_rng_state()
    assert set(at_once(weights)) == {weights()}
    assert torch.equal(torch.get_rng_state(), before)


def test_full_precision_lasts_until_the_last_thread_leaves() -> None:
    convolution = torch.backends.cudnn.conv
    first, second = full_precision(), full_precision()
    with first:
        second.__enter__()
    assert convolution.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert convolution.fp32_precision == "tf32"


def test_tiled_maps_are_the_same_in_threads() -> None:
    flow = tiled(realnvp.load_flow("digits-8"), memory=1 << 12)
    x = 17 * torch.rand(1, 1, 36, 40, generator=torch.Generator().manual_seed(0))
    nats = flow.pixel_log_prob(x).sum().item()
    assert set(at_once(lambda: flow.pixel_log_prob(x).sum().item(), 3)) == {nats}


def test_threads_may_save_to_one_file(tmp_path: Path) -> None:
    flow, path = realnvp.vector_flow(2, width=4, num_couplings=2), tmp_path / "flow.safetensors"
    at_once(lambda: realnvp.save_flow(flow, path), 3)
    assert [*tmp_path.iterdir()] == [path]
    realnvp.load_flow(path)
