"""realnvp presets: what can be trained by name."""

from dataclasses import dataclass
from typing import Any

from realnvp.cli.options import Json
from realnvp.cli.output import print_json, print_table, thousands
from realnvp.config import PAPER, PRESETS


@dataclass
class Presets:
    """Print what can be trained by name: image size, parameters, the paper's bits/dim.

    Example: realnvp presets
    """

    json: Json = False

    def __call__(self) -> int:
        from realnvp.training.memory import count_parameters

        rows = {}
        for name, config in PRESETS.items():
            shape = config.data.shape
            rows[name] = {
                "shape": shape,
                "levels": config.data.levels,
                "num_scales": config.model.num_scales,
                "parameters": count_parameters(config) if shape else None,
                "paper": PAPER.get(name),
            }
        if self.json:
            print_json(rows)
            return 0
        columns = ("preset", "image", "scales", "parameters", "bits/dim in the paper")
        print_table(columns, [(name, *_cells(row)) for name, row in rows.items()])
        print(
            "ImageNet 64x64: 4.01 is of the paper's first version (2016), its last (2017) has 3.98"
        )
        return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    scales = "" if row["levels"] is None else str(row["num_scales"] or "by size")
    size = "of your data" if row["shape"] is None else "{1}x{2}x{0}".format(*row["shape"])
    parameters = "" if row["parameters"] is None else thousands(row["parameters"])
    return size, scales, parameters, "" if row["paper"] is None else f"{row['paper']:.2f}"
