"""A model card of a flow, with the metadata that the Hugging Face Hub reads."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realnvp.config import Config
from realnvp.config.units import unit_of

TEMPLATE = Path(__file__).with_name("card.md")


def model_card(name: str, config: Config, facts: Mapping[str, Any], *, parameters: int) -> str:
    """README.md of a packaged flow.

    facts: evaluation (the content of RUN/evaluation.json), step, versions, license, sources.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    evaluation, unit = facts["evaluation"], unit_of(config)
    value = evaluation[unit.key]
    result = EvalResult(
        task_type="density-estimation",
        dataset_type=evaluation["dataset"],
        dataset_name=evaluation["dataset"],
        dataset_split=evaluation["split"],
        metric_type=unit.key,
        metric_name=unit.words,
        metric_value=value,
    )
    finite = value is not None and math.isfinite(value)
    images = len(config.shape) == 3
    card_data = ModelCardData(
        license=facts.get("license"),
        library_name="realnvp",
        pipeline_tag="unconditional-image-generation" if images else None,
        tags=["normalizing-flow", "real-nvp", "density-estimation"],
        model_name=name,
        eval_results=[result] if finite else None,
    )
    rows = _rows(config, facts) | {"parameters": f"{parameters:,}"}
    return ModelCard.from_template(
        card_data,
        TEMPLATE,
        name=_escaped(name),
        rows=[(key, _escaped(value)) for key, value in rows.items() if value],
        context=", context=c" if config.model.context_dim else "",
    ).content


def _rows(config: Config, facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts about the flow, by name; empty ones are left out of the card."""
    evaluation, data, unit = facts["evaluation"], config.data, unit_of(config)
    value, error = evaluation[unit.key], evaluation["standard_error"]
    measured = "not finite" if value is None else f"{value:.3f}"
    return {
        "data": f"{evaluation['dataset']} {evaluation.get('dataset_version') or ''}",
        "shape": "x".join(map(str, config.shape)),
        "columns": ", ".join(getattr(data, "columns", None) or ()),
        "classes": ", ".join(data.class_names or ()),
        "context columns": ", ".join(getattr(data, "context_columns", None) or ()),
        f"{unit.words}, {evaluation['split']} split": measured
        + ("" if error is None else f" ± {error:.3f}, standard error"),
        "steps": str(facts.get("step", "")),
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "sources of the data": facts.get("sources") or "",
        "license": facts.get("license") or "not stated",
    }


def _escaped(text: str) -> str:
    """Markdown that shows the text as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", " ".join(text.split()))
