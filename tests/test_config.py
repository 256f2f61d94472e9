"""Configurations: JSON there and back, and errors that name the field."""

import dataclasses
import json

import pytest

from realnvp.config import PAPER, PRESETS, Config, departures, differences, flat, from_json, paper_bits_per_dim, to_json, validate


@pytest.mark.parametrize("name", PRESETS)
def test_json_there_and_back(name: str) -> None:
    assert from_json(to_json(PRESETS[name])) == validate(PRESETS[name]) == PRESETS[name]
    assert PRESETS[name].name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"max_stesp": 3}}, r"unknown field 'train.max_stesp' .did you mean 'max_steps'"),
        ({"trian": {}}, "unknown field 'trian' .did you mean 'train'"),
        ({"train": {"lr": "fast"}}, "train.lr: 'fast' is not number"),
        ({"train": {"batch_size": 1.5}}, "train.batch_size: 1.5 is not integer"),
        ({"train": {"batch_size": True}}, "train.batch_size: True is not integer"),
        ({"data": {"shape": [1, 2]}}, "data.shape"),
        ({"model": {"coupling": "linear"}}, "model.coupling"),
        ({"train": 3}, "train must be an object"),
        ({"train": {"lr": -1.0}}, "train.lr: -1.0 must be positive"),
        ({"train": {"batch_size": 0}}, "train.batch_size: 0 must be at least 1"),
        ({"data": {"levels": 1}}, "data.levels: 1 must be between 2 and 256"),
        ({"model": {"alpha": 0.5}}, "model.alpha"),
        ({"data": {"set": "cifar100"}}, "data.set.*did you mean 'cifar10'"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^some.json: .*{message}"):
        from_json(json.dumps(change), "some.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"'])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^some\.json: "):
        from_json(text, "some.json")


def test_differences_name_leaves() -> None:
    config = PRESETS["photos"]
    other = dataclasses.replace(config, seed=1, train=dataclasses.replace(config.train, lr=0.5))
    assert differences(config, other) == ["train.lr", "seed"]
    assert flat(config)["data.set"] == "photos"


def test_the_papers_numbers_stand_beside_its_models_only() -> None:
    assert paper_bits_per_dim(PRESETS["cifar10"]) == PAPER["cifar10"] == 3.49
    wider = dataclasses.replace(PRESETS["cifar10"].model, width=65)
    other = dataclasses.replace(PRESETS["cifar10"], model=wider, seed=5)
    assert departures(other) == ["model.width"]
    assert paper_bits_per_dim(other) is None
    assert paper_bits_per_dim(dataclasses.replace(PRESETS["cifar10"], seed=5)) == 3.49
    assert paper_bits_per_dim(Config()) is None
    assert departures(Config()) == []
