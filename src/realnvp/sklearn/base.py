"""What the estimators share: their parameters, how a flow is fitted, and how rows go through it."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from realnvp.config.errors import ParameterError
from realnvp.device import as_tensor
from realnvp.flows.build import vector_flow
from realnvp.flows.flow import Flow, batch_that_fits
from realnvp.progress import track_slices
from realnvp.training.fit import fit

Array = NDArray[np.float64]
# Those of `vector_flow`.
ARCHITECTURE = ("num_couplings", "width", "num_blocks", "sine_std", "coupling")
# The estimator's names, which are scikit-learn's, and `realnvp.fit`'s.
RECIPE = {
    "learning_rate": "lr",
    "max_iter": "max_steps",
    "batch_size": "batch_size",
    "noise": "noise",
    "validation_fraction": "val_fraction",
    "n_iter_no_change": "patience",
    "tol": "tol",
    "verbose": "verbose",
}


class FlowEstimator(BaseEstimator):
    """An estimator that fits a flow to rows, with float32 networks, and then uses it in float64."""

    flow_: Flow

    def __init__(
        self,
        *,
        num_couplings: int | None = 8,
        width: int = 64,
        num_blocks: int = 2,
        sine_std: float = 6.0,
        coupling: Literal["affine", "additive", "spline"] | None = "affine",
        learning_rate: float = 5e-3,
        max_iter: int = 1000,
        batch_size: int = 256,
        noise: float = 0.05,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 500,
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

    def _fit(self, rows: Array, c: Any = None, **condition: Any) -> None:
        """Fit a flow to rows, (N, D), given c of each, and set the attributes.

        condition: what c is, as `vector_flow` takes it.
        """
        x, again = as_tensor(rows), self._goes_on()
        seed, columns = self._seed(), x.shape[1]
        with torch.device("cpu"):  # whatever torch's default device is
            flow = vector_flow(columns, **self._architecture(columns), **condition, seed=seed)
        if again:
            try:
                flow.load_state_dict(self.flow_.state_dict())
            except RuntimeError:
                raise ValueError(
                    f"warm_start: the fit before was of another {', '.join(ARCHITECTURE)}"
                ) from None
        recipe = {name: getattr(self, own) for own, name in RECIPE.items()}
        if not self.early_stopping:
            recipe["val_fraction"] = 0.0
        try:
            result = fit(flow, x, context=c, **recipe, initialize=not again, seed=seed)
        except ParameterError as wrong:
            own = {name: own for own, name in RECIPE.items()}.get(wrong.name, wrong.name)
            raise ParameterError(own, wrong.words) from None
        self.flow_ = flow.double()
        self.n_iter_, self.best_iter_ = len(result.loss), result.best_step
        self.loss_curve_, self.validation_scores_ = result.loss, result.validation

    def _architecture(self, columns: int) -> dict[str, Any]:
        """What `vector_flow` takes, of a flow of so many columns."""
        return {name: getattr(self, name) for name in ARCHITECTURE}

    def _rows(self, X: Any) -> Array:
        """(N, D): checked rows, for an estimator that is fitted."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _goes_on(self) -> bool:
        """Whether `fit` goes on from the flow of the fit before."""
        return bool(self.warm_start and hasattr(self, "flow_"))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


@torch.no_grad()
def each(method: Callable[..., Tensor], *arrays: Array) -> Array:
    """method(rows of each array) over all their rows, so few at once that memory stays bounded."""
    first = arrays[0]
    parts = [
        method(*(as_tensor(array[chunk]) for array in arrays))
        for chunk in track_slices(len(first), batch_that_fits(first.shape[1:]))
    ]
    return torch.cat(parts).numpy()
