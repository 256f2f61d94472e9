"""Flows for others: the folder with its card, the flows inside the package, the Hugging Face Hub
(a stand-in on this machine).
"""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from local_hub import local_hub

import realnvp
from realnvp.cli.main import run
from realnvp.config import Config, read_config
from realnvp.data import find_data
from realnvp.hub import _without_places, push_to_hub, share
from realnvp.io.card import card
from realnvp.io.files import DamagedError
from realnvp.io.pretrained import SHIPPED, load_model, locate, pretrained

Out = pytest.CaptureFixture[str]


def weights_of(flow: realnvp.Flow) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in flow.state_dict().items()}


def same(a: realnvp.Flow, b: realnvp.Flow) -> bool:
    old, new = weights_of(a), weights_of(b)
    return old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_share_takes_what_is_known_of_a_run(evaluated: Path, tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "my-flow"
    assert run(["package", str(evaluated), str(folder), "--licence", "cc-by-4.0"]) == 0
    result = json.loads((evaluated / "evaluation.json").read_text())
    assert (
        f"{result['bits_per_dim']:.3f} +- {result['standard_error']:.3f}" in capsys.readouterr().out
    )
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "config.json", "facts.json", "manifest.json", "README.md")
    }
    flow, facts = load_model(folder)
    assert same(flow, realnvp.load_flow(evaluated))
    assert facts["evaluation"] == result
    assert (
        facts["commands"][-1]
        == f"realnvp evaluate {evaluated.name} --noise-draws 2 --seed 0 --which best"
    )
    assert facts["environment"]["versions"]["torch"]
    text = (folder / "README.md").read_text()
    assert f"{result['bits_per_dim']:.3f} +- {result['standard_error']:.3f}" in text
    assert all(f"    {command}\n" in text for command in facts["commands"])
    assert "scikit-learn load\\_digits" in text
    assert "## Intended use" in text
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ("cc-by-4.0", "realnvp")
    [entry] = data.eval_results
    assert (entry.dataset_name, entry.dataset_split, entry.metric_type) == (
        "digits",
        "test",
        "bits_per_dim",
    )
    assert entry.metric_value == pytest.approx(result["bits_per_dim"], abs=1e-4)
    assert run(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"] == facts


def test_share_leaves_paths_of_this_machine_behind(evaluated: Path, tmp_path: Path) -> None:
    config = read_config(evaluated / "config.json")
    flow, facts = load_model(evaluated)
    flow.config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, source="/home/me/secret")
    )
    shutil.copytree(evaluated, tmp_path / "run")
    [best] = (tmp_path / "run" / "model").glob("best-*")
    realnvp.save_flow(flow, best, facts=facts)
    share(tmp_path / "run", tmp_path / "flow")
    assert all(b"secret" not in content for content in files(tmp_path / "flow").values())


def test_share_is_of_the_model_that_was_evaluated(
    evaluated: Path, tmp_path: Path, capsys: Out
) -> None:
    copy = shutil.copytree(evaluated, tmp_path / "run")
    [best], [last] = ((copy / "model").glob(f"{which}-*") for which in ("best", "last"))
    flow = realnvp.load_flow(copy)
    with torch.no_grad():
        next(flow.parameters()).add_(1)
    realnvp.save_flow(flow, last, facts=json.loads((last / "facts.json").read_text()))
    assert run(["evaluate", str(copy), "--which", "last"]) == 0
    share(copy, tmp_path / "flow")
    assert same(realnvp.load_flow(tmp_path / "flow"), flow)
    assert not same(realnvp.load_flow(best), flow)
    assert run(["evaluate", str(copy), "--split", "validation"]) == 0
    capsys.readouterr()
    assert run(["package", str(copy), str(tmp_path / "other")]) == 2
    assert "is of the validation split" in capsys.readouterr().err


def test_share_replaces_a_saved_flow_and_nothing_else(
    evaluated: Path, tmp_path: Path, capsys: Out
) -> None:
    share(evaluated, tmp_path / "flow")
    share(evaluated, tmp_path / "flow", license="mit")
    assert load_model(tmp_path / "flow")[1]["licence"] == "mit"
    (tmp_path / "flow" / ".git").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    copy = shutil.copytree(evaluated, tmp_path / "run")
    before = files(tmp_path)
    [checkpoint, *_] = (copy / "checkpoints").iterdir()
    for target in (
        tmp_path / "flow",
        tmp_path / "notes.txt",
        tmp_path / "empty",
        copy,
        checkpoint,
        copy / "data",
    ):
        assert run(["package", str(evaluated), str(target)]) == 2
        assert f"{target}: exists" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_people_may_edit_a_card(evaluated: Path, tmp_path: Path) -> None:
    share(evaluated, tmp_path / "flow")
    for text in ("# Mine", None):
        (tmp_path / "flow" / "README.md").unlink() if text is None else (
            tmp_path / "flow" / "README.md"
        ).write_text(text)
        realnvp.load_flow(tmp_path / "flow")


HOSTILE = "x|y`<script>alert(1)</script>**\n---\nlicense: evil\n# [a](http://b) \x00\u202e\u2028\\|"


def test_no_name_breaks_out_of_a_card(tiny: Config) -> None:
    evaluation = {
        "bits_per_dim": 2.5,
        "standard_error": 0.1,
        "dataset": HOSTILE,
        "dataset_version": HOSTILE,
        "split": HOSTILE,
    }
    environment = {"versions": {HOSTILE: HOSTILE}}
    facts = {
        "evaluation": evaluation,
        "commands": [HOSTILE],
        "licence": HOSTILE,
        "environment": environment,
        "step": HOSTILE,
    }
    text = card(HOSTILE, tiny, facts, parameters=3)
    data = ModelCard(text).data
    seen = "x|y`<script>alert(1)</script>** --- license: evil # [a](http://b) \\|"
    assert data.license == data.eval_results[0].dataset_name == data.model_name == seen
    plain = card(
        "name",
        tiny,
        {"evaluation": {"bits_per_dim": 2.5}, "commands": ["x"], "licence": "y", "step": 1},
        parameters=3,
    )
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        line for line in plain.splitlines() if line.startswith("#")
    ][1:]
    assert text.splitlines().count("---") == 2
    body = text.split("---\n", 2)[2]
    in_code = [line for line in body.splitlines() if line.startswith("    ")]
    rest = [line for line in body.splitlines() if not line.startswith("    ")]
    assert len(in_code) == 4
    assert not any("<script>" in line or "**\n" in line for line in rest)
    assert all(
        line.replace("\\\\", "").replace("\\|", "").count("|") == 3
        for line in rest
        if line.startswith("|")
    )


@pytest.mark.parametrize("bits", [math.nan, math.inf, None])
def test_a_card_of_a_failed_flow_says_so(tiny: Config, bits: float | None) -> None:
    text = card(
        "x", tiny, {"evaluation": {"bits_per_dim": bits, "standard_error": bits}}, parameters=1
    )
    assert "not finite" in text
    assert ModelCard(text).data.eval_results is None


def test_the_least_card(tmp_path: Path) -> None:
    """Of a flow of nothing but weights, and of one of vectors."""
    for flow in (realnvp.build("digits"), realnvp.vector_flow(3)):
        realnvp.save_flow(flow, tmp_path / "flow")
        text = (tmp_path / "flow" / "README.md").read_text()
        assert text.startswith("---\nlibrary_name: realnvp\n")
        assert "licence | not stated" in text
        assert "bits/dim" not in text
        assert (
            ("image-generation" in text)
            == ("| images | 8x8x1, 17 levels |" in text)
            == (flow.config.data.set == "digits")
        )
    assert "| columns | 3 |" in text


def test_share_a_table(tmp_path: Path, capsys: Out) -> None:
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).numpy()
    (tmp_path / "rows.csv").write_text(
        "height,we|ght\n" + "\n".join(f"{a},{b}" for a, b in rows.tolist())
    )
    flags = [
        "--train.max-steps",
        "2",
        "--model.width",
        "4",
        "--train.tracker",
        "none",
        "--device",
        "cpu",
    ]
    assert (
        run(
            [
                "train",
                "table",
                "--data.source",
                str(tmp_path / "rows.csv"),
                "--run-dir",
                str(tmp_path / "run"),
                *flags,
            ]
        )
        == 0
    )
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert run(["package", str(tmp_path / "run"), str(tmp_path / "flow")]) == 0
    assert " nats" in capsys.readouterr().out
    text, [entry] = (
        (tmp_path / "flow" / "README.md").read_text(),
        ModelCard.load(tmp_path / "flow" / "README.md").data.eval_results,
    )
    assert entry.metric_type == "log_likelihood"
    assert f"**{entry.metric_value:.3f} +- " in text
    assert "| columns | height, we\\|ght |" in text
    assert "20 rows, standard error over rows" in text
    assert "bits" not in text
    assert str(tmp_path / "rows.csv") not in (tmp_path / "flow" / "config.json").read_text()


# The flows inside the package.

PUBLISHED = ["digits-8", "photos-32"]
"""Those whose data `realnvp prepare` or other packages have."""


def test_shipped_flows_are_small() -> None:
    assert {"digits-8", "photos-32"} <= set(pretrained()) <= {*PUBLISHED, "photos-full"}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 12e6


def test_where_things_lie_is_not_shared() -> None:
    typed = (
        "realnvp train images --data.source /home/me/smith --run-dir=/home/me/runs/x --config "
        "~/me/c.json --init_from ../me/flow --data.source=me --data.context_columns a/b --train.lr 0.1"
    )
    shared = (
        "realnvp train images --data.source DATA --run-dir=x --config c.json --init_from flow "
        "--data.source=DATA --data.context_columns a/b --train.lr 0.1"
    )
    assert _without_places(typed.split()) == shared.split()
    kept = ["realnvp", "train", "digits", "--run-dir", "runs/x", "--init-from", "user/flow@main"]
    assert _without_places(kept) == kept
    assert _without_places(["--config", "C:\\me\\c.json"]) == ["--config", "c.json"]
    notebook = ["realnvp", "-f", "/home/me/.local/kernel-1.json", "--settings=/home/me/x"]
    assert _without_places(notebook) == ["realnvp", "-f", "kernel-1.json", "--settings=x"]


def test_a_shared_run_does_not_say_where_it_lay(evaluated: Path, tmp_path: Path) -> None:
    sessions = json.loads((evaluated / "environment.json").read_text())
    place = evaluated.parent
    sessions[-1] |= {
        "command": ["realnvp", "train", "images", "--data.source", str(place / "smith")],
        "init_from": str(place / "flow"),
    }
    (evaluated / "environment.json").write_text(json.dumps(sessions))
    share(evaluated, tmp_path / "shared")
    for file in (tmp_path / "shared").iterdir():
        assert str(place).encode() not in file.read_bytes(), file
    facts = json.loads((tmp_path / "shared" / "facts.json").read_text())
    assert facts["environment"]["init_from"] == "flow"


@pytest.mark.parametrize("name", sorted({*pretrained()} - {*PUBLISHED}))
def test_a_shipped_flow_of_pictures_names_their_sources(name: str) -> None:
    flow, facts = load_model(name)
    text = (SHIPPED / name / "README.md").read_text()
    assert f"| sources of the data | {facts['sources']} |" in text
    for license in ("CC0-1.0", "GPL-2+", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"):
        assert license in text
    assert facts["commands"][0].startswith("realnvp train images-modern ")
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 24)).astype(np.uint8)
    assert np.array_equal(
        realnvp.codec.decompress(flow, realnvp.codec.compress(flow, picture)), picture
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_bits_per_dim_that_a_shipped_flow_records(name: str) -> None:
    flow, facts = load_model(name)
    config, recorded = flow.config, facts["evaluation"]
    assert config is not None
    source = find_data(config.data, seed=config.seed)
    assert (source.name, source.version) == (recorded["dataset"], recorded["dataset_version"])
    images = source.test[:].transpose(0, 3, 1, 2)
    # Of many and large images one draw of the noise is enough, and four would take long.
    draws, within = (1, 2e-3) if len(images) == 1000 else (recorded["noise_draws"], 1e-4)
    groups = (source.groups or {}).get("test")
    measured = realnvp.bits_per_dim(
        flow, images, noise_draws=draws, seed=recorded["seed"], groups=groups
    )
    assert measured.mean == pytest.approx(recorded["bits_per_dim"], abs=within)
    assert measured.standard_error == pytest.approx(recorded["standard_error"], abs=within)
    text = (SHIPPED / name / "README.md").read_text()
    assert f"**{recorded['bits_per_dim']:.3f} +- {recorded['standard_error']:.3f}**" in text
    assert f"    {facts['commands'][0]}\n" in text
    assert facts["commands"][0].startswith(f"realnvp train {config.name} --run-dir runs/{name} ")
    assert ModelCard(text).data.license == "mit"


@pytest.mark.parametrize("name", pretrained())
def test_commands_take_a_shipped_flow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sample", name, "-n", "4"]) == 0
    assert capsys.readouterr().out == "samples.png: 4 samples\n"
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    assert run(["info", name]) == 0
    assert "realnvp train" in capsys.readouterr().out
    if name == "digits-8":
        from PIL import Image

        Image.new("L", (8, 8)).save("black.png")
        assert run(["score", name, "black.png"]) == 0
        assert run(["check", name]) == 0
        assert "checks passed" in capsys.readouterr().out
        assert run(["evaluate", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_images"] == 180
        assert {path.name for path in tmp_path.iterdir()} == {"samples.png", "black.png"}


def test_a_path_comes_first(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("digits-8") == SHIPPED / "digits-8"
    share(evaluated, "digits-8")
    assert locate("digits-8") == Path("digits-8")
    assert same(realnvp.load_flow("digits-8"), realnvp.load_flow(evaluated))


# The Hub.


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where huggingface_hub is not installed."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.usefixtures("without_hub")
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sample", "user/name"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "realnvp: error: user/name: no such run directory or saved flow, and no shipped flow"
    )
    assert line.endswith("pip install 'realnvp[hub]'")
    with pytest.raises(ValueError, match=r"pip install 'realnvp\[hub\]'"):
        push_to_hub("digits-8", "user/name")
    realnvp.save_flow(realnvp.load_flow("digits-8"), "mine")
    realnvp.load_flow("mine")


@pytest.mark.usefixtures("without_hub")
@pytest.mark.parametrize(
    "name",
    ["runs/mine", "../mine", "/mine", "mine", "a/b/c", "user/", "./user/name", "user/na me", ""],
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"no such run directory or saved flow|neither a run"
    ) as caught:
        realnvp.load_flow(name)
    assert "hub" not in str(caught.value).lower()


def test_the_nearest_shipped_flow_is_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'photos-32'\?\): digits-8, .*photos-32"):
        realnvp.load_flow("photo-small")
    with pytest.raises(ValueError, match=r"^photos-32: a flow inside the package; name a run"):
        share("photos-32", "folder")


def python(code: str, address: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Runs it with the Hub at this address and its cache in this folder; nothing else is asked."""
    context = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_none",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | context, cwd=home, capture_output=True, text=True, timeout=600
    )


LOAD = """
import sys, realnvp.cli.main
sys.exit(realnvp.cli.main.run(["sample", "someone/flow", "-n", "2", "--out", "s.npy", "--json"]))
"""


@pytest.mark.slow
def test_to_the_hub_and_back(evaluated: Path, tmp_path: Path) -> None:
    """By way of a server of our own: what is pushed, what is asked for, and what is refused."""
    home = tmp_path / "home"
    home.mkdir()
    share(evaluated, tmp_path / "mine")
    (tmp_path / "mine" / "private.txt").write_text("not for others")
    with local_hub(repos := {}) as (address, asked):
        push = f"from realnvp.hub import push_to_hub; print(push_to_hub({str(tmp_path / 'mine')!r}, 'someone/flow'))"
        done = python(push, address, home)
        assert (
            done.stdout
            == f"{address}/someone/flow/commit/0123456789abcdef0123456789abcdef01234567\n"
        ), done.stderr
        assert repos["someone/flow"] == {
            k: v for k, v in files(tmp_path / "mine").items() if k != "private.txt"
        }

        repos["someone/flow"] |= {
            "README.md": b"edited on the Hub",
            "model.pkl": b"cos\nsystem\n",
            "code.py": b"evil",
        }
        asked.clear()
        code = "import realnvp; realnvp.save_flow(realnvp.load_flow('someone/flow'), 'got')"
        done = python(code, address, home)
        assert done.returncode == 0, done.stderr
        assert same(realnvp.load_flow(home / "got"), realnvp.load_flow(evaluated))
        taken = {line.rpartition("/")[2] for line in asked if "/resolve/" in line}
        assert taken == {"model.safetensors", "config.json", "facts.json", "manifest.json"}
        assert not any(line.startswith("POST") for line in asked)

        code = "import realnvp; from realnvp.hub import push_to_hub; push_to_hub(realnvp.build('digits'), 'someone/fresh')"
        done = python(code, address, home)
        assert done.returncode == 0, done.stderr
        assert b"# fresh\n" in repos["someone/fresh"]["README.md"]

    done = python(LOAD, address, home)  # the Hub is gone; the cache is there
    assert (done.returncode, (home / "s.npy").exists()) == (0, True), done.stderr
    shutil.rmtree(home / "hub")
    done = python(LOAD, address, home)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "realnvp: error: someone/flow: no such run directory or saved flow, and no shipped flow"
    )
    assert "Hugging Face Hub" in line


@pytest.mark.slow
def test_a_training_starts_from_the_hub_and_goes_on_without(tmp_path: Path) -> None:
    model = realnvp.ModelConfig("modern", num_scales=1, width=6, num_blocks=1, num_couplings=2)
    shape = realnvp.DataConfig(shape=(3, 8, 8))
    context = realnvp.build(realnvp.Config("images-modern", shape, model))
    realnvp.save_flow(context.eval(), tmp_path / "mine")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    words = "train images-modern --init-from someone/flow --data.source x.npy --run-dir run"
    words += " --train.tracker none --train.batch-size 8 --device cpu --train.lr 1e-12"
    words += " --train.muon-lr 1e-12 --train.warmup 0 --train.max-steps"
    code = "import sys, realnvp.cli.main as main; sys.exit(main.run({!r}.split()))"
    with local_hub({"someone/flow": files(tmp_path / "mine")}) as (address, _):
        done = python(code.format(f"{words} 1"), address, tmp_path)
    assert done.returncode == 0, done.stderr
    tuned = realnvp.load_flow(tmp_path / "run")
    assert tuned.config is not None
    assert tuned.config.model == context.config.model
    for name, weight in context.state_dict().items():
        assert torch.allclose(weight, tuned.state_dict()[name], atol=1e-5), name
    shutil.rmtree(tmp_path / "hub")
    done = python(code.format(f"{words} 2"), address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 2" in done.stdout


@pytest.mark.slow
def test_a_flow_of_own_parts_from_the_hub(tmp_path: Path) -> None:
    """Into a flow that is built again; without one, a line says so."""
    flow = realnvp.vector_flow(2, num_couplings=2, width=4).eval()
    flow.config = None
    realnvp.save_flow(flow, tmp_path / "mine")
    assert (tmp_path / "mine" / "parts.json").exists()
    load = (
        "import realnvp; built = realnvp.vector_flow(2, num_couplings=2, width=4, seed=1)\n"
        "realnvp.save_flow(realnvp.load_flow('someone/flow', flow=built), 'got')"
    )
    with local_hub({"someone/flow": files(tmp_path / "mine")}) as (address, _):
        done = python(load, address, tmp_path)
        assert done.returncode == 0, done.stderr
        told = python(LOAD, address, tmp_path)
    got = (tmp_path / "got" / "model.safetensors").read_bytes()
    assert got == (tmp_path / "mine" / "model.safetensors").read_bytes()
    assert told.returncode == 2
    assert "flow=built" in told.stderr


@pytest.mark.slow
def test_what_the_hub_gives_is_not_trusted(evaluated: Path, tmp_path: Path) -> None:
    share(evaluated, tmp_path / "mine")
    good = files(tmp_path / "mine")
    changed = bytearray(good["model.safetensors"])
    changed[len(changed) // 2] ^= 1
    cases: dict[str, tuple[dict[str, bytes], int, str]] = {
        "changed": (good | {"model.safetensors": bytes(changed)}, 1, "model.safetensors: damaged"),
        "another": (
            {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
            2,
            "someone/flow: no flow of realnvp",
        ),
        "none": ({}, 2, "Not Found"),
    }
    for name, (content, code, words) in cases.items():
        home = tmp_path / name
        home.mkdir()
        with local_hub({"someone/flow": content} if content else {}) as (address, asked):
            done = python(LOAD, address, home)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not any("pytorch_model" in line for line in asked)


def test_a_run_is_not_pushed_whole(evaluated: Path) -> None:
    with pytest.raises(ValueError, match="realnvp share"):
        push_to_hub(evaluated, "someone/flow")
    with pytest.raises(ValueError, match="no such run"):
        push_to_hub("nowhere", "someone/flow")


def test_a_damaged_folder_is_not_pushed(evaluated: Path, tmp_path: Path) -> None:
    share(evaluated, tmp_path / "mine")
    (tmp_path / "mine" / "facts.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"facts\.json"):
        push_to_hub(tmp_path / "mine", "someone/flow")
