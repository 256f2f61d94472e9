"""Outliers by the density of a flow, as an estimator."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from realnvp.config.fields import AT_MOST_HALF, check_number
from realnvp.sklearn.base import Array
from realnvp.sklearn.density import STANDARDISED, RealNVPDensity


class RealNVPOutlier(OutlierMixin, BaseEstimator):
    """Outliers: the rows of lowest density by a flow that was fitted to them or to normal rows.

    Parameters
    ----------
    density
        The unfitted density, which takes the settings of its flow: RealNVPOutlier(
        RealNVPDensity(width=32)). Or another estimator with `score_samples`. None: the defaults.
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
        check_number("contamination", self.contamination, float, AT_MOST_HALF)
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
