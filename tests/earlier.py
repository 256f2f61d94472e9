"""Small runs of a released version, and the numbers that later versions must find in them.

`python -m tests.earlier` makes both with the present code: tests/data/runs-VERSION.tar.xz and
.json. Do so once for a release, and never again: what an earlier version left on a disk does not
change. tests/test_earlier.py opens the runs of all versions.

The runs are of float64 networks, so that CPUs agree on their numbers to many digits. `paper` has
no data folder (the digits come with scikit-learn). `modern` and `table` were trained on files that
no reader has, in the folder `GONE`.
"""

import hashlib
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import realnvp
from realnvp.cli.main import run

DATA = Path(__file__).parent / "data"
GONE = "/data"  # in the place of the folder that the runs were made in
STEPS, MORE = 6, 2

_TRAINING = (
    f"--train.max-steps {STEPS} --train.log-every 1 --train.eval-every 2 --train.save-every {STEPS} --train.moment-batches 2 "
    "--train.eval-images 8 --train.batch-size 8 --train.tracker none --train.precision float64 --device cpu"
)
_MODERN = "--model.num-scales 2 --model.num-couplings 2 --model.width 2 --model.num-blocks 1 --train.average 0.5"
COMMANDS = {
    "paper": f"digits --model.width 2 --model.growth 0.5 --model.num-blocks 1 --model.momentum 0.9 --train.lr 0.03 {_TRAINING}",
    "modern": f"images-modern --data.source {{here}}/images.npy {_MODERN} {_TRAINING}",
    "table": f"table --data.source {{here}}/rows.csv --model.num-couplings 2 --model.width 4 {_TRAINING}",
}
"""What each run was trained with, after `realnvp train`."""


def unpack(version: str, folder: Path) -> Path:
    """Copy the version's runs (paper, modern, table) and two flows made of them (saved, shared)."""
    with tarfile.open(DATA / f"runs-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def numbers(where: str | Path) -> dict[str, Any]:
    """What the best and the last flow there say about fixed data, and what they draw."""
    found: dict[str, Any] = {}
    for which in ("best", "last"):
        flow = realnvp.load_flow(where, which)
        x = fixed(flow)
        with torch.no_grad():
            found[which] = {
                "log_prob": flow.log_prob(x).tolist(),
                "encode": _some(flow.encode(x)),
                "sample": _some(flow.sample(2, seed=3, temperature=0.9)),
            }
    return found


def fixed(flow: realnvp.Flow) -> torch.Tensor:
    """Three images (v + u), or rows, from a formula: no generator, no file."""
    assert flow.config is not None
    assert flow.config.data.shape is not None
    shape, levels = flow.config.data.shape, flow.config.data.levels
    ramp = torch.arange(3 * int(np.prod(shape)), dtype=torch.float64).reshape(3, *shape)
    if levels is None:
        return (0.7 * ramp).sin() + torch.tensor([10.0, 1.0, -3.0], dtype=torch.float64)
    return (levels - 1) * (0.5 + 0.5 * (0.11 * ramp).sin()) + 0.5


def _some(x: torch.Tensor) -> list[float]:
    """Seven numbers of it and the sum of their absolute values: all of them would fill a page."""
    values = x.double().flatten()
    return [*values[:: max(1, len(values) // 7)][:7].tolist(), values.abs().sum().item()]


def go_on(folder: Path) -> dict[str, list[float]]:
    """Train `MORE` steps by the run's own command, and return their curves.

    Call it where the runs are.
    """
    command = json.loads((folder / "environment.json").read_text())[-1]["command"]
    more = [
        str(STEPS + MORE) if flag == "--train.max-steps" else word
        for flag, word in pairwise(command)
    ]
    assert run(more) == 0
    return curves(folder, after=STEPS)


def curves(folder: Path, *, after: int = 0) -> dict[str, list[float]]:
    """{name: its values in metrics.jsonl}, but for what depends on the clock."""
    found: dict[str, list[float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name in entry.keys() - {"step", "seconds", "images_per_second", "rows_per_second"}:
            if entry["step"] > after:
                found.setdefault(name, []).append(entry[name])
    return dict(sorted(found.items()))


def _make(folder: Path) -> None:
    """All runs, in the folder, as if it had been called `GONE`."""
    rows, columns = np.mgrid[:8, :8]
    images = [
        128 + 90 * np.sin(0.4 * k + 0.5 * rows) * np.cos(0.3 * columns + 0.2 * k) for k in range(40)
    ]
    np.save(folder / "images.npy", np.stack(images).astype(np.uint8))
    chance = random.Random(0)
    table = [
        (x := chance.gauss(0, 1), x * x + chance.gauss(0, 0.3), chance.gauss(-3, 0.5))
        for _ in range(40)
    ]
    (folder / "rows.csv").write_text(
        "a,b,c\n" + "".join(f"{10 + 2 * x:.4f},{y:.4f},{z:.4f}\n" for x, y, z in table)
    )
    for name, words in COMMANDS.items():
        _realnvp(folder, "train", *words.format(here=folder).split(), "--run-dir", name)
        _realnvp(folder, "evaluate", name, "--noise-draws", "1", "--device", "cpu")
    _realnvp(folder, "share", "modern", "shared", "--licence", "mit")
    realnvp.save_flow(
        realnvp.load_flow(folder / "table"), folder / "saved", facts={"note": "of the rows"}
    )


def _realnvp(folder: Path, *argv: str) -> None:
    subprocess.run([sys.executable, "-m", "realnvp", *argv], cwd=folder, check=True)


def _pack(folder: Path, target: Path) -> None:
    """Write the archive: no path of this machine, no grids of samples, no digits; checksums anew."""
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".md")]
    for path in texts:
        path.write_text(path.read_text().replace(str(folder), GONE))
    for path in texts:
        if path.name == "dataset.json":
            about = json.loads(path.read_text())
            others = {name: digest for name, digest in about["sha256"].items() if name != path.name}
            own = hashlib.sha256(
                json.dumps(about | {"sha256": others}, sort_keys=True).encode()
            ).hexdigest()
            path.write_text(json.dumps(about | {"sha256": others | {path.name: own}}, indent=1))
    for path in texts:
        if path.name == "manifest.json":
            sums = {
                name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
                for name in json.loads(path.read_text())
            }
            path.write_text(json.dumps(sums, indent=2))
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if (
                path.is_file()
                and len(inside.parts) > 1
                and "samples" not in inside.parts
                and inside.parts[:2] != ("paper", "data")
            ):
                info = archive.gettarinfo(path, str(inside))
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ""
                with path.open("rb") as file:
                    archive.addfile(info, file)


def main() -> None:
    """Write both files of the present version."""
    version = realnvp.__version__
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as copied:
        _make(Path(made).resolve())
        _pack(Path(made).resolve(), DATA / f"runs-{version}.tar.xz")
        found = {}
        folder = unpack(version, Path(copied))
        for name in (*COMMANDS, "shared", "saved"):
            found[name] = numbers(folder / name)
        for name in COMMANDS:
            _realnvp(
                folder,
                "train",
                "--config",
                f"{name}/config.json",
                "--train.max-steps",
                str(STEPS + MORE),
                "--device",
                "cpu",
            )
            found[name]["curves"] = curves(folder / name)
            found[name]["continued"] = curves(folder / name, after=STEPS)
    (DATA / f"runs-{version}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
