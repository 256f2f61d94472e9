"""How long a training takes, from the steps and evaluations that have been timed."""

from typing import NamedTuple

from realnvp.config import TrainConfig
from realnvp.files.checkpoint import TrainState

REMEMBERED = 50  # steps whose mean counts


class Plan(NamedTuple):
    """What is still to come of a training."""

    steps: int
    """How many there are at its end."""
    seconds_to_evaluation: float
    """Until the next evaluation has a result."""
    seconds_to_end: float


class Pace:
    """Seconds of a step and of an evaluation, as far as they are known."""

    def __init__(self, recipe: TrainConfig, evaluation: float) -> None:
        """evaluation: how many forward passes of a training batch an evaluation is worth."""
        self.recipe, self.forwards = recipe, evaluation
        self.steps, self.step = 0, 0.0
        self._evaluation: float | None = None

    @property
    def warm(self) -> bool:
        """Whether more than the first steps, which take longer, have been timed."""
        return self.steps > 2

    def took(self, seconds: float) -> None:
        """Take in a step. The first is forgotten at the second: it is cold."""
        self.steps += 1
        weight = 1 / min(max(self.steps - 1, 1), REMEMBERED)
        self.step += weight * (seconds - self.step)

    @property
    def evaluation(self) -> float:
        """Seconds of an evaluation, its samples included.

        Before the first has been timed: a forward pass takes a third of a step.
        """
        return self.forwards * self.step / 3 if self._evaluation is None else self._evaluation

    @evaluation.setter
    def evaluation(self, seconds: float) -> None:
        self._evaluation = seconds

    def plan(self, state: TrainState) -> Plan:
        """What is to come, at this pace. At least one step must have been timed."""
        recipe, step = self.recipe, max(self.step, 1e-9)
        budgets = []
        if recipe.max_steps:
            budgets.append((recipe.max_steps - state.step) * step)
        if recipe.max_minutes:
            budgets.append(60 * recipe.max_minutes - state.training_seconds)
        training = max(0.0, min(budgets))
        steps = state.step + round(training / step)
        # After the last step, too, there is an evaluation.
        done, every = state.step - state.pending, recipe.eval_every
        if done >= steps:
            return Plan(steps, 0.0, 0.0)
        following = min(every * (done // every + 1), steps)
        evaluations = -(-steps // every) - done // every
        return Plan(
            steps,
            (following - state.step) * step + self.evaluation,
            training + evaluations * self.evaluation,
        )
