"""The base of the estimators: parameters, the fit of a flow, and rows through it in blocks."""

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from realnvp.data.tables import constant_columns, warn_of_few_values
from realnvp.device import as_tensor
from realnvp.flows.build import vector_flow
from realnvp.flows.flow import ROWS, Flow
from realnvp.progress import track_slices
from realnvp.training.fit import fit

Array = NDArray[np.float64]
POSITIVE_INT = [Interval(Integral, 1, None, closed="left")]
NON_NEGATIVE = [Interval(Real, 0, None, closed="left")]


class FlowEstimator(BaseEstimator):
    """An estimator that fits a flow to rows, with float32 networks, and then uses it in float64.

    Parameters
    ----------
    num_couplings, width, num_blocks, sine_std, coupling
        As of `realnvp.vector_flow`: how many couplings, their networks' size and sines, affine,
        additive or spline. None: eight affine couplings; of a regressor of up to three targets
        four splines, which bend where affine couplings cannot.
    learning_rate, max_iter, batch_size
        Adam's learning rate, which falls to 0 over max_iter steps, and the rows of a step: time
        does not grow with the data.
    noise
        Gaussian noise in each batch, with noise^2 times the data's covariance. It bounds the
        density of repeated or dependent columns. None: .05; of a regressor 0.
    early_stopping, validation_fraction, n_iter_no_change, tol
        Hold out rows (at most 2,000), keep the weights that are best on them, and stop when these
        were not better by tol nats for n_iter_no_change steps (None: 500; of a regressor, which
        gains most by the last steps, max_iter).
    warm_start
        Whether `fit` continues the previous fit, with its standardization.
    random_state
        Seed of the split, the weights, the batches, and `sample`.
    verbose
        Whether to print the progress.

    Attributes
    ----------
    flow_
        The fitted `realnvp.Flow`, float64, in eval mode; `realnvp.save_flow` saves it.
    n_iter_, best_iter_
        Steps taken, and the step whose weights were kept.
    loss_curve_, validation_scores_
        Minus the mean log-density of each step's batch; the mean log-density of the rows held out,
        each 25 steps.
    """

    flow_: Flow
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "num_couplings": [*POSITIVE_INT, None],
        "width": POSITIVE_INT,
        "num_blocks": [Interval(Integral, 0, None, closed="left")],
        "sine_std": NON_NEGATIVE,
        "coupling": [StrOptions({"affine", "additive", "spline"}), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": POSITIVE_INT,
        "batch_size": POSITIVE_INT,
        "noise": [*NON_NEGATIVE, None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [*POSITIVE_INT, None],
        "tol": NON_NEGATIVE,
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        *,
        num_couplings: int | None = None,
        width: int = 64,
        num_blocks: int = 2,
        sine_std: float = 6.0,
        coupling: Literal["affine", "additive", "spline"] | None = None,
        learning_rate: float = 5e-3,
        max_iter: int = 1000,
        batch_size: int = 256,
        noise: float | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.num_couplings = num_couplings
        self.width = width
        self.num_blocks = num_blocks
        self.sine_std = sine_std
        self.coupling = coupling
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.noise = noise
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def _defaults(self, columns: int) -> dict[str, Any]:
        """Values of the parameters that are None, of a flow of so many columns."""
        return {"num_couplings": 8, "coupling": "affine", "noise": 0.05, "n_iter_no_change": 500}

    def _fit(self, rows: Array, c: Any = None, **condition: Any) -> None:
        """Fit a flow to rows, (N, D), given c of each, and set the attributes.

        condition: `classes` or `context`, as `vector_flow` takes them.
        """
        self._validate_params()
        columns, seed, again = rows.shape[1], self._seed(), self._continues()
        chosen = self.get_params(deep=False)
        chosen |= {k: v for k, v in self._defaults(columns).items() if chosen[k] is None}
        names = ("num_couplings", "width", "num_blocks", "sine_std", "coupling")
        model = {name: chosen[name] for name in names} | condition
        with torch.device("cpu"):  # whatever torch's default device is
            flow = vector_flow(columns, **model, seed=seed)
        if again:
            try:
                flow.load_state_dict(self.flow_.state_dict())
            except RuntimeError:
                raise ValueError("warm_start: the fit before was of another flow") from None
        result = fit(
            flow,
            as_tensor(rows),
            context=c,
            max_steps=chosen["max_iter"],
            batch_size=chosen["batch_size"],
            lr=chosen["learning_rate"],
            noise=chosen["noise"],
            val_fraction=chosen["validation_fraction"] if chosen["early_stopping"] else 0.0,
            patience=chosen["n_iter_no_change"],
            tol=chosen["tol"],
            initialize=not again,
            seed=seed,
            verbose=chosen["verbose"],
        )
        self.flow_ = flow.double()
        self.n_iter_, self.best_iter_ = len(result.loss), result.best_step
        self.loss_curve_, self.validation_scores_ = result.loss, result.validation

    def _rows(self, X: Any) -> Array:
        """(N, D): checked rows, for an estimator that is fitted."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _continues(self) -> bool:
        """Whether `fit` continues the previous fit."""
        return bool(self.warm_start and hasattr(self, "flow_"))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


def warn_of_columns(source: str, rows: Array, names: Sequence[str], *, noisy: bool) -> None:
    """Warn of columns without a density, and of those whose density can grow without bound."""
    for name in constant_columns(rows, names):
        warnings.warn(f"{source}: {name!r} is constant: it has no density", stacklevel=3)
    if not noisy:
        warn_of_few_values(source, rows, names)


@torch.no_grad()
def in_blocks(method: Callable[..., Tensor], *arrays: Array, rows: int = ROWS) -> Array:
    """method(rows of each array) over all their rows, in blocks, so that memory is bounded."""
    parts = [
        method(*(as_tensor(array[block]) for array in arrays))
        for block in track_slices(len(arrays[0]), rows)
    ]
    return torch.cat(parts).numpy()
