"""Table 1 of the paper with runs of one's own beside it."""

from pathlib import Path
from typing import Any

from realnvp.config import ModelConfig, TableData, departures
from realnvp.config.errors import count_of
from realnvp.evaluation.record import OfImages, current_evaluation, with_error
from realnvp.io.run_dir import RunDir, Session

# Bits/dim of other systems on the paper's images: test, and training in brackets. NICE's are from
# later papers, all others from the paper's Table 1. Not shown beside other versions of a data set.
OTHERS: dict[str, dict[str, str]] = {
    "cifar10": {"PixelRNN": "3.00", "Conv DRAW": "< 3.59", "NICE": "4.48"},
    "imagenet32": {"PixelRNN": "3.86 (3.83)", "Conv DRAW": "< 4.40 (4.35)"},
    "imagenet64": {"PixelRNN": "3.63 (3.57)", "Conv DRAW": "< 4.10 (4.04)"},
}
COLUMNS = (
    "data set",
    "split",
    "images",
    "bits/dim",
    "the paper",
    "others",
    "model",
    "departs in",
    "steps",
    "hardware",
    "command",
)


def table(runs: list[Path]) -> list[dict[str, Any]]:
    """One row for each run directory, from what `realnvp evaluate` and the training wrote there.

    ValueError names a folder that is no run, or a run that was not evaluated on its own data yet.
    """
    return [_row(run) for run in runs]


def _row(run: Path) -> dict[str, Any]:
    files = RunDir(run)
    config = files.config
    if isinstance(config.data, TableData):
        raise ValueError(f"{run}: is of a table of numbers; the paper's Table 1 has images only")
    result = current_evaluation(run)
    assert isinstance(result, OfImages)
    session, state = files.sessions[-1], files.state
    return {
        "run": str(run),
        "dataset": result.dataset,
        "given_class": result.classes is not None,
        "dataset_version": result.dataset_version,
        "split": result.split,
        "num_images": result.num_images,
        "noise_draws": result.noise_draws,
        "bits_per_dim": result.bits_per_dim,
        "standard_error": result.standard_error,
        "paper": result.paper,
        "others": OTHERS.get(config.data.set, {}) if result.comparable else {},
        "model": _whose(config.model),
        "departures": departures(config),
        "steps": state.step if state else None,
        "hardware": _hardware(session),
        "command": session.shell_command,
    }


def _whose(model: ModelConfig) -> str:
    if model.architecture == "modern":
        uniform = model.dequantization == "uniform"
        learned = "" if uniform else f", {model.dequantization} dequantization"
        return f"modern{learned}, not the paper's"
    return "the paper's" if model.coupling == "affine" else "NICE's couplings, not the paper's"


def _hardware(session: Session) -> str:
    processes = f", {session.processes} processes" if (session.processes or 1) > 1 else ""
    if (session.device or "cpu").startswith("cuda"):
        return f"{next(iter(session.gpus), 'GPU')}{processes}"
    return f"{session.processor}, {count_of(session.threads, 'thread')}{processes}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text, in the order of `COLUMNS`."""
    version = f" ({row['dataset_version']})" if row["dataset_version"] else ""
    return (
        row["dataset"] + version + (", given the class" if row["given_class"] else ""),
        row["split"],
        str(row["num_images"]),
        with_error(row["bits_per_dim"], row["standard_error"]),
        "" if row["paper"] is None else f"{row['paper']:.2f}",
        ", ".join(f"{name} {bits}" for name, bits in row["others"].items()),
        row["model"],
        ", ".join(row["departures"]),
        "" if row["steps"] is None else str(row["steps"]),
        row["hardware"],
        row["command"],
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in (COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows))
    )
