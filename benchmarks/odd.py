"""Defects in textures: how well are they found, against other methods? docs/odd.md has the table.

    python -m benchmarks.odd gravel brick grass                     # textures of scikit-image
    python -m benchmarks.odd my-textures/ --defects things/         # your own pictures

Each picture is a texture. The upper three quarters of its left half train the flow, the lower
quarter says what is normal, the right half tests. Other methods are one-sided or two-sided, and
smoothed over 4 or 8 pixels, whichever is better. Each texture and seed leaves its results in
OUT/TEXTURE-SEED.json, and is not measured again; the table is of all that is there.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

import realnvp
from benchmarks.patches import Array, contestants, patches
from realnvp.anomaly import AnomalyDetector
from realnvp.anomaly.detector import SIDE, square_side
from realnvp.anomaly.rows import images_for
from realnvp.anomaly.statistics import CELL
from realnvp.device import keep_freed_memory
from realnvp.flows.flow import Flow, evaluating

CROP, CROPS = 32, 20_000
STEPS = 800  # a flow of so few pixels learns them by heart in more
IMAGE, ONE = 128, 24  # sides of an image, and of its defect, where images are told apart
SPLITS, RATES = 20, (0.01, 0.05)
Mapper = Callable[[Array], Array]
"""An image (H, W) to how odd each pixel is, (H, W)."""
Change = Callable[[Array, np.random.Generator], Array]
"""A square piece of a texture to what is there instead, as real numbers."""


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
    "out of focus": lambda piece, rng: gaussian_filter(piece.astype(float), 2, mode="reflect"),
    "flat": lambda piece, rng: np.full(piece.shape, piece.mean()),
    "brighter": lambda piece, rng: piece + 40.0,
    "dark scratch": scratched,
    "noise": lambda piece, rng: piece + rng.normal(0, 25, piece.shape),
    "inverted": lambda piece, rng: 255.0 - piece,
}
ITSELF = {("brick", "bricks"), ("grass", "grass")}  # no defect


def damaged(
    image: Array, change: Change, side: int, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The image with so many defects at random places apart, and where it has changed."""
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


def trained(texture: Array, folder: Path, minutes: float, seed: int) -> Flow:
    """A flow of random crops of the training part; made once."""
    left = texture[:, : texture.shape[1] // 2]
    below = len(left) * 3 // 4
    rng, data = np.random.default_rng(seed), folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, part, count in (
        ("train", left[:below], CROPS),
        ("validation", left[below:], 400),
        ("test", texture[:, texture.shape[1] // 2 :], 400),
    ):
        corners = rng.integers(0, np.array(part.shape) - CROP + 1, (count, 2))
        np.save(data / f"{name}.npy", [part[r : r + CROP, c : c + CROP] for r, c in corners])
    if not (folder / "run").exists():
        command = [sys.executable, "-m", "realnvp", "train", "images-modern", "--data.source", data]
        command += ["--run-dir", folder / "run", "--model.num-scales", 3, "--model.width", 16]
        command += [
            "--model.num-couplings",
            6,
            "--data.augment",
            "hflip",
            "--seed",
            seed,
            "--device",
            "cpu",
        ]
        command += ["--threads", 1, "--train.max-minutes", minutes, "--train.max-steps", STEPS]
        command += ["--train.eval-every", 100]
        subprocess.run([*map(str, command)], check=True)
    return realnvp.load_flow(folder / "run")


def maps_of(texture: Array, flow: Flow, seed: int) -> dict[str, tuple[Mapper, float]]:
    """Each contestant: an image to a map, and the usual value on normal pixels."""
    left = texture[:, : texture.shape[1] // 2]
    below = len(left) * 3 // 4
    mappers: dict[str, Mapper] = {}
    for name, oddness in contestants(left[:below], seed).items():

        def mapper(image: Array, oddness: Callable[[Array], Array] = oddness) -> Array:
            flat, size = patches(image)
            coarse = gaussian_filter(oddness(flat).reshape(size), 1)
            return zoom(coarse, np.divide(image.shape, size), order=1)

        mappers[name] = mapper

    def bits(image: Array) -> Array:
        noise = np.random.default_rng(seed).random(image.shape)
        with evaluating(flow):
            nats = flow.pixel_log_prob(torch.from_numpy(image + noise).float()[None, None])[0]
        return gaussian_filter(-nats.numpy(), 8)

    mappers["bits/dim"] = bits
    return {
        name: (mapper, float(np.median(mapper(left[below:])))) for name, mapper in mappers.items()
    }


def others(usual: float) -> list[Mapper]:
    """How else a map, smoothed over 4 pixels, can be read: two-sided, smoothed over 8, or both."""

    def two_sided(oddness: Array) -> Array:
        return abs(oddness - usual)

    def wider(oddness: Array) -> Array:
        return gaussian_filter(oddness, (8**2 - 4**2) ** 0.5)

    return [two_sided, wider, lambda oddness: wider(two_sided(oddness))]


def image_score(oddness: Array) -> float:
    """Of an image, by the oddest square of its map, as large as the detector's."""
    side = square_side(oddness.size, SIDE * CELL)
    return float(F.avg_pool2d(torch.from_numpy(oddness)[None].double(), side, stride=1).max())


def tiles(picture: Array, side: int, stride: int) -> Array:
    """(n, side, side): squares of a picture."""
    rows, columns = (range(0, length - side + 1, stride) for length in picture.shape)
    return np.stack([picture[r : r + side, c : c + side] for r in rows for c in columns])


def measured(
    name: str,
    texture: Array,
    flow: Flow,
    defects: Mapping[str, Change],
    sizes: list[int],
    seed: int,
) -> dict[str, Any]:
    """Areas under the ROC curve: {"pixels" or "images": {method: {defect: area}}}."""
    half = texture.shape[1] // 2
    normal, right = texture[len(texture) * 3 // 4 :, :half], texture[:, half:]
    side = min(IMAGE, *normal.shape)
    detector = AnomalyDetector(flow, seed=seed).fit(tiles(normal, side, 4)[:, None])
    scorers = maps_of(texture, flow, seed)
    scorers["detector"] = lambda image: -np.log(detector.maps(image[None, None])[0]), 0.0
    found: dict[str, Any] = {"pixels": {}, "images": {}}
    whole = tiles(right, min(half, len(right)), min(half, len(right)))
    small = tiles(right, IMAGE, 64)
    for method, (mapper, usual) in scorers.items():
        readings: list[Mapper] = [lambda oddness: oddness]
        if method not in ("bits/dim", "detector"):
            readings += others(usual)
        clean = [mapper(image) for image in small]
        areas: list[dict[str, dict[str, float]]] = [{"pixels": {}, "images": {}} for _ in readings]
        for defect, change in defects.items():
            if (name, defect) in ITSELF:
                continue
            cases = []
            for size in sizes:
                rng = np.random.default_rng([seed, size])
                cases += [damaged(image, change, size, 4, rng) for image in whole]
            rng = np.random.default_rng([seed, 1])
            maps = [mapper(image) for image, _ in cases]
            hurt = [damaged(image, change, ONE, 1, rng)[0] for image in small]
            odd = [mapper(image) for image in hurt]
            truth = [0] * len(clean) + [1] * len(odd)
            for read, area in zip(readings, areas, strict=True):
                area["pixels"][defect] = float(
                    np.mean(
                        [
                            roc_auc_score(where.ravel(), read(oddness).ravel())
                            for oddness, (_, where) in zip(maps, cases, strict=True)
                        ]
                    )
                )
                scores = [image_score(read(oddness)) for oddness in [*clean, *odd]]
                if method == "detector":  # it has a score of its own
                    scores = (-detector.score_samples(np.stack([*small, *hurt])[:, None])).tolist()
                area["images"][defect] = float(roc_auc_score(truth, scores))
        best = max(areas, key=lambda area: np.mean([*area["pixels"].values()]))
        for what, by_defect in best.items():
            found[what][method] = by_defect
        print(
            f"{name}, seed {seed}, {method}: {np.mean([*best['pixels'].values()]):.3f}", flush=True
        )
    return found


def fpr(texture: Array, flow: Flow) -> dict[str, list[float]]:
    """{rate: [share of new normal images called odd, the 99 % interval of a binomial]}."""
    pool = tiles(texture[:, texture.shape[1] // 2 :], CROP, 16)[:, None]
    alarms, new = dict.fromkeys(RATES, 0), 0
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(pool))
        # The interval is of a known threshold; the more images calibrate, the truer that is.
        normal, others = np.split(order, [images_for(1 / 300)])
        chances = AnomalyDetector(flow, seed=split).fit(pool[normal]).p_values(pool[others])
        new += len(others)
        for rate in RATES:
            alarms[rate] += int((chances <= rate).sum())
    return {
        str(rate): [alarms[rate] / new, *(binom.ppf([0.005, 0.995], new, rate) / new)]
        for rate in RATES
    }


def time_ratio(flow: Flow) -> float:
    """Seconds of the detector's findings on 512x512 pixels over seconds of `log_prob`: a median."""
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 512, 512), dtype=np.uint8)
    detector = AnomalyDetector(flow).fit(image[:, :, :64, :64].repeat(2, 0))
    x = torch.from_numpy(image).double() + 0.5
    ratios = []
    for _ in range(20):
        start = time.process_time()
        with evaluating(flow):
            flow.log_prob(x)
        middle = time.process_time()
        [*detector.findings(image)]
        ratios.append((time.process_time() - middle) / (middle - start))
    return float(np.median(ratios))


def pictures(names: list[str]) -> Iterator[tuple[str, Array]]:
    """Pictures by their names, in grey: of files, of the files in folders, of scikit-image."""
    for name in names:
        path = Path(name)
        if not path.exists():
            yield name, np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("L"))
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            yield file.stem, np.asarray(Image.open(file).convert("L"))


def table(folder: Path) -> str:
    """All results of a folder, in Markdown: means over textures, seeds and sizes."""
    results = [(p.stem, json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))]
    lines = []
    for what in ("pixels", "images"):
        first = results[0][1][what]
        defects = [*dict.fromkeys(d for _, r in results for d in r[what]["detector"])]
        textures = [*dict.fromkeys(stem.rpartition("-")[0] for stem, _ in results)]
        lines += [
            f"\nArea under the ROC curve over {what}\n",
            "| | " + " | ".join([*defects, *(f"in {name}" for name in textures), "mean"]) + " |",
        ]
        lines.append("|---" * (len(defects) + len(textures) + 2) + "|")
        for method in first:
            by_defect = [
                np.mean([r[what][method][d] for _, r in results if d in r[what][method]])
                for d in defects
            ]
            by_texture = [
                np.mean(
                    [
                        v
                        for stem, r in results
                        if stem.rpartition("-")[0] == t
                        for v in r[what][method].values()
                    ]
                )
                for t in textures
            ]
            cells = [
                f"{value:.3f}".lstrip("0")
                for value in [*by_defect, *by_texture, np.mean(by_texture)]
            ]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    for stem, result in results:
        for rate, (share, low, high) in result.get("false alarms", {}).items():
            lines.append(f"\n{stem}: false alarms at {rate}: {share:.4f} ({low:.4f} to {high:.4f})")
        if "time" in result:
            lines.append(f"\n{stem}: findings / log_prob, seconds: {result['time']:.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("textures", nargs="*", default=["gravel", "brick", "grass"])
    parser.add_argument(
        "--defects", nargs="*", default=[], help="pictures to paste pieces of, beside the eight"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/odd"))
    parser.add_argument(
        "--minutes", type=float, default=5, help="of training at most, each texture and seed"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[16, 24, 40], help="sides of the defects"
    )
    parser.add_argument("--only-train", action="store_true", help="measure nothing yet")
    context = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the commands do: otherwise clearing it is half of a pass's time
    defects = {**DEFECTS, **{name: pasted(picture) for name, picture in pictures(context.defects)}}
    for seed in context.seeds:
        for name, texture in pictures(context.textures):
            path = context.out / f"{name}-{seed}.json"
            if path.exists():
                continue
            flow = trained(texture, context.out / "runs" / f"{name}-{seed}", context.minutes, seed)
            if context.only_train:
                continue
            result = measured(name, texture, flow, defects, context.sizes, seed)
            if seed == context.seeds[0]:
                result |= {"false alarms": fpr(texture, flow), "time": time_ratio(flow)}
            path.write_text(json.dumps(result, indent=2))
    if [*context.out.glob("*.json")]:
        print(table(context.out))


if __name__ == "__main__":
    main()
