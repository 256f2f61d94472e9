"""Every kind of bad input: exit 2 (1 for a damaged run), one line that names the file or field, and nothing written.

In Python the same is a ValueError. What archives and published data sets can have wrong is in test_prepare.py.
"""

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import color, pictures, png
from PIL import Image
from told import Out, listing, refused

import realnvp
from realnvp import Config, Flow
from realnvp.cli.main import run
from realnvp.config import PRESETS, ImageData, ModelConfig, from_json, to_json
from realnvp.data import read_image
from realnvp.data.images import deep_png
from realnvp.evaluation.likelihood import log_probs

Argv = list[str | Path]


def training(folder: Path, *more: str | Path) -> Argv:
    return [
        "train",
        "images",
        "--data.source",
        folder,
        "--run-dir",
        folder.parent / "x",
        "--device",
        "cpu",
        *more,
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["score", "none", "x.png", "--out"],
        ["export", "none", "--out"],
        ["sample", "none", "--out"],
    ],
)
def test_a_refused_command_leaves_no_folder(
    capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "none" in refused(capsys, *command, tmp_path / "new" / "file.onnx", unchanged=[tmp_path])


# Image files


def cut(path: Path, kind: str) -> None:
    color(64, 64).save(path, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])


def glass() -> Image.Image:
    image = color()
    image.putalpha(128)
    return image


IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated JPEG": ("x.jpg", lambda path: cut(path, "JPEG"), "truncated"),
    "truncated PNG": ("x.png", lambda path: cut(path, "PNG"), ""),
    "truncated GIF": ("x.gif", lambda path: cut(path, "GIF"), ""),
    "truncated BMP": ("x.bmp", lambda path: cut(path, "BMP"), "truncated"),
    "truncated TIFF": ("x.tif", lambda path: cut(path, "TIFF"), ""),
    "truncated WebP": ("x.webp", lambda path: cut(path, "WEBP"), ""),
    "no image": ("x.png", lambda path: path.write_text("hello"), "not an image"),
    "empty file": ("x.png", lambda path: path.touch(), "not an image"),
    "broken link": ("x.png", lambda path: path.symlink_to(path.with_name("none")), "no such file"),
    "link to itself": ("x.png", lambda path: path.symlink_to(path), "no such file"),
    "named pipe": (
        "x.png",
        lambda path: os.mkfifo(path),
        "a pipe or a device; save it as a file first",
    ),
    "16-bit grey": (
        "x.png",
        lambda path: Image.fromarray(np.full((8, 8), 999, np.uint16)).save(path),
        "8 bits",
    ),
    "16-bit colour": ("x.png", lambda path: png(path, 8, 16), "8 bits"),
    "16-bit PPM": (
        "x.ppm",
        lambda path: path.write_bytes(b"P6 8 8 65535\n" + bytes(range(192)) * 2),
        "8 bits",
    ),
    "float": (
        "x.tif",
        lambda path: Image.fromarray(np.ones((8, 8), np.float32)).save(path),
        "mode F",
    ),
    "NaN": (
        "x.tif",
        lambda path: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path),
        "mode F",
    ),
    "CMYK": ("x.jpg", lambda path: color().convert("CMYK").save(path), "mode CMYK"),
    "transparent": ("x.png", lambda path: glass().save(path), "transparent"),
    "transparent grey": ("x.png", lambda path: glass().convert("LA").save(path), "transparent"),
    "transparent palette": (
        "x.png",
        lambda path: color().convert("P").save(path, transparency=bytes(256)),
        "transparent",
    ),
    "animated": (
        "x.gif",
        lambda path: color().save(path, save_all=True, append_images=[color()]),
        "2 frames",
    ),
    "large image": ("x.png", lambda path: png(path, 10_000, 8), ""),
    "decompression bomb": ("x.png", lambda path: png(path, 20_000, 8), "exceeds limit"),
    "decompression bomb of 16 bits": (
        "x.png",
        lambda path: png(path, 20_000, 16),
        "exceeds limit",
    ),
    "truncated PNG of 16 bits": (
        "x.png",
        lambda path: path.write_bytes(deep_png(np.ones((8, 8, 3), np.uint16))[:60]),
        "",
    ),
    "another size": ("x.png", lambda path: color(8, 9).save(path), "8 high, 9 wide"),
    "another channel count": ("x.png", lambda path: color().convert("L").save(path), "1 channel,"),
}


@pytest.mark.filterwarnings("ignore:.*decompression bomb")
@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_is_named(capsys: Out, run_dir: Path, tmp_path: Path, kind: str) -> None:
    source, (name, make, reason) = pictures(tmp_path / "in", 3), IMAGES[kind]
    make(source / name)
    line = refused(capsys, *training(source), unchanged=[tmp_path])
    assert line.startswith(f"realnvp: error: {source / name}: ")
    assert reason in line
    assert line.count(str(source)) == 1
    if kind != "another channel count":  # the run's are grey
        assert f"{source / name}: " in refused(
            capsys, "score", run_dir, source / name, unchanged=[tmp_path, run_dir]
        )


@pytest.mark.filterwarnings("ignore:.*decompression bomb")
def test_a_large_image_is_refused_by_its_header(tmp_path: Path) -> None:
    png(tmp_path / "x.png", 10_000, 8)
    with pytest.raises(ValueError, match=r"10000x10000 exceeds limit of 89478485 pixels$"):
        read_image(tmp_path / "x.png")


# Arrays

ARRAYS = {
    "float": (np.zeros((9, 8, 8, 3), np.float32), "float32"),
    "NaN": (np.full((9, 8, 8, 3), np.nan), "float64"),
    "int64": (np.zeros((9, 8, 8, 3), np.int64), "int64"),
    "object": (np.array([{}], dtype=object), "Python objects"),
    "NCHW": (np.zeros((9, 3, 8, 8), np.uint8), "transpose"),
    "two channels": (np.zeros((9, 8, 8, 2), np.uint8), "2 channels"),
    "flat": (np.zeros((9, 64), np.uint8), "(9, 64)"),
    "empty": (np.zeros((0, 8, 8, 3), np.uint8), ""),
    "too bright": (np.full((9, 8, 8, 3), 40, np.uint8), "pixel of 40"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_bad_array_is_named(capsys: Out, run_dir: Path, tmp_path: Path, kind: str) -> None:
    array, reason = ARRAYS[kind]
    path = tmp_path / "x.npy"
    np.save(path, array, allow_pickle=True)
    for argv in (
        training(path, "--data.levels", "17"),
        ["evaluate", run_dir, "--data.source", path, "--device", "cpu"],
    ):
        line = refused(capsys, *argv, unchanged=[tmp_path, run_dir])
        assert f"{path}: " in line
        assert reason in line


# Commands


def written(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def saved(path: Path, *shape: int, fill: int = 3) -> Path:
    np.save(path, np.full(shape, fill, np.uint8))
    return path


def splits(path: Path, **sides: int) -> Path:
    path.mkdir()
    for split, side in sides.items():
        saved(path / f"{split}.npy", 12, side, side, 1)
    return path


def looped(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def configured(path: Path, **fields: Any) -> Argv:
    return [
        "train",
        "--config",
        written(path / "c.json", json.dumps(fields)),
        "--run-dir",
        path / "x",
    ]


LARGE = ["--model.width", "1024", "--model.num-blocks", "2", "--model.num-scales", "1"]
DIGITS: Argv = ["train", "digits", "--device", "cpu", "--run-dir"]
# Of a folder for files and of a trained run: the words, and what the line must name.
COMMANDS: dict[str, tuple[Callable[[Path, Path], Argv], list[str]]] = {
    "no command of that name": (lambda t, r: ["trian"], ["trian", "train"]),
    "no preset of that name": (lambda t, r: ["train", "photo"], ["photo", "did you mean 'photos'"]),
    "a flag before the preset": (
        lambda t, r: ["train", "--run-dir", t / "x"],
        ["preset", "--run-dir"],
    ),
    "unknown flag": (
        lambda t, r: ["train", "digits", "--train.max-step", "3"],
        ["--train.max-step", "--train.max-steps"],
    ),
    "no run": (lambda t, r: ["evaluate"], ["RUN"]),
    "unknown split": (
        lambda t, r: ["evaluate", "x", "--split", "tets"],
        ["--split", "tets", "'test'"],
    ),
    "a word for a number": (lambda t, r: ["sample", "x", "-n", "many"], ["-n", "many"]),
    "unknown precision": (
        lambda t, r: ["train", "digits", "--train.precision", "int8"],
        ["--train.precision", "int8"],
    ),
    "no budget": (
        lambda t, r: ["train", "digits", "--train.max-steps", "None"],
        ["train.max_steps", "train.max_minutes"],
    ),
    "a preset for a data set": (
        lambda t, r: ["train", "photos", "--data.set", "photos-modern"],
        ["data.set: 'photos-modern'"],
    ),
    "two numbers for three": (
        lambda t, r: ["train", "digits", "--data.shape", "8", "8"],
        ["data.shape", "one or three"],
    ),
    "unknown shell": (lambda t, r: ["completion", "tcsh"], ["bash, zsh"]),
    # configurations
    "--config without a file": (lambda t, r: ["train", "--config"], ["--config"]),
    "no such configuration": (
        lambda t, r: ["train", "--config", t / "no.json"],
        ["no.json", "No such file"],
    ),
    "a folder as configuration": (lambda t, r: ["train", "--config", t], [": Is a directory"]),
    "no JSON": (
        lambda t, r: ["train", "--config", written(t / "c.json", "{")],
        ["c.json: not JSON"],
    ),
    "nothing": (lambda t, r: ["train", "--config", written(t / "c.json")], ["c.json: not JSON"]),
    "binary": (
        lambda t, r: ["train", "--config", written(t / "c.json", b"\xff\xfe\x00")],
        ["c.json: not JSON"],
    ),
    "deep": (
        lambda t, r: ["train", "--config", written(t / "c.json", "[" * 10**5)],
        ["c.json: not JSON"],
    ),
    "a list": (
        lambda t, r: ["train", "--config", written(t / "c.json", "[1]")],
        ["c.json: the top must be an object"],
    ),
    "mistyped field": (
        lambda t, r: configured(t, train={"lr": 1, "max_stesp": 3}),
        ["c.json", "'train.max_stesp' (did you mean 'max_steps'?)"],
    ),
    "mistyped part": (lambda t, r: configured(t, trian={}), ["'trian' (did you mean 'train'?)"]),
    "text for a number": (
        lambda t, r: configured(t, train={"lr": "fast"}),
        ["train.lr: 'fast' is not number"],
    ),
    "a fraction of an image": (
        lambda t, r: configured(t, train={"batch_size": 1.5}),
        ["train.batch_size: 1.5 is not integer"],
    ),
    "true images": (
        lambda t, r: configured(t, train={"batch_size": True}),
        ["train.batch_size: True is not integer"],
    ),
    "a part that is none": (lambda t, r: configured(t, train=3), ["train must be an object"]),
    "shape of two": (lambda t, r: configured(t, data={"shape": [1, 2]}), ["data.shape"]),
    "shape of zero": (lambda t, r: configured(t, data={"shape": [1, 0, 8]}), ["data.shape"]),
    "shape beyond reason": (
        lambda t, r: configured(t, data={"shape": [10**30, 8, 8]}),
        ["data.shape"],
    ),
    "unknown coupling": (
        lambda t, r: configured(t, model={"coupling": "linear"}),
        ["model.coupling", "'affine' or 'additive'"],
    ),
    "unknown data set": (
        lambda t, r: configured(t, data={"set": "cifar100"}),
        ["data.set", "did you mean 'cifar10'"],
    ),
    "unknown tracker": (
        lambda t, r: configured(t, train={"tracker": "os"}),
        ["train.tracker: 'os'", "tensorboard"],
    ),
    "one level": (
        lambda t, r: configured(t, data={"levels": 1}),
        ["data.levels: 1 must be between 2 and 65536"],
    ),
    "alpha of a half": (lambda t, r: configured(t, model={"alpha": 0.5}), ["model.alpha"]),
    "no images in a batch": (
        lambda t, r: [*DIGITS, t / "x", "--train.batch-size", "0"],
        ["train.batch_size: 0"],
    ),
    "a negative rate": (
        lambda t, r: [*DIGITS, t / "x", "--train.lr", "-1"],
        ["train.lr: -1.0 must be positive"],
    ),
    "a rate of NaN": (lambda t, r: [*DIGITS, t / "x", "--train.lr", "nan"], ["train.lr: nan"]),
    "a clip of NaN": (
        lambda t, r: [*DIGITS, t / "x", "--train.grad_clip", "nan"],
        ["train.grad_clip: nan"],
    ),
    "a negative seed": (lambda t, r: [*DIGITS, t / "x", "--seed", "-1"], ["seed: -1"]),
    "all held out": (
        lambda t, r: [*DIGITS, t / "x", "--data.val-fraction", "1"],
        ["data.val_fraction: 1.0"],
    ),
    "more in a batch than there are": (
        lambda t, r: [*DIGITS, t / "x", "--train.batch-size", "9999"],
        ["train.batch_size: 9999"],
    ),
    "too many scales": (
        lambda t, r: [*DIGITS, t / "x", "--model.num-scales", "5"],
        ["8x8", "16", "model.num_scales"],
    ),
    "a model beyond reason": (
        lambda t, r: [*DIGITS, t / "x", "--model.width", "4096", "--model.num-blocks", "300"],
        ["model.width: 4096", "3e+12 parameters"],
    ),
    "more blocks than make sense": (
        lambda t, r: [*DIGITS, t / "x", "--model.width", "1", "--model.num-blocks", "1000"],
        ["model.num_blocks: 1000", "model.num_scales = 2", "10,010 blocks"],
    ),
    "a model that does not fit": (
        lambda t, r: [*DIGITS, t / "x", "--model.width", "4000", "--model.num-blocks", "1"],
        ["model.width", "GiB"],
    ),
    "a batch that does not fit": (
        lambda t, r: training(
            saved(t / "a.npy", 1200, 64, 64),
            *["--train.batch-size", "900", "--model.num-scales", "1"],
            *LARGE,
        ),
        ["train.batch_size", "GiB"],
    ),
    "no such device": (lambda t, r: [*DIGITS, t / "x", "--device", "tpu"], ["--device: tpu"]),
    "no CPU of that number": (
        lambda t, r: [*DIGITS, t / "x", "--device", "cpu:7"],
        ["--device: cpu:7 is not there"],
    ),
    "no GPU of that number": (
        lambda t, r: [*DIGITS, t / "x", "--device", "cuda:99"],
        ["--device: cuda:99 is not there"],
    ),
    "a device without values": (
        lambda t, r: [*DIGITS, t / "x", "--device", "meta"],
        ["--device: meta"],
    ),
    # sources
    "images from nowhere": (
        lambda t, r: ["train", "images", "--run-dir", t / "x"],
        ["data.source"],
    ),
    "an unprepared set": (
        lambda t, r: ["train", "cifar10", "--run-dir", t / "x"],
        ["data.source", "realnvp prepare cifar10"],
    ),
    "another source for photos": (
        lambda t, r: ["train", "photos", "--data.source", t],
        ["data.source: photos"],
    ),
    "other levels": (
        lambda t, r: [*DIGITS, t / "x", "--data.levels", "256"],
        ["data.levels: digits has 17"],
    ),
    "another shape": (
        lambda t, r: training(saved(t / "a.npy", 20, 8, 8), "--data.shape", "3", "8", "8"),
        ["data.shape"],
    ),
    "no such source": (lambda t, r: training(t / "no"), [f"{'no'}: no such file"]),
    "an empty source": (lambda t, r: training(empty(t / "in")), ["in: no image files"]),
    "a zip as source": (
        lambda t, r: training(written(t / "a.zip")),
        ["a.zip: neither a folder nor an .npy file"],
    ),
    "a link to itself as source": (
        lambda t, r: training(looped(t / "in", t / "in")),
        ["in: no such file"],
    ),
    "a folder that leads to itself": (
        lambda t, r: training(looped(empty(t / "in") / "in", t / "in").parent),
        ["in: no image files"],
    ),
    "one image": (
        lambda t, r: training(pictures(t / "in", 1)),
        ["data.source: too few training images (rows), 1,"],
    ),
    "two images": (
        lambda t, r: training(pictures(t / "in", 2)),
        ["data.source: too few training images (rows), 2,"],
    ),
    "fewer than a batch": (
        lambda t, r: training(pictures(t / "in", 20)),
        ["train.batch_size: 32", "16 training images"],
    ),
    "arrays of two sizes": (
        lambda t, r: training(splits(t / "in", train=8, validation=8, test=4)),
        ["test.npy: is 4 high"],
    ),
    "no training split": (
        lambda t, r: training(splits(t / "in", test=8)),
        ["in: holds test.npy", "nothing named train"],
    ),
    "an odd height": (
        lambda t, r: training(saved(t / "a.npy", 99, 9, 8), "--model.num-scales", "2"),
        ["9x8", "divisible by 2", "model.num_scales"],
    ),
    "too bright pictures": (
        lambda t, r: training(pictures(t / "in", 4), "--data.levels", "17"),
        ["00.png: ", "data.levels = 17"],
    ),
    "a damaged prepared source": (
        lambda t, r: [
            *DIGITS,
            t / "x",
            "--data.source",
            written(t / "in" / "dataset.json", "{}").parent,
        ],
        ["in/dataset.json: name is missing"],
    ),
    "a prepared source of another set": (
        lambda t, r: ["train", "cifar10", "--data.source", r / "data", "--run-dir", t / "x"],
        ["data.set", "digits"],
    ),
    "a prepared source with a flipped bit": (
        lambda t, r: [*DIGITS, t / "x", "--data.source", flipped_data(t, r)],
        ["test.npy: its checksum"],
    ),
    # run directories
    "a run of another model": (lambda t, r: [*DIGITS, r], ["config.json", "model.width"]),
    "a file as run directory": (
        lambda t, r: [*DIGITS, written(t / "x")],
        ["--run-dir: ", "x is a file"],
    ),
    "the source as run directory": (
        lambda t, r: training(pictures(t / "x")),
        ["--run-dir", "data.source"],
    ),
    "weights from nowhere": (
        lambda t, r: [*DIGITS, t / "x", "--init-from", t / "no"],
        ["no: no such run"],
    ),
    "weights of another model": (
        lambda t, r: [*DIGITS, t / "x", "--init-from", r, "--model.width", 9],
        ["--model.width: 9", " has 8"],
    ),
    "evaluate nothing": (lambda t, r: ["evaluate", t / "no"], ["no: no such run"]),
    "evaluate an empty folder": (lambda t, r: ["evaluate", empty(t / "in")], ["in: neither a run"]),
    "evaluate a file": (
        lambda t, r: ["evaluate", r / "config.json"],
        ["config.json: neither a run"],
    ),
    "evaluate a link to itself": (
        lambda t, r: ["evaluate", looped(t / "in", t / "in")],
        ["in: no such run"],
    ),
    "evaluate before the first model": (
        lambda t, r: ["evaluate", written(t / "in/config.json").parent],
        ["in: this run has no model yet"],
    ),
    "evaluate without the data": (
        lambda t, r: ["evaluate", of_images(t)],
        ["data: the data that it was trained on", "--data.source DIR"],
    ),
    "evaluate a draw of none": (
        lambda t, r: ["evaluate", r, "--noise-draws", "0"],
        ["--noise-draws"],
    ),
    "evaluate with a seed below 0": (lambda t, r: ["evaluate", r, "--seed", "-1"], ["seed"]),
    "evaluate images from nowhere": (
        lambda t, r: ["evaluate", r, "--data.source", t / "no.npy"],
        ["no.npy: no such file"],
    ),
    "evaluate colour": (
        lambda t, r: ["evaluate", r, "--data.source", saved(t / "a.npy", 7, 8, 8, 3)],
        ["a.npy", "3 channels"],
    ),
    "evaluate odd sizes": (
        lambda t, r: ["evaluate", r, "--data.source", saved(t / "a.npy", 7, 9, 8)],
        ["9x8"],
    ),
    "sample none": (lambda t, r: ["sample", r, "-n", "0"], ["-n: must be at least 1"]),
    "sample below zero": (lambda t, r: ["sample", r, "--temperature", "-1"], ["temperature"]),
    "sample at NaN": (lambda t, r: ["sample", r, "--temperature", "nan"], ["temperature"]),
    "sample to a JPEG": (lambda t, r: ["sample", r, "--out", t / "s.jpg"], ["--out", "s.jpg"]),
    "sample more than a picture holds": (
        lambda t, r: ["sample", r, "-n", "50000", "--out", t / "s.png"],
        ["-n: 50,000", ".npy"],
    ),
    "sample into a file": (
        lambda t, r: ["sample", r, "-n", "1", "--out", r / "config.json" / "s.png"],
        ["config.json"],
    ),
    "sample onto a folder": (
        lambda t, r: ["sample", r, "-n", "1", "--out", empty(t / "s.npy")],
        ["--out", "s.npy is a folder"],
    ),
    "score nothing": (lambda t, r: ["score", r], ["name image files"]),
    "score from nowhere": (lambda t, r: ["score", r, t / "no.png"], ["no.png: no such file"]),
    "score an empty folder": (lambda t, r: ["score", r, empty(t / "in")], ["in: no image files"]),
    "score an image in colour": (
        lambda t, r: ["score", r, pictures(t / "in", 1) / "00.png"],
        ["00.png", "colour"],
    ),
    "score onto a folder": (
        lambda t, r: ["score", r, pictures(t / "in", 1), "--out", empty(t / "out")],
        ["--out", "out is a folder"],
    ),
    "score into a file": (
        lambda t, r: ["score", r, pictures(t / "in", 1), "--out", t / "in" / "00.png" / "s.csv"],
        ["00.png"],
    ),
    "check an empty folder": (lambda t, r: ["check", empty(t / "in")], ["in: neither a run"]),
    "an unknown figure": (
        lambda t, r: ["figures", r, "--only", "manifolds"],
        ["--only", "did you mean 'manifold'"],
    ),
    "figures onto a file": (
        lambda t, r: ["figures", r, "--out", written(t / "out")],
        ["--out", "out is a file"],
    ),
    "figures with a seed below 0": (lambda t, r: ["figures", r, "--seed", "-1"], ["seed", "-1"]),
    "figures without the data": (
        lambda t, r: ["figures", of_images(t)],
        ["data: the data that it was trained on"],
    ),
    "curves without metrics": (
        lambda t, r: ["figures", model_of(r), "--only", "curves"],
        ["metrics.jsonl: No such file"],
    ),
    "curves of the first steps": (
        lambda t, r: ["figures", young(t, r), "--only", "curves"],
        ["metrics.jsonl: no bits/dim in it yet"],
    ),
    "report on nothing": (lambda t, r: ["report", t / "no"], ["no: no such run"]),
    "table of nothing": (lambda t, r: ["table"], ["run directories"]),
    "table of an empty folder": (lambda t, r: ["table", empty(t / "in")], ["in: neither a run"]),
    "table before an evaluation": (
        lambda t, r: [
            "table",
            written(t / "in" / "config.json", to_json(PRESETS["digits"])).parent,
        ],
        ["in/evaluation.json: no such file; realnvp evaluate"],
    ),
    "info on nothing": (lambda t, r: ["info", t / "no"], ["no: no such run"]),
}


def of_images(folder: Path) -> Path:
    """A saved flow of images that nobody has."""
    config = Config(data=ImageData(shape=(1, 8, 8)), model=ModelConfig(width=4, num_blocks=1))
    realnvp.save_flow(realnvp.build(config), folder / "in")
    return folder / "in"


def model_of(run_dir: Path) -> Path:
    return next((run_dir / "model").glob("best-*"))


def young(folder: Path, run_dir: Path) -> Path:
    shutil.copytree(run_dir / "model", folder / "run" / "model")
    return written(
        folder / "run" / "metrics.jsonl", '{"step": 5, "seconds": 1, "train_bits_per_dim": 3}\n'
    ).parent


def flipped_data(folder: Path, run_dir: Path) -> Path:
    shutil.copytree(run_dir / "data", folder / "in")
    return written(
        folder / "in" / "test.npy", flip((folder / "in" / "test.npy").read_bytes())
    ).parent


@pytest.mark.parametrize("kind", COMMANDS)
def test_bad_input_is_named(
    capsys: Out, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, words = COMMANDS[kind]
    monkeypatch.chdir(tmp_path)  # for what is written to runs/
    line = refused(capsys, *make(tmp_path, run_dir), unchanged=[tmp_path, run_dir])
    assert all(word in line for word in words), line


# Damaged runs


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


LAST, TEST = "model/last-*/", "data/test.npy"
# A command on a run, one of its files, and what becomes of it: a function of its content, or None
# to delete it.
DAMAGES: dict[str, tuple[list[str], str, Callable[[bytes], bytes] | None]] = {
    "configuration, train": (
        ["train", "digits", "--run-dir", "RUN"],
        "config.json",
        lambda c: c[:-40],
    ),
    "configuration, info": (["info", "RUN"], "config.json", lambda c: c.replace(b'"lr"', b'"rl"')),
    "configuration, table": (["table", "RUN"], "config.json", lambda c: b"[]"),
    "configuration without a shape": (
        ["train", "digits", "--run-dir", "RUN"],
        "config.json",
        lambda c: b"{}",
    ),
    "configuration of another width": (
        ["train", "--config", "RUN/config.json", "--train.max-steps", "13"],
        "config.json",
        lambda c: re.sub(rb'"width": \d+', b'"width": 3', c),
    ),
    "metrics, figures": (
        ["figures", "RUN", "--only", "curves"],
        "metrics.jsonl",
        lambda c: b"hello\n",
    ),
    "odd metrics": (["figures", "RUN", "--only", "curves"], "metrics.jsonl", lambda c: b"3\n"),
    "metrics, train": (
        ["train", "--config", "RUN/config.json", "--train.max-steps", "13"],
        "metrics.jsonl",
        lambda c: b"{}\n",
    ),
    "environment, table": (["table", "RUN"], "environment.json", lambda c: b"[1]"),
    "environment, report": (["report", "RUN"], "environment.json", lambda c: b'[{"command": 1}]'),
    "an earlier environment, report": (
        ["report", "RUN"],
        "environment.json",
        lambda c: b"[{}," + c.strip()[1:],
    ),
    "environment without a commit": (
        ["report", "RUN"],
        "environment.json",
        lambda c: c.replace(b'"git_commit"', b'"commit"'),
    ),
    "environment, train": (
        ["train", "--config", "RUN/config.json", "--train.max-steps", "13"],
        "environment.json",
        lambda c: c[:9],
    ),
    "evaluation, table": (
        ["table", "RUN"],
        "evaluation.json",
        lambda c: c.replace(b'"step": 12', b'"step": "x"'),
    ),
    "views, table": (
        ["table", "RUN"],
        "evaluation.json",
        lambda c: c.replace(b'"step": 12', b'"step": 12, "views": {"count": 2}'),
    ),
    "no views, table": (["table", "RUN"], "evaluation.json", lambda c: b'{"views": 3,' + c[1:]),
    "codecs, table": (
        ["table", "RUN"],
        "evaluation.json",
        lambda c: c.replace(b'"step": 12', b'"step": 12, "codecs": {"png": "x"}'),
    ),
    "evaluation, info": (["info", "RUN"], "evaluation.json", lambda c: b"{"),
    "weights, evaluate": (["evaluate", "RUN", "--which", "last"], LAST + "model.safetensors", flip),
    "weights, sample": (
        ["sample", "RUN", "--which", "last"],
        LAST + "model.safetensors",
        lambda c: c[:100],
    ),
    "weights, score": (
        ["score", "RUN", "x.png", "--which", "last"],
        LAST + "model.safetensors",
        None,
    ),
    "model's configuration": (
        ["check", "RUN", "--which", "last"],
        LAST + "config.json",
        lambda c: c + b" ",
    ),
    "manifest": (["figures", "RUN", "--which", "last"], LAST + "manifest.json", lambda c: b"{"),
    "no manifest": (["evaluate", "RUN", "--which", "last"], LAST + "manifest.json", None),
    "data, evaluate": (["evaluate", "RUN"], TEST, flip),
    "data, check": (["check", "RUN"], TEST, flip),
    "data, sample": (["sample", "RUN", "--beside-data"], TEST, lambda c: c[:-5]),
    "data, figures": (["figures", "RUN", "--only", "samples"], TEST, None),
    "data, train": (["train", "--config", "RUN/config.json"], TEST, flip),
    "description of the data": (
        ["evaluate", "RUN"],
        "data/dataset.json",
        lambda c: c.replace(b'"levels": 17', b'"levels": 0'),
    ),
    "no description of the data": (["evaluate", "RUN"], "data/dataset.json", None),
    "checkpoints": (
        ["train", "--config", "RUN/config.json"],
        "checkpoints/*/state.safetensors",
        lambda c: c[:-9],
    ),
    "states": (["info", "RUN"], "checkpoints/*/state.json", None),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_run_exits_with_1(
    capsys: Out, evaluated: Path, tmp_path: Path, kind: str
) -> None:
    argv, pattern, change = DAMAGES[kind]
    shutil.copytree(evaluated, tmp_path / "run")
    for path in (tmp_path / "run").glob(pattern):
        if change:
            path.write_bytes(change(path.read_bytes()))
        else:
            path.unlink()
    before = listing(tmp_path)
    capsys.readouterr()
    argv = [word.replace("RUN", str(tmp_path / "run")) for word in argv]
    if kind == "states":  # what is left is shown
        assert run(argv) == 0
        assert "state.json" in capsys.readouterr().err
        return
    device = ("--device", "cpu") if argv[0] not in ("info", "table") else ()
    line = refused(capsys, *argv, *device, unchanged=[tmp_path], code=1)
    assert path.name in line
    named = re.findall(rf"{re.escape(str(tmp_path))}[^ :;,]*", line)
    assert all(Path(word).exists() for word in named) or change is None, line
    assert listing(tmp_path) == before


# Real processes

PROCESSES = {
    "unknown flag": COMMANDS["unknown flag"],
    "mistyped field": COMMANDS["mistyped field"],
    "a folder as configuration": COMMANDS["a folder as configuration"],
    "evaluate an empty folder": COMMANDS["evaluate an empty folder"],
    "a bad image": (
        lambda t, r: training(written(pictures(t / "in", 3) / "x.png", "hello").parent),
        ["x.png: not an image"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSES)
def test_bad_input_as_a_process(run_dir: Path, tmp_path: Path, kind: str) -> None:
    make, words = PROCESSES[kind]
    command = [sys.executable, "-m", "realnvp", *map(str, make(tmp_path, run_dir))]
    before = listing(tmp_path)
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"realnvp: error: [^\n]+\n", result.stderr)
    assert all(word in result.stderr for word in words)
    assert listing(tmp_path) == before


# Python

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 17
V = X.to(torch.uint8)


def other(config: Config, part: str, **fields: Any) -> Config:
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **fields)}
    )


def config_of(flow: Flow) -> Config:
    assert flow.config is not None
    return flow.config


PYTHON: dict[str, tuple[Callable[[Flow, Path], object], str]] = {
    "log_prob of an array": (lambda f, t: f.log_prob(X.numpy()), "tensors .*ndarray"),  # type: ignore[arg-type]  # that is the point
    "log_prob of integers": (lambda f, t: f.log_prob(V), "floating-point.*uint8"),
    "log_prob of complex numbers": (lambda f, t: f.log_prob(X.to(torch.complex64)), "complex64"),
    "log_prob in half precision": (lambda f, t: f.log_prob(X.half()), "float32.*float16"),
    "log_prob on another device": (lambda f, t: f.log_prob(X.to("meta")), "is on cpu.*meta"),
    "log_prob of NHWC": (
        lambda f, t: f.log_prob(X.permute(0, 2, 3, 1)),
        r"\(B, 1, H, W\), got \(4, 8, 8, 1\)",
    ),
    "log_prob of one image": (lambda f, t: f.log_prob(X[0]), r"got \(1, 8, 8\)"),
    "log_prob of none": (lambda f, t: f.log_prob(X[:0]), r"got \(0, 1, 8, 8\)"),
    "log_prob of colour": (lambda f, t: f.log_prob(X.expand(4, 3, 8, 8)), r"got \(4, 3, 8, 8\)"),
    "log_prob of an odd width": (lambda f, t: f.log_prob(X[..., :7]), "8x7.*divisible by 2"),
    "encode NHWC": (lambda f, t: f.encode(X.permute(0, 2, 3, 1)), "expected a batch"),
    "decode integers": (lambda f, t: f.decode(V), "floating-point"),
    "bits_per_dim of a list": (
        lambda f, t: realnvp.bits_per_dim(f, [[1]]),
        "images: expected uint8, got list",
    ),  # type: ignore[arg-type]  # so is this
    "bits_per_dim of reals": (
        lambda f, t: realnvp.bits_per_dim(f, X),
        "images: expected uint8, got torch.float32",
    ),
    "bits_per_dim of NaN": (
        lambda f, t: realnvp.bits_per_dim(f, X * torch.nan),
        "images: expected uint8",
    ),
    "bits_per_dim of NHWC": (
        lambda f, t: realnvp.bits_per_dim(f, V.permute(0, 2, 3, 1).numpy()),
        "got .4, 8, 8, 1",
    ),
    "bits_per_dim of one image": (
        lambda f, t: realnvp.bits_per_dim(f, V[0]),
        "images: expected .N, C, H, W",
    ),
    "bits_per_dim of none": (lambda f, t: realnvp.bits_per_dim(f, V[:0]), "N > 0"),
    "bits_per_dim on another device": (lambda f, t: realnvp.bits_per_dim(f, V.to("meta")), "meta"),
    "bits_per_dim of too bright pixels": (
        lambda f, t: realnvp.bits_per_dim(f, V + 9),
        "levels 0 to 16",
    ),
    "bits_per_dim of no draw": (
        lambda f, t: realnvp.bits_per_dim(f, V, noise_draws=0),
        "noise_draws",
    ),
    "bits_per_dim in batches of none": (
        lambda f, t: realnvp.bits_per_dim(f, V, batch_size=0),
        "batch_size",
    ),
    "bits_per_dim with a seed below 0": (lambda f, t: realnvp.bits_per_dim(f, V, seed=-1), "seed"),
    "bits_per_dim of too few groups": (
        lambda f, t: realnvp.bits_per_dim(f, V, groups=[1]),
        "groups: 1 of them for 4",
    ),
    "log_probs of too few indices": (
        lambda f, t: log_probs(f, V, indices=[1]),
        "indices: 1 of them for 4",
    ),
    "fit a fast flow": (lambda f, t: realnvp.fit(realnvp.fast(f), X), "fit the flow that it was"),
    "fit no weights": (
        lambda f, t: realnvp.fit(copy.deepcopy(f).requires_grad_(False), X),
        "flow: has no weights to fit",
    ),
    "fit complex numbers": (lambda f, t: realnvp.fit(f, X + 1j), "x: must be real"),
    "sample none": (lambda f, t: f.sample(0), "n: must be at least 1"),
    "sample colour": (lambda f, t: f.sample(1, (3, 8, 8)), "expected a batch"),
    "sample an odd size": (lambda f, t: f.sample(1, (1, 7, 8)), "7x8"),
    "sample below zero": (lambda f, t: f.sample(1, temperature=-1), "temperature"),
    "sample at NaN": (lambda f, t: f.sample(1, temperature=float("nan")), "temperature"),
    "sample with a seed too large": (lambda f, t: f.sample(1, seed=2**63), "seed"),
    "quantize NaN": (lambda f, t: realnvp.quantize(X * torch.nan), "256 of 256 pixels are NaN"),
    "quantize complex numbers": (lambda f, t: realnvp.quantize(X + 1j), "x: must be real"),
    "quantize to too many levels": (
        lambda f, t: realnvp.quantize(X, levels=65537),
        "levels: .*65537",
    ),
    "build an unknown preset": (lambda f, t: realnvp.build("cifar"), "did you mean 'cifar10'"),
    "build for no shape": (lambda f, t: realnvp.build(Config()), "data.shape"),
    "build for a shape of two": (
        lambda f, t: realnvp.build(other(config_of(f), "data", shape=(8, 8))),
        "data.shape",
    ),
    "build of half a feature": (
        lambda f, t: realnvp.build(other(config_of(f), "model", width=2.5)),
        "model.width: 2.5",
    ),
    "build of no blocks": (
        lambda f, t: realnvp.build(other(config_of(f), "model", num_blocks=None)),
        "model.num_blocks",
    ),
    "build too deep": (
        lambda f, t: realnvp.build(other(config_of(f), "model", num_scales=5)),
        "model.num_scales",
    ),
    "build too large": (
        lambda f, t: realnvp.build(other(config_of(f), "model", width=4096, num_blocks=300)),
        "model.width",
    ),
    "load from nowhere": (lambda f, t: realnvp.load_flow(t / "no"), "no: no such run"),
    "load an empty folder": (lambda f, t: realnvp.load_flow(empty(t / "in")), "in: neither"),
    "load a file": (lambda f, t: realnvp.load_flow(written(t / "in")), "in: neither"),
    "load the worst": (lambda f, t: realnvp.load_flow(t, "worst"), "which: .*'worst'"),  # type: ignore[arg-type]  # and this
    "save onto a file": (lambda f, t: realnvp.save_flow(f, written(t / "s")), "s: exists"),
    "save onto another folder": (
        lambda f, t: realnvp.save_flow(f, written(t / "s" / "x").parent),
        "s: exists",
    ),
    "no configuration": (lambda f, t: from_json("null", "some.json"), "^some.json: "),
}


@pytest.mark.parametrize("kind", PYTHON)
def test_misuse_is_a_value_error(run_dir: Path, tmp_path: Path, kind: str) -> None:
    call, words = PYTHON[kind]
    with pytest.raises(ValueError, match=words) as caught:
        call(realnvp.load_flow(run_dir), tmp_path)
    assert "\n" not in str(caught.value)


def test_only_the_image_with_a_nan_has_no_density(run_dir: Path) -> None:
    flow, x = realnvp.load_flow(run_dir), X.clone()
    x[1, 0, 3, 3] = torch.nan
    with torch.no_grad():
        expected, nats = flow.log_prob(X), flow.log_prob(x)
    assert nats.isnan().tolist() == [False, True, False, False]
    assert torch.equal(nats[[0, 2, 3]], expected[[0, 2, 3]])


def test_strides_do_not_matter(run_dir: Path) -> None:
    """Transposed, mirrored and every-other views are the images that they show."""
    flow, v = realnvp.load_flow(run_dir), V.numpy()
    transposed, large = (
        np.ascontiguousarray(v.T).T,
        np.repeat(np.repeat(v, 2, axis=2), 2, axis=3)[..., ::2, ::2],
    )
    for view in (transposed, large, np.ascontiguousarray(v[..., ::-1])[..., ::-1]):
        assert not view.flags.c_contiguous
        assert torch.equal(
            realnvp.bits_per_dim(flow, view).per_image, realnvp.bits_per_dim(flow, v).per_image
        )
    with torch.no_grad():
        assert torch.equal(flow.log_prob(X.mT.contiguous().mT), flow.log_prob(X))
