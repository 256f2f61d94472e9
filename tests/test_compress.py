"""realnvp compress and decompress: pixels, names and folders come back, and nothing else is touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_files import MODELS, flow_of, smooth
from command_output import Out, answer, listing, refused
from PIL import Image

import realnvp
from realnvp.cli.main import run
from realnvp.codec import archive, compress
from realnvp.codec.archive import Archive, index_of, write
from realnvp.codec.images import files_by_name
from realnvp.data.images import deep_png, read_image


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flows") / "mine"
    realnvp.save_flow(flow_of(MODELS["modern"], (3, 16, 16)), folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Some that suit the flow, and some that do not, of many kinds."""
    folder = tmp_path / "pictures"
    (folder / "more" / "deep").mkdir(parents=True)
    for i, image in enumerate(smooth(6, 3, 40, 30)):
        Image.fromarray(image.transpose(1, 2, 0).copy()).save(folder / f"{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (21, 17, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "more" / "noise.jpg")
    Image.fromarray(noise[..., 0]).save(folder / "more" / "gray.bmp")
    Image.fromarray(noise[:1, :1]).save(folder / "more" / "deep" / "point.webp", lossless=True)
    Image.fromarray(noise // 128 * 255).save(folder / "more" / "deep" / "ink.tif")
    Image.fromarray(noise[..., 0]).save(folder / "more" / "plain.pgm")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_pixels_names_and_folders_come_back(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out
) -> None:
    file, back = tmp_path / "all.rnvp", tmp_path / "back"
    made = answer(capsys, "compress", saved, pictures, "--out", file)
    assert made["out"] == str(file)
    assert made["pictures"] == 11
    assert made["bytes"] == file.stat().st_size
    assert 0 < made["bits_per_dim"] < 8
    assert made["bound"] > 0
    checked = answer(capsys, "decompress", "--check", file)
    assert checked == {"file": str(file), "pictures": 11, "lost": []}
    assert answer(capsys, "decompress", file, "--out", back)["lost"] == []
    assert names(back) == sorted(name.replace(".jpg", ".jpg.png") for name in names(pictures))
    for name in names(pictures):
        found = back / name.replace(".jpg", ".jpg.png")
        assert np.array_equal(read_image(found), read_image(pictures / name)), name


def test_one_picture_and_several_paths(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["compress", str(saved), str(pictures / "0.png")]) == 0
    assert "bits/dim" in capsys.readouterr().out
    assert run(["decompress", "0.rnvp"]) == 0
    assert names(tmp_path / "0") == ["0.png"]
    two = ["pictures/0.png", "pictures/more", "--out", "two.rnvp"]
    assert run(["compress", str(saved), *two]) == 0
    assert run(["decompress", "two.rnvp"]) == 0
    assert (tmp_path / "two" / "more" / "gray.bmp").exists()


def test_an_interrupted_call_goes_on_and_replaces_nothing(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out
) -> None:
    file, back = tmp_path / "all.rnvp", tmp_path / "back"
    assert run(["compress", str(saved), str(pictures), "--out", str(file)]) == 0
    unpack = ["decompress", str(file), "--out", str(back)]
    assert run(unpack) == 0
    (back / "0.png").unlink()
    there = {path: path.stat().st_mtime_ns for path in back.rglob("*.*")}
    assert run(unpack) == 0
    assert np.array_equal(read_image(back / "0.png"), read_image(pictures / "0.png"))
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())
    (back / "more" / "gray.bmp").write_text("mine")
    capsys.readouterr()
    assert "gray.bmp" in refused(capsys, *unpack, unchanged=[back])
    Image.new("L", (17, 21)).save(back / "more" / "gray.bmp")
    assert "gray.bmp" in refused(capsys, *unpack, unchanged=[back])


def test_the_flow_is_found_named_or_asked_for(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out
) -> None:
    file, moved, back = tmp_path / "all.rnvp", tmp_path / "moved", tmp_path / "back"
    saved.rename(moved)
    try:
        assert run(["compress", str(moved), str(pictures / "1.png"), "--out", str(file)]) == 0
    finally:
        moved.rename(saved)
    capsys.readouterr()
    assert "--flow" in refused(capsys, "decompress", file, "--out", back)
    assert str(file) in refused(capsys, "decompress", file, "--out", back, "--flow", "photos-32")
    assert not back.exists()
    assert run(["decompress", str(file), "--out", str(back), "--flow", str(saved)]) == 0


def test_damage_costs_the_pictures_in_it_and_names_them(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "CHUNK", 2)
    # A tile for each picture.
    file, back = tmp_path / "all.rnvp", tmp_path / "back"
    assert run(["compress", str(saved), str(pictures), "--out", str(file)]) == 0
    with file.open("r+b") as opened:
        chunk = Archive(opened, file).chunks[1]
        opened.seek(chunk.start + chunk.length // 2)
        opened.write(b"damage")
    capsys.readouterr()
    assert run(["decompress", str(file), "--out", str(back)]) == 1
    assert "2.png; 3.png" in capsys.readouterr().err
    assert len(names(back)) == 9
    assert answer(capsys, "decompress", "--check", file, code=1)["lost"] == ["2.png", "3.png"]


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "", ".", "..", "a\0.png"])
def test_no_name_leads_out_of_the_folder(
    saved: Path, tmp_path: Path, capsys: Out, name: str
) -> None:
    flow, image = realnvp.load_flow(saved), smooth(1, 3, 16, 16)[0]
    with (tmp_path / "x.rnvp").open("w+b") as file:
        index = index_of(flow, [image.shape], names=[name])
        write(file, flow, index, [image], lambda _: None)
    back = tmp_path / "inner" / "back"
    before = listing(tmp_path)
    command = ["decompress", tmp_path / "x.rnvp", "--out", back, "--flow", saved]
    assert "x.rnvp" in refused(capsys, *command, code=1)
    assert listing(tmp_path) == before


def test_names_that_become_one_are_refused_of_16_bits_too(tmp_path: Path) -> None:
    """Of 16 bits a.tif is unpacked into a.tif.png."""
    for name in ("a.tif", "a.tif.png"):
        (tmp_path / name).write_bytes(deep_png(np.zeros((8, 8, 3), np.uint16)))
    with pytest.raises(ValueError, match=r"a\.tif\.png"):
        files_by_name([tmp_path], deep=True)
    assert len(files_by_name([tmp_path], deep=False)) == 2


def test_names_of_any_characters_come_back(saved: Path, tmp_path: Path, capsys: Out) -> None:
    folder, strange = tmp_path / "in", "12:30 \\ \n \u00e9.png"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    (folder / "x.png").rename(folder / strange)
    assert run(["compress", str(saved), str(folder), "--out", str(tmp_path / "x.rnvp")]) == 0
    assert run(["decompress", str(tmp_path / "x.rnvp"), "--out", str(tmp_path / "back")]) == 0
    assert names(tmp_path / "back") == [strange]
    (folder / "\udcff.png").write_bytes((folder / strange).read_bytes())
    with pytest.raises(ValueError, match="Unicode"):
        files_by_name([folder], deep=False)


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "A.png"),
        ("x.jpg", "x.jpg.png"),  # which x.jpg is unpacked into
        ("\u00e9.png", "e\u0301.png"),
        ("\u00e9.png", "E\u0301.png"),
        ("\u0390.png", "\u03aa\u0301.png"),
    ],
)
def test_names_that_become_one_when_unpacked_are_refused(
    saved: Path, tmp_path: Path, capsys: Out, names: tuple[str, str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    out = tmp_path / "y.rnvp"
    line = refused(capsys, "compress", saved, tmp_path / "in", "--out", out, unchanged=[tmp_path])
    assert str(tmp_path / "in" / names[1]) in line
    flow, images = realnvp.load_flow(saved), list(smooth(2, 3, 16, 16))
    with out.open("w+b") as file:
        index = index_of(flow, [image.shape for image in images], names=names)
        write(file, flow, index, images, lambda _: None)
    line = refused(capsys, "decompress", out, "--flow", saved, "--out", tmp_path / "b", code=1)
    assert str(out) in line


def test_images_without_names_are_numbered(saved: Path, tmp_path: Path, capsys: Out) -> None:
    file, back, images = tmp_path / "x.rnvp", tmp_path / "back", smooth(2, 3, 16, 16)
    file.write_bytes(compress(realnvp.load_flow(saved), images))
    answer(capsys, "decompress", file, "--out", back, "--flow", saved)
    assert names(back) == ["00000.png", "00001.png"]
    assert np.array_equal(read_image(back / "00001.png").transpose(2, 0, 1), images[1])


def test_a_bad_picture_is_named_before_anything_is_written(
    saved: Path, pictures: Path, tmp_path: Path, capsys: Out
) -> None:
    (pictures / "bad.png").write_bytes((pictures / "0.png").read_bytes()[:100])
    command = ["compress", saved, pictures, "--out", tmp_path / "x.rnvp"]
    line = refused(capsys, *command, unchanged=[tmp_path])
    assert "bad.png" in line


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("compress RUN no.png", "no.png"),
        ("compress RUN .", "."),
        ("compress RUN 0.png --out .", "--out"),
        ("compress no-run 0.png", "no-run"),
        ("decompress --check none.rnvp", "none.rnvp"),
        ("decompress none.rnvp", "none.rnvp"),
        ("decompress 0.png", "0.png"),
        ("decompress x.rnvp --out 0.png", "--out"),
        ("decompress x.rnvp --flow no-run", "no-run"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    saved: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch, words: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.rnvp").write_bytes(compress(realnvp.load_flow(saved), smooth(1, 3, 16, 16)))
    if "0.png" in words:
        Image.new("RGB", (8, 8)).save("0.png")
    line = refused(capsys, *words.replace("RUN", str(saved)).split(), unchanged=[tmp_path])
    assert name in line


def test_evaluate_measures_the_flows_own_file(run_dir: Path, capsys: Out) -> None:
    found: Any = answer(capsys, "evaluate", run_dir, "--codecs")
    images = np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)
    data = compress(realnvp.load_flow(run_dir), np.ascontiguousarray(images))
    assert found["codecs"]["realnvp"] == pytest.approx(8 * len(data) / images.size, rel=0.01)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data + data, 2),
        (lambda data: data + b"\n", 2),
        (lambda data: data[:5] + b"\2" + data[6:], 2),
        (lambda data: data[:30] + b"\xff" * 4 + data[34:], 1),
        (lambda data: data[:-1], 1),
    ],
    ids=["two archives", "a line more", "later version", "long head", "cut off"],
)
def test_what_is_no_whole_archive_is_named(
    saved: Path, tmp_path: Path, capsys: Out, change: Callable[[bytes], bytes], code: int
) -> None:
    data = change(compress(realnvp.load_flow(saved), smooth(1, 3, 16, 16)))
    (tmp_path / "c.rnvp").write_bytes(data)
    back = tmp_path / "back"
    how = ["decompress", tmp_path / "c.rnvp", "--flow", saved, "--out", back]
    if data[30:34] == b"\xff" * 4 or code == 2:
        assert "c.rnvp" in refused(capsys, *how, unchanged=[tmp_path], code=code)
    else:
        assert run([*map(str, how)]) == code
        assert "c.rnvp" in capsys.readouterr().err
    assert not back.exists()
