"""Multiplications of the presets, and hours of a training: python -m benchmarks.flops [TFLOP/s].

The hours are arithmetic, not a measurement: steps x batch x 3 forward passes, at a rate that a GPU
would have to sustain.
"""

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.flows.build import build


def forward_gmac(config: Config) -> float:
    """Multiply-adds of one image's log_prob, 10^9; counted on tensors without storage."""
    assert config.data.shape is not None
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        build(config).eval().log_prob(torch.empty(1, *config.data.shape))
    return counter.get_total_flops() / 2e9


def main() -> None:
    """Print the table."""
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 15.0
    hours_at = f"hours at {rate:g} TFLOP/s (estimate)"
    print(f"| preset | forward GMAC an image | steps x batch | {hours_at} |\n|---|---|---|---|")
    for name, config in PRESETS.items():
        if config.data.shape is None:
            continue
        gmac, train = forward_gmac(config), config.train
        hours = train.max_steps * train.batch_size * 3 * 2 * gmac / (rate * 1e3) / 3600
        print(f"| {name} | {gmac:.3f} | {train.max_steps:,} x {train.batch_size} | {hours:.1f} |")


if __name__ == "__main__":
    main()
