"""Verdicts on rows of a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from realnvp.config.bounds import BETWEEN_0_AND_1, check_number
from realnvp.config.errors import ParameterError
from realnvp.config.words import count_of
from realnvp.data import splits_of_run
from realnvp.evaluation.likelihood import log_probs
from realnvp.evaluation.score import RowScore
from realnvp.flows.flow import Flow, config_of
from realnvp.odd.conformal import calibrates, least_rate, p_values, sentence


class RowVerdict(NamedTuple):
    """What is said of one row."""

    path: str
    row: int
    """1 is the first after the header."""
    log_prob: float
    """Nats, in the units of the columns."""
    rank: int
    """1 is the least likely."""
    percentile: float
    """Of minus log_prob among the normal rows: 100, all of them are more likely."""
    p_value: float
    odd: bool


def row_verdicts(
    scores: Sequence[RowScore], normal: Sequence[float], *, false_alarms: float
) -> list[RowVerdict]:
    """Verdicts on rows, by the log-densities of normal rows, which training has not seen.

    false_alarms: the share of normal rows that may be called odd. ParameterError: is no share.
    """
    check_number("false_alarms", false_alarms, float, BETWEEN_0_AND_1)
    oddness, usual = [-score.log_prob for score in scores], np.sort(-np.array(normal))
    below = np.searchsorted(usual, oddness) / len(usual)
    return [
        RowVerdict(*score, round(100 * float(share), 1), float(p), bool(p <= false_alarms))
        for score, share, p in zip(scores, below, p_values(oddness, usual), strict=True)
    ]


def of_validation(flow: Flow, run: Path) -> list[float]:
    """Log-densities of a run's validation rows. ParameterError names `normal` without them."""
    try:
        data = splits_of_run(run, config_of(flow))
    except (ValueError, OSError) as error:
        raise ParameterError("normal", f"name a table of normal rows, since {error}") from None
    given = (data.labels or {}).get("validation")
    return log_probs(flow, np.asarray(data.validation[:]), given=given).tolist()


def oddest(verdicts: Sequence[RowVerdict], count: int) -> str:
    """Lines for people: the least likely rows."""
    ordered = sorted(verdicts, key=lambda entry: entry.rank)[:count]
    return "\n".join(
        f"{entry.path}, row {entry.row}: {entry.log_prob:.3f} nats, less likely than "
        f"{entry.percentile:g} % of the normal rows, p {entry.p_value:.2g}"
        for entry in ordered
    )


def summary(verdicts: Sequence[RowVerdict], normal: int, *, false_alarms: float) -> str:
    """'3 of 200 rows odd at a false-alarm rate of at most .01 (400 normal rows)'."""
    few = (
        ""
        if calibrates(normal, false_alarms)
        else f"; so few calibrate rates of {least_rate(normal):.2g} and more"
    )
    odd = [entry.odd for entry in verdicts]
    return sentence(odd, " rows", false_alarms, count_of(normal, "normal row") + few)
