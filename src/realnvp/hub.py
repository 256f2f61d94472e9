"""Giving a flow to others: a run as a folder with a card, and on the Hugging Face Hub."""

import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from realnvp.config.errors import install_line
from realnvp.evaluation.record import current_evaluation
from realnvp.flows.flow import Flow, config_of
from realnvp.io.files import CARD, fields_of
from realnvp.io.pretrained import BESIDE, FILES, WEIGHTS, load_model, locate, save_flow
from realnvp.io.run_dir import RunDir

SOURCE = "--data.source"


def share(
    run: str | Path,
    folder: str | Path,
    *,
    license: str | None = None,
    sources: str | None = None,
) -> dict[str, Any]:
    """Write a folder to share: the run's evaluated model, facts and a card; returns the facts.

    The facts are its evaluation, commands, and environment. Where things lie on this machine stays
    behind: of paths in commands that lead out of their folder the last part is kept, and of
    data.source nothing but the name of a table's file.

    licence: an identifier as the Hub has them, such as mit.
    sources: where the training data come from, and their licences.
    ValueError: the run was not evaluated on its test split, or the folder holds anything but an
    earlier saved flow, which is replaced.
    """
    run = Path(run)
    evaluation, sessions = current_evaluation(run), RunDir(run).sessions
    flow, facts = load_model(run, evaluation.which)
    config = config_of(flow)
    flow.config = replace(config, data=replace(config.data, source=None))
    environment = fields_of(sessions[-1])
    del environment["command"]
    if environment.get("init_from"):
        environment["init_from"] = _below(environment["init_from"])
    facts |= {
        "evaluation": evaluation.as_json(),
        "commands": [
            *dict.fromkeys(shlex.join(_without_places(session.command)) for session in sessions),
            evaluation.command(_below(str(run))),
        ],
        "environment": environment,
        "licence": license,
    } | ({"sources": sources} if sources else {})
    save_flow(flow, folder, facts=facts)
    return facts


def _without_places(command: Sequence[str]) -> list[str]:
    """A command whose paths do not say where they lie."""
    found, before = list[str](), ""
    for word in command:
        flag, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        value = "DATA" if value and flag.replace("_", "-") == SOURCE else _below(value)
        found.append(f"{flag}{equals}{value}" if word.startswith("--") else value)
        before = word
    return found


def _below(path: str) -> str:
    """A path as it is where it lies below the current folder, else its last part."""
    outside = path[:1] in ("/", "\\", "~") or path[1:2] == ":" or ".." in Path(path).parts
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] if outside else path


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
