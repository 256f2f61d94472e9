"""How much memory a process may have, and what is said where it is not enough."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from realnvp.cli.main import COMMANDS, run
from realnvp.config import PRESETS, Config, resolve
from realnvp.training.memory import _smaller_batch, check_memory, memory_limit

GB = 2**30


def system(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """A file system that says this of control groups."""
    files = {"proc/self/cgroup": groups} | {
        f"sys/fs/cgroup/{name}": text for name, text in limits.items()
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


# What /proc/self/cgroup says, limits below /sys/fs/cgroup, and the least of them.
SYSTEMS: dict[str, tuple[str, dict[str, str], int | None]] = {
    "no control groups": ("", {}, None),
    "a line without sense": ("what?", {"memory.max": "1"}, None),
    "version 2, no limit": (
        "0::/user/job",
        {"user/job/memory.max": "max", "user/memory.max": "max"},
        None,
    ),
    "version 2, its own": (
        "0::/user/job",
        {"user/job/memory.max": "3000", "user/memory.max": "4000"},
        3000,
    ),
    "version 2, an ancestor's": (
        "0::/user/job",
        {"user/job/memory.max": "max", "user/memory.max": "4000"},
        4000,
    ),
    "version 2, a container": ("0::/", {"memory.max": "5000"}, 5000),
    "version 1": (
        "5:cpu:/a\n4:hugetlb,memory:/b:c/d",
        {"memory/b:c/memory.limit_in_bytes": "6000", "memory/a": "1"},
        6000,
    ),
    "version 1, no limit": (
        "4:memory:/",
        {"memory/memory.limit_in_bytes": "9223372036854771712"},
        None,
    ),
    "version 1, the host's path": (
        "4:memory:/docker/x",
        {"memory/memory.limit_in_bytes": "7000"},
        7000,
    ),
    "both": (
        "4:memory:/\n0::/",
        {"memory/memory.limit_in_bytes": "8000", "memory.max": "max"},
        8000,
    ),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_limits_of_control_groups_are_found(kind: str, tmp_path: Path) -> None:
    groups, limits, least = SYSTEMS[kind]
    machine = memory_limit(tmp_path / "nowhere")
    assert memory_limit(system(tmp_path, groups, limits)) == (least or machine)
    assert memory_limit() <= machine


def test_the_limit_of_the_address_space_counts() -> None:
    little_less = memory_limit() - 4096
    code = (
        "import resource; from realnvp.training.forecast import memory_limit\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({little_less}, resource.getrlimit(resource.RLIMIT_AS)[1]))\n"
        "print(memory_limit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
    )
    assert int(done.stdout) == little_less


def test_a_training_is_measured_against_the_limit() -> None:
    config = dataclasses.replace(
        PRESETS["digits"], train=dataclasses.replace(PRESETS["digits"].train, batch_size=1000)
    )
    check_memory(config, torch.device("cpu"), limit=100 * GB)
    with pytest.raises(
        ValueError,
        match=r"train\.batch_size: a training needs about [\d.]+ GiB of memory, cpu has 0\.5 GiB; "
        r"it fits with train\.recompute \(0\.1 GiB\) or train\.batch_size 500 \(0\.3 GiB\)$",
    ):
        check_memory(config, torch.device("cpu"), limit=GB // 2)
    with pytest.raises(ValueError, match=r"cpu has 0\.0 GiB$"):
        check_memory(config, torch.device("cpu"), limit=GB // 100)
    large = resolve(PRESETS["images-modern"], (3, 512, 512))
    with pytest.raises(
        ValueError,
        match=r"train\.recompute \(15\.1 GiB\) or train\.batch_size 8 \(15\.4 GiB\) or "
        r"data\.crop 64 \(0\.7 GiB\)$",
    ):
        check_memory(large, torch.device("cpu"), limit=20 * GB)
    with pytest.raises(ValueError, match=r"parameters; or pieces of them: data\.crop 64"):
        resolve(PRESETS["images"], (3, 512, 512))


def test_the_batch_that_fits_is_found_by_few_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 100 bytes, and one more for each image."""
    counted: list[int] = []

    def needed(config: Config, processes: int) -> int:
        counted.append(config.train.batch_size)
        return 100 + config.train.batch_size

    monkeypatch.setattr("realnvp.training.memory._needed_by_steps", needed)
    config = dataclasses.replace(
        PRESETS["digits"], train=dataclasses.replace(PRESETS["digits"].train, batch_size=1024)
    )
    found = [_smaller_batch(config, 1124, 2, limit) for limit in (1000, 228, 227, 102, 101)]
    assert found == [512, 128, 64, 2, 0]
    assert counted == [2] * 5


def test_memory_that_the_cpu_has_not_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's allocator raises a RuntimeError like any other; those stay what they are."""

    def greedy() -> int:
        return len(torch.empty(2**60, dtype=torch.uint8))

    def broken() -> int:
        raise RuntimeError("a defect")

    monkeypatch.setitem(COMMANDS, "info", lambda: greedy)
    monkeypatch.setattr("realnvp.cli.main.parse", lambda command, *_, **__: command())
    assert run(["info"]) == 2
    assert re.fullmatch(r"realnvp: error: not enough memory for that\n", capsys.readouterr().err)
    monkeypatch.setitem(COMMANDS, "info", lambda: broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run(["info"])
