"""Table 1 of the paper with runs of one's own beside it."""

from pathlib import Path
from typing import Any, Literal

from realnvp.checkpoint import last_state, read_run_config
from realnvp.config import Config, ModelConfig, departures
from realnvp.environment import command_of, read_sittings
from realnvp.evaluate import measured
from realnvp.folders import check_fields, numbered, ours, read_json

# Bits/dim of the other systems: the paper's Table 1 (test; training in brackets where given), and NICE as later papers report it.
# They are of the same images as the paper's number, so of other versions of a data set neither is shown.
OTHERS: dict[str, dict[str, str]] = {
    "cifar10": {"PixelRNN": "3.00", "Conv DRAW": "< 3.59", "NICE": "4.48"},
    "imagenet32": {"PixelRNN": "3.86 (3.83)", "Conv DRAW": "< 4.40 (4.35)"},
    "imagenet64": {"PixelRNN": "3.63 (3.57)", "Conv DRAW": "< 4.10 (4.04)"},
}
_FIELDS = {
    **dict.fromkeys(("step", "seed"), int),
    **dict.fromkeys(("dataset", "split", "which", "standard_error_over"), str),
    "standard_error": float | None,
    "dataset_version": str | None,
}
_OF_IMAGES = {"num_images": int, "noise_draws": int, "bits_per_dim": float | None, "paper": float | None}
_OF_ROWS = {"num_rows": int, "log_likelihood": float | None}
_OF_SOME = {"views": dict, "codecs": dict, "comparable": bool}
_VIEWS = {"count": int, "bits_per_dim": float | None, "standard_error": float | None}
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

    ValueError names a run that is none, or was not evaluated on its own data yet.
    """
    return [_row(run) for run in runs]


def _row(run: Path) -> dict[str, Any]:
    config = read_run_config(run)
    if config.data.levels is None:
        raise ValueError(f"{run}: is of a table of numbers; the paper's Table 1 has images only")
    result = current_evaluation(run)
    environment = read_sittings(run)[-1]
    state = last_state(run)
    return {
        "run": str(run),
        "dataset": result["dataset"],
        "dataset_version": result["dataset_version"],
        "split": result["split"],
        "num_images": result["num_images"],
        "noise_draws": result["noise_draws"],
        "bits_per_dim": result["bits_per_dim"],
        "standard_error": result["standard_error"],
        "paper": result["paper"],
        "others": OTHERS.get(config.data.set, {}) if result.get("comparable") else {},
        "model": _whose(config.model),
        "departures": departures(config),
        "steps": state.step if state else None,
        "hardware": _hardware(environment),
        "command": command_of(environment),
    }


def _whose(model: ModelConfig) -> str:
    if model.architecture == "modern":
        learned = ", variational dequantisation" if model.dequantisation == "variational" else ""
        return f"modern{learned}, not the paper's"
    return "the paper's" if model.coupling == "affine" else "NICE's couplings, not the paper's"


def _hardware(environment: dict[str, Any]) -> str:
    processes = f", {environment['processes']} processes" if environment.get("processes", 1) > 1 else ""
    if environment.get("device", "cpu").startswith("cuda"):
        return f"{next(iter(environment['gpus']), 'GPU')}{processes}"
    return f"{environment['processor']}, {environment['threads']} threads{processes}"


def read_evaluation(run: Path) -> dict[str, Any]:
    """What RUN/evaluation.json holds; ValueError if there is none, DamagedError if it makes no sense."""
    path, config = run / "evaluation.json", read_run_config(run)
    result = read_json(path, kind=dict, maker=f"realnvp evaluate {run}", fields={})
    with ours():
        check_evaluation(result, path, config)
    return result


def check_evaluation(evaluation: Any, path: Path, config: Config) -> None:
    """ValueError names the file, and the first field of an evaluation of such a run that is missing or of another type."""
    fields: dict[str, Any] = _FIELDS | (_OF_ROWS if config.data.levels is None else _OF_IMAGES)
    check_fields(evaluation, path, fields)
    check_fields(evaluation, path, {name: kind for name, kind in _OF_SOME.items() if name in evaluation})
    check_fields(evaluation.get("views"), path, _VIEWS if "views" in evaluation else {})
    check_fields(evaluation.get("codecs"), path, dict.fromkeys(evaluation.get("codecs", ()), float))


def current_evaluation(run: Path) -> dict[str, Any]:
    """The same; ValueError if it is not of the test split, or of another model than the run's by now."""
    path, maker = run / "evaluation.json", f"realnvp evaluate {run}"
    result = read_evaluation(run)
    if result["split"] != "test":
        raise ValueError(f"{path}: is of the {result['split']} split; {maker} takes the test split")
    which = evaluated(result)
    if [path.name for path in numbered(run / "model", which)[-1:]] != [f"{which}-{result['step']:09d}"]:
        raise ValueError(f"{path}: is of an earlier model; {maker} takes the present one")
    return result


def evaluated(evaluation: dict[str, Any]) -> Literal["best", "last"]:
    """The model of the run that an evaluation is of."""
    return "last" if evaluation["which"] == "last" else "best"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text, in the order of `COLUMNS`."""
    version = f" ({row['dataset_version']})" if row["dataset_version"] else ""
    others = ", ".join(f"{name} {bits}" for name, bits in row["others"].items())
    return (
        row["dataset"] + version,
        row["split"],
        str(row["num_images"]),
        measured(row).removesuffix(" bits/dim"),
        "" if row["paper"] is None else f"{row['paper']:.2f}",
        others,
        row["model"],
        ", ".join(row["departures"]),
        "" if row["steps"] is None else str(row["steps"]),
        row["hardware"],
        row["command"],
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(cells, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
