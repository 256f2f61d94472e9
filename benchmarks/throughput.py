"""Images a second against the machine's limit and the public copy: python -m benchmarks.throughput.

Each contestant has a process of its own. Each task is called in turn, round after round; the tables
have medians, with the range over rounds.
"""

import argparse
import statistics
import sys
import time

import torch

from benchmarks.contestants import CONTESTANTS, PRECISIONS, Process, sized
from realnvp.config import Config

Speeds = dict[tuple[str, str], list[float]]

# What, task, whose, which limit, goal for its share, goal beside the public copy.
ROWS = [
    ("training, float32", "train", "training float32", "limit float32", 0.75, 1.3),
    ("training, bf16 networks", "train", "training bfloat16", "limit bfloat16", 0.65, 2.3),
    ("log_prob, float32", "log_prob", "as it is", "limit float32", 0.80, 1.3),
    ("sample, float32", "sample", "as it is", "limit float32", 0.80, 1.3),
    ("log_prob, fast", "log_prob", "fast", "limit bfloat16", 0.70, 2.5),
    ("sample, fast", "sample", "fast", "limit bfloat16", 0.70, 2.5),
    ("log_prob, batch 1, fast", "log_prob, batch 1", "fast", "limit bfloat16", None, 3.0),
    ("sample, batch 1, fast", "sample, batch 1", "fast", "limit bfloat16", None, 3.0),
]


def measure(config: Config, *, rounds: int, threads: int) -> Speeds:
    """Images a second of each (task, contestant) in each round but the first."""
    contest = {name: Process(name, config, threads) for name in CONTESTANTS}
    speeds: Speeds = {(task, name): [] for name in contest for task in contest[name].tasks}
    for number in range(rounds + 1):
        for task, name in speeds:
            seconds = contest[name].seconds(task)
            if number:
                speeds[task, name].append(contest[name].tasks[task] / seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    for process in contest.values():
        process.end()
    return speeds


def peak_gflops(dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product."""
    a = torch.randn(4096, 4096).to(dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 4096**3 / best / 1e9


def print_goals(size: str, speeds: Speeds) -> None:
    """The goals' table in Markdown: images a second, share of the limit, ratio to the public copy.

    Beside the copy also stands what the limit itself would be: no goal beyond it can be met.
    """
    median = {key: statistics.median(values) for key, values in speeds.items()}
    columns = "images/s (range) | share of limit (goal) | x public copy (goal; limit) | x autocast"
    print(f"\n| {size} | {columns} |\n|---|---|---|---|---|")
    for label, task, who, limit, share_goal, ratio_goal in ROWS:
        own, values = median[task, who], speeds[task, who]
        alone = task.replace("sample", "log_prob")  # the same convolutions
        bounds = [key for key in median if key[0] in (alone, f"{alone}, packed")]
        best = max(median[key] for key in bounds if key[1].startswith(limit))
        share = f"{own / best:.2f}{f' ({share_goal:.2f})' if share_goal else ''}"
        speed = f"{own:.1f} ({min(values):.1f} to {max(values):.1f})"
        copy, low = median[task, "public copy"], median[task, "public copy, autocast"]
        ratio = f"{own / copy:.2f} ({ratio_goal}; {best / copy:.2f})"
        print(f"| {label} | {speed} | {share} | {ratio} | {own / low:.2f} |")
    for who, label in (("as it is", "float32"), ("fast", "fast")):
        ratio = median["log_prob", who] / median["sample", who]
        print(f"| time of sample / log_prob, {label} | {ratio:.2f} (0.9 to 1.1) | | | |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["imagenet32", "cifar10"], help="presets")
    parser.add_argument("--batch", type=int, help="64; 32 for cifar10, or 24 GB are not enough")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    best = {precision: peak_gflops(getattr(torch, precision)) for precision in PRECISIONS}
    print(f"{args.threads} threads; a matrix product reaches", end=" ")
    print(", ".join(f"{value:.0f} GFLOP/s in {precision}" for precision, value in best.items()))
    for size in args.sizes:
        batch = args.batch or (32 if size == "cifar10" else 64)
        speeds = measure(sized(size, batch=batch), rounds=args.rounds, threads=args.threads)
        print_goals(f"{size}, batch {batch}", speeds)


if __name__ == "__main__":
    main()
