"""The density of a table by a flow, as an estimator."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from realnvp.config.fields import AT_LEAST_ONE, check_number
from realnvp.data.tables import constant_columns, warn_of_few_values
from realnvp.sklearn.base import Array, FlowEstimator, each

STANDARDISED = "X is standardised already, so densities are in the scaled units"
REMEDY = "give RealNVPDensity the data without a StandardScaler; it standardises them itself"


class RealNVPDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, FlowEstimator
):
    """The density of rows of numbers by a flow: exact log-densities, samples, and latents.

    Columns are standardised and whitened inside. Numbers are in the units of the data:
    `score_samples` gives nats per row. Fitted with float32 networks, then float64 throughout. One
    column alone gives a Gaussian, since couplings have nothing to look at, unless they are splines.
    Behind a StandardScaler in a pipeline densities are in the scaled units: leave it out.

    Parameters
    ----------
    num_couplings, width, num_blocks, sine_std, coupling
        As of `realnvp.vector_flow`: how many couplings, their networks' size and sines, affine,
        additive or spline.
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

    Notes
    -----
    `fit` takes no sample_weight: its steps take rows at random, so that weighted and repeated rows
    would not give equal fits, as scikit-learn demands of weights. Keep each row with probability
    weight / weights.max() instead: the rows that are left are of the weighted distribution.
    """

    def fit(self, X: Any, y: Any = None) -> "RealNVPDensity":
        """Fit the flow to the rows of X, (N, D). y is ignored."""
        rows = validate_data(
            self, X, dtype=np.float64, ensure_min_samples=2, reset=not self._goes_on()
        )
        names = getattr(self, "feature_names_in_", None)
        _warn_of_doubts(rows, names, noise=self.noise)
        self._fit(rows)
        return self

    def score_samples(self, X: Any) -> Array:
        """(N,): the log-density of each row, nats."""
        rows = self._rows(X)
        return each(self.flow_.log_prob, rows)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of a row, nats: as GaussianMixture's; KernelDensity's is the sum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Array:
        """(n_samples, D): new rows; the same each time if random_state is an integer."""
        check_is_fitted(self)
        n_samples = check_number("n_samples", n_samples, int, AT_LEAST_ONE)
        return self.flow_.sample(n_samples, seed=self._seed()).numpy()

    def transform(self, X: Any) -> Array:
        """(N, D): the latents z = f(x), which are standard normal where the fit is good."""
        rows = self._rows(X)
        return each(self.flow_.encode, rows)

    def inverse_transform(self, X: Any) -> Array:
        """(N, D): the rows x = g(z) of the latents X, in the units of the data."""
        check_is_fitted(self)
        latents = check_array(X, dtype=np.float64)
        if latents.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {latents.shape[1]} features, "
                f"but {type(self).__name__} has {self.n_features_in_} latents"
            )
        return each(self.flow_.decode, latents)

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)


def _warn_of_doubts(X: Array, names: Any, *, noise: float) -> None:
    """Warn of what `realnvp train table` refuses or warns of, and of columns in other units."""
    columns = tuple(map(str, range(X.shape[1]) if names is None else names))
    for name in constant_columns(X, columns):
        warnings.warn(f"X: column {name!r} is constant: it has no density", stacklevel=3)
    if not noise:
        warn_of_few_values("X", X, columns)
    if len(X) > 1 and np.abs(X.mean(0)).max() < 1e-6 and np.abs(X.std(0) - 1).max() < 1e-6:
        warnings.warn(f"{STANDARDISED}: {REMEDY}", stacklevel=3)
