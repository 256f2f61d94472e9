"""realnvp report and realnvp table; the page in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from realnvp.cli.main import run
from realnvp.config.json import to_json
from realnvp.config.presets import PRESETS
from realnvp.evaluation.report import markdown, table
from tests.command_output import Out, answer, refused


@pytest.fixture(scope="module")
def reported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run with a report; its name looks like HTML."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>&run"
    shutil.copytree(run_dir, folder)
    (folder / "evaluation.json").unlink(missing_ok=True)
    assert run(["report", str(folder), "--device", "cpu"]) == 0
    return folder


def test_the_page(reported: Path) -> None:
    """Results, pictures, configuration; text is escaped, and no request leaves the page."""
    page = (reported / "report.html").read_text()
    result = json.loads((reported / "evaluation.json").read_text())
    assert f"{result['bits_per_dim']:.3f} +- {result['standard_error']:.3f} bits/dim" in page
    pictures = sorted((reported / "figures").glob("*.png"))
    assert page.count("data:image/png;base64,") == page.count("<img") == len(pictures) >= 6
    captions = re.findall(r"</h2>\s*<p>(.*?)</p>\s*<figure>", page, re.DOTALL)
    assert len(captions) == len(pictures)
    assert min(map(len, captions)) > 20
    assert "train.batch_size" in page
    assert "<b>&run" not in page
    assert "a &lt;b&gt;&amp;run" in page
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?!data:)\w+:""", page) == []
    assert "<script" not in page
    assert "default-src 'none'" in page


BROWSERS = [path for name in ("chromium", "google-chrome") if (path := shutil.which(name))]
WATCHER = """<script>addEventListener("load", () => {
    const loaded = [...document.images].filter(image => image.complete && image.naturalWidth > 0);
    const entries = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:"));
    document.body.dataset.loaded = loaded.length;
    document.body.dataset.requests = entries.length;
})</script></head>"""


@pytest.mark.skipif(not BROWSERS, reason="no Chromium here (Debian package chromium)")
def test_in_a_browser(reported: Path, tmp_path: Path) -> None:
    """No console error, every picture loaded; the page's policy forbids requests, and none is made."""
    page, scripts = (reported / "report.html").read_text(), "script-src 'unsafe-inline'"
    watched = page.replace("style-src 'unsafe-inline'", f"style-src 'unsafe-inline'; {scripts}")
    (tmp_path / "page.html").write_text(watched.replace("</head>", WATCHER))
    words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    words += " --enable-logging=stderr --virtual-time-budget=10000 --dump-dom"
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"]
    command = [BROWSERS[0], *words.split(), *where]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert f'data-loaded="{len([*(reported / "figures").glob("*.png")])}"' in result.stdout
    assert 'data-requests="0"' in result.stdout
    assert "CONSOLE" not in result.stderr


def test_the_table(reported: Path, tmp_path: Path, capsys: Out) -> None:
    """The paper's number and others' stand only beside the paper's images and configuration."""
    paper = tmp_path / "cifar10"
    paper.mkdir()
    for name in ("environment.json", "evaluation.json"):
        shutil.copy(reported / name, paper / name)
    shutil.copytree(reported / "model", paper / "model")
    result = json.loads((paper / "evaluation.json").read_text()) | {"dataset": "cifar10"}

    def row(comparable: bool, **model: Any) -> dict[str, Any]:
        evaluation = result | {"comparable": comparable} | ({"paper": 3.49} if comparable else {})
        (paper / "evaluation.json").write_text(json.dumps(evaluation))
        config = json.loads(to_json(PRESETS["cifar10"]))
        (paper / "config.json").write_text(json.dumps(config | {"model": config["model"] | model}))
        return table([paper])[0]

    assert (row(False)["paper"], row(False)["others"]) == (None, {})
    assert row(True, width=32)["departs_in"] == ["model.width"]
    assert row(True)["departs_in"] == []
    assert row(True)["others"] == {"PixelRNN": "3.00", "Conv DRAW": "< 3.59", "NICE": "4.48"}
    rows: Any = answer(capsys, "table", reported, paper)["rows"]
    assert [each["paper"] for each in rows] == [None, 3.49]
    assert markdown(rows).count("\n") == 3
    assert run(["table", str(reported)]) == 0
    assert "digits" in capsys.readouterr().out


def test_pictures_and_number_are_of_one_model(reported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(reported, copy)
    assert run(["report", str(copy), "--which", "last", "--device", "cpu"]) == 0
    assert json.loads((copy / "evaluation.json").read_text())["which"] == "last"
    page = (copy / "report.html").read_text()
    assert page.count("--which last") == page.count("<img") + 1


@pytest.mark.parametrize("change", [{"split": "validation"}, {"step": 3}])
def test_a_number_of_another_split_or_model_is_not_quoted(
    reported: Path, tmp_path: Path, capsys: Out, change: dict[str, Any]
) -> None:
    shutil.copytree(reported, tmp_path / "run")
    path = tmp_path / "run" / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | change))
    assert "evaluation.json" in refused(capsys, "table", tmp_path / "run")
    assert run(["report", str(tmp_path / "run"), "--device", "cpu"]) == 0  # evaluates anew
    assert json.loads(path.read_text()) == result


@pytest.mark.parametrize(
    "damage", [b'{"step": 1, "train_bits', b"3", b'{"step": "one"}', b"\xff\x00", b"\n"]
)
def test_a_damaged_metrics_file_is_named(
    reported: Path, tmp_path: Path, capsys: Out, damage: bytes
) -> None:
    shutil.copytree(reported, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + damage)
    only = ["--only", "curves"] if damage != b"3" else []
    assert "metrics.jsonl" in refused(capsys, "figures", tmp_path / "run", *only, code=1)
