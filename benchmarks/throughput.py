"""Images a second against the machine's limit and against others, interleaved: python -m benchmarks.throughput [--help].

Each case is called in turn, round after round; the table has medians, with the range over rounds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.contestants import Case, cases, sized
from benchmarks.flops import forward_gmac
from realnvp.environment import environment

# Lines of the tables of docs/performance.md: what, whose, against which limit, and the goals.
ROWS = [
    ("training, float32", "train", "realnvp float32", "limit float32", 0.75, 1.3),
    ("training, bf16 networks", "train", "realnvp bfloat16", "limit bfloat16", 0.65, 2.3),
    ("log_prob, float32", "log_prob", "realnvp float32", "limit float32", 0.80, 1.3),
    ("sample, float32", "sample", "realnvp float32", "limit float32", 0.80, 1.3),
    ("log_prob, fast", "log_prob", "realnvp fast", "limit bfloat16", 0.70, 2.5),
    ("sample, fast", "sample", "realnvp fast", "limit bfloat16", 0.70, 2.5),
    ("log_prob, batch 1, fast", "log_prob, batch 1", "realnvp fast", None, None, 3.0),
    ("sample, batch 1, fast", "sample, batch 1", "realnvp fast", None, None, 3.0),
]


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(contest: list[Case], *, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Images a second of each case in each round, after one call that is not counted."""
    speeds: dict[tuple[str, str], list[float]] = {(case.task, case.who): [] for case in contest}
    for number in range(rounds + 1):
        for case in contest:
            seconds = timed(case.run)
            if number:
                speeds[case.task, case.who].append(case.images / seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return speeds


def peak_gflops(dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product: what this machine can do at best."""
    a = torch.randn(4096, 4096).to(dtype)
    torch.mm(a, a)
    return 2 * 4096**3 / min(timed(lambda: torch.mm(a, a)) for _ in range(5)) / 1e9


def print_table(size: str, speeds: dict[tuple[str, str], list[float]], others: list[str]) -> None:
    """The goals' table in Markdown: images a second, share of the limit, ratio to each other implementation."""
    median = {key: statistics.median(values) for key, values in speeds.items()}
    print(f"\n| {size} | images/s (range) | share of the limit (goal) | {' | '.join(f'x {other}' for other in others)} (goal) |")
    print("|---|---|---|" + "---|" * len(others))
    for label, task, who, limit, share_goal, ratio_goal in ROWS:
        own, values = median[task, who], speeds[task, who]
        share = ""
        if limit:
            of = "log_prob" if task == "sample" else task
            best = max(value for (t, w), value in median.items() if t == of and w.startswith(limit))
            share = f"{own / best:.2f} ({share_goal:.2f})"
        ratios = " | ".join(f"{own / median[task, other]:.2f}" for other in others)
        print(f"| {label} | {own:.1f} ({min(values):.1f} to {max(values):.1f}) | {share} | {ratios} ({ratio_goal}) |")
    for who in ("realnvp float32", "realnvp fast"):
        ratio = median["log_prob", who] / median["sample", who]
        print(f"| time of sample / log_prob, {who.split()[1]} | {ratio:.2f} (0.9 to 1.1) | |" + " |" * len(others))


def print_share_of_peak(speeds: dict[tuple[str, str], list[float]], gflop: float, peak: dict[str, float]) -> None:
    """What each case makes of the machine; gflop: of one image's forward pass."""
    print("\n| task | who | images/s | GFLOP/s | share of a matrix product's |\n|---|---|---|---|---|")
    for (task, who), values in speeds.items():
        precision = "bfloat16" if "bfloat16" in who or "fast" in who else "float32"
        speed = statistics.median(values)
        achieved = speed * gflop * (3 if task == "train" else 1)  # a gradient takes twice a forward pass
        print(f"| {task} | {who} | {speed:.1f} | {achieved:.0f} | {achieved / peak[precision]:.0%} |")


def main() -> None:
    """Measure and print; with --json also write everything that was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["imagenet32", "cifar10"], help="presets")
    parser.add_argument(
        "--against", nargs="*", default=[], metavar="PEER", help="normflows, nflows: pip install -r benchmarks/peers.txt"
    )
    parser.add_argument("--batch", type=int, default=64, help="images of a step and of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for all measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peers = {}
    if args.against:
        from benchmarks.peers import PEERS

        peers = {name: PEERS[name] for name in args.against}
    peak = {precision: peak_gflops(getattr(torch, precision)) for precision in ("float32", "bfloat16")}
    report: dict[str, object] = {"environment": environment(), "threads": args.threads, "batch": args.batch, "peak_gflops": peak}
    print(
        f"{args.threads} threads, batch {args.batch}; matrix products reach "
        + ", ".join(f"{v:.0f} GFLOP/s in {k}" for k, v in peak.items())
    )
    for size in args.sizes:
        config = sized(size, batch=args.batch)
        with cases(config, batch=args.batch, peers=peers) as contest:
            speeds = measure(contest, rounds=args.rounds)
        print_table(size, speeds, ["public copy", *peers])
        print_share_of_peak(speeds, 2 * forward_gmac(config), peak)
        report[size] = [{"task": task, "who": who, "images_per_second": values} for (task, who), values in speeds.items()]
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
