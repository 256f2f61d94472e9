"""Bad input: exit 2, or 1 for a damaged run; the error names the file or field; nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_output import Out, listing
from pictures import color, pictures, png
from PIL import Image

from realnvp.cli.main import run

# Words of commands: T is an empty folder, RUN a finished run, IN a folder of pictures.
TRAIN = ["train", "images", "--run-dir", "T/x", "--device", "cpu", "--data.source"]
DIGITS = ["train", "digits", "--run-dir", "T/x", "--device", "cpu"]
BAD: list[tuple[str, list[str], str]] = [
    ("no source", ["train", "images", "--run-dir", "T/x"], "data.source"),
    ("unprepared set", ["train", "cifar10", "--run-dir", "T/x"], "data.source"),
    ("source of photos", ["train", "photos", "--data.source", "T"], "data.source"),
    ("missing source", [*TRAIN, "T/no"], "no"),
    ("empty source", [*TRAIN, "T"], "T"),
    ("other file", [*TRAIN, "IN/00.png"], "00.png"),
    ("no classes", [*TRAIN, "IN", "--data.classes"], "data.classes"),
    ("too large crop", [*TRAIN, "IN", "--data.crop", "9"], "00.png"),
    ("beyond levels", [*TRAIN, "IN", "--data.levels", "17"], "data.levels"),
    ("levels of 16 bits", [*TRAIN, "IN", "--data.levels", "1024"], "data.levels"),
    ("source is run", ["train", "images", "--run-dir", "IN", "--data.source", "IN"], "IN"),
    ("other shape", [*DIGITS, "--data.shape", "3", "8", "8"], "data.shape"),
    ("other levels", [*DIGITS, "--data.levels", "256"], "data.levels"),
    ("no batch", [*DIGITS, "--train.batch-size", "0"], "batch"),
    ("large batch", [*DIGITS, "--train.batch-size", "9999"], "train.batch_size"),
    ("negative rate", [*DIGITS, "--train.lr", "-1"], "lr"),
    ("negative seed", [*DIGITS, "--seed", "-1"], "seed"),
    ("all for validation", [*DIGITS, "--data.val-fraction", "1"], "val_fraction"),
    ("many scales", [*DIGITS, "--model.num-scales", "5"], "model.num_scales"),
    ("no device", [*DIGITS, "--device", "tpu"], "tpu"),
    ("other run", ["train", "digits", "--run-dir", "RUN"], "config.json"),
    ("weights of nobody", [*DIGITS, "--init-from", "T/no"], "no"),
    ("no configuration", ["train", "--config", "T/no.json"], "no.json"),
    ("prepared other set", ["train", "cifar10", "--data.source", "RUN/data"], "data.set"),
    ("missing table", ["train", "table", "--data.source", "T/no.csv"], "no.csv"),
    ("no command", ["unknown"], "unknown"),
    ("no flag", [*DIGITS, "--train.unknown", "1"], "unknown"),
    ("evaluate nothing", ["evaluate", "T/no"], "no"),
    ("evaluate missing data", ["evaluate", "RUN", "--data.source", "T/no.npy"], "no.npy"),
    ("evaluate color", ["evaluate", "RUN", "--data.source", "IN"], "00.png"),
    ("no noise draws", ["evaluate", "RUN", "--noise-draws", "0"], "noise"),
    ("sample none", ["sample", "RUN", "-n", "0"], "-n"),
    ("no classes to sample", ["sample", "RUN", "--class", "7"], "--class"),
    ("no GPU", ["sample", "RUN", "--device", "cuda:7"], "device"),
    ("sample JPEG", ["sample", "RUN", "--out", "T/s.jpg"], "s.jpg"),
    ("sample onto a folder", ["sample", "RUN", "-n", "1", "--out", "IN"], "IN"),
    ("score nothing", ["score", "RUN", "T/no.png"], "no.png"),
    ("score an empty folder", ["score", "RUN", "T"], "T"),
    ("no draws of a score", ["score", "RUN", "IN", "--noise-draws", "0"], "--noise-draws"),
    ("no threads", ["sample", "RUN", "--threads", "0"], "--threads"),
    ("rate above 1", ["score", "RUN", "IN/00.png", "--fpr", "1.5"], "--fpr"),
    ("rate of 0", ["score", "RUN", "IN/00.png", "--fpr", "0"], "--fpr"),
    ("page onto a folder", ["score", "RUN", "IN/00.png", "--report", "T"], "--report"),
    ("score color", ["score", "RUN", "IN/00.png"], "00.png"),
    ("check nothing", ["check", "T"], "T"),
    ("figures onto a file", ["figures", "RUN", "--out", "IN/00.png"], "00.png"),
    ("compress color", ["compress", "RUN", "IN", "--out", "T/a.rnvp"], "00.png"),
]


def files_of(*folders: Path) -> dict[str, tuple[int, int]]:
    """What `listing` finds, but for locks and new runs, T/x."""
    found = listing(*folders).items()
    return {path: seen for path, seen in found if not {"x", ".lock"} & {*Path(path).parts}}


@pytest.fixture
def refuse(
    capsys: Out, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command that must fail and change nothing; returns its stderr."""
    folder = tmp_path / "T"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(argv: list[str], code: int = 2, model: Path = run_dir) -> str:
        names = {"RUN": str(model), "IN": str(tmp_path / "IN"), "T": str(folder)}
        words = []
        for word in argv:
            first, slash, rest = word.partition("/")
            words.append(names.get(first, first) + slash + rest)
        before = files_of(tmp_path, model)
        assert run(words) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert files_of(tmp_path, model) == before
        return captured.err.replace(str(tmp_path) + "/", "")

    return call


@pytest.mark.parametrize(("argv", "word"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_command_names_the_file_or_field(
    refuse: Callable[..., str], tmp_path: Path, argv: list[str], word: str
) -> None:
    pictures(tmp_path / "IN", 12)
    assert word in refuse(argv)


def cut(path: Path, format: str) -> None:
    color(64, 64).save(path, format)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])


def transparent(path: Path) -> None:
    image = color()
    image.putalpha(128)
    image.save(path)


FILES: dict[str, Callable[[Path], object]] = {
    "cut.jpg": lambda path: cut(path, "JPEG"),
    "cut.png": lambda path: cut(path, "PNG"),
    "text.jxl": lambda path: path.write_bytes(b"\xff\x0a no"),
    "empty.png": lambda path: path.touch(),
    "link.png": lambda path: path.symlink_to(path),
    "gray16.png": lambda path: Image.fromarray(np.full((8, 8), 999, np.uint16)).save(path),
    "color16.png": lambda path: png(path, 8, 16),
    "color16.ppm": lambda path: path.write_bytes(b"P6 8 8 65535\n" + bytes(384)),
    "int.tif": lambda path: Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(path),
    "float.tif": lambda path: Image.fromarray(np.ones((8, 8), np.float32)).save(path),
    "cmyk.jpg": lambda path: color().convert("CMYK").save(path),
    "transparent.png": transparent,
    "two.gif": lambda path: color().save(path, save_all=True, append_images=[color()]),
    "large.png": lambda path: png(path, 10_000, 8),
    "bomb.png": lambda path: png(path, 20_000, 8),
    "bomb16.png": lambda path: png(path, 20_000, 16),
    "gray.png": lambda path: color().convert("L").save(path),
}


@pytest.mark.filterwarnings("ignore:.*decompression bomb")
@pytest.mark.parametrize("name", FILES)
def test_a_bad_picture_is_named(refuse: Callable[..., str], tmp_path: Path, name: str) -> None:
    FILES[name](pictures(tmp_path / "IN", 3) / name)
    error = refuse([*TRAIN, "IN"])
    assert f"IN/{name}" in error
    assert error.count("IN/") == 1
    if name != "gray.png":  # as the run's pictures
        assert f"IN/{name}" in refuse(["score", "RUN", f"IN/{name}"])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 8, 8, 3), np.float32),
        np.zeros((9, 8, 8, 3), np.int64),
        np.array([{}], dtype=object),
        np.zeros((9, 3, 8, 8), np.uint8),
        np.zeros((9, 64), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.full((9, 8, 8, 3), 40, np.uint8),
    ],
)
def test_a_bad_array_is_named(
    refuse: Callable[..., str], tmp_path: Path, array: np.ndarray
) -> None:
    np.save(tmp_path / "T" / "x.npy", array, allow_pickle=True)
    assert "T/x.npy" in refuse([*TRAIN, "T/x.npy", "--data.levels", "17"])
    assert "T/x.npy" in refuse(["evaluate", "RUN", "--data.source", "T/x.npy"])


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES: list[tuple[list[str], str, Callable[[bytes], bytes] | None]] = [
    (["evaluate", "RUN"], "data/test.npy", flip),
    (["evaluate", "RUN"], "data/dataset.json", lambda c: c[:-1]),
    (["evaluate", "RUN"], "data/dataset.json", None),
    (["train", "--config", "RUN/config.json", "--run-dir", "RUN"], "data/test.npy", flip),
    (["evaluate", "RUN", "--which", "last"], "model/last*.safetensors", flip),
    (["sample", "RUN", "--which", "last"], "model/last*.safetensors", lambda c: c[:100]),
    (["score", "RUN", "IN", "--which", "last"], "model/last*.safetensors", lambda c: c[100:]),
]


@pytest.mark.parametrize(("argv", "pattern", "change"), DAMAGES)
def test_a_damaged_run_exits_with_1(
    refuse: Callable[..., str],
    run_dir: Path,
    tmp_path: Path,
    argv: list[str],
    pattern: str,
    change: Callable[[bytes], bytes] | None,
) -> None:
    shutil.copytree(run_dir, tmp_path / "copy")
    pictures(tmp_path / "IN", 2)
    paths = [*(tmp_path / "copy").glob(pattern)]
    assert paths
    for path in paths:
        if change:
            path.write_bytes(change(path.read_bytes()))
        else:
            path.unlink()
    assert paths[0].name in refuse(argv, 1, tmp_path / "copy") or change is None
