"""From what people call a flow to the folder that holds it: a path, a shipped flow's name, or an id on the Hugging Face Hub."""

import re
from pathlib import Path

from realnvp.config import nearest
from realnvp.folders import MANIFEST

WEIGHTS, CONFIG, FACTS = "model.safetensors", "config.json", "facts.json"
FILES = (WEIGHTS, CONFIG, FACTS, MANIFEST)  # all that is read of a flow
SHIPPED = Path(__file__).parent / "shipped"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def shipped() -> list[str]:
    """Names of the trained flows inside the package."""
    return sorted(path.name for path in SHIPPED.iterdir())


def locate(where: str | Path) -> Path:
    """The folder of a path that exists, else of a shipped flow, else of a download from the Hub: user/name or user/name@revision.

    A name a/b is looked for on the Hub only where there is no folder a. ValueError says what was tried.
    """
    folder, name = Path(where), str(where)
    if folder.exists():
        return folder
    if name in shipped():
        return SHIPPED / name
    tried = f"{name}: no such run directory or saved flow, and no shipped flow{nearest(name, shipped())}: {', '.join(shipped())}"
    if not HUB_ID.fullmatch(name) or folder.parent.exists():
        raise ValueError(tried)
    return _download(name, tried)


def _download(name: str, tried: str) -> Path:
    """The folder with the files of a flow, and no others, that the Hub or its cache on this machine has."""
    repo_id, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ValueError(f"{tried}; if it is on the Hugging Face Hub: pip install 'realnvp[hub]'") from None
    try:
        folder = Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[*FILES]))
    except Exception as error:  # the network library's own kinds, too, which change with the Hub's client
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{tried}; nor does the Hugging Face Hub give it: {reason[:300]}") from None
    if missing := [file for file in FILES if not (folder / file).exists()]:
        raise ValueError(f"{name}: no flow of realnvp: this repository of the Hugging Face Hub lacks {', '.join(missing)}")
    return folder
