"""The published data sets, in miniature and in their real formats: exact pixels, and every damaged
one named.
"""

import gzip
import hashlib
import importlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from told import Out, answer, refused

from realnvp.cli.main import run
from realnvp.config import PRESETS, DataConfig
from realnvp.data import Rows, open_splits, prepare
from realnvp.data.folder import scan
from realnvp.data.images import resized
from realnvp.data.published import celeba, cifar10, imagenet, lsun
from realnvp.data.published.archives import ALWAYS_ALLOWED
from realnvp.evaluation.evaluate import _paper
from realnvp.io.files import lock_folder
from realnvp.training.batches import Batches

Pixels = NDArray[np.uint8]
RNG = np.random.default_rng(0)
FAST = [
    *(
        "--model.width",
        "2",
        "--model.num-blocks",
        "0",
        "--train.max-steps",
        "2",
        "--train.batch-size",
        "4",
    ),
    *("--train.moment-batches", "2", "--train.tracker", "none", "--device", "cpu"),
]


def noise(*shape: int) -> Pixels:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def decoded(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def smooth(height: int, width: int) -> Pixels:
    return resized(noise(5, 5, 3), height, width)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "zip": lambda path, files: write_zip(path.with_suffix(".zip"), files),
    "tar": lambda path, files: write_tar(path.with_suffix(".tar"), files),
    "tar.gz": lambda path, files: write_tar(path.with_name(path.name + ".tar.gz"), files, "w:gz"),
}


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file below a folder, or of a file."""
    paths = [path for path in [folder, *folder.rglob("*")] if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# CIFAR-10: 20 records


def cifar(
    changed: dict[str, bytes | None] | None = None,
) -> tuple[dict[str, bytes], dict[str, Pixels]]:
    """Files by name, as published but with 3 records each and 5 of test; and the images by split."""
    files, images = {}, {}
    for name, count in [*((f"data_batch_{i}", 3) for i in range(1, 6)), ("test_batch", 5)]:
        images[name] = noise(count, 3, 32, 32)
        labels = RNG.integers(0, 10, (count, 1), dtype=np.uint8)
        files[f"cifar-10-batches-bin/{name}.bin"] = np.hstack(
            [labels, images[name].reshape(count, -1)]
        ).tobytes()
    files |= {"cifar-10-batches-bin/readme.html": b"<html>"}
    train = np.concatenate([images[f"data_batch_{i}"] for i in range(1, 6)])
    for name, content in (changed or {}).items():
        files.pop(f"cifar-10-batches-bin/{name}", None)
        files |= {} if content is None else {f"cifar-10-batches-bin/{name}": content}
    return files, {
        "train": train.transpose(0, 2, 3, 1),
        "test": images["test_batch"].transpose(0, 2, 3, 1),
    }


@pytest.mark.parametrize("form", WRITERS)
def test_cifar10(out_of: Out, tmp_path: Path, form: str) -> None:
    files, images = cifar()
    source = WRITERS[form](tmp_path / "cifar-10-binary", files)
    before = everything(source)
    about = answer(
        out_of,
        "prepare",
        "cifar10",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert everything(source) == before
    assert names_in(tmp_path / "out") == {"train.npy", "test.npy", "dataset.json"}
    for split, expected in images.items():
        stored = np.load(tmp_path / "out" / f"{split}.npy")
        assert stored.dtype == np.uint8
        assert np.array_equal(stored, expected)
    assert about["counts"] == {"train": 15, "test": 5}
    assert (about["version"], about["shape"], about["comparable"]) == (
        "binary version, partial",
        [3, 32, 32],
        False,
    )
    assert about["sha256"].pop("dataset.json")
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    base = source if source.is_dir() else source.parent
    assert len(about["inputs"]) == (6 if form == "folder" else 1)
    for name, facts in about["inputs"].items():
        assert facts["sha256"] == hashlib.sha256((base / name).read_bytes()).hexdigest()
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()
    assert answer(
        out_of,
        "prepare",
        "cifar10",
        "--source",
        tmp_path,
        "--out",
        tmp_path.parent / f"{tmp_path.name}-2",
        "--allow-partial",
    )


def test_the_published_counts_are_demanded(
    out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tar(tmp_path / "cifar-10-binary.tar.gz", cifar()[0], "w:gz")
    command = ["cifar10", "--source", source, "--out", tmp_path / "out"]
    line = refused(out_of, "prepare", *command)
    assert "data_batch_1.bin" in line
    assert "10,000 records" in line
    monkeypatch.setattr(cifar10, "RECORDS_PER_FILE", 3)
    assert "test_batch.bin" in refused(out_of, "prepare", *command)
    files, _ = cifar(
        {"data_batch_4.bin": None, "test_batch.bin": noise(3, 3073).clip(0, 9).tobytes()}
    )
    source = write_tar(tmp_path / "cifar-10-binary.tar.gz", files, "w:gz")
    line = refused(out_of, "prepare", *command)
    assert (
        "train 12, test 3 images, published are train 50,000, test 10,000 (--allow-partial" in line
    )
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 12, "test": 3})
    assert not (tmp_path / "out").exists()
    assert run(["prepare", *map(str, command), "--json"]) == 0
    captured = out_of.readouterr()
    assert json.loads(captured.out)["version"] == "binary version"
    assert json.loads(captured.out)["comparable"]
    entry = json.loads(captured.out)["inputs"]["cifar-10-binary.tar.gz"]
    assert (entry["as_published"], len(entry["md5"])) == (False, 32)
    assert "cifar-10-binary.tar.gz: its MD5 is not the published c32a1d4a" in captured.err


def test_cifar10_end_to_end(out_of: Out, tmp_path: Path) -> None:
    _, images = cifar_prepared(out_of, tmp_path)
    command = [
        "train",
        "cifar10",
        "--data.source",
        tmp_path / "out",
        "--run-dir",
        tmp_path / "run",
        *FAST,
    ]
    assert run([*map(str, command)]) == 0
    assert not (tmp_path / "run" / "data").exists()
    out_of.readouterr()
    for split, count in {"test": 5, "validation": 2, "train": 13}.items():
        assert run(["evaluate", str(tmp_path / "run"), "--split", split, "--json"]) == 0
        result = json.loads(out_of.readouterr().out)
        assert result["num_images"] == count
        assert (result["dataset"], result["dataset_version"]) == (
            "cifar10",
            "binary version, partial",
        )
        assert result["paper"] is None
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    assert "cifar10 (binary version, partial), test: 5 images" in out_of.readouterr().out
    assert run(["sample", str(tmp_path / "run"), "-n", "2", "--beside-data"]) == 0
    assert run([*map(str, command), "--train.max-steps", "3"]) == 0
    config = replace(PRESETS["cifar10"].data, source=str(tmp_path / "out"))
    cut = {seed: prepare(config, seed=seed, folder=tmp_path / "none") for seed in (0, 0, 1)}
    assert isinstance(cut[0].train, Rows)
    whole = sorted(image.tobytes() for part in (cut[0].train, cut[0].validation) for image in part)
    assert whole == sorted(image.tobytes() for image in images["train"])
    assert not np.array_equal(cut[0].validation, cut[1].validation)
    assert (
        len(prepare(replace(config, val_fraction=0.4), seed=0, folder=tmp_path / "none").validation)
        == 6
    )


def test_only_the_papers_images_stand_beside_its_number(out_of: Out, tmp_path: Path) -> None:
    cifar_prepared(out_of, tmp_path)
    splits = open_splits(tmp_path / "out")
    with pytest.warns(
        UserWarning,
        match=r"cifar10 is binary version, partial: not comparable with the paper's 3.49",
    ):
        assert _paper(splits, PRESETS["cifar10"]) is None
    assert _paper(replace(splits, comparable=True), PRESETS["cifar10"]) == 3.49


def cifar_prepared(out: Out, tmp_path: Path) -> tuple[Path, dict[str, Pixels]]:
    files, images = cifar()
    source = write_tar(tmp_path / "c.tar", files)
    answer(
        out, "prepare", "cifar10", "--source", source, "--out", tmp_path / "out", "--allow-partial"
    )
    return source, images


@pytest.mark.parametrize("name", ["cifar10", "imagenet32", "celeba", "lsun-tower"])
def test_an_unprepared_source_names_the_command(out_of: Out, tmp_path: Path, name: str) -> None:
    line = refused(out_of, "train", name, "--data.source", tmp_path, "--run-dir", tmp_path / "run")
    assert f"realnvp prepare {name} --source {tmp_path} --out DIR" in line


BAD_CIFAR: dict[str, tuple[dict[str, bytes | None], str]] = {
    "wrong record size": (
        {"data_batch_2.bin": bytes(3 * 3074)},
        "data_batch_2.bin: 9,222 bytes are not",
    ),
    "no records": ({"data_batch_2.bin": b""}, "data_batch_2.bin: 0 bytes"),
    "label of 10": (
        {"data_batch_3.bin": b"\x0a" + bytes(3072)},
        "data_batch_3.bin: has a label of 10",
    ),
    "no test": ({"test_batch.bin": None}, "lacks data_batch_1.bin"),
    "pickles": (
        {f"{name}.bin": None for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))}
        | {"data_batch_1": b"\x80"},
        "pickles and can run code",
    ),
}


@pytest.mark.parametrize("kind", BAD_CIFAR)
def test_bad_cifar10(out_of: Out, tmp_path: Path, kind: str) -> None:
    changed, reason = BAD_CIFAR[kind]
    source = write_tar(tmp_path / "cifar.tar", cifar(changed)[0])
    line = refused(
        out_of,
        "prepare",
        "cifar10",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert str(source) in line
    assert reason in line
    assert not (tmp_path / "out" / "train.npy").exists()


# Archives


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_truncated_archive(out_of: Out, tmp_path: Path, form: str, share: float) -> None:
    source = WRITERS[form](tmp_path / "cifar", cifar()[0])
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    line = refused(
        out_of,
        "prepare",
        "cifar10",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert str(source) in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("at", [20, 0.5, -6])
def test_flipped_bits_in_a_compressed_tar(
    out_of: Out, tmp_path: Path, mode: str, at: float
) -> None:
    source = write_tar(
        tmp_path / "x.tar", {f"{i}.png": encoded(noise(8, 8, 3)) for i in range(4)}, f"w:{mode}"
    )
    content = bytearray(source.read_bytes())
    content[int(at * len(content)) if at == 0.5 else int(at)] ^= 0xFF
    source.write_bytes(content)
    line = refused(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out")
    assert f"{source}: " in line
    assert not (tmp_path / "out").exists()


def test_a_tar_cut_between_two_members(out_of: Out, tmp_path: Path) -> None:
    pictures = {f"{i}.png": encoded(noise(8, 8, 3)) for i in range(4)}
    source = write_tar(tmp_path / "x.tar", pictures)
    with tarfile.open(source) as tar:
        third = tar.getmembers()[2].offset
    source.write_bytes(source.read_bytes()[:third])
    line = refused(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out")
    assert "x.tar: truncated" in line


def hostile(kind: str, path: Path) -> None:
    """An archive with two good pictures and a member of this kind."""
    good = {f"{i}.png": encoded(noise(8, 8, 3)) for i in range(2)}
    member = tarfile.TarInfo("x.png")
    if kind in ("symlink", "link"):
        member.type, member.linkname = (
            {"symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE}[kind],
            "0.png",
        )
    elif kind == "negative size":
        pass
    elif kind.startswith("pax"):
        member.pax_headers = {
            "pax path": {"path": "../x.png"},
            "pax negative size": {"size": "-1024"},
        }[kind]
    elif kind in ("device", "pipe"):
        member.type = {"device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}[kind]
    elif kind.startswith("zip"):
        names = {"zip parent": "a/../../x.png", "zip absolute": "/x.png", "zip drive": "C:\\x.png"}
        info = zipfile.ZipInfo(names.get(kind, "x.png"))
        if kind == "zip symlink":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(write_zip(path, good), "a") as archive:
            archive.writestr(info, good["0.png"])
        return
    else:
        member.name, member.size = (
            {"parent": "../x.png", "absolute": "/x.png", "inner": "a/../../x.png"}[kind],
            3,
        )
    with tarfile.open(write_tar(path, good), "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"abc") if member.size else None)
    if kind == "negative size":  # the next member is then the same once more: CVE-2025-8194
        content = bytearray(path.read_bytes())
        at = content.rindex(b"x.png\0")
        content[at + 124 : at + 136] = (2**96 - 512).to_bytes(12, "big")
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "parent",
        "absolute",
        "inner",
        "symlink",
        "link",
        "device",
        "pipe",
        "pax path",
        "pax negative size",
        "negative size",
        "zip parent",
        "zip absolute",
        "zip drive",
        "zip symlink",
    ],
)
def test_a_hostile_archive_is_refused(out_of: Out, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    hostile(kind, tmp_path / "in" / "x.archive")
    before = set(tmp_path.rglob("*"))
    line = refused(
        out_of,
        "prepare",
        "images",
        "--source",
        tmp_path / "in" / "x.archive",
        "--out",
        tmp_path / "out",
    )
    assert "x.archive: " in line
    assert "refused" in line
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_a_bomb_is_refused(out_of: Out, tmp_path: Path, form: str) -> None:
    source = WRITERS[form](tmp_path / "x", {"x.png": bytes(ALWAYS_ALLOWED + 2**20)})
    assert source.stat().st_size < 2**18
    line = refused(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out")
    assert "decompression bomb" in line
    assert "x." in line


def test_what_is_no_archive(out_of: Out, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"hello" * 200)
    (tmp_path / "x.tgz").write_bytes(gzip.compress(b"hello" * 200))
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + b"hello" * 200)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("x.tar", "x.tgz", "x.zip", "empty", "none"):
        for set_name in ("images", "cifar10"):
            assert f"{tmp_path / name}: " in refused(
                out_of, "prepare", set_name, "--source", tmp_path / name, "--out", tmp_path / "out"
            )
    assert not (tmp_path / "out").exists()


# ImageNet


def batch(images: Pixels) -> bytes:
    file = io.BytesIO()
    labels = np.ones(len(images), np.int64)
    np.savez(
        file,
        data=images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        labels=labels,
        mean=np.zeros(3),
    )
    return file.getvalue()


@pytest.mark.parametrize("form", ["flat", "folders", "zips"])
@pytest.mark.parametrize("side", [32, 64])
def test_imagenet_of_npz_batches(out_of: Out, tmp_path: Path, form: str, side: int) -> None:
    train, test = [noise(2, side, side, 3) for _ in range(11)], noise(3, side, side, 3)
    files = {f"train_data_batch_{i}.npz": batch(images) for i, images in enumerate(train, 1)}
    parts = {
        f"Imagenet{side}_train_npz": files,
        f"Imagenet{side}_val_npz": {"val_data.npz": batch(test)},
    }
    source = tmp_path / "in"
    source.mkdir()
    for name, part in parts.items():
        if form == "zips":
            write_zip(source / f"{name}.zip", part)
        else:
            write_folder(source / (name if form == "folders" else ""), part)
    about = answer(
        out_of,
        "prepare",
        f"imagenet{side}",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert about["version"] == "Chrabaszcz 2017 (not the paper's), partial"
    assert np.array_equal(np.load(tmp_path / "out" / "train.npy"), np.concatenate(train))
    assert np.array_equal(np.load(tmp_path / "out" / "test.npy"), test)
    assert names_in(tmp_path / "out") == {"train.npy", "test.npy", "dataset.json"}


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_imagenet_of_pictures(
    out_of: Out, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"train": noise(7, 32, 32, 3), "valid": noise(4, 32, 32, 3)}
    images["train"][2] = images["train"][2, ..., :1]
    source = tmp_path / "in"
    source.mkdir()
    for split, part in images.items():
        files = {f"{split}_32x32/{i:07}.png": encoded(pixels) for i, pixels in enumerate(part)}
        files[f"{split}_32x32/0000002.png"] = encoded(
            part[2, ..., 0] if split == "train" else part[2]
        )
        write_folder(source, files) if form == "folder" else write_tar(
            source / f"{split}_32x32.tar", files
        )
    write_folder(source / "train_64x64", {"0.png": encoded(noise(64, 64, 3))})
    command = ["imagenet32", "--source", source, "--out", tmp_path / "out"]
    line = refused(out_of, "prepare", *command)
    assert (
        "train 7, test 4 images, published are train 1,281,149, test 49,999 or train 1,281,167, test 50,000"
        in line
    )
    about = answer(out_of, "prepare", *command, "--allow-partial")
    assert about["version"] == "van den Oord 2016 (the paper's), partial"
    assert np.array_equal(np.load(tmp_path / "out" / "train.npy"), images["train"])
    assert np.array_equal(np.load(tmp_path / "out" / "test.npy"), images["valid"])
    monkeypatch.setitem(imagenet.COUNTS, imagenet.OLD, {"train": 7, "test": 4})
    about = answer(out_of, "prepare", *command[:-1], tmp_path / "full")
    assert (about["version"], about["comparable"]) == ("van den Oord 2016 (the paper's)", True)


def test_versions_of_imagenet_are_told_apart(
    out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {
        f"{split}_32x32/{i}.png": encoded(noise(32, 32, 3))
        for split in ("train", "valid")
        for i in range(8)
    }
    batches = {
        "train_data_batch_1.npz": batch(noise(8, 32, 32, 3)),
        "val_data.npz": batch(noise(9, 32, 32, 3)),
    }
    monkeypatch.setitem(imagenet.COUNTS, imagenet.OLD, {"train": 8, "test": 8})
    monkeypatch.setitem(imagenet.COUNTS, imagenet.NEW, {"train": 8, "test": 9})
    for name, files in {"old": pictures, "new": batches}.items():
        answer(
            out_of,
            "prepare",
            "imagenet32",
            "--source",
            write_folder(tmp_path / name, files),
            "--out",
            tmp_path / f"{name}-out",
        )
    command = [
        "train",
        "imagenet32",
        "--data.val-fraction",
        "0.2",
        "--run-dir",
        tmp_path / "run",
        *FAST,
    ]
    assert run([*map(str, command), "--data.source", str(tmp_path / "old-out")]) == 0
    out_of.readouterr()
    assert (
        run(
            [
                "evaluate",
                str(tmp_path / "run"),
                "--data.source",
                str(tmp_path / "new-out"),
                "--json",
            ]
        )
        == 0
    )
    captured = out_of.readouterr()
    assert "realnvp: warning:" in captured.err
    assert (
        "imagenet32 is Chrabaszcz 2017 (not the paper's), the run was trained on van den Oord 2016 (the paper's)"
        in captured.err
    )
    assert "not comparable" in captured.err
    assert json.loads(captured.out)["dataset_version"] == "Chrabaszcz 2017 (not the paper's)"
    assert run(["evaluate", str(tmp_path / "run"), "--data.source", str(tmp_path / "old-out")]) == 0
    captured = out_of.readouterr()
    assert "imagenet32 (van den Oord 2016 (the paper's)), test: 8 images" in captured.out
    assert "comparable" not in captured.err


def objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, data=np.array([{}], dtype=object))
    return file.getvalue()


def array(values: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez(file, data=values)
    return file.getvalue()


BAD_BATCHES: dict[str, tuple[str, bytes, str]] = {
    "pickle": (
        "train_data_batch_2",
        b"\x80\x03}",
        "a pickle, which can run code; get the npz version",
    ),
    "objects": (
        "train_data_batch_2.npz",
        objects(),
        "data holds Python objects, that is, a pickle",
    ),
    "floats": ("train_data_batch_2.npz", array(np.zeros((2, 3072))), "data is float64"),
    "other size": (
        "train_data_batch_2.npz",
        array(noise(2, 12288)),
        "(2, 12288), not uint8 (N, 3072)",
    ),
    "truncated": ("train_data_batch_2.npz", batch(noise(2, 32, 32, 3))[:-400], "not a zip file"),
    "no data": ("train_data_batch_2.npz", b"", "zip"),
    "both versions": ("train_32x32/1.png", encoded(noise(32, 32, 3)), "holds both PNG files"),
}


@pytest.mark.parametrize("kind", BAD_BATCHES)
def test_bad_batches(out_of: Out, tmp_path: Path, kind: str) -> None:
    name, content, reason = BAD_BATCHES[kind]
    files = {
        "train_data_batch_1.npz": batch(noise(2, 32, 32, 3)),
        "val_data.npz": batch(noise(2, 32, 32, 3)),
        name: content,
    }
    source = write_folder(tmp_path / "in", files)
    line = refused(
        out_of,
        "prepare",
        "imagenet32",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert str(source) in line
    assert reason in line
    assert kind == "both versions" or name in line


# CelebA


def faces(count: int = 7) -> dict[str, bytes]:
    return {f"{i:06}.jpg": encoded(smooth(218, 178), "JPEG") for i in range(1, count + 1)}


PARTITION = b"000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n000005.jpg 0\n000006.jpg 2\n000007.jpg 0\n"


def face_by_hand(pixels: Pixels) -> Pixels:
    """Pixel by pixel: rows 40:188, columns 15:163; pixel i of 64 lies at 148 i / 64."""
    crop = pixels[40:188, 15:163].astype(float)
    result = np.zeros((64, 64, 3), np.uint8)
    for i in range(64):
        for j in range(64):
            y, x = 148 * i / 64, 148 * j / 64
            top, left = int(y), int(x)
            patch = crop[top : top + 2, left : left + 2]
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            result[i, j] = np.rint((patch * weights[..., None]).sum(axis=(0, 1)))
    return result


@pytest.mark.parametrize("form", ["zip", "folder", "beside"])
def test_celeba(out_of: Out, tmp_path: Path, form: str) -> None:
    files = {f"img_align_celeba/{name}": content for name, content in faces().items()}
    source = tmp_path / "in"
    write_folder(
        source / ("" if form == "beside" else "Eval"), {"list_eval_partition.txt": PARTITION}
    )
    if form == "zip":
        (source / "Img").mkdir()
        write_zip(source / "Img" / "img_align_celeba.zip", files)
    elif form == "folder":
        write_folder(source, files)
    else:
        source = write_zip(source / "img_align_celeba.zip", files)
    about = answer(
        out_of,
        "prepare",
        "celeba",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert about["counts"] == {"train": 4, "validation": 1, "test": 2}
    assert about["version"] == "img_align_celeba, partial"
    for split, numbers in {"train": [1, 2, 5, 7], "validation": [3], "test": [4, 6]}.items():
        expected = [face_by_hand(decoded(files[f"img_align_celeba/{i:06}.jpg"])) for i in numbers]
        assert np.array_equal(np.load(tmp_path / "out" / f"{split}.npy"), np.stack(expected))
    assert "list_eval_partition.txt" in " ".join(about["inputs"])
    assert len(open_splits(tmp_path / "out").validation) == 1


BAD_PARTITIONS = {
    "missing line": (
        PARTITION.replace(b"000003.jpg 1\n", b""),
        "list_eval_partition.txt: has no line for 000003.jpg",
    ),
    "missing image": (PARTITION + b"000008.jpg 0\n000009.jpg 1\n", "lacks 000008.jpg and 1 more"),
    "fourth split": (
        PARTITION.replace(b"000003.jpg 1", b"000003.jpg 3"),
        "line 3 is '000003.jpg 3'",
    ),
    "twice": (PARTITION + b"000001.jpg 1\n", "line 8 is '000001.jpg 1'"),
    "no validation": (PARTITION.replace(b"3.jpg 1", b"3.jpg 0"), "has no validation image"),
    "binary": (b"\xff\x00\xfe", "line 1"),
}


@pytest.mark.parametrize("kind", BAD_PARTITIONS)
def test_a_bad_partition(out_of: Out, tmp_path: Path, kind: str) -> None:
    text, reason = BAD_PARTITIONS[kind]
    source = write_folder(tmp_path / "in", faces() | {"list_eval_partition.txt": text})
    line = refused(
        out_of,
        "prepare",
        "celeba",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_bad_celeba(out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["prepare", "celeba", "--source", tmp_path / "in", "--out", tmp_path / "out"]
    write_folder(tmp_path / "in", faces())
    assert "lacks list_eval_partition.txt" in refused(out_of, *command)
    write_folder(tmp_path / "in", {"list_eval_partition.txt": PARTITION})
    assert "published are train 162,770, validation 19,867, test 19,962" in refused(
        out_of, *command
    )
    write_folder(tmp_path / "in", {"000003.jpg": encoded(smooth(64, 64), "JPEG")})
    monkeypatch.setattr(celeba, "COUNTS", {"train": 4, "validation": 1, "test": 2})
    assert run([*map(str, command)]) == 2
    error = out_of.readouterr().err
    assert "000003.jpg: is 64 high, 64 wide; aligned CelebA images are 218 high, 178 wide" in error
    assert not (tmp_path / "out" / "validation.npy").exists()
    assert not (tmp_path / "out" / "dataset.json").exists()


# LSUN


def scenes(count: int) -> list[bytes]:
    sizes = [(256, 300), (310, 256), (256, 256)]
    return [encoded(smooth(*sizes[i % 3]), "WEBP") for i in range(count)]


def write_lmdb(path: Path, contents: list[bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(path), map_size=2**24) as database,
        database.begin(write=True) as transaction,
    ):
        for i, content in enumerate(contents):
            transaction.put(hashlib.sha1(bytes([i])).hexdigest().encode(), content)
    return path


def small(content: bytes) -> Pixels:
    """The smallest side 96, by Pillow alone."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = 96 / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("form", ["lmdb", "folders"])
def test_lsun(out_of: Out, tmp_path: Path, form: str) -> None:
    contents = {"train": scenes(6), "val": scenes(3)}
    source = tmp_path / "in"
    source.mkdir()
    for split, part in contents.items():
        if form == "lmdb":
            keyed = write_lmdb(source / f"church_outdoor_{split}_lmdb", part)
            (keyed / "lock.mdb").unlink()
            order = np.argsort([hashlib.sha1(bytes([i])).hexdigest() for i in range(len(part))])
            contents[split] = [part[i] for i in order]
        else:
            write_folder(
                source / split, {f"a/{i}/{i}.webp": content for i, content in enumerate(part)}
            )
    before = everything(source)
    command = ["lsun-church-outdoor", "--source", source, "--out", tmp_path / "out"]
    assert "published are train 126,227, test 300" in refused(out_of, "prepare", *command)
    about = answer(out_of, "prepare", *command, "--allow-partial")
    assert everything(source) == before
    assert (about["shape"], about["train_shape"], about["version"]) == (
        [3, 64, 64],
        [3, 96, 96],
        "partial",
    )
    test, train = np.load(tmp_path / "out" / "test.npy"), np.load(tmp_path / "out" / "train.npy")
    for stored, content in zip(test, contents["val"], strict=True):
        whole = small(content)
        top, left = (whole.shape[0] - 64) // 2, (whole.shape[1] - 64) // 2
        assert np.array_equal(stored, whole[top : top + 64, left : left + 64])
    for stored, content in zip(train, contents["train"], strict=True):
        whole = small(content)
        corners = np.ndindex(whole.shape[0] - 95, whole.shape[1] - 95)
        assert any(
            np.array_equal(stored, whole[top : top + 96, left : left + 96]) for top, left in corners
        )
    answer(out_of, "prepare", *command[:-1], tmp_path / "other", "--allow-partial", "--seed", "1")
    other = np.load(tmp_path / "other" / "train.npy")
    assert not np.array_equal(other, train)
    assert np.array_equal(np.load(tmp_path / "other" / "test.npy"), test)


def test_bad_lsun(out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.mkdir()
    command = [
        "prepare",
        "lsun-tower",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    ]
    assert "lacks a folder tower_train_lmdb" in refused(out_of, *command)
    write_zip(source / "tower_train_lmdb.zip", {"data.mdb": b""})
    assert "unzip tower_train_lmdb.zip first" in refused(out_of, *command)
    for name in ("tower_train_lmdb", "tower_val_lmdb"):
        write_lmdb(source / name, scenes(2))
    path = source / "tower_train_lmdb" / "data.mdb"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "data.mdb: truncated" in refused(out_of, *command)
    path.write_bytes(b"no lmdb" * 2000)
    assert "tower_train_lmdb: " in refused(out_of, *command)
    path.unlink()
    write_lmdb(source / "tower_train_lmdb", [*scenes(1), b"no image"])
    assert run([*map(str, command)]) == 2
    assert "tower_train_lmdb: key " in out_of.readouterr().err
    assert not (tmp_path / "out" / "train.npy").exists()
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    assert "lmdb is not installed: pip install 'realnvp[lsun]'" in refused(out_of, *command)


def test_larger_images_are_cropped_at_random_in_training_only(out_of: Out, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for split, count in {"train": 20, "val": 3}.items():
        write_folder(
            source / split, {f"{i:02}.png": encoded(noise(96, 96, 3)) for i in range(count)}
        )
    answer(
        out_of,
        "prepare",
        "lsun-bedroom",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    stored = np.load(tmp_path / "out" / "train.npy")
    base = PRESETS["lsun-bedroom"]
    config = replace(
        base, data=replace(base.data, source=str(tmp_path / "out"), flip=False, val_fraction=0.1)
    )
    config = replace(config, train=replace(config.train, batch_size=6))
    splits = prepare(config.data, seed=0, folder=tmp_path / "none")
    assert isinstance(splits.train, Rows)
    assert isinstance(splits.validation, Rows)
    assert (splits.shape, splits.train.shape, splits.validation.shape) == (
        (3, 64, 64),
        (18, 64, 64, 3),
        (2, 64, 64, 3),
    )
    assert np.array_equal(
        np.asarray(splits.validation), stored[splits.validation.rows][:, 16:80, 16:80]
    )
    assert np.array_equal(splits.train[3], stored[splits.train.rows[3], 16:80, 16:80])
    corners = []
    batches = Batches(splits.train, config, device=torch.device("cpu"))
    for step in range(6):  # two epochs of three steps
        for index, image in zip(batches.indices(step), batches.at(step).floor(), strict=True):
            pixels = image.permute(1, 2, 0).numpy()
            large = stored[splits.train.rows[index]]
            match = [
                (top, left)
                for top in range(33)
                for left in range(33)
                if np.array_equal(large[top, left], pixels[0, 0])
            ]
            (corner,) = [
                c
                for c in match
                if np.array_equal(large[c[0] : c[0] + 64, c[1] : c[1] + 64], pixels)
            ]
            corners.append(corner)
    assert len(set(corners)) > 20
    assert min(min(corners)) == 0 or max(map(max, corners)) > 28
    resumed = Batches(splits.train, config, device=torch.device("cpu"))
    assert torch.equal(resumed.at(4), batches.at(4))
    halves = [
        Batches(splits.train, config, device=torch.device("cpu"), process=i, processes=2).at(4)
        for i in range(2)
    ]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), batches.at(4))


# The user's own


@pytest.mark.parametrize("form", WRITERS)
def test_images_from_anywhere(out_of: Out, tmp_path: Path, form: str) -> None:
    pictures = [noise(8, 12, 3) for _ in range(20)]
    files = {f"mine/{'ab'[i % 2]}/{i:02}.png": encoded(pixels) for i, pixels in enumerate(pictures)}
    files |= {
        "mine/notes.txt": b"no image",
        "__MACOSX/mine/._00.png": b"no image",
        "mine/.hidden.png": b"no image",
    }
    if form == "folder":
        del files["__MACOSX/mine/._00.png"]
    source = WRITERS[form](tmp_path / "pictures", files)
    about = answer(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out")
    assert (about["counts"], about["shape"], about["version"]) == (
        {"train": 18, "test": 2},
        [3, 8, 12],
        None,
    )
    stored = [np.load(tmp_path / "out" / f"{split}.npy") for split in ("train", "test")]
    assert sorted(image.tobytes() for part in stored for image in part) == sorted(
        image.tobytes() for image in pictures
    )
    entry = about["inputs"]
    assert len(entry) == (20 if form == "folder" else 1)
    splits = prepare(DataConfig(source=str(tmp_path / "out")), seed=0, folder=tmp_path / "none")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [16, 2, 2]


def test_many_loose_files_have_one_checksum(out_of: Out, tmp_path: Path) -> None:
    source = write_folder(
        tmp_path / "in", {f"{i:02}.png": encoded(noise(8, 8, 3)) for i in range(40)}
    )
    entry = answer(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out")[
        "inputs"
    ]["./"]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(source.iterdir())
    ]
    assert entry["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert entry["files"] == 40


def test_folders_called_like_splits(out_of: Out, tmp_path: Path) -> None:
    counts = {"train": 6, "val": 2, "test": 3}
    files = {
        f"x/{split}/c/{i}.png": encoded(noise(8, 8, 3))
        for split, count in counts.items()
        for i in range(count)
    }
    about = answer(
        out_of,
        "prepare",
        "images",
        "--source",
        write_zip(tmp_path / "x.zip", files),
        "--out",
        tmp_path / "out",
    )
    assert about["counts"] == {"train": 6, "validation": 2, "test": 3}
    files = {name: content for name, content in files.items() if "train" not in name}
    line = refused(
        out_of,
        "prepare",
        "images",
        "--source",
        write_zip(tmp_path / "y.zip", files),
        "--out",
        tmp_path / "out-2",
    )
    assert "none called train" in line


def test_crop_and_resize(out_of: Out, tmp_path: Path) -> None:
    pictures = [noise(20, 30, 3), noise(24, 16, 3), noise(16, 16, 3)]
    source = write_folder(
        tmp_path / "in", {f"{i}.png": encoded(pixels) for i, pixels in enumerate(pictures)}
    )

    def stored(*flags: str) -> dict[bytes, Pixels]:
        out = tmp_path / "-".join(flags).replace("--", "")
        answer(out_of, "prepare", "images", "--source", source, "--out", out, *flags)
        return {
            image.tobytes(): image
            for split in ("train", "test")
            for image in np.load(out / f"{split}.npy")
        }

    def scaled(pixels: Pixels, height: int, width: int) -> Pixels:
        return np.asarray(
            Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        )

    expected = {
        pictures[0][6:14, 10:20].tobytes(),
        pictures[1][8:16, 3:13].tobytes(),
        pictures[2][4:12, 3:13].tobytes(),
    }
    assert set(stored("--crop", "8x10")) == expected
    assert set(stored("--resize", "6x10")) == {
        scaled(pixels, 6, 10).tobytes() for pixels in pictures
    }
    expected = {
        scaled(pictures[0], 8, 12)[:, 2:10].tobytes(),
        scaled(pictures[1], 12, 8)[2:10].tobytes(),
    }
    assert set(stored("--resize", "8")) == expected | {scaled(pictures[2], 8, 8).tobytes()}
    assert scaled(pictures[0], 8, 12)[2:6, 4:8].tobytes() in stored("--resize", "8", "--crop", "4")
    command = ["prepare", "images", "--source", source, "--out", tmp_path / "out"]
    line = refused(out_of, *command)
    assert "1.png: is 24 high, 16 wide" in line or "0.png" in line
    line = refused(out_of, *command, "--crop", "18")
    assert "1.png: is 24 high, 16 wide: too small for a crop of 18x18" in line
    assert "2.png: is 16 high" in line
    for flags, word in {
        ("--crop", "0"): "--crop",
        ("--resize", "8x"): "--resize",
        ("--val-fraction", "1"): "--val-fraction",
    }.items():
        assert word in refused(out_of, *command, *flags)
    assert "--resize: celeba" in refused(out_of, "prepare", "celeba", *command[2:], "--resize", "8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "size", "flags", "words"),
    [
        ("images", (8, 8), ["--resize", "99999"], "would be 99999 high, 99999 wide"),
        ("images", (8, 8), ["--resize", "9999x8999"], "would be 9999 high, 8999 wide"),
        ("images", (3, 900), ["--resize", "999"], "would be 999 high, 299700 wide"),
        ("lsun-tower", (1, 20_000), ["--allow-partial"], "would be 96 high, 1920000 wide"),
    ],
)
def test_a_size_beyond_reason_is_refused_before_memory_is_taken(
    out_of: Out,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    size: tuple[int, int],
    flags: list[str],
    words: str,
) -> None:
    for split in ("train", "val"):
        write_folder(tmp_path / "in" / split, {"0.png": encoded(noise(*size, 3))})
    monkeypatch.setattr(Image.Image, "resize", lambda *_: pytest.fail("it is resized"))
    command = [name, "--source", tmp_path / "in", "--out", tmp_path / "out", *flags]
    assert f"train/0.png: {words}: more than 89478485 pixels" in refused(
        out_of, "prepare", *command
    )


def test_the_limit_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realnvp.data.images.MAX_PIXELS", 100)
    assert resized(noise(3, 3, 3), 10, 10).shape == (10, 10, 3)
    with pytest.raises(ValueError, match="would be 10 high, 11 wide"):
        resized(noise(3, 3, 3), 10, 11)


def test_upright_and_all_bad_files_at_once(out_of: Out, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    pixels = noise(8, 12, 3)
    for i in range(5):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png", exif=exif)
    answer(out_of, "prepare", "images", "--source", tmp_path / "in", "--out", tmp_path / "out")
    assert np.array_equal(np.load(tmp_path / "out" / "train.npy")[0], np.rot90(pixels, -1))
    whole = encoded(noise(12, 8, 3))
    files = {f"{i:02}.png": whole for i in range(30)} | {
        "03.png": b"no",
        "07.png": whole[:60],
        "11.png": encoded(noise(9, 9, 3)),
    }
    source = write_zip(tmp_path / "x.zip", files)
    line = refused(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "out-2")
    assert all(f"{source}/{name}.png: " in line for name in ("03", "07", "11"))
    assert not (tmp_path / "out-2").exists()


# Again, and interrupted


def test_a_second_preparation_changes_nothing(out_of: Out, tmp_path: Path) -> None:
    source, _ = cifar_prepared(out_of, tmp_path)
    before = everything(tmp_path / "out")
    command = ["cifar10", "--source", source, "--out", tmp_path / "out"]
    assert answer(out_of, "prepare", *command, "--allow-partial")["already"]
    assert everything(tmp_path / "out") == before
    assert "was prepared with allow_partial True, not False" in refused(out_of, "prepare", *command)
    line = refused(out_of, "prepare", "images", *command[1:], "--allow-partial")
    assert "was prepared with name 'cifar10', not 'images'" in line
    source.write_bytes(source.read_bytes() + bytes(512))
    assert "has changed since" in refused(out_of, "prepare", *command, "--allow-partial")
    source.unlink()
    assert answer(out_of, "prepare", *command, "--allow-partial")["already"]
    assert everything(tmp_path / "out") == before


def test_a_second_preparation_at_the_same_time_is_refused(out_of: Out, tmp_path: Path) -> None:
    """What is complete needs no lock: it may lie where nobody may write. What a killed preparation
    left there goes.
    """
    source = write_tar(tmp_path / "c.tar", cifar()[0])
    command = ["cifar10", "--source", source, "--out", tmp_path / "out", "--allow-partial"]
    with lock_folder(tmp_path / "out"):
        assert f"{tmp_path / 'out'}: another process is at work in it" in refused(
            out_of, "prepare", *command
        )
    assert not (tmp_path / "out").exists()
    assert not answer(out_of, "prepare", *command)["already"]
    assert names_in(tmp_path / "out") == {"train.npy", "test.npy", "dataset.json"}
    for left in (".lock", ".prepare.json"):
        (tmp_path / "out" / left).touch()
    with lock_folder(tmp_path / "out"):
        assert answer(out_of, "prepare", *command)["already"]
    assert names_in(tmp_path / "out") == {"train.npy", "test.npy", "dataset.json"}


def test_a_training_never_deletes_what_was_prepared_by_command(out_of: Out, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", {f"{i}.png": encoded(noise(8, 8, 3)) for i in range(9)})
    answer(out_of, "prepare", "images", "--source", source, "--out", tmp_path / "run/data")
    before = everything(tmp_path / "run/data")
    assert "run/data was prepared with" in refused(
        out_of, "train", "digits", "--run-dir", tmp_path / "run", "--device", "cpu"
    )
    assert everything(tmp_path / "run/data") == before


@pytest.mark.parametrize("packed", [False, True])
def test_images_that_are_left_out_are_told(out_of: Out, tmp_path: Path, packed: bool) -> None:
    picture = encoded(noise(8, 8, 3))
    counts = {"train": 12, "test": 4, "extra": 30}
    files = {
        f"{folder}/{i:02}.png": picture for folder, count in counts.items() for i in range(count)
    }
    files |= {
        "train/.hidden.png": picture,
        "train/a.heic": b"",
        "test/b.avif": b"",
        "train/notes.txt": b"",
        "extra/bad.png": b"",
    }
    source = (
        write_tar(tmp_path / "in.tar", files) if packed else write_folder(tmp_path / "in", files)
    )
    if not packed:
        (source / "linked").symlink_to(source / "extra")
    assert run(["prepare", "images", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    said = out_of.readouterr().err.splitlines()
    assert [line.split(f"{source}: ")[1] for line in said if "warning" in line] == [
        "31 images outside test, train are not read, extra/00.png first",
        "2 images of other formats are not read, test/b.avif first",
        "1 image hidden by name is not read, train/.hidden.png first",
        *(["1 linked folder with all in it is not read, linked/ first"] if not packed else []),
    ]
    inputs = json.loads((tmp_path / "out" / "dataset.json").read_text())["inputs"]
    assert packed or len(inputs) == 16
    if not packed:  # and train says the same
        with pytest.warns(
            UserWarning, match="31 images outside test, train are not read, extra/00.png first"
        ):
            scan(source, levels=256)


def test_other_files_are_left_alone(out_of: Out, tmp_path: Path) -> None:
    source = write_tar(tmp_path / "c.tar", cifar()[0])
    write_folder(tmp_path / "out", {"train.npy": b"mine"})
    assert "train.npy: is not of this preparation" in refused(
        out_of,
        "prepare",
        "cifar10",
        "--source",
        source,
        "--out",
        tmp_path / "out",
        "--allow-partial",
    )
    assert (tmp_path / "out" / "train.npy").read_bytes() == b"mine"
    write_folder(tmp_path / "in", cifar()[0])
    line = refused(
        out_of, "prepare", "cifar10", "--source", tmp_path / "in", "--out", tmp_path / "in" / "out"
    )
    assert "--out" in line
    assert "only read" in line


def test_an_interrupted_preparation_goes_on(
    out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    for split, count in {"train": 40, "val": 8}.items():
        write_folder(
            source / split, {f"{i:02}.png": encoded(noise(96, 96, 3)) for i in range(count)}
        )
    command = ["lsun-tower", "--source", source, "--allow-partial", "--out"]
    answer(out_of, "prepare", *command, tmp_path / "whole")
    monkeypatch.setattr(
        importlib.import_module("realnvp.data.prepared"), "BLOCK_BYTES", 4 * 96 * 96 * 3
    )  # blocks of 4 images, of 9 in test
    original, read, stop_at = lsun.smallest_side, [0], [23]

    def interrupting(pixels: Pixels, side: int) -> Pixels:
        read[0] += 1
        if read[0] > stop_at[0]:
            raise KeyboardInterrupt
        return original(pixels, side)

    monkeypatch.setattr(lsun, "smallest_side", interrupting)
    for limit in (23, 16):
        read[0], stop_at[0] = 0, limit
        assert run(["prepare", *map(str, command), str(tmp_path / "out")]) == 130
        assert "train.npy" not in names_in(tmp_path / "out")
        assert "dataset.json" not in names_in(tmp_path / "out")
    read[0], stop_at[0] = 0, 1000
    answer(out_of, "prepare", *command, tmp_path / "out")
    assert read[0] < 48 - 16  # not from the start
    assert names_in(tmp_path / "out") == {"train.npy", "test.npy", "dataset.json"}
    for name in ("train.npy", "test.npy", "dataset.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_preparation_does_not_go_on(
    out_of: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    for split in ("train", "val"):
        write_folder(source / split, {f"{i:02}.png": encoded(noise(96, 120, 3)) for i in range(12)})
    command = ["lsun-tower", "--source", source, "--allow-partial", "--out"]
    monkeypatch.setattr(
        importlib.import_module("realnvp.data.prepared"), "BLOCK_BYTES", 96 * 96 * 3
    )

    def failing(pixels: Pixels, height: int, width: int) -> Pixels:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lsun, "centre", failing)
        assert run(["prepare", *map(str, command), str(tmp_path / "out")]) == 130
    assert "train.npy" in names_in(tmp_path / "out")
    out_of.readouterr()
    for i in range(2):
        answer(out_of, "prepare", *command, tmp_path / ("out", "fresh")[i], "--seed", "1")
    for name in ("train.npy", "test.npy", "dataset.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


@pytest.fixture
def out_of(capsys: Out) -> Out:
    """What a command printed."""
    return capsys
