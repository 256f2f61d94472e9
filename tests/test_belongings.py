"""Nothing of the user's is lost: look-alikes of our files around every command that writes; and
whose data a run has.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import pictures
from PIL import Image
from test_training import assert_bit_equal, with_train
from told import refused

import realnvp
import realnvp.io.files
import realnvp.training.loop
from realnvp.cli.main import run
from realnvp.config import PRESETS, Config, to_json
from realnvp.data.prepared import checksum, sha256
from realnvp.io.files import keep_last, lock_folder, remove_stale, write_file, write_folder
from realnvp.io.run_dir import RunDir
from realnvp.training.loop import train
from realnvp.training.session import check_may_train

Out = pytest.CaptureFixture[str]
DEAD = 2**22 + 1  # more than the numbers that Linux gives to processes
LOOK_ALIKES = [
    ".notes.tmp/book.txt",
    ".draft.tmp",
    ".config.json.tmp.bak",
    ".scores.csv.tmp",
    ".shared.tmp/thesis.tex",
    ".shared.old.tmp/thesis.tex",
    ".step-3.tmp/x",
    ".lock",
    "checkpoints/mine/x",
    "checkpoints/step-7/x",
    "model/best-mine",
    "model/best-000000001/notes.txt",
    "model/.cache.tmp",
    "samples/holiday.png",
    "samples/.holiday.png.tmp",
    "data/other.npy",
    "data/.train.npy.tmp",
    "figures/mine.png",
    "figures/.samples.png.tmp",
    "prepared/other.npy",
    "prepared/.test.npy.tmp",
    "prepared/.dataset.json.tmp",
]


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def surrounded(folder: Path, names: list[str]) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"years of work: {name}")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_no_command_deletes_what_is_not_ours(tiny: Config, tmp_path: Path) -> None:
    """Before the training, while it goes on, and around all that is made of it afterwards."""
    place = tmp_path / "home"
    mine = surrounded(place, [name for name in LOOK_ALIKES if "step-7" not in name])
    (place / "mine.json").write_text(to_json(with_train(tiny, max_steps=6)))
    mine["mine.json"] = (place / "mine.json").read_bytes()
    source = pictures(place / "pictures", 12)
    mine |= {f"pictures/{name}": content for name, content in everything(source).items()}
    commands: list[list[str | Path]] = [
        ["train", "--config", place / "mine.json", "--device", "cpu"],
        ["train", "--config", place / "config.json", "--train.max-steps", "12", "--device", "cpu"],
        ["evaluate", place, "--device", "cpu"],
        ["figures", place, "--only", "samples", "--only", "curves", "--device", "cpu"],
        ["report", place, "--device", "cpu"],
        ["package", place, place / "shared"],
        ["package", place, place / "shared"],
        ["sample", place, "-n", "2", "--out", place / "draft.png", "--device", "cpu"],
        ["prepare", "images", "--source", source, "--out", place / "prepared"],
        ["score", place, place / "digits", "--out", place / "scores.csv", "--device", "cpu"],
    ]
    for command in commands:
        if command[0] == "score":
            (place / "digits").mkdir()
            Image.fromarray(np.full((8, 8), 9, np.uint8)).save(place / "digits" / "nine.png")
        assert run([*map(str, command)]) == 0, command
        mine |= surrounded(place, ["checkpoints/step-7/x"] if command[0] == "evaluate" else [])
        there = everything(place)
        assert {name: there.get(name) for name in mine} == mine, command
    assert [name for name in there if ".realnvp" in name] == []


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    left = [
        f".config.json.realnvp-{DEAD}.tmp",
        f".step-3.old.realnvp-{DEAD}.tmp/x",
        f".a b.realnvp-{os.getpid()}.tmp",
    ]
    old = [
        ".config.json.tmp",
        ".metrics.jsonl.tmp",
        ".best-000000006.tmp/x",
        ".step-000000004.old.tmp/x",
        ".step-000000006.png.tmp",
    ]
    kept = [
        ".realnvp.tmp",
        ".x.realnvp.tmp",
        ".notes.tmp/x",
        ".best-of.tmp/x",
        ".best-3.tmp",
        ".config.json.tmp.bak",
    ]
    kept += [
        f".theirs.realnvp-{os.getppid()}.tmp",
        f"x.realnvp-{DEAD}.tmp",
        f".x.realnvp-{DEAD}.tmp.bak",
        ".y.realnvp-5a.tmp",
    ]
    surrounded(tmp_path, [*left, *old, *kept])
    remove_stale(tmp_path)
    assert sorted(everything(tmp_path)) == sorted(kept)


def test_the_next_write_of_a_file_sweeps_what_an_earlier_one_left(tmp_path: Path) -> None:
    surrounded(
        tmp_path,
        [f".x.csv.realnvp-{DEAD}.tmp", f".y.csv.realnvp-{DEAD}.tmp", f".f.realnvp-{DEAD}.tmp/half"],
    )
    write_file(tmp_path / "x.csv", "")
    write_folder(tmp_path / "f", {"a": b""})
    assert {path.name for path in tmp_path.iterdir()} == {
        "x.csv",
        "f",
        f".y.csv.realnvp-{DEAD}.tmp",
    }


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    code = "import sys, pathlib\nfrom realnvp.io.files import write_file\n"
    code += "for i in range(200): write_file(pathlib.Path(sys.argv[1]), sys.argv[2] * 20000)"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "x", letter]) for letter in "ab"
    ]
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "x").exists():
            text = (tmp_path / "x").read_text()
            assert text in ("a" * 20000, "b" * 20000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_folders_that_others_have_written_into_are_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_folder(tmp_path / f"step-{number}", {"x": b""})
    surrounded(tmp_path, ["step-1/notes.txt", "step-4/mine"])
    keep_last(tmp_path, "step", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3", "step-4"]
    with pytest.raises(ValueError, match=r"step-1: exists and holds 'notes.txt'"):
        write_folder(tmp_path / "step-1", {"x": b"new"})


# A lock where there are none


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, number), "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(
            UserWarning, match=r"run: its file system has no locks \(Function not implemented\)"
        ),
        lock_folder(tmp_path / "run"),
    ):
        (tmp_path / "run" / "x").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]


# A configuration, and a run


@pytest.mark.parametrize("preset", PRESETS)
def test_a_printed_configuration_makes_no_run(tmp_path: Path, capsys: Out, preset: str) -> None:
    assert run(["train", preset, "--print-config"]) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    config = realnvp.config.read_config(tmp_path / "config.json")
    for changed in (config, with_train(config, lr=0.5)):
        check_may_train(changed, RunDir(tmp_path))


def test_a_printed_configuration_of_ones_own_images_trains(tmp_path: Path, capsys: Out) -> None:
    words = [
        "--data.source",
        str(pictures(tmp_path / "in", 12)),
        "--model.width",
        "4",
        "--model.num-blocks",
        "0",
    ]
    assert (
        run(
            [
                "train",
                "images",
                *words,
                "--train.max-steps",
                "1",
                "--train.batch-size",
                "2",
                "--print-config",
            ]
        )
        == 0
    )
    context = capsys.readouterr().out
    (tmp_path / "pc").mkdir()
    (tmp_path / "pc" / "config.json").write_text(context)
    again = [
        "train",
        "--config",
        str(tmp_path / "pc" / "config.json"),
        "--train.lr",
        "0.01",
        "--device",
        "cpu",
    ]
    assert run(again) == 0
    assert json.loads((tmp_path / "pc" / "config.json").read_text())["train"]["lr"] == 0.01
    assert (tmp_path / "pc" / "config.given.json").read_text() == context  # which said otherwise
    assert run([*again, "--train.max-steps", "2"]) == 0
    assert run([*again, "--train.grad_clip", "1"]) == 2
    assert "this run was started with another train.grad_clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "data/train.npy", "samples/step-000000008.png"]
)
def test_others_files_of_our_names_are_not_replaced(
    tiny: Config, tmp_path: Path, name: str
) -> None:
    mine = surrounded(tmp_path, [name])
    with pytest.raises(ValueError, match=f"{name}: "):
        train(tiny, tmp_path, device="cpu")
    assert everything(tmp_path) == mine


def test_no_command_replaces_what_it_reads_or_a_device(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: Out
) -> None:
    folder = pictures(tmp_path / "pictures", 2)
    os.mkfifo(pipe := tmp_path_factory.mktemp("device") / "pipe")  # a mutant may replace it
    first = folder / "00.png"
    (tmp_path / "table.csv").write_text("a,b\n1,2\n3,4\n")
    realnvp.save_flow(realnvp.vector_flow(2, width=1, num_couplings=1), tmp_path / "table")
    trained = ["train", "digits"]
    compressed, scored = ([name, "photos-32", folder] for name in ("compress", "score"))
    for *command, out in (
        [*compressed, "--out", first],
        [*compressed, "--out", pipe],
        [*compressed, "--out", first / "in.rnvp"],
        [*scored, "--out", first],
        [*scored, "--picture", first],
        [*trained, "--run-dir", first],
        ["score", tmp_path / "table", tmp_path / "table.csv", "--out", tmp_path / "table.csv"],
    ):
        told = refused(capsys, *command, out, unchanged=[tmp_path])
        assert told.startswith(f"realnvp: error: {command[-1]}: "), told


def test_a_page_that_is_no_report_is_not_replaced(
    evaluated: Path, tmp_path: Path, capsys: Out
) -> None:
    shutil.copytree(evaluated, tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    page.write_text("<p>years of work</p>")
    assert run(["report", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert f"{page}: was not written by this program" in capsys.readouterr().err
    assert page.read_text() == "<p>years of work</p>"


def test_a_refused_training_leaves_no_data_and_no_map_of_them(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows deletes no file that is memory-mapped."""
    unlink, maps = os.unlink, Path("/proc/self/maps")

    def as_windows(path: str | Path, **more: Any) -> None:
        if maps.exists() and os.path.realpath(path) in maps.read_text():
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", as_windows)
    with pytest.raises(ValueError, match=r"train\.batch_size"):
        train(with_train(tiny, batch_size=100_000), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# Whose data


@pytest.fixture
def moved(tiny: Config, tmp_path: Path) -> tuple[Config, Path, Callable[[int], None]]:
    """A finished run on a prepared folder, and a way to prepare that folder anew from other
    images.
    """
    source = tmp_path / "in"

    def prepare_anew(seed: int) -> None:
        for folder in (source, tmp_path / "prepared"):
            shutil.rmtree(folder, ignore_errors=True)
        source.mkdir()
        for i, pixels in enumerate(
            np.random.default_rng(seed).integers(0, 256, (40, 8, 8), dtype=np.uint8)
        ):
            Image.fromarray(pixels).save(source / f"{i:02}.png")
        assert (
            run(["prepare", "images", "--source", str(source), "--out", str(tmp_path / "prepared")])
            == 0
        )

    prepare_anew(0)
    data = dataclasses.replace(PRESETS["images"].data, source=str(tmp_path / "prepared"))
    config = with_train(
        dataclasses.replace(tiny, name="images", data=data), batch_size=8, max_steps=6
    )
    train(config, tmp_path / "run", device="cpu")
    return config, tmp_path / "run", prepare_anew


def test_the_same_folder_written_in_another_way_goes_on(
    moved: tuple[Config, Path, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.json keeps the first way."""
    config, folder, _ = moved
    before = RunDir(folder).config.data.source
    (other := folder.parent / "other").mkdir()
    monkeypatch.chdir(other)
    data = dataclasses.replace(config.data, source="../other/../prepared/")
    longer = with_train(dataclasses.replace(config, data=data), max_steps=7)
    assert train(longer, folder, device="cpu").step == 7
    assert RunDir(folder).config.data.source == before
    (other / "prepared").mkdir()
    with pytest.raises(ValueError, match=r"another data\.source \('.*prepared', not '.*other/pre"):
        train(
            with_train(
                dataclasses.replace(config, data=dataclasses.replace(data, source="prepared")),
                max_steps=8,
            ),
            folder,
            device="cpu",
        )


def test_other_data_in_the_place_of_a_runs_own_are_told(
    moved: tuple[Config, Path, Callable[[int], None]], capsys: Out, tmp_path: Path
) -> None:
    config, folder, prepare_anew = moved
    (session,) = RunDir(folder).sessions
    assert (session.data or {}).keys() == {"train.npy", "test.npy"}
    prepare_anew(0)  # the same once more: all is well
    train(with_train(config, max_steps=8), folder, device="cpu")
    prepare_anew(1)
    before = {name: content for name, content in everything(folder).items() if "curves" not in name}
    words = rf"prepared: holds other data than {folder} was trained on \(test.npy, train.npy\)"
    with pytest.raises(ValueError, match=words):
        train(with_train(config, max_steps=10), folder, device="cpu")
    assert {
        name: content for name, content in everything(folder).items() if "curves" not in name
    } == before
    capsys.readouterr()
    assert run(["evaluate", str(folder), "--device", "cpu"]) == 2
    assert "--data.source evaluates them all the same" in capsys.readouterr().err
    assert not (folder / "evaluation.json").exists()
    assert (
        run(["evaluate", str(folder), "--data.source", config.data.source or "", "--device", "cpu"])
        == 0
    )
    for command in (["figures", str(folder), "--only", "samples"], ["check", str(folder)]):
        warnings.resetwarnings()
        run([*command, "--device", "cpu"])
        assert "warning" in (said := capsys.readouterr().err)
        assert "holds other data than" in said


def test_a_copy_of_the_data_that_was_exchanged_is_told(
    tiny: Config, run_dir: Path, tmp_path: Path
) -> None:
    """Each file fits its checksum: only the run knows that these are not its data."""
    shutil.copytree(run_dir, tmp_path / "run")
    about = json.loads((tmp_path / "run/data/dataset.json").read_text())
    array = np.load(tmp_path / "run/data/train.npy")
    np.save(tmp_path / "run/data/train.npy", 16 - array)
    about["sha256"]["train.npy"] = sha256(tmp_path / "run/data/train.npy")
    about["sha256"]["dataset.json"] = checksum(about)
    (tmp_path / "run/data/dataset.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"run/data: holds other data than .*\(train.npy\)"):
        train(with_train(tiny, max_steps=14), tmp_path / "run", device="cpu")


def test_a_run_of_version_0_1_0_opens_and_learns_its_data(
    tiny: Config, run_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run/environment.json"
    sessions: list[dict[str, Any]] = json.loads(path.read_text())
    for session in sessions:
        del session["data"]
    path.write_text(json.dumps(sessions))
    assert run(["evaluate", str(tmp_path / "run"), "--device", "cpu"]) == 0
    train(with_train(tiny, max_steps=13), tmp_path / "run", device="cpu")
    assert [sorted(session.data or {}) for session in RunDir(tmp_path / "run").sessions] == [
        [],
        ["test.npy", "train.npy", "validation.npy"],
    ]


# Names that are not UTF-8, and what terminals obey


def test_a_name_that_is_not_utf8_is_kept(
    tmp_path: Path, run_dir: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """As old zips leave them; prepare takes one checksum of more than 32 files."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(34):
        Image.fromarray(np.full((8, 8), i % 17, np.uint8)).save(source / f"{i:02}.png")
    name = b"caf\xe9.png"
    try:
        (source / "00.png").rename(source / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    score = ["score", str(run_dir), str(source), "--device", "cpu"]
    assert run([*score, "--out", str(tmp_path / "s.csv")]) == 0
    assert os.fsencode(source) + b"/" + name + b"," in (tmp_path / "s.csv").read_bytes()
    capsysbinary.readouterr()
    assert run(score) == 0
    assert name + b"," in capsysbinary.readouterr().out
    assert run([*score, "--json"]) == 0
    paths = [entry["path"] for entry in json.loads(capsysbinary.readouterr().out)["scores"]]
    assert os.fsencode(source) + b"/" + name in map(os.fsencode, paths)
    assert run(["prepare", "images", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    printed = subprocess.run(
        "LC_ALL=C; sha256sum *", shell=True, cwd=source, capture_output=True, check=True
    ).stdout
    (facts,) = json.loads((tmp_path / "out" / "dataset.json").read_text())["inputs"].values()
    assert facts["sha256"] == hashlib.sha256(printed).hexdigest()


def test_control_characters_never_reach_a_terminal(
    run_dir: Path, tmp_path: Path, capsys: Out
) -> None:
    """ESC ]52 writes the clipboard."""
    evil = "x\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b1m\u202e"
    shutil.copytree(run_dir, tmp_path / evil)
    config = json.loads((tmp_path / evil / "config.json").read_text())
    config["data"]["source"] = config["name"] = evil
    (tmp_path / evil / "config.json").write_text(json.dumps(config))
    (tmp_path / evil / "facts.json").write_text(json.dumps({"licence": evil}))
    place = str(tmp_path / evil)
    for command in (
        ["info", place],
        ["info", place, "--json"],
        ["sample", place, "--out", f"{place}/s.npy"],
        ["check", place + "x"],
    ):
        run(command)
        said = "".join(capsys.readouterr())
        assert "52;c;ZXZpbA==" in said
        assert [c for c in said if not c.isprintable() and c != "\n"] == [], command
    (tmp_path / "a.csv").write_text(f"a,b\n1,{evil}\n2,3\n")
    assert run(["train", "table", "--data.source", str(tmp_path / "a.csv"), "--dry-run"]) == 2
    assert "\x1b" not in capsys.readouterr().err


# Where a training starts


def test_a_start_from_other_weights_is_not_forgotten(
    tiny: Config, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first checkpoint; the documented command to go on names no --init-from."""
    config = with_train(tiny, max_steps=3)
    train(config, tmp_path / "whole", device="cpu", init_from=run_dir)

    def killed(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(realnvp.training.loop, "train_step", killed)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run", device="cpu", init_from=run_dir)
    assert run(["train", "--config", str(tmp_path / "run" / "config.json"), "--device", "cpu"]) == 0
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")
