"""realnvp presets and realnvp info: what can be trained, and what a run directory holds."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realnvp.cli.options import Json, RunDir
from realnvp.cli.output import print_json, print_table, thousands
from realnvp.config import PAPER, PRESETS, Config, flat
from realnvp.files.records import damaged_if_invalid, fields_of, read_record


@dataclass
class Presets:
    """Print what can be trained by name: image size, parameters, the paper's bits/dim.

    Example: realnvp presets
    """

    json: Json = False

    def __call__(self) -> int:
        from realnvp.training.memory import count_parameters

        rows = {
            name: {
                "shape": config.data.shape,
                "levels": config.data.levels,
                "num_scales": config.model.num_scales,
                "parameters": count_parameters(config) if config.data.shape else None,
                "paper": PAPER.get(name),
            }
            for name, config in PRESETS.items()
        }
        if self.json:
            print_json(rows)
            return 0
        print_table(
            ("preset", "image", "scales", "parameters", "bits/dim in the paper"),
            [(name, *_cells(row)) for name, row in rows.items()],
        )
        print(
            "ImageNet 64x64: 4.01 is of the paper's first version (2016), its last (2017) has 3.98"
        )
        return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        "of your data" if row["shape"] is None else "{1}x{2}x{0}".format(*row["shape"]),
        "" if row["levels"] is None else str(row["num_scales"] or "by size"),
        "" if row["parameters"] is None else thousands(row["parameters"]),
        "" if row["paper"] is None else f"{row['paper']:.2f}",
    )


@dataclass
class Info:
    """Print what a run directory or saved flow holds.

    Example: realnvp info runs/photos
    """

    run: RunDir
    json: Json = False

    def __call__(self) -> int:
        from realnvp.evaluation.record import parse_evaluation
        from realnvp.files.run_dir import RunDir
        from realnvp.files.saved import locate
        from realnvp.training.memory import count_parameters

        folder = locate(self.run)
        config = RunDir(folder).config
        facts: dict[str, Any] = {
            "run": self.run,
            "config": asdict(config),
            "parameters": count_parameters(config) if config.data.shape else None,
            **_stored_facts(folder, config),
        }
        if self.json:
            print_json(facts)
            return 0
        longer = ("config", "environment", "evaluation", "parameters", "facts")
        known = facts | facts.get("facts", {})
        parameters = facts["parameters"]
        rows = [
            *((key, str(value)) for key, value in known.items() if key not in longer),
            ("parameters", thousands(parameters) if parameters else "of the data's size"),
            *((name, str(value)) for name, value in flat(config).items()),
        ]
        if "evaluation" in known:
            evaluation = parse_evaluation(known["evaluation"], folder, config)
            rows.append(("evaluation", f"{evaluation.measured} on {evaluation.split}"))
        print_table(("", ""), rows)
        return 0


def _stored_facts(folder: Path, config: Config) -> dict[str, Any]:
    """What files of the run say about it, each if it is there."""
    from realnvp.config.units import unit_of
    from realnvp.evaluation.record import parse_evaluation, read_evaluation
    from realnvp.files.run_dir import RunDir

    run = RunDir(folder)
    facts: dict[str, Any] = {}
    if state := run.state:
        facts |= {
            "step": state.step,
            "seconds": round(state.seconds, 1),
            f"best_validation_{unit_of(config).key}": state.best,
            "best_step": state.best_step,
            "skipped_steps": state.skipped,
        }
    if (folder / "evaluation.json").exists():
        facts["evaluation"] = read_evaluation(folder).as_json()
    if run.sittings_file.exists():
        facts["environment"] = [*map(fields_of, run.sittings)]
    if (folder / "facts.json").exists():
        facts["facts"] = stored = read_record(dict[str, Any], folder / "facts.json")
        if "evaluation" in stored:
            with damaged_if_invalid():
                parse_evaluation(stored["evaluation"], folder / "facts.json", config)
    return facts
