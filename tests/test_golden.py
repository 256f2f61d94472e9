"""Short trainings take the same steps as ever, and pretrained flows have the same densities and samples."""

import json

import pytest

from tests.golden import FILE, PRETRAINED, TRAININGS, measure

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


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_flow(name: str) -> None:
    measured = measure(name)
    assert measured["log_prob"] == pytest.approx(GOLDEN[name]["log_prob"], rel=1e-9)
    assert measured["samples"] == pytest.approx(GOLDEN[name]["samples"], rel=1e-6, abs=1e-6)
