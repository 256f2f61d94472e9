"""Defects in textures: AUROC of the anomaly detector and of other methods (docs/anomaly.md).

    python -m benchmarks.anomaly gravel brick grass     # textures of scikit-image, or files

The upper three quarters of a texture's left half train the flow, the lower quarter is normal, the
right half tests. Baselines are one-sided or two-sided, and smoothed over 4 or 8 pixels, whichever
is best. Each texture and seed leaves its results in OUT/TEXTURE-SEED.json and is not measured
again; the tables are of all results.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import skimage.data
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch.nn import functional as F

import realnvp
from realnvp.anomaly import AnomalyDetector
from realnvp.anomaly.detector import square_side
from realnvp.anomaly.statistics import PATCH
from realnvp.device import keep_freed_memory
from realnvp.flows.flow import Flow, evaluating

Array = NDArray[Any]
CROP, CROPS = 32, 20_000
STEPS = 800  # more steps overfit a texture
IMAGE, DEFECT = 128, 24  # sides of an image and of its defect in the image task
SPLITS, RATES, CALIBRATE = 20, (0.01, 0.05), 400
Mapper = Callable[[Array], Array]
"""An image (H, W) to its anomaly map (H, W); larger is more anomalous."""
Change = Callable[[Array, np.random.Generator], Array]
"""A square of a texture to its defect, as real numbers."""


def pasted(picture: Array) -> Change:
    """A random piece of another picture."""

    def change(piece: Array, rng: np.random.Generator) -> Array:
        side = len(piece)
        row, column = rng.integers(0, np.array(picture.shape) - side + 1)
        return picture[row : row + side, column : column + side].astype(float)

    return change


def scratched(piece: Array, rng: np.random.Generator) -> Array:
    """A nearly black line across, three pixels wide."""
    row, column = np.indices(piece.shape) - (len(piece) - 1) / 2
    angle = rng.uniform(0, np.pi)
    return np.where(abs(row * np.cos(angle) - column * np.sin(angle)) < 1.5, 16.0, piece)


DEFECTS: Mapping[str, Change] = {
    "bricks": pasted(skimage.data.brick()),
    "grass": pasted(skimage.data.grass()),
    "blurred": lambda piece, rng: gaussian_filter(piece.astype(float), 2, mode="reflect"),
    "flat": lambda piece, rng: np.full(piece.shape, piece.mean()),
    "brighter": lambda piece, rng: piece + 40.0,
    "scratch": scratched,
    "noise": lambda piece, rng: piece + rng.normal(0, 25, piece.shape),
    "inverted": lambda piece, rng: 255.0 - piece,
}
NO_DEFECT = {("brick", "bricks"), ("grass", "grass")}


@dataclass(frozen=True)
class Texture:
    """A texture, (H, W), and its three parts."""

    name: str
    pixels: Array

    @property
    def train(self) -> Array:
        return self.pixels[: len(self.pixels) * 3 // 4, : self.pixels.shape[1] // 2]

    @property
    def normal(self) -> Array:
        return self.pixels[len(self.pixels) * 3 // 4 :, : self.pixels.shape[1] // 2]

    @property
    def test(self) -> Array:
        return self.pixels[:, self.pixels.shape[1] // 2 :]


def textures(names: list[str]) -> Iterator[Texture]:
    """Textures of scikit-image by their names, or files."""
    for name in names:
        pixels = Image.open(name) if Path(name).exists() else getattr(skimage.data, name)()
        gray = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        yield Texture(Path(name).stem, np.asarray(gray.convert("L")))


def damaged(
    image: Array, change: Change, side: int, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The image with defects at random places, 8 pixels apart, and a mask of the changes."""
    new, taken = image.copy(), np.zeros(image.shape, bool)
    while count:
        row, column = rng.integers(0, np.array(image.shape) - side + 1)
        around = np.s_[max(0, row - 8) : row + side + 8, max(0, column - 8) : column + side + 8]
        if not taken[around].any():
            part = np.s_[row : row + side, column : column + side]
            new[part] = change(image[part], rng).round().clip(0, 255).astype(np.uint8)
            taken[part] = True
            count -= 1
    return new, new != image if change is scratched else taken


def train(texture: Texture, folder: Path, seed: int, steps: int) -> Flow:
    """A flow of random crops of the training part."""
    rng, data = np.random.default_rng(seed), folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    parts = {"train": texture.train, "validation": texture.normal, "test": texture.test}
    for name, part in parts.items():
        count = CROPS if name == "train" else 400
        corners = rng.integers(0, np.array(part.shape) - CROP + 1, (count, 2))
        np.save(data / f"{name}.npy", [part[r : r + CROP, c : c + CROP] for r, c in corners])
    if not any(folder.glob("run/model/best.safetensors")):
        flags = f"""--model.num-scales 3 --model.width 16 --model.num-couplings 6
            --data.augment hflip --seed {seed} --device cpu --threads 1
            --train.max-steps {steps} --train.eval-every 100"""
        command = [sys.executable, "-m", "realnvp", "train", "images-modern"]
        places = ["--data.source", str(data), "--run-dir", str(folder / "run")]
        subprocess.run([*command, *places, *flags.split()], check=True)
    return realnvp.load_flow(folder / "run")


def patches(image: Array) -> Array:
    """(H / 4, W / 4, 64): the 8x8 pixels around every fourth pixel."""
    padded = np.pad(image.astype(np.float32), 4, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8))[2::4, 2::4]
    return windows[: image.shape[0] // 4, : image.shape[1] // 4].reshape(
        image.shape[0] // 4, image.shape[1] // 4, 64
    )


def mappers(texture: Texture, flow: Flow, seed: int) -> dict[str, list[Mapper]]:
    """The variants of each method to compare the detector with."""

    def bits(image: Array) -> Array:
        noise = np.random.default_rng(seed).random(image.shape)
        with evaluating(flow):
            nats = flow.pixel_log_prob(torch.from_numpy(image + noise).float()[None, None])[0]
        return gaussian_filter(-nats.numpy(), 8)

    known = patches(texture.train).reshape(-1, 64)
    chosen = np.random.default_rng(seed).choice(len(known), 4000, replace=False)
    nearest = NearestNeighbors(n_neighbors=1).fit(known[chosen])
    factor = LocalOutlierFactor(novelty=True).fit(known[chosen])
    scorers = {
        "nearest patch": lambda x: nearest.kneighbors(x)[0][:, 0],
        "LocalOutlierFactor": lambda x: -factor.score_samples(x),
    }
    found: dict[str, list[Mapper]] = {"log-density alone": [bits]}
    for name, score in scorers.items():
        cache: dict[bytes, Array] = {}

        def mapper(image: Array, score: Mapper = score, cache: Any = cache) -> Array:
            key = image.tobytes()
            if key not in cache:
                x = patches(image)
                coarse = score(x.reshape(-1, 64)).reshape(x.shape[:2])
                cache[key] = zoom(gaussian_filter(coarse, 1), 4, order=1)
            return cache[key]

        found[name] = variants(mapper, float(np.median(mapper(texture.normal))))
    return found


def variants(mapper: Mapper, median: float) -> list[Mapper]:
    """One-sided or two-sided around the median of normal pixels, smoothed over 4 or 8 pixels."""

    def two_sided(image: Array) -> Array:
        return abs(mapper(image) - median)

    def wider(one: Mapper) -> Mapper:
        return lambda image: gaussian_filter(one(image), (8**2 - 4**2) ** 0.5)

    return [mapper, two_sided, wider(mapper), wider(two_sided)]


def image_score(found: Array) -> float:
    """The score of a map: its most anomalous square, as large as the detector's."""
    side = square_side(found.shape, unit=PATCH)
    return float(F.avg_pool2d(torch.from_numpy(found)[None].double(), side, stride=1).max())


def tiles(picture: Array, side: int, stride: int) -> Array:
    """(n, side, side): squares of a picture."""
    rows, columns = (range(0, length - side + 1, stride) for length in picture.shape)
    return np.stack([picture[r : r + side, c : c + side] for r in rows for c in columns])


def areas(
    texture: Texture,
    mapper: Mapper,
    scorer: Callable[[Array], float] | None,
    sizes: list[int],
    seed: int,
) -> list[dict[str, Any]]:
    """AUROC over the pixels of large pictures and over images, for each defect.

    scorer: of images; None: by the most anomalous square of their maps.
    """
    score = scorer or (lambda image: image_score(mapper(image)))
    side = min(texture.test.shape)
    whole, small = tiles(texture.test, side, side), tiles(texture.test, IMAGE, 64)
    clean = [score(image) for image in small]
    found = []
    for defect, change in DEFECTS.items():
        if (texture.name, defect) in NO_DEFECT:
            continue
        pixels = []
        for size in sizes:
            rng = np.random.default_rng([seed, size])
            for image, mask in (damaged(image, change, size, 4, rng) for image in whole):
                pixels.append(roc_auc_score(mask.ravel(), mapper(image).ravel()))
        rng = np.random.default_rng([seed, 1])
        scores = [score(damaged(image, change, DEFECT, 1, rng)[0]) for image in small]
        labels = [0] * len(clean) + [1] * len(scores)
        found.append({"task": "pixels", "defect": defect, "auroc": float(np.mean(pixels))})
        images = float(roc_auc_score(labels, [*clean, *scores]))
        found.append({"task": "images", "defect": defect, "auroc": images})
    return found


def measure(texture: Texture, flow: Flow, sizes: list[int], seed: int) -> list[dict[str, Any]]:
    """Records of texture, seed, method, task, defect, AUROC."""
    side = min(IMAGE, *texture.normal.shape)
    detector = AnomalyDetector(flow, seed=seed).fit(tiles(texture.normal, side, 4)[:, None])
    best = {
        "detector": areas(
            texture,
            lambda image: -np.log(detector.maps(image[None, None])[0]),
            lambda image: -detector.score_samples(image[None, None])[0],
            sizes,
            seed,
        )
    }
    for method, candidates in mappers(texture, flow, seed).items():
        found = (
            areas(
                texture,
                mapper,
                lambda image, mapper=mapper: image_score(mapper(image)),
                sizes,
                seed,
            )
            for mapper in candidates
        )
        best[method] = max(found, key=_mean_over_pixels)
    for method, records in best.items():
        print(
            f"{texture.name}, seed {seed}, {method}: {_mean_over_pixels(records):.3f}", flush=True
        )
    about = {"texture": texture.name, "seed": seed}
    return [about | {"method": name} | record for name, found in best.items() for record in found]


def _mean_over_pixels(records: list[dict[str, Any]]) -> float:
    return float(np.mean([r["auroc"] for r in records if r["task"] == "pixels"]))


def false_positives(texture: Texture, flow: Flow) -> str:
    """Rates over splits of the test half, with the binomial 99 % interval."""
    pool = tiles(texture.test, CROP, 16)[:, None]
    counts, new = dict.fromkeys(RATES, 0), 0
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(pool))
        normal, others = pool[order[:CALIBRATE]], pool[order[CALIBRATE:]]
        p_values = AnomalyDetector(flow, seed=split).fit(normal).p_values(others)
        new += len(others)
        for rate in RATES:
            counts[rate] += int((p_values <= rate).sum())
    found = []
    for rate, count in counts.items():
        low, high = binom.ppf([0.005, 0.995], new, rate) / new
        found.append(f"{count / new:.4f} at {rate} ({low:.4f} to {high:.4f})")
    return f"{texture.name}, false positives: {', '.join(found)}"


def time_ratio(flow: Flow) -> float:
    """Seconds of results for 512x512 pixels over seconds of `log_prob`: a median."""
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 512, 512), dtype=np.uint8)
    detector = AnomalyDetector(flow).fit(image[:, :, :64, :64].repeat(2, 0))
    x = torch.from_numpy(image).double() + 0.5
    ratios = []
    for _ in range(20):
        start = time.process_time()
        with evaluating(flow):
            flow.log_prob(x)
        middle = time.process_time()
        [*detector.results(image)]
        ratios.append((time.process_time() - middle) / (middle - start))
    return float(np.median(ratios))


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("gravel", "brick", "grass"),
    out: Path = Path("runs/anomaly"),
    seeds: tuple[int, ...] = (0, 1, 2),
    sizes: tuple[int, ...] = (16, 24, 40),
    steps: int = STEPS,
) -> None:
    """Measure missing results, then print tables of all.

    names: textures of scikit-image, or image files.
    sizes: sides of the defects over pixels.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    for seed in seeds:
        for texture in textures([*names]):
            path = out / f"{texture.name}-{seed}.json"
            if not path.exists():
                flow = train(texture, out / "runs" / path.stem, seed, steps)
                path.write_text(json.dumps(measure(texture, flow, [*sizes], seed)))
                if seed == seeds[0]:
                    print(false_positives(texture, flow), flush=True)
                    print(f"results / log_prob, seconds: {time_ratio(flow):.2f}", flush=True)
    records = [r for path in sorted(out.glob("*.json")) for r in json.loads(path.read_text())]
    table = pd.DataFrame(records)
    by_texture = table.groupby(["task", "method", "texture"]).auroc.mean().unstack()
    by_texture["mean"] = by_texture.mean(axis=1)
    by_defect = table.groupby(["task", "method", "defect"]).auroc.mean().unstack()
    print(by_defect.join(by_texture.add_suffix(" texture")).round(3).to_string())


if __name__ == "__main__":
    tyro.cli(main)
