"""Giving a flow to others: a run as a folder with a card, and on the Hugging Face Hub."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from realnvp.config.words import install_line
from realnvp.evaluation.record import current_evaluation
from realnvp.files.folders import CARD
from realnvp.files.records import fields_of
from realnvp.files.run_dir import RunDir
from realnvp.files.saved import BESIDE, FILES, WEIGHTS, load_model, locate, save_flow
from realnvp.flows.flow import Flow, config_of


def share(
    run: str | Path,
    folder: str | Path,
    *,
    licence: str | None = None,
    sources: str | None = None,
) -> dict[str, Any]:
    """Write a folder to share: the run's evaluated model, facts and a card; returns the facts.

    The facts are its evaluation, commands as they were typed, and environment. data.source, a path
    of this machine, stays behind.

    licence: an identifier as the Hub has them, such as mit.
    sources: where the training data come from, and their licences.
    ValueError: the run was not evaluated on its test split, or the folder holds anything but an
    earlier saved flow, which is replaced.
    """
    run = Path(run)
    evaluation, sittings = current_evaluation(run), RunDir(run).sittings
    flow, facts = load_model(run, evaluation.which)
    config = config_of(flow)
    flow.config = replace(config, data=replace(config.data, source=None))
    facts |= {
        "evaluation": evaluation.as_json(),
        "commands": [
            *dict.fromkeys(sitting.shell_command for sitting in sittings),
            evaluation.command(run),
        ],
        "environment": {
            name: value for name, value in fields_of(sittings[-1]).items() if name != "command"
        },
        "licence": licence,
    } | ({"sources": sources} if sources else {})
    save_flow(flow, folder, facts=facts)
    return facts


def push_to_hub(
    flow: Flow | str | Path, repo_id: str, *, private: bool = False, message: str = "Upload a flow"
) -> str:
    """Put a flow, or a folder of one, on the Hugging Face Hub; returns the commit's address.

    flow: also a folder that `share` or `save_flow` wrote.
    repo_id: user/name, made if it is not there. The Hub's client knows who you are: by `hf auth
        login`, or by HF_TOKEN.
    private, message: of a repository that is made, and of the commit.

    `realnvp.load_flow(repo_id)` gets it back.
    """
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise ValueError(f"huggingface_hub is not installed: {install_line('hub')}") from None
    api = HfApi()
    with tempfile.TemporaryDirectory() as temporary:
        if isinstance(flow, Flow):
            folder = Path(temporary, repo_id.rpartition("/")[2] or "flow")
            save_flow(flow, folder)
        else:
            folder = locate(flow)
            load_model(folder)  # only what is whole
            if not (folder / WEIGHTS).exists():
                raise ValueError(
                    f"{folder}: a run; "
                    f"realnvp share {folder} DIR makes the folder that goes to the Hub"
                )
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*FILES, *BESIDE, CARD],
            commit_message=message,
        )
    return str(done.commit_url)
