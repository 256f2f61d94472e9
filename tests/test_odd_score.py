"""realnvp score with a verdict: columns, pictures, a page, and what a killed one leaves."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import realnvp.evaluation.score
from realnvp.anomaly.rows import images_for
from realnvp.cli.main import run
from realnvp.figures.grids import HeatMap, font, heat_map
from realnvp.io.files import growing, partial_path
from tests.browser import BROWSER, seen_in_browser
from tests.told import Out, answer, refused

LEVELS = 17


def images(folder: Path, count: int, seed: int, *, side: int = 8) -> Path:
    """A folder of pictures like the tiny run's: digits are smooth and dark at the border."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    row, column = np.indices((side, side)) - (side - 1) / 2
    for i in range(count):
        ring = np.exp(-((np.hypot(row, column) - rng.uniform(1, 3)) ** 2))
        pixels = (12 * ring + rng.uniform(0, 4, ring.shape)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def noise(path: Path, side: int = 8) -> Path:
    rng = np.random.default_rng(9)
    Image.fromarray(rng.integers(0, LEVELS, (side, side), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Normal images, and new ones, of which odd.png is noise."""
    new = images(tmp_path / "new", 5, 3)
    noise(new / "odd.png")
    return images(tmp_path / "good", 40, 0), new


def test_verdicts(capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    good, new = folders
    asked = ["score", run_dir, new, "--normal", good, "--false-alarms", "0.04"]
    result = answer(capsys, *asked)
    assert (result["false_alarms"], result["normal_images"]) == (0.04, 30)
    assert result["least_false_alarms"] == pytest.approx(1 / 31)
    scores = {Path(entry["path"]).name: entry for entry in result["scores"]}
    assert result["odd"] == sum(entry["odd"] for entry in scores.values()) < 4
    assert scores["odd.png"]["odd"]
    assert all(entry["odd"] == (entry["p_value"] <= 0.04) for entry in scores.values())
    assert scores["odd.png"]["p_value"] == pytest.approx(1 / 31)
    assert scores["odd.png"]["rank"] == 1
    assert scores["odd.png"]["percentile"] == 100
    assert scores["odd.png"]["score"] == min(entry["score"] for entry in scores.values())
    plain = answer(capsys, "score", run_dir, new)["scores"]
    assert [entry["log_prob"] for entry in plain] == pytest.approx(
        [entry["log_prob"] for entry in result["scores"]], rel=1e-9
    )
    assert run([*map(str, asked), "--out", str(tmp_path / "s.csv"), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ODD odd.png, p = 0.0323, at ")
    assert len(lines) == 3
    assert (
        lines[-1]
        == f"{result['odd']} of 6 odd at a false-alarm rate of at most .04 (30 normal images)"
    )
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert list(rows[0]) == [
        *("path", "log_prob", "bits_per_dim", "rank"),
        *("percentile", "score", "p_value", "odd", "box"),
    ]
    assert [int(at) for at in rows[-1]["box"].split()] == scores["odd.png"]["box"]
    assert not (tmp_path / "s.csv.partial").exists()


def test_normal_images_are_the_validation_split_unless_named(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path]
) -> None:
    result = answer(capsys, "score", run_dir, folders[1], "--false-alarms", "0.02")
    assert result["normal_images"] == len(np.load(run_dir / "data/validation.npy")) * 3 // 4
    line = refused(capsys, "score", "photos-32", folders[1], "--top", "1")
    assert "1 channel" in line or "--normal" in line


def test_too_few_normal_images_are_told_with_what_is_possible(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path]
) -> None:
    good, new = folders
    assert run(["score", str(run_dir), str(new), "--normal", str(good)]) == 0
    captured = capsys.readouterr()
    assert "30 normal images calibrate false-alarm rates of 0.032 and more" in captured.err
    assert "needs 131 normal images" in captured.err
    assert "0 of 6 odd" in captured.err
    assert "p-values compare" not in captured.err
    large = noise(new / "large.png", side=16)
    assert run(["score", str(run_dir), str(large), "--normal", str(good)]) == 0
    assert "normal image is 8x8, the first new one 16x16: p-values" in capsys.readouterr().err
    for rate in (1e-9, 0.01, 0.05, 0.2, 0.5):
        count = images_for(rate)
        assert count - max(1, count // 4) >= 1 / rate - 1 > count - 1 - max(1, (count - 1) // 4)


def test_heat_maps_a_sheet_and_a_page(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    good, new = folders
    (new / "more").mkdir()
    noise(new / "more" / "odd.png", side=13)
    page, sheet, maps = (tmp_path / name for name in ("odd <b>.html", "odd.png", "maps"))
    asked = ["score", run_dir, new, "--normal", good, "--top", "2", "--report", page]
    answer(capsys, *asked, "--seed", "3", "--picture", sheet, "--heatmaps", maps)
    assert {path.name for path in maps.iterdir()} == {
        *(f"{i:03}.png" for i in range(5)),
        *("odd.png", "odd-2.png"),
    }
    with Image.open(sheet) as picture:
        assert picture.width > 800
    text = page.read_text()
    assert text.count("<img") == text.count("data:image/png;base64,") == 2
    assert "0 of 7 odd at a false-alarm rate of at most .01" in text
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)\w+:""", text) == []
    assert "<script" not in text
    assert f">realnvp score {run_dir} {new} --normal {good} --seed 3<" in text
    page.write_text("somebody's notes")
    assert "was not written by this command" in refused(capsys, *asked)
    assert page.read_text() == "somebody's notes"


@pytest.mark.parametrize("left", [2000, 3996])
def test_a_box_is_seen_in_a_large_picture(left: int) -> None:
    """Four pixels of 4,000, in the middle or last: a fifth of a pixel as shown."""
    share = np.ones((400, 4000))
    picture = np.full((*share.shape, 1), 128, np.uint8)
    box = (left, left // 10, left + 4, left // 10 + 4)
    sheet = np.asarray(heat_map(HeatMap("", picture, share, box), side=192))
    assert (sheet == (0, 200, 255)).all(2).sum() >= 16


def test_names_in_other_letters_can_be_told_apart() -> None:
    drawn = [bytes(font(14, word).getmask(word)) for word in ("ü", "ж")]
    assert drawn[0] != drawn[1]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian package chromium)")
def test_the_page_in_a_browser(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "odd.html"
    answer(capsys, "score", run_dir, folders[1], "--normal", folders[0], "--report", page)
    seen_in_browser(page.read_text(), tmp_path, pictures=6)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_stopped_score_keeps_what_it_knows(
    capsys: Out,
    run_dir: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: bool,
) -> None:
    out = tmp_path / "s.csv"
    argv = ["score", str(run_dir), str(folders[1]), "--out", str(out)]
    if verdict:
        argv += ["--normal", str(folders[0])]
        right = realnvp.anomaly.rows.Verdict

        def stop(**fields: object) -> object:
            if Path(str(fields["path"])).name == "003.png":
                raise KeyboardInterrupt
            return right(**fields)

        stop._fields = right._fields  # type: ignore[attr-defined]
        monkeypatch.setattr(realnvp.anomaly.rows, "Verdict", stop)
    else:
        monkeypatch.setattr(realnvp.evaluation.score, "CHUNK", 3)
        density, calls = realnvp.evaluation.score.log_probs, iter(range(2))

        def once(*context: object, **how: object) -> object:
            if next(calls):
                raise KeyboardInterrupt
            return density(*context, **how)

        monkeypatch.setattr(realnvp.evaluation.score, "log_probs", once)
    assert run(argv) == 130
    rows = list(csv.DictReader((tmp_path / "s.csv.partial").open()))
    assert [Path(row["path"]).name for row in rows] == ["000.png", "001.png", "002.png"]
    assert all(float(row["log_prob"]) < 0 for row in rows)
    assert not out.exists()


def test_a_row_is_on_the_disk_as_soon_as_it_is_known(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    with growing(out, ["path", "nats"]) as append:
        append("a.png", -3.5)
        assert partial_path(out).read_text() == "path,nats\na.png,-3.5\n"
    assert not [*tmp_path.iterdir()]
    partial_path(out).write_text("mine")
    with pytest.raises(ValueError, match="was not written by this command"), growing(out, ["path"]):
        pass
    assert partial_path(out).read_text() == "mine"


def test_images_of_any_size_are_scored_whole(capsys: Out, run_dir: Path, tmp_path: Path) -> None:
    large = noise(tmp_path / "large.png", side=21)
    (entry,) = answer(capsys, "score", run_dir, large)["scores"]
    assert entry["bits_per_dim"] == pytest.approx(-entry["log_prob"] / (21 * 21 * np.log(2)))
    out = tmp_path / "scores.csv"
    assert run(["score", str(run_dir), str(large), "--resize", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "--resize drops 85.5 % of the pixels" in told.err
    assert told.out.startswith(f"{out}: 1 image; the least likely is {large}, ")


def test_what_makes_no_sense_is_refused(
    capsys: Out, run_dir: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    good, new = folders
    (tmp_path / "one").mkdir()
    noise(tmp_path / "one" / "a.png")
    for flags, words in (
        (["--false-alarms", "0"], "--false-alarms: must be between 0 and 1"),
        (["--top", "0"], "--top: must be at least 1"),
        (["--normal", tmp_path / "one"], "normal: at least 2 images"),
        (["--normal", tmp_path / "none"], "--normal: "),
        (["--normal", good, "--heatmaps", new / "odd.png"], "heatmaps"),
        (["--normal", good, "--heatmaps", good], "--heatmaps: "),
        (["--normal", good, "--heatmaps", new], "--heatmaps: "),
    ):
        assert words in refused(capsys, "score", run_dir, new, *flags, unchanged=[new])
