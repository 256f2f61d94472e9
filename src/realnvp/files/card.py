"""A model card: what people should know of a flow before they use it, as the Hub reads it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from realnvp.config import Config, Kind, departures
from realnvp.config.units import BITS_PER_DIM, unit_of

INTENDED = """\
For exact log-densities, samples, latents, interpolation and compression studies of data like \
those that it was trained on, and to
rank such data from unusual to usual.

Not for decisions about people. A high density does not mean that something is of the training \
data's kind: images of another kind
can be likelier than its own (smooth ones mostly are), so compare only within one kind. \
A small flow remembers little, yet nothing
keeps samples from resembling training data."""


def card(name: str, config: Config, facts: Mapping[str, Any], *, parameters: int) -> str:
    """README.md of a saved flow; all text is escaped.

    facts: what is known of the flow, as `realnvp.save_flow` says.
    """
    evaluation = facts.get("evaluation") or {}
    use = [
        "import realnvp",
        f"flow = realnvp.load_flow({_plain(name)!r})  # this folder's path, or its id on the Hub",
        "flow.sample(16), flow.log_prob  # data units; nats",
    ]
    commands = [_plain(command) for command in facts.get("commands", [])]
    parts = [
        "---\n" + "\n".join(_front_matter(name, config, facts, evaluation)) + "\n---",
        f"# {_text(name)}",
        "A normalizing flow (Real NVP, [arXiv:1605.08803](https://arxiv.org/abs/1605.08803)): "
        "an exact probability density.",
        _table([*_rows(config, facts, evaluation), ("parameters", f"{parameters:,}")]),
        "## Use\n\n" + _code(use),
        *(["## Made by\n\n" + _code(commands)] if commands else []),
        f"## Intended use\n\n{INTENDED}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    name: str, config: Config, facts: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Iterator[str]:
    if facts.get("licence"):
        yield f"license: {_quoted(facts['licence'])}"
    yield "library_name: realnvp"
    if config.kind is Kind.IMAGES:
        yield "pipeline_tag: unconditional-image-generation"
    yield "tags: [normalizing-flow, real-nvp, density-estimation]"
    unit = unit_of(config)
    value = evaluation.get(unit.key)
    if isinstance(value, float) and math.isfinite(value):
        data, split = (
            _quoted(evaluation.get("dataset", config.data.set)),
            _quoted(evaluation.get("split", "test")),
        )
        dataset = f"{{name: {data}, type: {data}, split: {split}}}"
        result = f"task: {{type: density-estimation}}, dataset: {dataset}"
        metrics = f"[{{type: {unit.key}, name: {unit.words}, value: {value:.4f}}}]"
        yield f"model-index:\n- name: {_quoted(name)}\n  results:"
        yield f"  - {{{result}, metrics: {metrics}}}"


def _rows(
    config: Config, facts: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    version = evaluation.get("dataset_version")
    yield (
        "data",
        _text(evaluation.get("dataset", config.data.set))
        + (f" ({_text(version)})" if version else ""),
    )
    if config.data.columns:
        yield "columns", _text(", ".join(config.data.columns))
    elif config.data.shape:
        sizes = "x".join(map(str, (*config.data.shape[1:], config.data.shape[0])))
        yield (
            ("images", f"{sizes}, {config.data.levels} levels")
            if config.kind is Kind.IMAGES
            else ("columns", sizes)
        )
    unit = unit_of(config)
    if unit.key in evaluation:
        things = [
            f"{_text(evaluation[f'num_{name}'])} {name}"
            for name in ("images", "rows")
            if f"num_{name}" in evaluation
        ]
        draws = (
            [f"noise draws: {_text(evaluation['noise_draws'])}"]
            if "noise_draws" in evaluation
            else []
        )
        counted = ", ".join(
            [*things, *draws, f"standard error over {_text(evaluation.get('standard_error_over'))}"]
        )
        measured = (
            f"**{_number(evaluation[unit.key])} +- {_number(evaluation.get('standard_error'))}**"
        )
        bound = f"; an upper bound ({config.model.dequantisation} dequantisation)"
        meaning = (
            bound
            if unit is BITS_PER_DIM
            else "; the mean log-density of a row, in the units of the columns"
        )
        yield (
            f"{unit.words}, {_text(evaluation.get('split', 'test'))} split",
            f"{measured} ({counted}){meaning}",
        )
    elif f"validation_{unit.key}" in facts:
        yield (
            f"{unit.words}, validation split",
            f"{_number(facts[f'validation_{unit.key}'])}; it chose the model",
        )
    if (paper := evaluation.get("paper")) is not None:
        yield "bits/dim in the paper", _number(paper)
    elif fields := departures(config):
        yield "departs from the paper in", _text(", ".join(fields))
    if "step" in facts:
        yield "steps", _text(facts["step"])
    if versions := (facts.get("environment") or {}).get("versions"):
        yield (
            "made with",
            _text(", ".join(f"{package} {version}" for package, version in versions.items())),
        )
    yield (
        "licence",
        _text(facts["licence"]) if facts.get("licence") else "not stated: ask whoever shares it",
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _code(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)  # indented: no line can end it


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) and math.isfinite(value) else "not finite"


def _quoted(value: Any) -> str:
    """A YAML string."""
    return json.dumps(_plain(value), ensure_ascii=False)


def _text(value: Any) -> str:
    """Markdown that shows the value as it is."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", _plain(value))


def _plain(value: Any) -> str:
    """The value in one line of visible characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
