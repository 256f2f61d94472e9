"""The density of a table by a flow, and outliers by it, as estimators."""

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    OutlierMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from realnvp.sklearn.base import Array, FlowEstimator, in_blocks, warn_of_columns


class RealNVPDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, FlowEstimator
):
    """The density of rows of numbers by a flow: exact log-densities, samples, and latents.

    The flow standardizes and whitens the columns inside; numbers are in the units of the data, and
    `score_samples` returns nats per row. Behind a StandardScaler in a pipeline densities are in the
    scaled units: leave it out. One column alone is modeled as Gaussian by affine
    couplings, which have nothing to look at; splines bend it.
    """

    __doc__ += (FlowEstimator.__doc__ or "").partition("\n")[2]

    def fit(self, X: Any, y: Any = None) -> "RealNVPDensity":
        """Fit the flow to the rows of X, (N, D). y is ignored."""
        rows = validate_data(
            self, X, dtype=np.float64, ensure_min_samples=2, reset=not self._continues()
        )
        names = getattr(self, "feature_names_in_", range(rows.shape[1]))
        warn_of_columns("X", rows, [f"column {name}" for name in names], noisy=self.noise != 0)
        self._fit(rows)
        return self

    def score_samples(self, X: Any) -> Array:
        """(N,): the log-density of each row, nats."""
        rows = self._rows(X)
        return in_blocks(self.flow_.log_prob, rows)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of a row, nats: as GaussianMixture's; KernelDensity's is the sum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Array:
        """(n_samples, D): new rows; the same each time if random_state is an integer."""
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples: must be at least 1, got {n_samples}")
        return self.flow_.sample(n_samples, seed=self._seed()).numpy()

    def transform(self, X: Any) -> Array:
        """(N, D): the latents z = f(x), which are standard normal where the fit is good."""
        rows = self._rows(X)
        return in_blocks(self.flow_.encode, rows)

    def inverse_transform(self, X: Any) -> Array:
        """(N, D): the rows x = g(z) of the latents X, in the units of the data."""
        check_is_fitted(self)
        return in_blocks(self.flow_.decode, check_array(X, dtype=np.float64))

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)


class RealNVPOutlier(OutlierMixin, BaseEstimator):
    """Outliers: the rows of lowest density by a flow that was fitted to them or to normal rows.

    Parameters
    ----------
    density
        The unfitted density, which takes the settings of its flow: RealNVPOutlier(
        RealNVPDensity(width=32)). Or another estimator with `score_samples`. None: the defaults.
    contamination
        The share of the rows of `fit` that are to be outliers, above 0 and at most 0.5.

    Attributes
    ----------
    density_
        The fitted density.
    offset_
        The log-density, nats, below which a row is an outlier.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")]
    }

    def __init__(self, density: Any = None, *, contamination: float = 0.1) -> None:
        self.density = density
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> "RealNVPOutlier":
        """Fit the density to the rows of X, (N, D), and set `offset_`. y is ignored."""
        self._validate_params()
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        density = RealNVPDensity() if self.density is None else clone(self.density)
        self.density_ = density.fit(rows)
        self.offset_ = float(np.percentile(density.score_samples(rows), 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> Array:
        """(N,): the log-density of each row, nats; the lower, the more an outlier."""
        check_is_fitted(self)
        return self.density_.score_samples(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X: Any) -> Array:
        """(N,): `score_samples` - `offset_`, negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """(N,): -1 for outliers, 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)
