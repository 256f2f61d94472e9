"""What RUN/evaluation.json holds: read, checked, put into words."""

import math
import shlex
from pathlib import Path
from typing import Any, Literal

from realnvp.config import Config, Kind
from realnvp.config.units import BITS_PER_DIM, LOG_LIKELIHOOD
from realnvp.files.folders import numbered
from realnvp.files.records import check_fields, ours, read_json
from realnvp.files.run_dir import RunDir

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


def read_evaluation(run: Path) -> dict[str, Any]:
    """What RUN/evaluation.json holds; ValueError if there is none, DamagedError if it makes no sense."""
    path, config = run / "evaluation.json", RunDir(run).config
    result = read_json(path, kind=dict, maker=f"realnvp evaluate {run}", fields={})
    with ours():
        check_evaluation(result, path, config)
    return result


def check_evaluation(evaluation: Any, path: Path, config: Config) -> None:
    """ValueError names the file, and the first field of an evaluation of such a run that is missing or of another type."""
    fields: dict[str, Any] = _FIELDS | (_OF_ROWS if config.kind is Kind.TABLE else _OF_IMAGES)
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


def evaluation_command(run: str | Path, evaluation: dict[str, Any]) -> str:
    """The command that evaluated a run so."""
    values = [f"--{name.replace('_', '-')} {evaluation[name]}" for name in ("noise_draws", "seed", "which") if name in evaluation]
    flags = [f"--{name}" for name in ("views", "codecs") if name in evaluation]
    return " ".join(["realnvp evaluate", shlex.quote(str(run)), *values, *flags])


def measured(result: dict[str, Any]) -> str:
    """The number of an evaluation, its standard error and its unit, as text: '3.492 +- 0.012 bits/dim'."""
    unit = LOG_LIKELIHOOD if LOG_LIKELIHOOD.key in result else BITS_PER_DIM
    value, error = result[unit.key], result["standard_error"]
    known = [f"{value:.3f}" if value is not None and math.isfinite(value) else "not finite" for value in (value, error)]
    return f"{' +- '.join(known)} {unit.words}"
