"""A run as a folder with a model card, for the Hugging Face Hub."""

import tempfile
from dataclasses import replace
from pathlib import Path

from realnvp.config import to_json
from realnvp.evaluation.record import current_evaluation
from realnvp.flows.flow import Flow, config_of
from realnvp.io.card import model_card
from realnvp.io.files import write_text
from realnvp.io.pretrained import WEIGHTS, load_model, save_flow
from realnvp.io.run_dir import RunDir


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
    card = model_card(folder.resolve().name, flow.config, facts, parameters=parameters)
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
