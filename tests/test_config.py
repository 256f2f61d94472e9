"""Configurations: validation, JSON there and back, and errors that name the field."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realnvp.config.fields import (
    Config,
    ContextColumn,
    ImageData,
    ModelConfig,
    TableData,
    TrainConfig,
)
from realnvp.config.json import differences, flat, from_json, to_json
from realnvp.config.presets import PAPER, PRESETS, departures, paper_bits_per_dim
from realnvp.config.resolve import resolve

positive = st.integers(1, 2**62)
names = st.none() | st.lists(st.text(), max_size=3).map(tuple)
fraction = st.floats(0, 1, exclude_min=True, exclude_max=True)
context_values = st.lists(st.builds(ContextColumn, st.text(), st.lists(st.text()).map(tuple)))
images = st.builds(
    ImageData,
    source=st.none() | st.text(),
    shape=st.none() | st.tuples(positive, positive, positive),
    levels=st.integers(2, 65536),
    augment=st.lists(st.sampled_from(["hflip", "rotate90", "brightness"])).map(tuple),
    class_names=names,
    background=st.sampled_from([None, "white", "#00ff7f"]),
    color_mode=st.sampled_from([None, "gray", "rgb"]),
    bit_depth=st.sampled_from([None, 8, 16]),
    crop=st.none() | st.integers(1, 4096),
)
tables = st.builds(
    TableData,
    shape=st.none() | st.tuples(positive),
    columns=names,
    drop=names,
    context_columns=names,
    context_values=context_values.map(tuple),
    noise=fraction,
)
trainings = st.builds(
    TrainConfig,
    max_steps=positive,
    max_minutes=st.none() | st.floats(1e-3, 1e6),
    lr=st.floats(0, exclude_min=True, allow_infinity=False),
    grad_clip=st.floats(0, exclude_min=True),
    precision=st.sampled_from(["float32", "bfloat16", "auto", "float64"]),
    patience=st.integers(0, 100),
)


def model(architecture: str) -> st.SearchStrategy[ModelConfig]:
    return st.builds(
        ModelConfig,
        st.just(architecture),
        num_scales=st.none() | st.integers(1, 16),
        width=positive,
        growth=st.floats(0.25, 4),
        alpha=st.floats(0, 0.5, exclude_min=True, exclude_max=True),
    )


configurations = st.one_of(
    st.builds(
        Config,
        st.text(),
        images,
        st.sampled_from(["paper", "modern"]).flatmap(model),
        trainings,
        st.integers(0, 2**63 - 1),
    ),
    st.builds(Config, st.text(), tables, model("vector"), trainings),
)


@given(configurations)
def test_json_there_and_back(config: Config) -> None:
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_there_and_back(name: str) -> None:
    assert from_json(to_json(PRESETS[name])) == PRESETS[name]
    assert PRESETS[name].name == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.levels", 1),
        ("data.val_fraction", 0.5),
        ("data.set", "imges"),
        ("data.background", "pink"),
        ("data.augment", ("hflip", "vflip")),
        ("data.shape", (8, 8)),
        ("model.architecture", "vector"),
        ("model.width", 0),
        ("model.width", 2.5),
        ("model.widht", 8),
        ("model.momentum", float("nan")),
        ("model.dequantization", "learned"),
        ("model.coupling", "spline"),
        ("train.max_steps", None),
        ("train.muon_lr", 0.1),
        ("train.tracker", "os"),
        ("seed", -1),
    ],
)
def test_errors_name_the_file_and_the_field(field: str, value: object) -> None:
    part, _, name = field.rpartition(".")
    tree: dict[str, Any] = dataclasses.asdict(Config())
    (tree[part] if part else tree)[name] = value
    with pytest.raises(ValueError, match=rf"^x\.json: {field}") as caught:
        from_json(json.dumps(tree), "x.json")
    assert "\n" not in str(caught.value)
    if part and name != "widht":
        config = Config()
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(
                config, **{part: dataclasses.replace(getattr(config, part), **{name: value})}
            )


@pytest.mark.parametrize("text", ["", "[]", "{", '{"sed": 1}', b"\xff"])
def test_other_text_is_an_error_that_names_the_file(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"^x\.json: "):
        from_json(text, "x.json")


def test_a_table_has_only_the_fields_of_tables() -> None:
    table = {item.name for item in dataclasses.fields(TableData)}
    assert not table & {"levels", "augment", "crop", "background"}
    assert not {item.name for item in dataclasses.fields(ImageData)} & {"columns", "noise"}
    with pytest.raises(ValueError, match="table"):
        _ = PRESETS["table"].levels


def test_differences_name_leaves() -> None:
    config = PRESETS["photos"]
    other = dataclasses.replace(config, seed=1, train=dataclasses.replace(config.train, lr=0.5))
    assert differences(config, other) == ["train.lr", "seed"]
    assert "data.columns" in differences(config, PRESETS["table"])
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


def test_resolve_fills_in_what_the_data_decide() -> None:
    config = resolve(PRESETS["images"], (1, 32, 32), decided={"levels": 65536})
    assert (config.shape, config.levels, config.model.num_scales) == ((1, 32, 32), 65536, 4)
    fewer = dataclasses.replace(config, data=dataclasses.replace(config.data, levels=17))
    assert resolve(fewer, (1, 32, 32), decided={"levels": 65536}).levels == 17
    with pytest.raises(ValueError, match=r"data\.shape"):
        resolve(config, (3, 32, 32))
    with pytest.raises(ValueError, match=r"model\.num_scales"):
        resolve(Config(model=ModelConfig(num_scales=4)), (3, 20, 20))
    columns = (ContextColumn("city", ("A", "B")), ContextColumn("area"))
    decided = {"context_columns": ("city", "area"), "context_values": columns}
    table = resolve(PRESETS["table"], (2,), ("x", "y"), decided=decided)
    assert (table.model.context_dim, table.table.columns) == (3, ("x", "y"))
    square = dataclasses.replace(PRESETS["images"], data=ImageData(augment=("rotate90",)))
    with pytest.raises(ValueError, match=r"data\.augment"):
        resolve(square, (3, 16, 32))


def test_configurations_never_import_torch() -> None:
    code = "import sys, realnvp.config.presets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
