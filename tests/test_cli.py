"""Every command as a user runs it, also with wrong input: exit 2 and one line that names the file
or field.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from told import Out, answer, refused

import realnvp
from realnvp.cli import entry
from realnvp.cli.main import SHELLS, main, run
from realnvp.config import Config, to_json
from realnvp.data import codec_bits_per_dim
from realnvp.data.published.prepare import convert
from realnvp.evaluation.record import OfImages
from realnvp.io.files import atomic_save

FAST = [
    *(
        "--model.width",
        "4",
        "--model.num-blocks",
        "1",
        "--train.max-steps",
        "2",
        "--train.batch-size",
        "8",
    ),
    *("--train.moment-batches", "2", "--train.tracker", "none", "--device", "cpu"),
]


def test_what_a_run_directory_holds(run_dir: Path) -> None:
    names = {path.name for path in run_dir.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "environment.json",
        "checkpoints",
        "model",
        "samples",
        "data",
        "curves",
    }
    assert len(list((run_dir / "checkpoints").iterdir())) == 2
    assert len(list((run_dir / "samples").iterdir())) == 2
    session = json.loads((run_dir / "environment.json").read_text())[0]
    assert session["versions"]["torch"]
    assert {"command", "git_commit", "from_step", "threads"} <= session.keys()
    assert list((run_dir / "curves").glob("**/events*"))


def test_train_again_says_that_it_is_finished(out_of: Out, tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(tiny))
    command = [
        "train",
        "--config",
        tmp_path / "config.json",
        "--run-dir",
        tmp_path / "run",
        "--device",
        "cpu",
    ]
    first = answer(out_of, *command)
    assert first["step"] == 12
    assert answer(out_of, *command) == first
    assert run([*map(str, command)]) == 0
    assert "finished, step 12" in out_of.readouterr().out
    assert (
        answer(
            out_of, "train", "--config", tmp_path / "run/config.json", "--train.max-steps", "13"
        )["step"]
        == 13
    )


@pytest.mark.parametrize(
    ("flags", "budget"),
    [
        (["--train.max-minutes", "60"], (60.0, None)),
        (["--train.max_minutes=60"], (60.0, None)),
        (["--train.max-minutes", "60", "--train.max-steps", "9"], (60.0, 9)),
        (["--train.max-minutes", "None"], (None, 2000)),
        ([], (None, 2000)),
    ],
)
def test_minutes_alone_are_the_whole_budget(
    out_of: Out, flags: list[str], budget: tuple[float | None, int | None]
) -> None:
    assert run(["train", "images-modern", *flags, "--print-config"]) == 0
    recipe = json.loads(out_of.readouterr().out)["train"]
    assert (recipe["max_minutes"], recipe["max_steps"]) == budget


def test_a_training_of_some_minutes_says_how_it_goes_on(
    out_of: Out, tiny: Config, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(to_json(tiny))
    command = [
        "train",
        "--config",
        str(tmp_path / "config.json"),
        "--run-dir",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert run([*command, "--train.max-minutes", "0.0001"]) == 0
    assert "finished, step " in (said := out_of.readouterr().out)
    assert "More minutes: --train.max-minutes N" in said


def test_evaluate(out_of: Out, run_dir: Path) -> None:
    result = answer(out_of, "evaluate", run_dir, "--split", "validation", "--noise-draws", "2")
    keys = {
        "bits_per_dim",
        "standard_error",
        "num_images",
        "noise_draws",
        "nonfinite",
        "split",
        "dataset",
    }
    assert result.keys() >= keys | {"dataset_version", "paper", "seconds"}
    assert (result["num_images"], result["noise_draws"], result["nonfinite"], result["paper"]) == (
        180,
        2,
        0,
        None,
    )
    assert (result["split"], result["dataset"]) == ("validation", "digits")
    assert json.loads((run_dir / "evaluation.json").read_text()) == result
    assert run(["evaluate", str(run_dir), "--codecs"]) == 0
    text = out_of.readouterr().out
    assert "bits/dim (standard error over images)" in text
    assert "lossless png" in text
    (run_dir / "evaluation.json").rename(run_dir / "kept.json")
    (run_dir / "evaluation.json").mkdir()  # so it cannot be written
    assert run(["evaluate", str(run_dir)]) == 2
    assert "bits/dim (standard error over images)" in out_of.readouterr().out
    (run_dir / "evaluation.json").rmdir()
    (run_dir / "kept.json").rename(run_dir / "evaluation.json")


def test_evaluate_equals_python(out_of: Out, run_dir: Path) -> None:
    images = np.load(run_dir / "data" / "test.npy").transpose(0, 3, 1, 2)
    expected = realnvp.bits_per_dim(realnvp.load_flow(run_dir), images, noise_draws=3, seed=1)
    result = answer(out_of, "evaluate", run_dir, "--noise-draws", "3", "--seed", "1")
    assert result["bits_per_dim"] == pytest.approx(expected.mean, abs=1e-6)
    assert result["standard_error"] == pytest.approx(expected.standard_error, abs=1e-6)


@pytest.mark.parametrize(
    ("codecs", "shape", "advice"),
    [
        ({"png": 3.5, "webp": 2.5}, [3, 8, 8], "webp is 0.500 bits/dim better than this flow"),
        ({"png": 2.75, "webp": 3.0}, [1, 8, 8], "png is 0.250 bits/dim better than this flow"),
        ({"png": 3.5, "webp": 3.25}, [3, 8, 8], ""),
        (None, [3, 8, 8], ""),
    ],
)
def test_a_codec_that_needs_fewer_bits_is_told_with_what_to_do(
    codecs: dict[str, float] | None, shape: list[int], advice: str
) -> None:
    texts: dict[str, Any] = dict.fromkeys(("standard_error_over", "split", "dataset"), "images")
    numbers: dict[str, Any] = {"standard_error": 0.1, "num_images": 9, "noise_draws": 1, "seed": 0}
    others: dict[str, Any] = {"which": "best", "step": 1, "paper": None, "dataset_version": None}
    lines = OfImages(
        **texts, **numbers, **others, bits_per_dim=3.0, codecs=codecs, shape=shape
    ).lines()
    told = [line for line in lines if "better than this flow" in line]
    assert len(told) == bool(advice)
    if told:
        assert told[0].strip().startswith(advice)
        assert ("--init-from photos-32" in told[0]) == (shape[0] == 3)


def test_codecs_in_pieces(out_of: Out, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a few hundred images in memory, and the same mean over all of them."""
    expected = codec_bits_per_dim(np.load(run_dir / "data" / "test.npy"))
    monkeypatch.setattr("realnvp.evaluation.evaluate.CHUNK", 50)
    assert answer(out_of, "evaluate", run_dir, "--codecs")["codecs"] == pytest.approx(
        expected, rel=1e-12
    )


def test_evaluate_other_images(out_of: Out, run_dir: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "others.npy", np.full((7, 8, 8), 3, np.uint8))
    result = answer(out_of, "evaluate", run_dir, "--data.source", tmp_path / "others.npy")
    assert result["num_images"] == 7
    np.save(tmp_path / "colour.npy", np.full((7, 8, 8, 3), 3, np.uint8))
    assert (
        "of 3 channels, but the flow was trained on images of 1 channel: --color-mode grey"
        in refused(out_of, "evaluate", run_dir, "--data.source", tmp_path / "colour.npy")
    )
    np.save(tmp_path / "odd.npy", np.full((7, 9, 8), 3, np.uint8))
    assert "9x8" in refused(out_of, "evaluate", run_dir, "--data.source", tmp_path / "odd.npy")
    assert "levels" in refused(
        out_of,
        "evaluate",
        run_dir,
        "--data.source",
        save(tmp_path / "x.npy", np.full((7, 8, 8), 200)),
    )


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array.astype(np.uint8))
    return path


def test_sample(out_of: Out, run_dir: Path, tmp_path: Path) -> None:
    result = answer(
        out_of, "sample", run_dir, "-n", "70", "--seed", "5", "--out", tmp_path / "s.npy"
    )
    assert result["nonfinite"] == 0
    samples = np.load(tmp_path / "s.npy")
    assert (samples.shape, samples.dtype) == ((70, 8, 8, 1), np.uint8)
    assert samples.max() <= 16
    answer(out_of, "sample", run_dir, "-n", "3", "--seed", "5", "--out", tmp_path / "few.npy")
    assert (np.load(tmp_path / "few.npy") == samples[:3]).all()
    answer(out_of, "sample", run_dir, "-n", "4", "--beside-data", "--out", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 256


def test_score(out_of: Out, run_dir: Path, tmp_path: Path) -> None:
    test = np.load(run_dir / "data" / "test.npy")
    (tmp_path / "folder").mkdir()
    for i in range(5):
        Image.fromarray(test[i, :, :, 0]).save(tmp_path / "folder" / f"{i}.png")
    Image.fromarray(np.random.default_rng(0).integers(17, size=(8, 8)).astype(np.uint8)).save(
        tmp_path / "noise.png"
    )
    paths = [tmp_path / "folder", tmp_path / "noise.png"]
    assert (
        run(["score", str(run_dir), *map(str, paths), "--out", str(tmp_path / "scores.csv")]) == 0
    )
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert list(rows[0]) == ["path", "log_prob", "bits_per_dim", "rank"]
    assert len(rows) == 6
    assert next(row for row in rows if row["rank"] == "1")["path"].endswith("noise.png")
    assert sorted(int(row["rank"]) for row in rows) == [1, 2, 3, 4, 5, 6]
    assert float(rows[0]["bits_per_dim"]) == pytest.approx(
        -float(rows[0]["log_prob"]) / (64 * np.log(2))
    )
    out_of.readouterr()
    alone = answer(out_of, "score", run_dir, tmp_path / "noise.png")["scores"]
    assert alone[0]["log_prob"] == pytest.approx(float(rows[5]["log_prob"]), abs=1e-4)


@pytest.mark.parametrize("side", [16, 9, 5])
def test_images_of_other_sizes_are_scored_as_prepare_makes_them(
    out_of: Out, run_dir: Path, tmp_path: Path, side: int
) -> None:
    (tmp_path / "mine").mkdir()
    pixels = np.random.default_rng(0).integers(17, size=(side, side + 3)).astype(np.uint8)
    for name in ("odd", "same"):
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{name}.png")
    prepared = {"allow_partial": True, "crop": None, "resize": (8,), "val_fraction": 0.1, "seed": 0}
    convert("images", tmp_path / "mine", tmp_path / "data", **prepared)
    Image.fromarray(np.load(tmp_path / "data/train.npy")[0, :, :, 0]).save(tmp_path / "small.png")
    (small,) = answer(out_of, "score", run_dir, tmp_path / "small.png")["scores"]
    (scaled,) = answer(out_of, "score", run_dir, tmp_path / "mine/odd.png", "--resize")["scores"]
    assert scaled["log_prob"] == small["log_prob"]


def test_fast_tells_how_far_it_is_off(out_of: Out, run_dir: Path, tmp_path: Path) -> None:
    result = answer(out_of, "sample", run_dir, "-n", "9", "--fast", "--out", tmp_path / "s.npy")
    assert 0 < result["fast_error_grey_levels"] < 1
    for i in range(3):
        Image.fromarray(np.load(tmp_path / "s.npy")[i, :, :, 0]).save(tmp_path / f"{i}.png")
    exact = answer(out_of, "score", run_dir, tmp_path)
    quick = answer(out_of, "score", run_dir, tmp_path, "--fast")
    off = max(
        abs(a["bits_per_dim"] - b["bits_per_dim"])
        for a, b in zip(exact["scores"], quick["scores"], strict=True)
    )
    assert off == pytest.approx(quick["fast_error_bits_per_dim"])
    assert 0 < off < 0.05
    assert run(["score", str(run_dir), str(tmp_path / "0.png"), "--fast"]) == 0
    assert "fast: off by up to" in out_of.readouterr().err


def test_check_and_info(out_of: Out, run_dir: Path) -> None:
    result = answer(out_of, "check", run_dir)
    assert result["ok"]
    names = " ".join(entry["name"] for entry in result["checks"])
    assert all(
        word in names
        for word in ("AffineCoupling", "BatchNorm", "autograd", "stored moments", "samples")
    )
    info = answer(out_of, "info", run_dir)
    assert info["step"] == 12
    assert run(["info", str(run_dir)]) == 0
    assert "best_validation_bits_per_dim" in out_of.readouterr().out


def test_check_fails_on_a_flow_that_is_not_one(
    out_of: Out, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realnvp.bijections import BatchNorm

    monkeypatch.setattr(BatchNorm, "_inverse", lambda self, z: z)
    result = answer(out_of, "check", run_dir, code=1)
    assert not result["ok"]


def test_presets_version_completion_help(out_of: Out) -> None:
    presets = answer(out_of, "presets")
    assert presets["cifar10"]["parameters"] == 19_609_545
    assert presets["cifar10"]["paper"] == 3.49
    assert run(["presets"]) == 0
    assert all(line == line.rstrip() for line in out_of.readouterr().out.splitlines())
    assert run(["--version"]) == 0
    assert out_of.readouterr().out == f"realnvp {realnvp.__version__}\n"
    for shell in SHELLS:
        assert run(["completion", shell]) == 0
        script = out_of.readouterr().out
        assert {"evaluate", "photos-modern", "--train.max-steps"} <= {
            *re.findall(r"[\w.-]+", script)
        }
        assert '-z "$completions" || "$completions" ==' in script  # then names of files
        assert ("complete -o default -o filenames" in script) == (shell == "bash")
    for command in (
        "prepare",
        "evaluate",
        "sample",
        "score",
        "check",
        "figures",
        "report",
        "table",
        "info",
        "share",
        "export",
        "presets",
        "train photos",
    ):
        with pytest.raises(SystemExit) as stopped:
            run([*command.split(), "--help"])
        assert stopped.value.code == 0
        assert "Example" in out_of.readouterr().out


def test_dry_run_and_print_config(out_of: Out, tmp_path: Path) -> None:
    assert run(["train", "digits", "--train.lr", "0.5", "--print-config"]) == 0
    assert json.loads(out_of.readouterr().out)["train"]["lr"] == 0.5
    for preset in ("digits", "digits-modern"):
        result = answer(out_of, "train", preset, "--dry-run", "--run-dir", tmp_path / "run", *FAST)
        assert result.keys() >= {"config", "parameters", "training_memory_bytes", "data"}
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_images(out_of: Out, tmp_path: Path, channels: int) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "pictures" / "inner").mkdir(parents=True)
    for i in range(40):
        pixels = random.integers(256, size=(12, 20, channels)).astype(np.uint8)
        folder = tmp_path / "pictures" / ("inner" if i % 2 else "")
        Image.fromarray(pixels.squeeze()).save(folder / f"{i}.png")
    command = [
        "train",
        "images",
        "--data.source",
        tmp_path / "pictures",
        "--run-dir",
        tmp_path / "run",
        *FAST,
    ]
    assert answer(out_of, *command)["step"] == 2
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["shape"] == [channels, 12, 20]
    assert config["model"]["num_scales"] == 2
    assert [
        len(np.load(tmp_path / "run" / "data" / f"{split}.npy"))
        for split in ("train", "validation", "test")
    ] == [32, 4, 4]
    assert answer(out_of, "evaluate", tmp_path / "run")["num_images"] == 4
    assert answer(out_of, *command)["step"] == 2


def test_a_bad_folder_is_refused_whole_and_can_be_mended(out_of: Out, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(40):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(pictures / f"{i:02d}.png")
    (pictures / "03.png").write_bytes(b"no picture")
    (pictures / "17.png").write_bytes((pictures / "17.png").read_bytes()[:50])
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(pictures / "20.png")
    command = ["train", "images", "--data.source", pictures, "--run-dir", tmp_path / "run", *FAST]
    line = refused(out_of, *command)
    assert all(name in line for name in ("03.png", "17.png", "20.png"))
    for name in ("03.png", "17.png", "20.png"):
        (pictures / name).unlink()
    assert run([*map(str, command)]) == 0


def test_sigterm_ends_any_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, tmp_path: Path
) -> None:
    """What it was writing is deleted."""

    def killed(argv: list[str]) -> int:
        atomic_save(tmp_path / "x", lambda file: os.kill(os.getpid(), signal.SIGTERM))
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("realnvp.cli.main._dispatch", killed)
    assert run(["info"]) == 143
    assert capsys.readouterr().err == "realnvp: terminated\n"
    assert not [*tmp_path.iterdir()]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_while_the_program_loads(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "realnvp.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "realnvp.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit, match="130"):
        entry()
    assert capsys.readouterr().err == "realnvp: interrupted\n"


@pytest.mark.parametrize("end", ["closed early", "full", "none"])
def test_a_stdout_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, end: str
) -> None:
    if end == "none":
        stdout = None
    elif end == "full":
        stdout = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stdout = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    sys.stdout.close()  # as Python does at its end: an error here would be one of the test
    told = "realnvp: error: stdout: No space left on device (errno 28)\n" * (end == "full")
    assert (ended.value.code, capsys.readouterr().err) == (
        {"closed early": 1, "full": 2, "none": 0}[end],
        told,
    )


@pytest.mark.slow
def test_as_a_process(run_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "realnvp"]
    result = subprocess.run(
        [*command, "evaluate", str(run_dir), "--json"], capture_output=True, text=True, timeout=600
    )
    assert (result.returncode, json.loads(result.stdout)["num_images"]) == (0, 180)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_143(tiny: Config, tmp_path: Path) -> None:
    import signal
    import time

    (tmp_path / "config.json").write_text(
        to_json(tiny).replace('"max_steps": 12', '"max_steps": 100000')
    )
    command = [
        sys.executable,
        "-m",
        "realnvp",
        "train",
        "--config",
        "config.json",
        "--run-dir",
        "run",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(6000):
        if (tmp_path / "run/checkpoints").exists() and any(
            (tmp_path / "run/checkpoints").iterdir()
        ):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143
    assert out == ""
    assert "saved; the same command goes on" in err
    assert "Traceback" not in err


@pytest.fixture
def out_of(capsys: Out) -> Out:
    """What a command printed."""
    return capsys
