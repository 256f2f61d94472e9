"""Which columns of a table are taken, and what is told of them: by the command and the estimator."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from told import Out, refused

from realnvp.cli.main import run
from realnvp.config import PRESETS, Config
from realnvp.data import find_data, read_table
from realnvp.io.run_dir import RunDir
from realnvp.random import Purpose
from realnvp.sklearn import RealNVPDensity, RealNVPOutlier
from realnvp.training.batches import Batches, spread_of
from realnvp.training.loop import train

RANDOM = np.random.default_rng(0).standard_normal((60, 3))
QUICK: dict[str, Any] = {"num_couplings": 2, "width": 8, "num_blocks": 1, "max_iter": 2}
DRY = ("--dry-run", "--json")


def frame(rows: np.ndarray = RANDOM) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["a", "b", "c, d"])


def config_of(source: Path, **data: Any) -> Config:
    preset = PRESETS["table"]
    return replace(
        preset,
        data=replace(preset.data, source=str(source), **data),
        model=replace(preset.model, width=4, num_couplings=2),
        train=replace(preset.train, max_steps=9, batch_size=16, tracker="none"),
    )


def taken(source: Path, **data: Any) -> tuple[str, ...] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_data(config_of(source, **data).data, seed=0).columns


# Which are taken


@pytest.mark.parametrize(
    ("chosen", "columns"),
    [
        ({"columns": ("b", "a")}, ("b", "a")),
        ({"columns": ("b,a",)}, ("b", "a")),
        ({"columns": ("c, d", "a")}, ("c, d", "a")),
        ({"drop": ("c, d",)}, ("a", "b")),
        ({"drop": ("b",)}, ("a", "c, d")),
        ({"columns": ("a", "b", "c, d"), "drop": ("a",)}, ("b", "c, d")),
    ],
)
def test_columns_are_chosen_and_dropped(
    tmp_path: Path, chosen: dict[str, Any], columns: tuple[str, ...]
) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    assert taken(tmp_path / "t.csv", **chosen) == columns


def test_a_missing_column_is_told_with_all_names_in_quotes(capsys: Out, tmp_path: Path) -> None:
    names = ["", *"abcdefghij"]
    pd.DataFrame(np.zeros((20, 11)), columns=names).to_csv(tmp_path / "t.csv", index=False)
    command = ("train", "table", "--data.source", tmp_path / "t.csv", "--run-dir", tmp_path / "x")
    told = refused(capsys, *command, "--data.columns", "a,b,z")
    assert "no column 'z'; there are '', 'a', 'b'" in told
    assert "'i' and 1 more" in told
    assert "no column 'z'" in refused(capsys, *command, "--data.drop", "z")
    assert "data.columns: 'a', 'a'" in refused(capsys, *command, "--data.columns", "a,a")
    images = ("train", "images", "--data.source", tmp_path / "t.csv")
    assert "neither a folder nor an .npy file; tables: realnvp train table" in refused(
        capsys, *images
    )
    assert "data.drop: ('a',) is for tables" in refused(capsys, *images, "--data.drop", "a")
    assert "data.noise: 0.1 is for tables" in refused(capsys, *images, "--data.noise", "0.1")


def test_a_training_goes_on_with_the_words_it_began_with(capsys: Out, tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    for place, chosen in {"a": {"drop": ("b",)}, "b": {"columns": ("a,b",)}}.items():
        config = config_of(tmp_path / "t.csv", **chosen)
        train(config, tmp_path / place, device="cpu")
        more = replace(config, train=replace(config.train, max_steps=10))
        assert train(more, tmp_path / place, device="cpu").step == 10
    kept = RunDir(tmp_path / "a").config.data
    assert (kept.columns, kept.drop) == (("a", "c, d"), None)
    other = config_of(tmp_path / "t.csv", drop=("a",))
    with pytest.raises(ValueError, match=r"data.columns: .* was prepared with"):
        train(other, tmp_path / "a", device="cpu")
    with pytest.raises(ValueError, match=r"data.drop: .* holds a, c, d, in this order"):
        train(config_of(tmp_path / "a/data", drop=("a",)), tmp_path / "c", device="cpu")
    assert "2 columns: 'a', 'c, d'\n" in capsys.readouterr().err
    assert run(["info", str(tmp_path / "a")]) == 0
    assert "'a', 'c, d'" in capsys.readouterr().out
    dry = ["train", "table", "--data.source", str(tmp_path / "t.csv"), "--data.drop", "b"]
    assert run([*dry, "--dry-run", "--model.width", "4", "--run-dir", str(tmp_path / "d")]) == 0
    assert "'a', 'c, d'" in capsys.readouterr().out


# What is told


def doubts(source: Path, **data: Any) -> list[str]:
    """The warnings of a table."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        find_data(config_of(source, **data).data, seed=0)
    return [str(each.message) for each in told]


def test_an_index_column_is_told(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    frame().to_csv(source)
    (words,) = doubts(source)
    assert "column '' looks like row numbers" in words
    assert words.endswith("--data.drop '' leaves it out")
    assert doubts(source, drop=("",)) == doubts(source, columns=("a", "b")) == []
    frame().sample(frac=1, random_state=0).to_csv(source)
    assert len(doubts(source)) == 1
    frame().assign(b=2.0).reset_index(names="n").drop(columns="b").to_csv(source, index=False)
    assert "column 'n' looks like row numbers" in doubts(source)[0]
    frame().set_index(np.arange(1, 61)).to_csv(source, index_label="n")
    assert "column 'n' looks like row numbers" in doubts(source)[0]
    frame().to_csv(source, index=False)
    assert doubts(source) == []


def test_few_values_and_few_rows_are_told_with_what_helps(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    frame().assign(a=np.arange(60) % 2).to_csv(source, index=False)
    (words,) = doubts(source)
    assert "a: few different values" in words
    assert words.endswith("noise helps: --data.noise 0.05")
    assert doubts(source, noise=0.05) == []
    frame(RANDOM[:12]).to_csv(source, index=False)
    assert "10 rows to train on, of 3 columns, are too few" in doubts(source)[0]


def test_the_estimator_tells_what_the_command_tells() -> None:
    cases = {
        "column 'b' is 2 in all training rows: it has no density": frame().assign(b=2.0),
        "column 'n' looks like row numbers": frame().reset_index(names="n"),
        "5 rows to train on, of 3 columns, are too few": frame(RANDOM[:5]),
        "X is standardised already": (RANDOM - RANDOM.mean(0)) / RANDOM.std(0),
    }
    for words, rows in cases.items():
        with pytest.warns(UserWarning, match=words) as told:
            RealNVPDensity(**QUICK).fit(rows)
        assert [words in str(each.message) for each in told] == [True]
    with pytest.warns(UserWarning, match="noise helps: noise=0.05"):
        RealNVPDensity(**QUICK, noise=0.0).fit(frame().assign(a=np.arange(60) % 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RealNVPDensity(**QUICK).fit(frame())
        RealNVPOutlier(RealNVPDensity(**QUICK)).fit(cases["X is standardised already"])


def test_outliers_take_max_iter() -> None:
    quick = RealNVPDensity(**QUICK)
    assert RealNVPOutlier(quick, max_iter=5).fit(RANDOM).n_iter_ == 5
    assert RealNVPOutlier(quick).fit(RANDOM).density_.n_iter_ == 2
    assert RealNVPOutlier(max_iter=1).fit(RANDOM).density_.n_iter_ == 1


# Dialects


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a;b\n1,5;2\n-3;,25\n", ("a", "b")),
        ("1,5;2\n-3;,25\n", ("x1", "x2")),
        ("a\tb\n1,5\t2,0\n-3\t2,5e-1\n", ("a", "b")),
        ("width, m;height, m\n1,5;2\n-3;0,25\n", ("width, m", "height, m")),
        ("a,b;c\n1.5,2\n-3,.25\n", ("a", "b;c")),
    ],
)
def test_decimal_commas_and_delimiters(tmp_path: Path, text: str, columns: tuple[str, ...]) -> None:
    for name in ("t.csv", "t.tsv"):
        (tmp_path / name).write_text(text)
        rows, names = read_table(tmp_path / name)
        assert names == columns
        assert rows.tolist() == [[1.5, 2], [-3, 0.25]]


def test_two_kinds_of_decimals_and_commas_in_quotes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n"1,5",2\n')
    with pytest.raises(ValueError, match="column 'a' holds text, '1,5' in row 1"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="no column 'height, m'"):
        read_table(tmp_path / "t.csv", ("height, m",))
    (tmp_path / "t.csv").write_text("a;b\n1.5;2\n-3;1,234\n")
    with pytest.raises(ValueError, match=r"decimal commas and points, '1,234' in row 2 and '1\.5'"):
        read_table(tmp_path / "t.csv")


# Noise


def test_noise_has_the_share_of_the_covariance_and_belongs_to_the_step(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((400, 2)) @ [[1.0, 0.9], [0.0, 0.1]]
    np.save(tmp_path / "t.npy", rows)
    config = config_of(tmp_path / "t.npy", noise=0.5)
    config = replace(config, train=replace(config.train, batch_size=400))
    blurred, plain = (
        Batches(rows, each, device=torch.device("cpu"))
        for each in (config, replace(config, data=replace(config.data, noise=0.0)))
    )
    noise = [blurred.at(step) - plain.at(step) for step in range(8)]
    factor = spread_of(torch.from_numpy(rows))
    covariance = torch.cov(torch.cat(noise).T)
    assert torch.allclose(covariance, 0.25 * factor @ factor.T, atol=0.01)
    assert torch.equal(blurred.at(3) - plain.at(3), noise[3])
    assert not torch.allclose(noise[0], noise[1])
    assert torch.equal(blurred.at(0, Purpose.MOMENTS), plain.at(0, Purpose.MOMENTS))
    halves = [
        Batches(rows, config, device=torch.device("cpu"), process=i, processes=2) for i in (0, 1)
    ]
    assert torch.equal(torch.stack([half.at(2) for half in halves], 1).flatten(0, 1), blurred.at(2))


def test_noise_is_a_flag(capsys: Out, tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    command = ["train", "table", "--data.source", str(tmp_path / "t.csv"), "--data.noise", "0.05"]
    assert run([*command, "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["noise"] == 0.05
