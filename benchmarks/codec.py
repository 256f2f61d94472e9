"""How small and how fast are files of the codec? python -m benchmarks.codec [--help]

Sizes of images of the test split of a shipped flow, all bytes of one file, beside the flow's bound
and beside other formats, one file for each image. Times are CPU times of one thread; compressing
has the decoding in it that proves the file. With --fuzz N so many damaged files are decoded.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realnvp
from realnvp.codec import compress, decompress
from realnvp.config.units import in_bits_per_dim
from realnvp.data import channels_first, codec_bits_per_dim, splits_of_run
from realnvp.data.folder import image_files
from realnvp.data.images import read_image
from realnvp.evaluation.likelihood import log_probs
from realnvp.files.records import DamagedError
from realnvp.flows.flow import Flow, config_of

SETS = {"photos-small": [256, 64], "digits-small": [1797]}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its CPU seconds."""
    began = time.process_time()
    return call(), time.process_time() - began


def images_of(name: str, flow: Flow, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """So many images that the flow's training did not see; of digits all, most of which it did."""
    data = splits_of_run(Path(name), config_of(flow))
    splits = [data.test] if count <= len(data.test) else [data.test, data.validation, data.train]
    found = np.concatenate([split[:] for split in splits])[:count]
    return np.ascontiguousarray(channels_first(found))


def measure(name: str, count: int) -> None:
    """Print a row of the table."""
    flow = realnvp.load_flow(name)
    images = images_of(name, flow, count)
    nats = log_probs(flow, images)
    with torch.no_grad():
        x = torch.from_numpy(images).float() + 0.5
        _, plain = timed(lambda: [flow.log_prob(part) for part in x.split(64)])
    data, coding = timed(lambda: compress(flow, images))
    back, decoding = timed(lambda: decompress(flow, data))
    assert np.array_equal(back, images)
    bound = in_bits_per_dim(nats.sum().item(), images.shape)
    size = 8 * len(data) / images.size
    others = codec_bits_per_dim(images.transpose(0, 2, 3, 1))
    print(
        f"| {count} of {name} | {bound:.4f} | {size:.4f} | {size / bound:.4f} | "
        f"{' | '.join(f'{bits:.3f}' for bits in others.values())} | "
        f"{count / plain:.0f} | {count / coding:.0f} | {count / decoding:.0f} |",
        flush=True,
    )


def pictures(name: str, folder: Path, side: int) -> None:
    """Print what whole pictures take, their middles of this side, and each format, all bytes."""
    flow, total = realnvp.load_flow(name), {"flow": 0.0, "numbers": 0.0}
    for file in image_files(folder):
        image = read_image(file)
        top, left = (max(0, length - side) // 2 for length in image.shape[:2])
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
        data, seconds = timed(partial(compress, flow, np.moveaxis(image, -1, 0)[None]))
        total["flow"] += 8 * len(data)
        total["numbers"] += image.size
        others = codec_bits_per_dim(image[None])
        for codec, bits in others.items():
            total[codec] = total.get(codec, 0.0) + bits * image.size
        print(
            f"{file.name}: {8 * len(data) / image.size:.4f} in {seconds:.1f} s, {others}",
            flush=True,
        )
    numbers = total.pop("numbers")
    print({name: round(bits / numbers, 4) for name, bits in total.items()})


def fuzz(count: int) -> None:
    """Damage files in many ways; each must be told, or decode to the same images."""
    flow = realnvp.load_flow("digits-small")
    images = images_of("digits-small", flow, 150)
    data, random, told = compress(flow, images), np.random.default_rng(0), 0
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            at = int(random.integers(len(damaged)))
            match random.integers(4):
                case 0:
                    damaged[at] ^= 1 << int(random.integers(8))
                case 1:
                    damaged[at : at + 16] = random.bytes(16)
                case 2:
                    del damaged[at : at + int(random.integers(1, 40))]
                case _:
                    damaged[at:at] = random.bytes(int(random.integers(1, 40)))
        try:
            back = decompress(flow, bytes(damaged))
        except (ValueError, DamagedError):
            told += 1
        else:
            assert np.array_equal(back, images)
    print(f"{told} of {count} damaged files told, {count - told} decoded to the same images")


def main() -> None:
    """Measure and print."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--fuzz", type=int, default=0, metavar="N")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--side", type=int, default=512, help="of the middle of each picture")
    parser.add_argument("--flow", default="photos-small", help="for --pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.fuzz:
        fuzz(args.fuzz)
    elif args.pictures:
        pictures(args.flow, args.pictures, args.side)
    else:
        others = " | ".join(codec_bits_per_dim(np.zeros((1, 8, 8, 3), np.uint8)))
        print(f"| images | bound | file | file / bound | {others} | log_prob /s", end="")
        print(" | compress /s | decompress /s |")
        print("|---" * (8 + others.count("|")) + "|")
        for name, counts in SETS.items():
            for count in counts:
                measure(name, count)


if __name__ == "__main__":
    main()
