"""Images a second against the machine's limit and against others, interleaved: python -m benchmarks.throughput [--help].

Each contestant has a process of its own. Each task is called in turn, round after round; the tables have medians, with the range
over rounds.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.contestants import CONTESTANTS, PRECISIONS, Process, sized
from benchmarks.flops import forward_gmac
from realnvp.config import Config
from realnvp.files.environment import present_sitting
from realnvp.files.records import fields_of

Speeds = dict[tuple[str, str], list[float]]

# Lines of the tables of docs/performance.md: what, task, whose, which limit, goal for its share, goal beside the public copy.
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


def measure(config: Config, names: list[str], *, rounds: int, threads: int) -> tuple[Speeds, dict[str, int]]:
    """Images a second of each (task, contestant) in each round, after one call that is not counted; and peaks of memory."""
    contest = {name: Process(name, config, threads) for name in names}
    speeds: Speeds = {(task, name): [] for name, process in contest.items() for task in process.tasks}
    for number in range(rounds + 1):
        for task, name in speeds:
            seconds = contest[name].seconds(task)
            if number:
                speeds[task, name].append(contest[name].tasks[task] / seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return speeds, {name: process.peak_bytes() for name, process in contest.items()}


def peak_gflops(dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product."""
    a = torch.randn(4096, 4096).to(dtype)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * 4096**3 / best / 1e9


def print_goals(size: str, speeds: Speeds, others: list[str]) -> None:
    """The goals' table in Markdown: images a second, share of the limit, ratio to each other implementation, first the copy.

    Beside the copy also stands what the limit itself would be: no goal beyond it can be met.
    """
    median = {key: statistics.median(values) for key, values in speeds.items()}
    copy, *further = others
    columns = " | ".join([f"x {copy} (goal; limit)", *(f"x {other}" for other in further)])
    print(f"\n| {size} | images/s (range) | share of the limit (goal) | {columns} |\n|---|---|---|" + "---|" * len(others))
    for label, task, who, limit, share_goal, ratio_goal in ROWS:
        own, values, bound = median[task, who], speeds[task, who], task.replace("sample", "log_prob")  # the same convolutions
        best = max(value for (t, w), value in median.items() if t in (bound, f"{bound}, packed") and w.startswith(limit))
        share = f"{own / best:.2f}{f' ({share_goal:.2f})' if share_goal else ''}"
        ratios = [f"{own / median[task, other]:.2f}" for other in others]
        ratios[0] += f" ({ratio_goal}; {best / median[task, copy]:.2f})"
        print(f"| {label} | {own:.1f} ({min(values):.1f} to {max(values):.1f}) | {share} | {' | '.join(ratios)} |")
    for who, label in (("as it is", "float32"), ("fast", "fast")):
        ratio = median["log_prob", who] / median["sample", who]
        print(f"| time of sample / log_prob, {label} | {ratio:.2f} (0.9 to 1.1) | |" + " |" * len(others))


def print_all(speeds: Speeds, peaks: dict[str, int], gflop: float, best: dict[str, float]) -> None:
    """What each contestant makes of the machine, and its peak of memory; gflop: of one image's forward pass."""
    print("\n| task | who | images/s | GFLOP/s | share of a matrix product's | peak GB |\n|---|---|---|---|---|---|")
    for (task, who), values in speeds.items():
        precision = "bfloat16" if "bfloat16" in who or who == "fast" else "float32"
        speed = statistics.median(values)
        achieved = speed * gflop * (3 if task == "train" else 1)  # a gradient takes twice a forward pass
        print(f"| {task} | {who} | {speed:.1f} | {achieved:.0f} | {achieved / best[precision]:.0%} | {peaks[who] / 1e9:.1f} |")


def main() -> None:
    """Measure and print; with --json also write everything that was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["imagenet32", "cifar10"], help="presets")
    parser.add_argument("--against", nargs="*", default=[], metavar="PEER", help="normflows nflows, of benchmarks/peers.txt")
    parser.add_argument(
        "--batch", type=int, help="images of a step and of a call; 64, but 32 for cifar10, or 24 GB are not enough"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for all measurements")
    args = parser.parse_args()
    if unknown := set(args.against) - CONTESTANTS.keys():
        parser.error(f"--against: no peer {', '.join(unknown)}")
    torch.set_num_threads(args.threads)
    best = {precision: peak_gflops(getattr(torch, precision)) for precision in PRECISIONS}
    report: dict[str, object] = {"environment": fields_of(present_sitting()), "threads": args.threads, "peak_gflops": best}
    print(f"{args.threads} threads; a matrix product reaches", end=" ")
    print(", ".join(f"{value:.0f} GFLOP/s in {precision}" for precision, value in best.items()))
    names = [name for name in CONTESTANTS if name not in ("normflows", "nflows") or name in args.against]
    for size in args.sizes:
        batch = args.batch or (32 if size == "cifar10" else 64)
        config = sized(size, batch=batch)
        speeds, peaks = measure(config, names, rounds=args.rounds, threads=args.threads)
        print_goals(f"{size}, batch {batch}", speeds, ["public copy", "public copy, autocast", *args.against])
        print_all(speeds, peaks, 2 * forward_gmac(config), best)
        rows = [{"task": task, "who": who, "images_per_second": values} for (task, who), values in speeds.items()]
        report[size] = {"batch": batch, "speeds": rows, "peak_bytes": peaks}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
