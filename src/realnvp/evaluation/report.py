"""A run for readers: one self-contained HTML page, and Table 1 of the paper with runs beside."""

import base64
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from realnvp.config.json import flat
from realnvp.config.presets import departures
from realnvp.evaluation.evaluate import Evaluation, current_evaluation
from realnvp.io.files import render, write_text
from realnvp.io.run_dir import RunDir, Session

# Bits/dim of other systems on the paper's images: test, and training in brackets. NICE's are from
# later papers, all others from the paper's Table 1. Not shown beside other versions of a data set.
OTHERS: dict[str, dict[str, str]] = {
    "cifar10": {"PixelRNN": "3.00", "Conv DRAW": "< 3.59", "NICE": "4.48"},
    "imagenet32": {"PixelRNN": "3.86 (3.83)", "Conv DRAW": "< 4.40 (4.35)"},
    "imagenet64": {"PixelRNN": "3.63 (3.57)", "Conv DRAW": "< 4.10 (4.04)"},
}


def report(run: Path, result: Evaluation, pictures: Iterable[Path], *, seed: int) -> Path:
    """Write RUN/report.html: results, pictures and how to make them, configuration, environment.

    pictures: PNG files, embedded in this order; seed: theirs.
    """
    config, sessions = RunDir(run).config, RunDir(run).sessions
    which = ["--which", result.which]
    evaluate = ["realnvp", "evaluate", str(run), "--seed", str(result.seed), *which]
    if result.noise_draws:
        evaluate += ["--noise-draws", str(result.noise_draws)]
    draw = ["realnvp", "figures", str(run), "--seed", str(seed), *which, "--only"]
    figures = []
    for path in pictures:
        command = shlex.join([*draw, path.stem.split("-")[0]])
        figures.append((path.stem, base64.b64encode(path.read_bytes()).decode(), command))
    environment = {
        "sessions": len(sessions),
        "versions": ", ".join(f"{name} {each}" for name, each in sessions[-1].versions.items()),
        "time": sessions[-1].time,
        "platform": sessions[-1].platform,
        "hardware": _hardware(sessions[-1]),
    }
    page = run / "report.html"
    text = render(
        "report.html",
        title=run.resolve().name,
        number=f"{result} {result.unit.words}",
        result=result.rows() | {"departs from the paper in": ", ".join(departures(config))},
        evaluate=shlex.join(evaluate),
        figures=figures,
        config=flat(config),
        train=sessions[-1].shell_command,
        environment=environment,
    )
    write_text(page, text)
    return page


def table(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """A row for each run, from its last evaluation: Table 1 of the paper.

    ValueError: a run's present model was not evaluated on the test split.
    """
    rows = []
    for run in runs:
        config, session = RunDir(run).config, RunDir(run).sessions[-1]
        result = current_evaluation(run)
        given = ", given the class" if "accuracy" in result.measures else ""
        row = {
            "run": str(run),
            "data": f"{result.dataset} {result.dataset_version or ''}".strip() + given,
            "count": result.count,
            result.unit.key: result.mean,
            "standard_error": result.standard_error,
            "paper": result.paper,
            "others": OTHERS.get(result.dataset, {}) if result.comparable else {},
            "departs_in": departures(config),
            "steps": result.step,
            "hardware": _hardware(session),
            "command": session.shell_command,
        }
        rows.append(row)
    return rows


def _hardware(session: Session) -> str:
    gpu = session.gpus[0] if session.device.startswith("cuda") else None
    device = gpu or f"{session.processor}, {session.threads} threads"
    return f"{device}, {session.processes} processes" if session.processes > 1 else device


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of `table` in Markdown."""
    names = [name.replace("_", " ") for name in rows[0]]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *cells])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name} {each}" for name, each in value.items()]
    if isinstance(value, list):
        return ", ".join(value)
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return "" if value is None else text.replace("|", "\\|")
