"""Two claims of the paper tried on scikit-learn's digits, several seeds each, as Markdown tables.

python -m benchmarks.claims batchnorm    eq 15-16 against plain batch norm with few images a batch (appendix E)
python -m benchmarks.claims size         bits/dim against the number of parameters (section 4.2)
"""

import dataclasses
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from realnvp.config import PRESETS, Config

SEEDS = range(3)
IMAGES_SEEN = 8_000


def configured(*, seed: int, batch_size: int, momentum: float = 0.0, width: int = 8) -> Config:
    """A small digits flow that sees `IMAGES_SEEN` images, whatever the batch."""
    digits = PRESETS["digits"]
    steps = IMAGES_SEEN // batch_size
    model = dataclasses.replace(digits.model, width=width, num_blocks=1, momentum=momentum)
    every = {
        "eval_every": steps // 4,
        "sample_every": steps,
        "save_every": steps,
        "log_every": steps,
        "moment_batches": 1600 // batch_size,
    }
    train = dataclasses.replace(digits.train, max_steps=steps, batch_size=batch_size, tracker="none", **every)
    return dataclasses.replace(digits, seed=seed, model=model, train=train)


def test_bits(config: Config) -> float:
    """Bits/dim on the test split (4 noise draws) of the model that is best on validation; nan if there is none."""
    import torch

    from realnvp.evaluation.evaluate import evaluate
    from realnvp.files.saved import load_flow
    from realnvp.training.train import TrainingFailed, train

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as run:
        try:
            train(config, run, device="cpu")
        except TrainingFailed:
            return math.nan
        return evaluate(load_flow(run), run, noise_draws=4).value or math.nan


def table(cases: Iterable[tuple[str, list[Config]]]) -> None:
    """Print mean and standard error over seeds for each case."""
    cases = list(cases)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = [(name, [pool.submit(test_bits, config) for config in configs]) for name, configs in cases]
        print("| case | test bits/dim | seeds |\n|---|---|---|")
        for name, futures in results:
            bits = [future.result() for future in futures]
            error = statistics.stdev(bits) / math.sqrt(len(bits))
            print(f"| {name} | {statistics.mean(bits):.3f} +- {error:.3f} | {', '.join(f'{b:.3f}' for b in bits)} |", flush=True)


def batchnorm() -> None:
    """Appendix E."""
    for_each = ((batch, momentum) for batch in (2, 4, 8) for momentum in (0.0, 0.9))
    table(
        (f"batch {batch}, {'moving average, rho = .9' if momentum else 'plain'}", seeds(batch_size=batch, momentum=momentum))
        for batch, momentum in for_each
    )


def size() -> None:
    """Section 4.2."""
    from realnvp.training.memory import count_parameters

    for_each = ((width, seeds(batch_size=32, width=width)) for width in (4, 8, 16, 32))
    table((f"width {width}, {count_parameters(configs[0]):,} parameters", configs) for width, configs in for_each)


def seeds(*, batch_size: int, momentum: float = 0.0, width: int = 8) -> list[Config]:
    """One configuration for each seed."""
    return [configured(seed=seed, batch_size=batch_size, momentum=momentum, width=width) for seed in SEEDS]


if __name__ == "__main__":
    {"batchnorm": batchnorm, "size": size}[sys.argv[1]]()
