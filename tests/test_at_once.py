"""What threads share: torch's generator and settings, a flow's layers, and the names of files."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import TypeVar

import numpy as np
import pytest
import torch

import realnvp
from realnvp.device import Lock, full_precision
from realnvp.flows.tiled import tiled

Result = TypeVar("Result")
THREADS = 4
PIXELS = np.random.default_rng(0).integers(0, 17, (1, 1, 36, 40)).astype(np.uint8)


def at_once(call: Callable[[], Result], times: int = 6) -> list[Result]:
    """What a call gives in each of four threads, which begin at once, several times."""
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_finds_a_lock_open_that_a_thread_holds() -> None:
    lock, held, done = Lock(), Event(), Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    (holder := Thread(target=hold)).start()
    held.wait()
    if not (child := os.fork()):
        signal.alarm(30)  # ends the process, where it waits
        with lock:
            os._exit(0)
    done.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0


def test_maps_in_strips_are_the_same_in_threads() -> None:
    flow = tiled(realnvp.load_flow("digits-8"), memory=1 << 12)
    x = torch.from_numpy(PIXELS).double() + 0.5

    def nats() -> float:
        return float(flow.pixel_log_prob(x).sum())

    assert set(at_once(nats, 3)) == {nats()}


def test_threads_may_save_to_one_folder(tmp_path: Path) -> None:
    flow, folder = realnvp.vector_flow(2, width=4, num_couplings=2), tmp_path / "flow"
    at_once(lambda: realnvp.save_flow(flow, folder), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["flow"]
    realnvp.load_flow(folder)
