"""realnvp report and realnvp table; the page in a real browser where there is one."""

import json
import re
import shutil
from pathlib import Path

import pytest

import realnvp.cli.options
from realnvp.cli.main import run
from realnvp.config import PRESETS, to_json
from realnvp.evaluation.paper_table import markdown, table
from tests.browser import BROWSER, seen_in_browser


@pytest.fixture(scope="module")
def reported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run with a report; its name wants to be HTML."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>&run"
    shutil.copytree(run_dir, folder)
    (folder / "evaluation.json").unlink(missing_ok=True)
    assert run(["report", str(folder), "--device", "cpu"]) == 0
    return folder


def test_the_page_holds_results_pictures_and_configuration(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    result = json.loads((reported / "evaluation.json").read_text())
    assert f"{result['bits_per_dim']:.3f} +- {result['standard_error']:.3f} bits/dim" in page
    pictures = sorted((reported / "figures").glob("*.png"))
    assert page.count("<img") == len(pictures) >= 6
    assert page.count("data:image/png;base64,") == len(pictures)
    assert "train.batch_size" in page
    assert "realnvp figures" in page
    for sentence in re.findall(r"</h2><p>(.*?)</p><figure>", page):
        assert len(sentence) > 20


def test_text_is_escaped(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert "<b>&run" not in page
    assert "a &lt;b&gt;&amp;run" in page


def test_nothing_is_loaded_from_elsewhere(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)\w+:""", page) == []
    assert "<script" not in page
    assert "default-src 'none'" in page


@pytest.mark.skipif(
    BROWSER is None,
    reason="no Chromium here (Debian package chromium): the report was not opened in a browser",
)
def test_in_a_browser(reported: Path, tmp_path: Path) -> None:
    pictures = len(list((reported / "figures").glob("*.png")))
    seen_in_browser((reported / "report.html").read_text(), tmp_path, pictures=pictures)


def test_the_table_marks_what_is_not_the_papers(
    reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = tmp_path / "cifar10"
    paper.mkdir()
    for name in ("environment.json", "evaluation.json"):
        shutil.copy(reported / name, paper / name)
    shutil.copytree(reported / "model", paper / "model")
    result = json.loads((paper / "evaluation.json").read_text())
    (paper / "evaluation.json").write_text(
        json.dumps(result | {"dataset": "cifar10", "paper": 3.49, "comparable": True})
    )
    (paper / "config.json").write_text(to_json(PRESETS["cifar10"]))
    rows = table([reported, paper])
    assert [row["paper"] for row in rows] == [None, 3.49]
    assert rows[1]["others"] == {"PixelRNN": "3.00", "Conv DRAW": "< 3.59", "NICE": "4.48"}
    assert rows[1]["departures"] == []
    for comparable in (
        False,
        None,
    ):  # another version of the images; an evaluation of before this was recorded
        entries = {"comparable": comparable} if comparable is not None else {}
        other = {key: value for key, value in result.items() if key != "comparable"} | {
            "dataset": "cifar10",
            "paper": None,
        }
        (paper / "evaluation.json").write_text(json.dumps(other | entries))
        assert table([paper])[0]["others"] == {}
    (paper / "config.json").write_text(
        to_json(PRESETS["cifar10"]).replace('"width": 64', '"width": 32')
    )
    assert table([paper])[0]["departures"] == ["model.width"]
    assert rows[1]["model"] == "the paper's"
    for change, words in (
        (('"coupling": "affine"', '"coupling": "additive"'), "NICE"),
        (('"architecture": "paper"', '"architecture": "modern"'), "modern"),
    ):
        (paper / "config.json").write_text(to_json(PRESETS["cifar10"]).replace(*change))
        assert words in table([paper])[0]["model"]
        assert "not the paper's" in table([paper])[0]["model"]
    assert markdown(rows).count("\n") == 3
    assert run(["table", str(reported), str(paper), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert run(["table", str(reported)]) == 0
    assert "digits" in capsys.readouterr().out


def test_pictures_and_number_are_of_one_model(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "my run"
    shutil.copytree(reported, copy)
    assert run(["evaluate", str(copy), "--which", "last", "--device", "cpu"]) == 0
    loaded: list[str] = []
    right = realnvp.cli.options.load
    monkeypatch.setattr(
        realnvp.cli.options,
        "load",
        lambda *context, **how: (loaded.append(how["which"]), right(*context, **how))[1],
    )
    assert run(["report", str(copy), "--device", "cpu"]) == 0
    assert loaded == ["last"]
    assert (
        f"realnvp figures &#x27;{copy}&#x27; --only curves --seed 0 --which last"
        in (copy / "report.html").read_text()
    )


def test_a_number_of_another_split_or_model_is_not_quoted(
    reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reported, tmp_path / "run")
    path = tmp_path / "run" / "evaluation.json"
    result = json.loads(path.read_text())
    for change, words in (
        ({"split": "validation"}, "validation split"),
        ({"step": 3}, "earlier model"),
    ):
        path.write_text(json.dumps(result | change))
        assert run(["table", str(tmp_path / "run")]) == 2
        assert words in capsys.readouterr().err
    assert run(["report", str(tmp_path / "run"), "--device", "cpu"]) == 0  # evaluates anew
    assert json.loads(path.read_text())["step"] == result["step"]
