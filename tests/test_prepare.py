"""The published data sets, in miniature and in their real formats, against exact pixels."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from realnvp.cli.main import run
from realnvp.data.dataset import Crops
from realnvp.data.images import resized
from realnvp.data.prepared import open_splits
from realnvp.data.published import CIFAR10_CLASSES as CLASSES
from realnvp.data.published import LabeledImage, Published, write_published
from tests.command_output import Out, refused

Pixels = NDArray[np.uint8]
RNG = np.random.default_rng(0)


def noise(*shape: int) -> Pixels:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    return resized(noise(5, 5, 3), height, width)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def decoded(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "zip": lambda path, files: write_zip(path.with_name(f"{path.name}.zip"), files),
    "tar": lambda path, files: write_tar(path.with_name(f"{path.name}.tar"), files),
    "tar.gz": lambda path, files: write_tar(path.with_name(f"{path.name}.tar.gz"), files, "w:gz"),
}


def prepared(name: str, source: Path, out: Path, *flags: str) -> dict[str, Pixels]:
    """The arrays that the command writes of a part of a data set."""
    flags = ("--source", str(source), "--out", str(out), "--allow-partial", *flags)
    assert run(["prepare", name, *flags]) == 0
    return {path.stem: np.load(path) for path in out.glob("*.npy") if "labels" not in path.stem}


def bad(capsys: Out, name: str, source: Path, out: Path, word: str, *flags: str) -> None:
    """The command ends with one line that names the culprit, and writes nothing."""
    command = ["prepare", name, "--source", source, "--out", out, *flags]
    assert word in refused(capsys, *command, unchanged=[out.parent])


def images(train: int = 4, test: int = 2, side: int = 8) -> Iterator[LabeledImage]:
    for split, count in {"train": train, "test": test}.items():
        for index in range(count):
            yield split, np.full((side, side, 3), index, np.uint8), None


def write(out: Path, found: Iterator[LabeledImage], *, allow_partial: bool = False) -> str:
    counts = {"old": {"train": 4, "test": 2}, "new": {"train": 5, "test": 2}}
    published = Published(lambda source, seed: found, counts)
    write_published(published, "x", out.parent, out, allow_partial=allow_partial, seed=0)
    dataset = open_splits(out)
    assert dataset.comparable == (dataset.version == "old")
    assert dataset.version
    return dataset.version


def test_the_number_of_images_names_the_version(tmp_path: Path) -> None:
    assert write(tmp_path / "a", images()) == "old"
    assert write(tmp_path / "b", images(5)) == "new"
    assert write(tmp_path / "c", images(6), allow_partial=True) == "partial"
    for partial, found in ((False, images(6)), (True, images(6, test=0)), (True, images(0, 0))):
        with pytest.raises(ValueError, match="published"):
            write(tmp_path / "d", found, allow_partial=partial)
    assert not (tmp_path / "d").exists()


def test_equal_images_stay_in_one_split(tmp_path: Path) -> None:
    pixels = np.repeat(noise(20, 8, 8, 3), 3, axis=0)
    found = [("train", image, None) for image in pixels] + [("test", pixels[0], None)]
    published = Published(lambda source, seed: iter(found), {"old": {"train": 60, "test": 1}})
    write_published(published, "x", tmp_path, tmp_path / "x", allow_partial=False, seed=0)
    splits = open_splits(tmp_path / "x", val_fraction=0.1)
    assert splits.counts == {"train": 54, "validation": 6, "test": 1}
    train, validation = ({*map(bytes, part[:])} for part in (splits.train, splits.validation))
    assert (len(train), len(validation), train & validation) == (18, 2, set())


def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> Iterator[LabeledImage]:
        yield from images()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stopped())
    assert list(tmp_path.iterdir()) == []


def cifar() -> tuple[dict[str, bytes], dict[str, Pixels], dict[str, list[int]]]:
    """Files by name; images and labels by split."""
    records = {f"data_batch_{i}": noise(3, 3073) for i in range(1, 6)}
    records["test_batch"] = noise(5, 3073)
    for each in records.values():
        each[:, 0] %= 10
    splits = {"train": np.concatenate([records[f"data_batch_{i}"] for i in range(1, 6)])}
    splits["test"] = records["test_batch"]
    names = sorted(records, key=lambda name: hashlib.md5(name.encode()).digest())
    return (
        {f"cifar-10-batches-bin/{name}.bin": records[name].tobytes() for name in names}
        | {"cifar-10-batches-bin/readme.html": b"<html>"},
        {
            split: part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for split, part in splits.items()
        },
        {split: part[:, 0].tolist() for split, part in splits.items()},
    )


@pytest.mark.parametrize("form", WRITERS)
def test_cifar10(tmp_path: Path, form: str) -> None:
    files, expected, labels = cifar()
    source = WRITERS[form](tmp_path / "cifar-10-binary", files)
    arrays = prepared("cifar10", source, tmp_path / "out")
    assert arrays.keys() == expected.keys()
    for split, array in arrays.items():
        assert np.array_equal(array, expected[split])
    dataset = open_splits(tmp_path / "out", val_fraction=0.2, verify=["train", "test"])
    assert (dataset.version, dataset.comparable) == ("partial", False)
    assert dataset.labels is not None
    assert dataset.labels["test"].tolist() == labels["test"]
    kept = np.concatenate([dataset.labels["train"], dataset.labels["validation"]])
    assert sorted(kept.tolist()) == sorted(labels["train"])
    assert dataset.class_names == CLASSES
    assert dataset.counts == {"train": 12, "validation": 3, "test": 5}


def test_bad_cifar10(capsys: Out, tmp_path: Path) -> None:
    files = cifar()[0] | {"cifar-10-batches-bin/data_batch_2.bin": bytes(3074)}
    source = write_tar(tmp_path / "cifar.tar", files)
    bad(capsys, "cifar10", source, tmp_path / "out", "data_batch_2.bin", "--allow-partial")


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_a_truncated_archive(capsys: Out, tmp_path: Path, form: str, share: float) -> None:
    source = WRITERS[form](tmp_path / "cifar", cifar()[0])
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    bad(capsys, "cifar10", source, tmp_path / "out", str(source), "--allow-partial")


def batch(images: Pixels) -> bytes:
    return npz(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def npz(data: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez(file, data=data, labels=np.ones(len(data), np.int64), mean=np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("side", [32, 64])
def test_imagenet_of_npz_batches(tmp_path: Path, form: str, side: int) -> None:
    train, test = [noise(2, side, side, 3) for _ in range(11)], noise(3, side, side, 3)
    files = {f"train_data_batch_{i}.npz": batch(images) for i, images in enumerate(train, 1)}
    source = tmp_path / "in"
    WRITERS[form](source / f"Imagenet{side}_train_npz", files)
    WRITERS[form](source / f"Imagenet{side}_val_npz", {"val_data.npz": batch(test)})
    arrays = prepared(f"imagenet{side}", source, tmp_path / "out")
    assert {*map(bytes, arrays["train"])} == {*map(bytes, np.concatenate(train))}
    assert np.array_equal(arrays["test"], test)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_imagenet_of_pictures(capsys: Out, tmp_path: Path, form: str) -> None:
    expected = {"train": noise(7, 32, 32, 3), "test": noise(4, 32, 32, 3)}
    expected["train"][2] = expected["train"][2, ..., :1]
    source = tmp_path / "in"
    for split, folder in {"train": "train_32x32", "test": "valid_32x32"}.items():
        files = {f"{i:07}.png": encoded(pixels) for i, pixels in enumerate(expected[split])}
        if split == "train":
            files["0000002.png"] = encoded(expected[split][2, ..., 0])  # gray
        files["._0000002.png"] = b"a note of macOS"
        inside = {f"{folder}/{name}": files[name] for name in files}
        WRITERS[form](source / (folder if form == "tar" else ""), inside)
    write_folder(source / "train_64x64", {"0.png": encoded(noise(64, 64, 3))})
    arrays = prepared("imagenet32", source, tmp_path / "out")
    for split in ("train", "test"):
        assert np.array_equal(arrays[split], expected[split])
    capsys.readouterr()
    bad(capsys, "imagenet32", source, tmp_path / "out2", "'train': 7, 'test': 4")
    write_folder(source / "train_32x32", {"x.png": encoded(noise(32, 33, 3))})
    bad(capsys, "imagenet32", source, tmp_path / "out2", "x.png")


BATCHES = {
    "objects": npz(np.array([{}], dtype=object)),
    "pickle": pickle.dumps([]),
    "floats": npz(np.zeros((2, 3072))),
    "64x64": npz(noise(2, 12288)),
    "truncated": batch(noise(2, 32, 32, 3))[:-400],
    "empty": b"",
}


@pytest.mark.parametrize("kind", BATCHES)
def test_bad_batches(capsys: Out, tmp_path: Path, kind: str) -> None:
    good, name = batch(noise(2, 32, 32, 3)), "train_data_batch_2.npz"
    source = write_folder(tmp_path / "in", {"val_data.npz": good, name: BATCHES[kind]})
    bad(capsys, "imagenet32", source, tmp_path / "out", name, "--allow-partial")


PARTITION = b"".join(b"%06d.jpg %d\n" % pair for pair in enumerate([0, 0, 1, 2, 0, 2, 0], 1))


def faces() -> dict[str, bytes]:
    return {f"img_align_celeba/{i:06}.jpg": encoded(smooth(218, 178), "JPEG") for i in range(1, 8)}


def face_by_hand(pixels: Pixels) -> Pixels:
    """Pixel by pixel: rows 40:188, columns 15:163; pixel i of 64 lies at 148 i / 64."""
    crop = pixels[40:188, 15:163].astype(float)
    result = np.zeros((64, 64, 3), np.uint8)
    for i, j in np.ndindex(64, 64):
        y, x = 148 * i / 64, 148 * j / 64
        top, left = int(y), int(x)
        weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
        patch = crop[top : top + 2, left : left + 2]
        result[i, j] = np.rint((patch * weights[..., None]).sum(axis=(0, 1)))
    return result


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_celeba(tmp_path: Path, form: str) -> None:
    files, source = faces(), tmp_path / "in"
    write_folder(source / "Eval", {"list_eval_partition.txt": PARTITION})
    WRITERS[form](source / ("img_align_celeba" if form == "zip" else ""), files)
    arrays = prepared("celeba", source, tmp_path / "out")
    for split, numbers in {"train": [1, 2, 5, 7], "validation": [3], "test": [4, 6]}.items():
        expected = [face_by_hand(decoded(files[f"img_align_celeba/{i:06}.jpg"])) for i in numbers]
        assert np.array_equal(arrays[split], np.stack(expected))
    assert len(open_splits(tmp_path / "out").validation) == 1


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"list_eval_partition.txt": PARTITION.replace(b"000003.jpg 1\n", b"")}, "000003.jpg"),
        ({"list_eval_partition.txt": PARTITION + b"000008.jpg 0\n"}, "000008.jpg"),
        ({"list_eval_partition.txt": PARTITION.replace(b"3.jpg 1", b"3.jpg 3")}, "000003.jpg 3"),
        (
            {"list_eval_partition.txt": PARTITION.replace(b"3.jpg 1", b"3.jpg 0")},
            "'train': 5, 'test': 2",
        ),
        ({"list_eval_partition.txt": None}, "list_eval_partition.txt"),
        ({"list_eval_partition.txt": b"\xff\x00\xfe"}, "list_eval_partition.txt"),
        ({"img_align_celeba/000003.jpg": encoded(smooth(64, 64), "JPEG")}, "000003.jpg"),
        ({"img_align_celeba/000003.jpg": b"no image"}, "000003.jpg"),
    ],
)
def test_bad_celeba(capsys: Out, tmp_path: Path, changed: dict[str, Any], word: str) -> None:
    files = faces() | {"list_eval_partition.txt": PARTITION} | changed
    source = write_folder(tmp_path / "in", {k: v for k, v in files.items() if v is not None})
    bad(capsys, "celeba", source, tmp_path / "out", word, "--allow-partial")


def scenes(count: int) -> list[bytes]:
    sizes = [(256, 300), (310, 256), (256, 256)]
    return [encoded(smooth(*sizes[i % 3]), "WEBP") for i in range(count)]


def write_lmdb(path: Path, contents: list[bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=2**24) as database, database.begin(write=True) as writer:
        for i, content in enumerate(contents):
            writer.put(b"%03d" % i, content)
    (path / "lock.mdb").unlink()
    return path


def small(content: bytes) -> Pixels:
    """The smallest side 96, by Pillow alone."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = 96 / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("form", ["lmdb", "folders"])
def test_lsun(tmp_path: Path, form: str) -> None:
    contents = {"train": scenes(6), "val": scenes(3)}
    source = tmp_path / "in"
    for split, part in contents.items():
        if form == "lmdb":
            write_lmdb(source / f"church_outdoor_{split}_lmdb", part)
        else:
            write_folder(source / split, {f"a/{i}/{i}.webp": each for i, each in enumerate(part)})
    arrays = prepared("lsun-church-outdoor", source, tmp_path / "out")
    for stored, content in zip(arrays["test"], contents["val"], strict=True):
        whole = small(content)
        top, left = (whole.shape[0] - 64) // 2, (whole.shape[1] - 64) // 2
        assert np.array_equal(stored, whole[top : top + 64, left : left + 64])
    for stored, content in zip(arrays["train"], contents["train"], strict=True):
        whole = small(content)
        corners = np.ndindex(whole.shape[0] - 95, whole.shape[1] - 95)
        assert any(np.array_equal(stored, whole[y : y + 96, x : x + 96]) for y, x in corners)
    other = prepared("lsun-church-outdoor", source, tmp_path / "other", "--seed", "1")
    assert not np.array_equal(other["train"], arrays["train"])
    assert np.array_equal(other["test"], arrays["test"])


def test_bad_lsun(capsys: Out, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    bad(capsys, "lsun-tower", source, out, "tower_train_lmdb", "--allow-partial")
    write_lmdb(source / "tower_val_lmdb", scenes(2))
    data = write_lmdb(source / "tower_train_lmdb", scenes(2)) / "data.mdb"
    whole = data.read_bytes()
    for content in (whole[: len(whole) // 2], b"no lmdb" * 2000):
        data.write_bytes(content)
        bad(capsys, "lsun-tower", source, out, "tower_train_lmdb", "--allow-partial")


def test_training_crops_the_stored_squares(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for split, count in {"train": 20, "val": 3}.items():
        files = {f"{i:02}.png": encoded(noise(96, 96, 3)) for i in range(count)}
        write_folder(source / split, files)
    stored = prepared("lsun-bedroom", source, out)["train"]
    dataset = open_splits(out, val_fraction=0.1)
    assert dataset.counts == {"train": 18, "validation": 2, "test": 3}
    middles = {image.tobytes() for image in stored[:, 16:80, 16:80]}
    assert {image.tobytes() for image in dataset.validation[:]} < middles
    assert isinstance(dataset.train, Crops)
    assert (dataset.train.room(np.arange(2)) == 33).all()
    (crop,) = dataset.train.crops(np.array([4]), np.array([[7, 32]]))
    assert crop.tobytes() in {image.tobytes() for image in stored[:, 7:71, 32:96]}
