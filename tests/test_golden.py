"""Short trainings take the same steps as ever, and the shipped flows give the same densities."""

import json

import pytest

from tests.golden import FILE, SHIPPED, TRAININGS, measure

GOLDEN = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", TRAININGS)
def test_a_short_training(name: str) -> None:
    """To 1e-6: eight steps multiply what CPUs round differently, but not by so much."""
    measured = measure(name)
    assert measured.keys() == GOLDEN[name].keys()
    for curve, values in GOLDEN[name].items():
        assert measured[curve] == pytest.approx(values, rel=1e-6, abs=1e-9), (
            f"{curve}; meant? python -m tests.golden {name}"
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_flow(name: str) -> None:
    assert measure(name) == pytest.approx(GOLDEN[name], rel=1e-9)
