"""A run as a folder with a model card, for the Hugging Face Hub."""

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from realnvp.config.fields import Config
from realnvp.config.json import to_json
from realnvp.evaluation.evaluate import current_evaluation
from realnvp.evaluation.likelihood import unit_of
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import write_text
from realnvp.io.pretrained import WEIGHTS, load_model, save_flow
from realnvp.io.run_dir import RunDir

CARD = Path(__file__).parent / "templates" / "model_card.md"


def package(
    run: str | Path, folder: str | Path, *, license: str | None = None, sources: str | None = None
) -> None:
    """Write a folder to share: model.safetensors, config.json and README.md, a model card.

    Paths of this machine are in none of them.

    license: an identifier of the Hub, such as mit.
    sources: where the training data come from, and their licenses.
    ValueError: the run's model was not evaluated on its test split, or the folder is not empty.
    """
    run, folder = Path(run), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: not empty")
    evaluation = current_evaluation(run)
    flow, facts = load_model(run, evaluation.which)
    config = config_of(flow)
    flow.config = replace(config, data=replace(config.data, source=None))
    facts |= {
        "evaluation": evaluation.as_json(),
        "versions": RunDir(run).sessions[-1].versions,
        "license": license,
        "sources": sources,
    }
    parameters = sum(weight.numel() for weight in flow.parameters())
    card = _model_card(folder.resolve().name, flow.config, facts, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    save_flow(flow, folder / WEIGHTS, facts=facts)
    write_text(folder / "config.json", to_json(flow.config))
    write_text(folder / "README.md", card)


def push_to_hub(flow: Flow | str | Path, repo_id: str, *, private: bool = False) -> str:
    """Put a flow, or a folder that `package` wrote, on the Hub; returns the commit's address.

    repo_id: user/name, made if it is not there. Log in by `hf auth login`, or set HF_TOKEN.
    `realnvp.load_flow(repo_id)` loads the flow from there.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if isinstance(flow, Flow):
            save_flow(flow, folder / WEIGHTS)
            write_text(folder / "config.json", to_json(config_of(flow)))
        else:
            folder = Path(flow)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=[WEIGHTS, "config.json", "README.md"]
        )
    return str(commit.commit_url)


def _model_card(name: str, config: Config, facts: Mapping[str, Any], parameters: int) -> str:
    """README.md, with the metadata that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    evaluation, unit = facts["evaluation"], unit_of(config)
    value, error, data = evaluation[unit.key], evaluation["standard_error"], config.data
    finite = value is not None and math.isfinite(value)
    result = EvalResult(
        task_type="density-estimation",
        dataset_type=evaluation["dataset"],
        dataset_name=evaluation["dataset"],
        dataset_split=evaluation["split"],
        metric_type=unit.key,
        metric_name=unit.words,
        metric_value=value,
    )
    card_data = ModelCardData(
        license=facts["license"],
        library_name="realnvp",
        pipeline_tag="unconditional-image-generation" if len(config.shape) == 3 else None,
        tags=["normalizing-flow", "real-nvp", "density-estimation"],
        model_name=name,
        eval_results=[result] if finite else None,
    )
    rows = {
        "data": f"{evaluation['dataset']} {evaluation.get('dataset_version') or ''}",
        "shape": "x".join(map(str, config.shape)),
        "columns": ", ".join(getattr(data, "columns", None) or ()),
        "classes": ", ".join(data.class_names or ()),
        "context columns": ", ".join(getattr(data, "context_columns", None) or ()),
        f"{unit.words}, {evaluation['split']} split": (f"{value:.3f}" if finite else "not finite")
        + ("" if error is None else f" ± {error:.3f}, standard error"),
        "steps": str(facts.get("step", "")),
        "parameters": f"{parameters:,}",
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "sources of the data": facts["sources"] or "",
        "license": facts["license"] or "not stated",
    }
    return ModelCard.from_template(
        card_data,
        template_path=str(CARD),
        name=_escaped(name),
        rows=[(key, _escaped(value)) for key, value in rows.items() if value],
        context=", context=c" if config.model.context_dim else "",
    ).content


def _escaped(text: str) -> str:
    """Markdown that shows the text as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", " ".join(text.split()))
