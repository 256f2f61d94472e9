"""Configurations: JSON there and back, and errors that name the field."""

import dataclasses
import json
import re

import pytest

from realnvp.config import (
    PAPER,
    PRESETS,
    Config,
    departures,
    differences,
    flat,
    from_json,
    least_parameters,
    paper_bits_per_dim,
    resolve,
    to_json,
    validate,
)
from realnvp.config.resolve import MOST_BLOCKS, count_blocks
from realnvp.training.memory import count_parameters


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


def with_model(name: str, **fields: object) -> Config:
    config = PRESETS[name]
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))  # type: ignore[arg-type]


def test_blocks_are_bounded_far_beyond_any_preset() -> None:
    assert max(count_blocks(config) for config in PRESETS.values()) * 29 < MOST_BLOCKS
    assert count_blocks(with_model("images", num_scales=3)) == 5 * (6 + 6 + 4)
    assert count_blocks(
        with_model("images-modern", num_scales=2, dequantization="variational")
    ) == 2 * (10 + 3 + 1)
    assert count_blocks(with_model("table", num_scales=5)) == 2 * 16


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("images-modern", {"num_couplings": 100, "num_blocks": 1000, "width": 1, "growth": 1.0}),
        (
            "images-modern",
            {"num_couplings": 1000, "num_blocks": 0, "num_scales": 16, "coupling_decay": 1.0},
        ),
        ("images", {"num_blocks": 1000}),
        ("images", {"num_blocks": 50, "num_scales": 16}),
        ("cifar10", {"num_scales": None, "num_blocks": 200}),
        ("table", {"num_couplings": 1000, "num_blocks": 4}),
    ],
)
def test_more_blocks_than_make_sense_are_refused_with_the_fields_names(
    preset: str, fields: dict[str, object]
) -> None:
    words = r"model\.num_blocks: \d+ with model\.num_couplings = \d+ and model\.num_scales = \w+ makes [\d,]+ blocks, more than 4,000"
    with pytest.raises(ValueError, match=words):
        validate(with_model(preset, **fields))
    with pytest.raises(ValueError, match=f"x.json: {words}"):
        from_json(json.dumps(dataclasses.asdict(with_model(preset, **fields))), "x.json")


@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("num_blocks", [0, 1, 3])
@pytest.mark.parametrize(
    "preset", ["cifar10", "imagenet32", "images-modern", "digits-modern", "table"]
)
def test_the_least_number_of_parameters_is_near_and_never_too_large(
    preset: str, num_blocks: int, coupling: str
) -> None:
    config = with_model(preset, num_blocks=num_blocks, coupling=coupling)
    shape = config.data.shape or ((200,) if preset == "table" else (3, 32, 32))
    config = resolve(config, shape)
    assert 0.4 * count_parameters(config) < least_parameters(config) <= count_parameters(config)


def test_a_table_of_very_many_columns_is_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("data of shape (65536,) needs more than 3e+10 parameters")
    ):
        resolve(PRESETS["table"], (65536,))
