"""How small and how fast are files of the codec? python -m benchmarks.codec [--help]

Sizes of images of the test split of a shipped flow, all bytes of one file, beside the flow's bound
and beside other formats, one file for each image. Speeds are CPU times of one thread, medians of
--repeat: `log_prob` in float32, and the share of it that compressing (with the decoding that proves
the file, and without) and decompressing reach. With --fuzz N so many damaged files are decoded.

Whole pictures of a folder, in one file (JPEG XL where imagecodecs is installed):

    python -m benchmarks.codec --flow photographs --pictures FOLDER [--side 512 --repeat 5]

With --tiles the flow's bound for the pictures in tiles of each side.

One's own kind of pictures: the right halves of three textures of scikit-image, after ten minutes of
one core on the left halves:

    python -m benchmarks.codec --halves halves
    train() {  # NAME, and more flags
        OMP_NUM_THREADS=1 taskset -c 0 realnvp train images-modern --data.source halves/$1 \\
            --data.crop 32 --data.augment hflip --model.num-scales 3 --model.width 32 \\
            --model.growth 1.5 \\
            --model.dequantization learned --train.batch-size 16 --train.decay 0.6 \\
            --train.eval-every 200 --train.max-minutes 10 --threads 1 --run-dir halves/runs/$*
        python -m benchmarks.codec --flow halves/runs/$1 --pictures halves/$1/test
    }
    train gravel --data.augment rotate90 brightness --train.muon-weight-decay 0.15 --train.decay 0.8
    train grass --data.augment rotate90 --train.muon-weight-decay 0.3
    train brick --data.augment brightness --train.muon-weight-decay 0.3
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
from realnvp.codec.choice import flow_bits
from realnvp.codec.side import SIDES
from realnvp.codec.tiles import tiles_of
from realnvp.config.units import in_bits_per_dim
from realnvp.data import channels_first, codec_bits_per_dim, splits_of_run
from realnvp.data.folder import image_files
from realnvp.data.images import codec_sizes, read_image
from realnvp.device import keep_freed_memory
from realnvp.evaluation.likelihood import log_probs
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import DamagedError

SPEEDS = "log_prob /s | compress | its proof not counted | decompress"
SETS = {"photos-32": [256, 64], "digits-8": [1797]}


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


def coded(flow: Flow, images: Any, repeat: int) -> tuple[bytes, str]:
    """The file of images, and how fast it is written and read: shares of `log_prob`'s speed."""
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
    shares = " | ".join(f"{plain / seconds:.2f}" for seconds in others)
    return data, f"{len(images) / plain:.1f} | {shares}"


def measure(name: str, count: int, repeat: int) -> None:
    """Print a row of the table."""
    flow = realnvp.load_flow(name)
    images = images_of(name, flow, count)
    data, speeds = coded(flow, images, repeat)
    bound = in_bits_per_dim(log_probs(flow, images).sum().item(), images.shape)
    size = 8 * len(data) / images.size
    others = codec_bits_per_dim(images.transpose(0, 2, 3, 1))
    print(
        f"| {count} of {name} | {bound:.4f} | {size:.4f} | {size / bound:.4f} | "
        f"{' | '.join(f'{bits:.3f}' for bits in others.values())} | {speeds} |",
        flush=True,
    )


def pictures(name: str, folder: Path, side: int, repeat: int) -> None:
    """Print what the pictures of a folder take, in one file, and as files of other formats.

    side: of the middle of each picture; 0: whole.
    """
    flow, images, others = realnvp.load_flow(name), [], dict[str, int]()
    for file in image_files(folder):
        image = read_image(file)
        if side:
            top, left = (max(0, length - side) // 2 for length in image.shape[:2])
            image = image[top : top + side, left : left + side]
        sizes = codec_sizes(np.ascontiguousarray(image))
        print(f"{file.name}: {image.shape}, {sizes}", flush=True)
        others = {codec: size + others.get(codec, 0) for codec, size in sizes.items()}
        images.append(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    data, speeds = coded(flow, images, repeat)
    numbers = sum(image.size for image in images)
    print(f"{name}: {8 * len(data) / numbers:.4f} bits/dim of {numbers:,} numbers")
    print(f"| {SPEEDS} |\n| {speeds} |")
    for codec, size in others.items():
        print(f"{codec}: {8 * size / numbers:.4f}; the flow's file is {len(data) / size - 1:+.1%}")


def tile_sides(name: str, folder: Path) -> None:
    """Print the flow's bound for the pictures of a folder in tiles of each side."""
    flow = realnvp.load_flow(name)
    images = [channels_first(read_image(file)[None])[0] for file in image_files(folder)]
    for side in SIDES:
        bits = 0.0
        for image in images:
            places = list(tiles_of(image.shape, config_of(flow).shape[0], flow.divisor, side))
            bits += flow_bits(flow, places, [place.cut(image) for place in places])[0].sum()
        numbers = sum(image.size for image in images)
        print(f"{name}, tiles of {side}: {bits / numbers:.4f} bits/dim", flush=True)


def halves(folder: Path) -> None:
    """Write textures: left halves, to train with but for a strip to validate, and right halves."""
    from PIL import Image
    from skimage import data

    for name in ("gravel", "brick", "grass"):
        picture = getattr(data, name)()
        left, right = np.split(picture, 2, axis=1)
        for part, pixels in {"train": left[:-64], "valid": left[-64:], "test": right}.items():
            path = folder / name / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def fuzz(count: int) -> None:
    """Damage files in many ways; each must be told, or decode to the same images."""
    flow = realnvp.load_flow("digits-8")
    images = images_of("digits-8", flow, 150)
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
    parser.add_argument("--side", type=int, default=0, help="of their middles; 0: all of them")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="times are medians of N")
    parser.add_argument("--tiles", action="store_true", help="bounds of --pictures by tiles' side")
    parser.add_argument("--halves", type=Path, metavar="FOLDER")
    parser.add_argument("--flow", default="photos-32", help="for --pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do; for all alike
    if args.fuzz:
        fuzz(args.fuzz)
    elif args.halves:
        halves(args.halves)
    elif args.tiles:
        tile_sides(args.flow, args.pictures)
    elif args.pictures:
        pictures(args.flow, args.pictures, args.side, args.repeat)
    else:
        others = " | ".join(codec_bits_per_dim(np.zeros((1, 8, 8, 3), np.uint8)))
        print(f"| images | bound | file | file / bound | {others} | {SPEEDS} |")
        print("|---" * (9 + others.count("|")) + "|")
        for name, counts in SETS.items():
            for count in counts:
                measure(name, count, args.repeat)


if __name__ == "__main__":
    main()
