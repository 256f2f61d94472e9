"""A model card: what people should know of a flow before they use it, as the Hub reads it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from realnvp.config import Config, Kind, departures
from realnvp.config.errors import count_of
from realnvp.config.resolve import context_columns_of, embed_context
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
    if config.data.class_names:
        use[-1] = (
            f"flow.sample(16, given={_plain(config.data.class_names[0])!r}), flow.log_prob, "
            "flow.class_log_probs  # data units; nats"
        )
    if config.data.context_columns:
        numbers = embed_context(
            context_columns_of(config.data.context_columns, config.data.context_values)
        )
        use[-1] = "flow.sample(16, given=c), flow.log_prob(x, given=c)  # data units; nats"
        use.append(f"# c: {count_of(len(numbers), 'number')}, {_plain(', '.join(numbers))}")
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


def card_of_built(name: str, classes: str, *, parameters: int) -> str:
    """README.md of a saved flow that was built of one's own parts."""
    use = [
        "import realnvp",
        "flow = ...  # built again, of the same classes",
        f"realnvp.load_flow({_plain(name)!r}, flow=flow)  # this folder's path",
    ]
    parts = [
        "---\nlibrary_name: realnvp\ntags: [normalizing-flow, density-estimation]\n---",
        f"# {_text(name)}",
        "A normalizing flow without a configuration: weights for a flow that is built in Python.",
        _table([("classes", _text(classes)), ("parameters", f"{parameters:,}")]),
        "## Use\n\n" + _code(use),
        f"## Intended use\n\n{INTENDED}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    name: str, config: Config, facts: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Iterator[str]:
    if facts.get("licence"):
        yield f"license: {_quoted(facts['license'])}"
    yield "library_name: realnvp"
    if config.kind is Kind.IMAGES and not config.data.class_names:
        yield "pipeline_tag: unconditional-image-generation"
    yield "tags: [normalizing-flow, real-nvp, density-estimation]"
    unit = unit_of(config)
    value = evaluation.get(unit.key)
    if isinstance(value, float) and math.isfinite(value):
        data = _quoted(evaluation.get("dataset", config.data.set))
        split = _quoted(evaluation.get("split", "test"))
        yield (
            f"model-index:\n- name: {_quoted(name)}\n  results:\n"
            "  - {task: {type: density-estimation}, "
            f"dataset: {{name: {data}, type: {data}, split: {split}}}, "
            f"metrics: [{{type: {unit.key}, name: {unit.words}, value: {value:.4f}}}]}}"
        )


def _rows(
    config: Config, facts: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What is known of the flow, in words."""
    data, version = config.data, evaluation.get("dataset_version")
    sizes = "x".join(map(str, (*data.shape[1:], data.shape[0]))) if data.shape else ""
    shape = f"{sizes}, {data.levels} levels" if config.kind is Kind.IMAGES and sizes else sizes
    paper = evaluation.get("paper")
    versions = (facts.get("environment") or {}).get("versions") or {}
    rows = [
        (
            "data",
            _text(evaluation.get("dataset", data.set))
            + (f" ({_text(version)})" if version else ""),
        ),
        (
            "images" if config.kind is Kind.IMAGES else "columns",
            _text(", ".join(data.columns)) if data.columns else shape,
        ),
        ("given the class", _text(", ".join(data.class_names or ()))),
        ("given the columns", _text(", ".join(data.context_columns or ()))),
        _result(config, facts, evaluation),
        *_of_classes(evaluation.get("classes")),
        ("bits/dim in the paper", "" if paper is None else _number(paper)),
        (
            "departs from the paper in",
            _text(", ".join(departures(config))) if paper is None else "",
        ),
        ("steps", _text(facts["step"]) if "step" in facts else ""),
        ("made with", _text(", ".join(f"{name} {number}" for name, number in versions.items()))),
        ("sources of the data", _text(facts.get("sources") or "")),
        ("licence", _text(facts.get("licence") or "not stated: ask whoever shares it")),
    ]
    return [(name, words) for name, words in rows if words]


def _result(
    config: Config, facts: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> tuple[str, str]:
    """The mean log-density: of an evaluation, else of the validation that chose the model."""
    unit = unit_of(config)
    if unit.key not in evaluation:
        key = f"validation_{unit.key}"
        words = f"{_number(facts[key])}; it chose the model" if key in facts else ""
        return f"{unit.words}, validation split", words
    counts = {"num_images": "{} images", "num_rows": "{} rows", "noise_draws": "noise draws: {}"}
    counted = [
        *(form.format(_text(evaluation[key])) for key, form in counts.items() if key in evaluation),
        f"standard error over {_text(evaluation.get('standard_error_over'))}",
    ]
    meaning = (
        f"an upper bound ({config.model.dequantization} dequantization)"
        if unit is BITS_PER_DIM
        else "the mean log-density of a row, in the units of the columns"
    )
    return (
        f"{unit.words}, {_text(evaluation.get('split', 'test'))} split",
        f"**{_number(evaluation[unit.key])} +- {_number(evaluation.get('standard_error'))}** "
        f"({', '.join(counted)}); {meaning}",
    )


def _of_classes(found: Any) -> Iterator[tuple[str, str]]:
    """What an evaluation of a flow given classes says of them."""
    for key, words in {
        "mixture_bits_per_dim": "bits/dim of the mixture of all classes",
        "accuracy": "accuracy by Bayes' rule",
        "log_loss": "its log-loss, nats",
    }.items():
        if isinstance(found, dict) and key in found:
            yield words, _number(found[key])


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
