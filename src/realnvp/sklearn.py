"""Flows as scikit-learn's estimators: a density of tables, and outliers by it.

Needs the extra `realnvp[sklearn]`.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config.errors import ParameterError
from realnvp.config.words import install_line
from realnvp.data.table import (
    Remedies,
    constant,
    warn_of_few,
    warn_of_index,
    warn_of_unbounded,
)
from realnvp.flows.build import vector_flow
from realnvp.flows.flow import Flow, batch_that_fits
from realnvp.tools.progress import chunks
from realnvp.training.fit import check_size, fit

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        DensityMixin,
        OutlierMixin,
        TransformerMixin,
        clone,
    )
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"realnvp.sklearn needs scikit-learn 1.6 or later: {install_line('sklearn')}",
        name="sklearn",
    ) from error

Array = NDArray[np.float64]
PYTHON = Remedies("X.drop(columns={!r})", "noise=0.05")
STANDARDISED = "X is standardised already, so densities are in the scaled units"
REMEDY = "give RealNVPDensity the data without a StandardScaler; it standardises them itself"
# Those of `vector_flow`.
ARCHITECTURE = ("num_couplings", "width", "num_blocks", "frequency", "coupling")
# The estimator's names, which are scikit-learn's, and `realnvp.fit`'s.
RECIPE = {
    "learning_rate": "lr",
    "max_iter": "max_steps",
    "batch_size": "batch_size",
    "noise": "noise",
    "validation_fraction": "held_out",
    "n_iter_no_change": "patience",
    "tol": "tol",
    "verbose": "verbose",
}


class RealNVPDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator
):
    """The density of rows of numbers by a flow: exact log-densities, samples, and latents.

    Columns are standardised and whitened inside. Numbers are in the units of the data:
    `score_samples` gives nats per row. Fitted with float32 networks, then float64 throughout. One
    column alone gives a Gaussian: couplings have nothing to look at. Behind a StandardScaler in a
    pipeline densities are in the scaled units: leave it out.

    Parameters
    ----------
    num_couplings, width, num_blocks, frequency, coupling
        As of `realnvp.vector_flow`: how many couplings, their networks' size and sines, affine or
        additive.
    learning_rate, max_iter, batch_size
        Adam's learning rate, which falls to 0 over max_iter steps, and the rows of a step: time
        does not grow with the data.
    noise
        Gaussian noise in each batch, with noise^2 times the data's covariance. It limits what
        repeated or dependent columns can gain, and how much is learned by heart.
    early_stopping, validation_fraction, n_iter_no_change, tol
        Hold out rows (at most 2,000), keep the weights that are best on them, and stop when these
        were not better by tol nats for n_iter_no_change steps. Without, small tables are learned by
        heart.
    warm_start
        Whether `fit` goes on from the flow of the fit before, standardisation included.
    random_state
        Of the split, the weights, the batches, and `sample`. torch's generators are left alone.
    verbose
        Whether to print the progress.

    Attributes
    ----------
    flow_
        The fitted `realnvp.Flow`, float64, in eval mode. Saved by scikit-learn's habit, with pickle
        or joblib, the estimator runs code when it is loaded, as all of scikit-learn's do;
        `realnvp.save_flow(estimator.flow_, folder)` needs no pickle.
    n_iter_, best_iter_
        Steps taken, and the step whose weights were kept.
    loss_curve_, validation_scores_
        Minus the mean log-density of each step's batch; the mean log-density of the rows held out,
        each 25 steps.
    """

    flow_: Flow

    def __init__(
        self,
        *,
        num_couplings: int = 8,
        width: int = 64,
        num_blocks: int = 2,
        frequency: float = 6.0,
        coupling: Literal["affine", "additive"] = "affine",
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
        self.frequency = frequency
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

    def fit(self, X: Any, y: Any = None) -> "RealNVPDensity":
        """Fit the flow to the rows of X, (N, D). y is ignored."""
        again = self.warm_start and hasattr(self, "flow_")
        rows = torch.tensor(
            validate_data(self, X, dtype=np.float64, ensure_min_samples=2, reset=not again)
        )
        check_size(rows, getattr(self, "feature_names_in_", None))
        _warn_of_doubts(rows.numpy(), getattr(self, "feature_names_in_", None), noise=self.noise)
        seed = self._seed()
        flow = vector_flow(
            rows.shape[1], **{name: getattr(self, name) for name in ARCHITECTURE}, seed=seed
        )
        if again:
            try:
                flow.load_state_dict(self.flow_.state_dict())
            except RuntimeError:
                raise ValueError(
                    f"warm_start: the fit before was of another {', '.join(ARCHITECTURE)}"
                ) from None
        recipe = {name: getattr(self, own) for own, name in RECIPE.items()}
        if not self.early_stopping:
            recipe["held_out"] = 0.0
        try:
            result = fit(flow, rows, **recipe, start=not again, seed=seed)
        except ParameterError as wrong:
            own = {name: own for own, name in RECIPE.items()}.get(wrong.name, wrong.name)
            raise ParameterError(own, wrong.words) from None
        self.flow_ = flow.double()
        self.n_iter_, self.best_iter_ = len(result.loss), result.best_step
        self.loss_curve_, self.validation_scores_ = result.loss, result.validation
        return self

    def score_samples(self, X: Any) -> Array:
        """(N,): the log-density of each row, nats."""
        rows = self._rows(X)
        return self._each(self.flow_.log_prob, rows)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of a row, nats: as GaussianMixture's; KernelDensity's is the sum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Array:
        """(n_samples, D): new rows; the same each time if random_state is an integer."""
        check_is_fitted(self)
        return self.flow_.sample(n_samples, seed=self._seed()).numpy()

    def transform(self, X: Any) -> Array:
        """(N, D): the latents z = f(x), which are standard normal where the fit is good."""
        rows = self._rows(X)
        return self._each(self.flow_.encode, rows)

    def inverse_transform(self, X: Any) -> Array:
        """(N, D): the rows x = g(z) of the latents X, in the units of the data."""
        check_is_fitted(self)
        latents = check_array(X, dtype=np.float64)
        if latents.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {latents.shape[1]} features, "
                f"but {type(self).__name__} has {self.n_features_in_} latents"
            )
        return self._each(self.flow_.decode, latents)

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _rows(self, X: Any) -> Array:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    @torch.no_grad()
    def _each(self, method: Callable[[Tensor], Tensor], rows: Array) -> Array:
        parts = [
            method(torch.tensor(rows[chunk]))
            for chunk in chunks(len(rows), batch_that_fits(rows.shape[1:]))
        ]
        return torch.cat(parts).numpy()


def _warn_of_doubts(X: Array, names: Any, *, noise: float) -> None:
    """Warn of what `realnvp train table` refuses or warns of, and of columns in other units."""
    columns = tuple(map(str, range(X.shape[1]) if names is None else names))
    for name, words in constant(X, columns).items():
        warnings.warn(f"X: column {name!r} {words}: it has no density", stacklevel=3)
    warn_of_few("X", X)
    warn_of_index("X", X, columns, PYTHON)
    if not noise:
        warn_of_unbounded("X", X, columns, PYTHON)
    if len(X) > 1 and np.abs(X.mean(0)).max() < 1e-6 and np.abs(X.std(0) - 1).max() < 1e-6:
        warnings.warn(f"{STANDARDISED}: {REMEDY}", stacklevel=3)


class RealNVPOutlier(OutlierMixin, BaseEstimator):
    """Outliers: the rows of lowest density by a flow that was fitted to them or to normal rows.

    Parameters
    ----------
    density
        The unfitted density to use, RealNVPDensity(width=32), or another with `score_samples`.
        None: one with default settings.
    contamination
        The share of the rows of `fit` that are to be outliers, above 0 and at most 0.5.
    max_iter, random_state
        The density's, unless None.

    Attributes
    ----------
    density_
        The fitted density.
    n_iter_
        The density's steps.
    offset_
        The log-density, nats, below which a row is an outlier.
    """

    def __init__(
        self,
        density: Any = None,
        *,
        contamination: float = 0.1,
        max_iter: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.density = density
        self.contamination = contamination
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "RealNVPOutlier":
        """Fit the density to the rows of X, (N, D), and set `offset_`. y is ignored."""
        if not 0 < self.contamination <= 0.5:
            raise ValueError(
                f"contamination: must be above 0 and at most 0.5, got {self.contamination}"
            )
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        density = RealNVPDensity() if self.density is None else clone(self.density)
        for name in ("max_iter", "random_state"):
            if getattr(self, name) is not None:
                density.set_params(**{name: getattr(self, name)})
        with warnings.catch_warnings():  # outliers are the same in any units
            warnings.filterwarnings("ignore", message=STANDARDISED)
            self.density_ = density.fit(rows)
        self.offset_ = float(np.percentile(density.score_samples(rows), 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> Array:
        """(N,): the log-density of each row, nats; the lower, the more an outlier."""
        check_is_fitted(self)
        return self.density_.score_samples(validate_data(self, X, dtype=np.float64, reset=False))

    @property
    def n_iter_(self) -> int:
        return int(self.density_.n_iter_)

    def decision_function(self, X: Any) -> Array:
        """(N,): `score_samples` - `offset_`, negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """(N,): -1 for outliers, 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)
