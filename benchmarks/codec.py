"""Size and speed of compressed files: python -m benchmarks.codec [--help].

Sizes of test images of pretrained flows, all bytes of one file, beside the flow's bound and beside
other formats, one file for each image. Speeds are CPU times of one thread: images/s of `log_prob`
in float32, and the fraction of it that compression (with the proof, and without) and decompression
reach.

Whole pictures of a folder, in one file (JPEG XL where imagecodecs is installed):

    python -m benchmarks.codec --flow photos-full --pictures FOLDER [--side 512 --repeat 5]
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realnvp
from realnvp.codec import compress, decompress
from realnvp.data.dataset import channels_first
from realnvp.data.folder import image_files
from realnvp.data.images import codec_bits_per_dim, codec_sizes, read_image
from realnvp.data.prepared import splits_of_run
from realnvp.device import keep_freed_memory
from realnvp.evaluation.likelihood import in_bits_per_dim, log_probs
from realnvp.flows.flow import Flow, config_of

SPEEDS = "log_prob /s | compress | without proof | decompress"
SETS = {"photos-32": [256, 64], "digits-8": [1797]}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and its CPU seconds."""
    began = time.process_time()
    return call(), time.process_time() - began


def images_of(name: str, flow: Flow, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images that the flow's training did not see; of digits all, most of which it did."""
    data = splits_of_run(Path(name), config_of(flow))
    splits = [data.test] if count <= len(data.test) else [data.test, data.validation, data.train]
    found = np.concatenate([split[:] for split in splits])[:count]
    return np.ascontiguousarray(channels_first(found))


def coded(flow: Flow, images: Any, repeat: int) -> tuple[bytes, str]:
    """The file of images, and its speeds."""
    parts = np.array_split(images, math.ceil(len(images) / 64)) if len(images) > 64 else [images]
    batches = parts if isinstance(images, np.ndarray) else [image[None] for image in images]

    def log_prob() -> None:
        with torch.no_grad():
            for batch in batches:
                height, width = (flow.divisor * (side // flow.divisor) for side in batch.shape[2:])
                flow.log_prob(torch.tensor(batch[..., :height, :width]).float() + 0.5)

    log_prob()  # warm
    times = []
    for _ in range(repeat):
        _, plain = timed(log_prob)
        data, coding = timed(lambda: compress(flow, images))
        back, decoding = timed(lambda data=data: decompress(flow, data))
        assert all(np.array_equal(a, b) for a, b in zip(images, back, strict=True))
        times.append((plain, coding, coding - decoding, decoding))
    plain, *others = np.median(times, axis=0)
    fractions = " | ".join(f"{plain / seconds:.2f}" for seconds in others)
    return data, f"{len(images) / plain:.1f} | {fractions}"


def measure(name: str, count: int, repeat: int) -> None:
    """Print a row of the table."""
    flow = realnvp.load_flow(name)
    images = images_of(name, flow, count)
    data, speeds = coded(flow, images, repeat)
    bound = in_bits_per_dim(log_probs(flow, images).sum().item(), images.shape)
    size = 8 * len(data) / images.size
    others = codec_bits_per_dim(images.transpose(0, 2, 3, 1))
    sizes = " | ".join(f"{bits:.3f}" for bits in others.values())
    cells = f"{bound:.4f} | {size:.4f} | {size / bound:.4f} | {sizes} | {speeds}"
    print(f"| {count} of {name} | {cells} |", flush=True)


def pictures(name: str, folder: Path, side: int, repeat: int) -> None:
    """Print the size of the pictures of a folder, in one file, and as files of other formats.

    side: of the middle of each picture; 0: whole.
    """
    flow, images, others = realnvp.load_flow(name), [], dict[str, int]()
    for file in image_files(folder):
        image = read_image(file)
        if side:
            top, left = (max(0, length - side) // 2 for length in image.shape[:2])
            image = np.ascontiguousarray(image[top : top + side, left : left + side])
        for codec, size in codec_sizes(image).items():
            others[codec] = size + others.get(codec, 0)
        images.append(np.ascontiguousarray(channels_first(image[None])[0]))
    data, speeds = coded(flow, images, repeat)
    numbers = sum(image.size for image in images)
    print(f"{name}: {8 * len(data) / numbers:.4f} bits/dim of {numbers:,} numbers")
    print(f"| {SPEEDS} |\n| {speeds} |")
    for codec, size in others.items():
        print(f"{codec}: {8 * size / numbers:.4f}; the flow's file is {len(data) / size - 1:+.1%}")


def main() -> None:
    """Measure and print."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--flow", default="photos-full", help="for --pictures")
    parser.add_argument("--side", type=int, default=0, help="of the middle of each; 0: whole")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="times are medians of N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do; for all alike
    if args.pictures:
        pictures(args.flow, args.pictures, args.side, args.repeat)
        return
    others = " | ".join(codec_bits_per_dim(np.zeros((1, 8, 8, 3), np.uint8)))
    print(f"| images | bound | file | file / bound | {others} | {SPEEDS} |")
    print("|---" * (9 + others.count("|")) + "|")
    for name, counts in SETS.items():
        for count in counts:
            measure(name, count, args.repeat)


if __name__ == "__main__":
    main()
