"""Flows, images and archives of the tests of the codec.

`python -m tests.codec_files` writes the archives in tests/data/codec that other machines decode.
"""

import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import realnvp
from realnvp.bijections import data_dependent_init
from realnvp.codec import chunk, compress, decompress
from realnvp.codec.integers import Stack
from realnvp.config.fields import Config, ImageData, ModelConfig
from realnvp.flows.flow import Flow
from realnvp.moments import averaging

FOLDER = Path(__file__).parent / "data" / "codec"
ARCHIVES = sorted(FOLDER.glob("*.rnvp"))
BITS = 13
MODERN = ModelConfig("modern", num_scales=2, width=8, num_couplings=2, num_blocks=1)
MODELS = {
    "paper": ModelConfig(num_scales=2, width=4, num_blocks=1),
    "modern": MODERN,
    "additive": dataclasses.replace(MODERN, coupling="additive"),
    "learned": dataclasses.replace(MODERN, num_scales=1, dequantization="learned"),
}


def stack(digits: int = 20_000) -> Stack:
    """A stack with random digits."""
    now = Stack()
    now.push(np.random.default_rng(1).integers(0, 1 << 16, digits), np.full(digits, 1 << 16))
    return now


def same(a: Stack, b: Stack) -> bool:
    return np.array_equal(a.words(), b.words())


def smooth(*shape: int, levels: int = 256) -> np.ndarray:
    """Images, (N, C, H, W), that a flow can learn something of: random walks."""
    steps = np.random.default_rng(2).normal(0, levels / 60, shape)
    walk = steps.cumsum(-1).cumsum(-2) / 4 + levels / 2
    return walk.clip(0, levels - 1).astype(np.uint8 if levels <= 256 else np.uint16)


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


def images(levels: int) -> np.ndarray:
    """Images that a flow codes, and noise that it does not."""
    smoothed = smooth(15, 3, 16, 16, levels=levels)
    noise = np.random.default_rng(0).integers(0, levels, (1, 3, 16, 16))
    return np.concatenate([smoothed, noise.astype(smoothed.dtype)])


def main() -> None:
    """Write flows and archives."""
    FOLDER.mkdir(exist_ok=True)
    for name, levels in {"modern": 256, "learned": 256, "16-bits": 65536}.items():
        flow = flow_of(MODELS.get(name, MODERN), (3, 16, 16), levels=levels)
        realnvp.save_flow(flow, FOLDER / f"{name}.safetensors")
        # The flow codes its images, though it was not trained.
        with mock.patch.object(chunk, "_webp", return_value=None):
            data = compress(flow, images(levels))
        assert np.array_equal(decompress(flow, data), images(levels))
        (FOLDER / f"{name}.rnvp").write_bytes(data)
        np.save(FOLDER / f"{name}.npy", images(levels))
        print(f"{name}: {len(data)} bytes for {images(levels).nbytes}")


if __name__ == "__main__":
    main()
