"""Configurations: JSON there and back, and errors that name the field."""

import dataclasses

import pytest

from realnvp.config import PAPER, PRESETS, Config, departures, differences, flat, from_json, paper_bits_per_dim, to_json, validate


@pytest.mark.parametrize("name", PRESETS)
def test_json_there_and_back(name: str) -> None:
    assert from_json(to_json(PRESETS[name])) == validate(PRESETS[name]) == PRESETS[name]
    assert PRESETS[name].name == name


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
