"""p(y | x) of columns and p(x | class), as a regressor and a classifier."""

import warnings
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from realnvp.config.fields import AT_LEAST_ONE, check_number
from realnvp.data.tables import constant_columns, warn_of_few_values
from realnvp.device import as_tensor
from realnvp.flows.flow import StandardNormal
from realnvp.random import Purpose, generator
from realnvp.sklearn.base import Array, FlowEstimator, each

LATENTS = 256
"""How many z stand for p(y | x) of several targets, for means and quantiles."""


MOST_SPLINES = 3
"""Targets up to which splines are more likely than affine couplings in equal time."""


class RealNVPRegressor(RegressorMixin, FlowEstimator):
    """The density of y given x: means, quantiles, intervals, samples and exact log-densities.

    Nothing is assumed of the errors: they may be skewed, of several modes, and of another size for
    each x. x and y are standardised inside; y is in its own units everywhere. Of one target p(y |
    x) is a monotone spline of noise, which a network predicts from x; of several it is a flow given
    x.

    Parameters
    ----------
    num_couplings, width, num_blocks, sine_std, coupling
        As of `realnvp.vector_flow`. One target takes one network, whatever num_couplings is. None:
        four splines for up to three targets, which bend where affine couplings cannot; else eight
        affine couplings.
    learning_rate, max_iter, batch_size
        Adam's learning rate, which falls to 0 over max_iter steps, and the rows of a step. Tens of
        thousands of rows gain by thousands of steps.
    noise
        Gaussian noise on y in each batch, with noise^2 times its covariance. It limits what
        repeated values of y can gain.
    early_stopping, validation_fraction, n_iter_no_change, tol
        Hold out rows (at most 2,000), keep the weights that are best on them, and stop when these
        were not better by tol nats for n_iter_no_change steps. Much is gained by the last steps,
        while the learning rate falls. The rows held out also calibrate the intervals.
    warm_start
        Whether `fit` goes on from the flow of the fit before, standardisation included.
    random_state
        Of the split, the weights, the batches, and `sample`.
    verbose
        Whether to print the progress.

    Attributes
    ----------
    flow_
        The fitted `realnvp.Flow` of y, float64: `flow_.log_prob(y, given=x)`.
    n_iter_, best_iter_, loss_curve_, validation_scores_
        As of RealNVPDensity.

    Notes
    -----
    `fit` takes no sample_weight: its steps take rows at random, so that weighted and repeated rows
    would not give equal fits, as scikit-learn demands of weights. Keep each row with probability
    weight / weights.max() instead: the rows that are left are of the weighted distribution.
    """

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
        noise: float = 0.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 1000,
        tol: float = 1e-4,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            num_couplings=num_couplings,
            width=width,
            num_blocks=num_blocks,
            sine_std=sine_std,
            coupling=coupling,
            learning_rate=learning_rate,
            max_iter=max_iter,
            batch_size=batch_size,
            noise=noise,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True  # `score` is in nats, no share of a variance
        return tags

    def fit(self, X: Any, y: Any) -> "RealNVPRegressor":
        """Fit the flow of y, (N,) or (N, K), given X, (N, D)."""
        context, targets = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
            reset=not self._goes_on(),
        )
        self._one = np.ndim(targets) == 1
        rows = _columns(targets)
        _warn_of_targets(rows, noise=self.noise)
        self._fit(rows, context, context=context.shape[1])
        return self

    def _architecture(self, columns: int) -> dict[str, Any]:
        chosen = super()._architecture(columns)
        if self.coupling is None:
            chosen["coupling"] = "spline" if columns <= MOST_SPLINES else "affine"
        if self.num_couplings is None:
            chosen["num_couplings"] = 4 if chosen["coupling"] == "spline" else 8
        return chosen

    def predict(self, X: Any) -> Array:
        """(N,) or (N, K): the mean of y given each row."""
        z, weights = self._points()
        return self._shaped(np.einsum("nqk,q->nk", self._values(X, z), weights))

    def predict_quantiles(self, X: Any, q: ArrayLike) -> Array:
        """(N, Q) or (N, Q, K): the quantiles of y given each row, of each q; (N,) for a single q.

        One target: exact. Several: each target's own quantiles, over 256 samples.
        """
        levels = np.asarray(q, dtype=np.float64)
        if levels.ndim > 1 or not levels.size or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q: must be numbers between 0 and 1, got {q!r}")
        check_is_fitted(self)
        if self._targets == 1:
            p = as_tensor(levels.reshape(-1, 1))
            found = self._values(X, torch.special.ndtri(p))
        else:
            samples = self._values(X, self._points()[0])
            found = np.moveaxis(np.quantile(samples, levels.reshape(-1), axis=1), 0, 1)
        shaped = self._shaped(found)
        return shaped if levels.ndim else shaped[:, 0]

    def sample(self, X: Any, n: int = 1) -> Array:
        """(N, n) or (N, n, K): samples of y given each row.

        The same each time if random_state is an integer.
        """
        check_is_fitted(self)
        n = check_number("n", n, int, AT_LEAST_ONE)
        context = self._rows(X)
        random = generator(self._seed(), Purpose.SAMPLE)
        z = random.standard_normal((len(context), n, self._targets))
        return self._shaped(self._decode(z, context))

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """(N,): the log-density of each row's y given its x, nats.

        y: None: what it is to be expected, minus the entropy of p(y | x): high where y is certain.
        """
        if y is None:
            return self._expected_log_prob(X)
        check_is_fitted(self)
        context, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=False
        )
        rows = _columns(targets)
        if rows.shape[1] != self._targets:
            raise ValueError(f"y: has {rows.shape[1]} targets, but `fit` had {self._targets}")
        return each(self.flow_.log_prob, rows, context)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean log-density of y given x, nats; weighted, if there are weights."""
        return float(np.average(self.score_samples(X, y), weights=sample_weight))

    @property
    def _targets(self) -> int:
        assert self.flow_.shape is not None
        return int(self.flow_.shape[0])

    def _expected_log_prob(self, X: Any) -> Array:
        z, weights = self._points()
        values, context = self._values(X, z), self._rows(X)
        if self._targets == 1:
            return each(self._log_probs_column, values, context) @ weights
        rows = values.reshape(-1, self._targets)
        nats = each(self.flow_.log_prob, rows, context.repeat(len(z), axis=0))
        return nats.reshape(len(context), -1) @ weights

    def _points(self) -> tuple[Tensor, Array]:
        """Latents that stand for N(0, I), (Q, K), and their weights, (Q,)."""
        check_is_fitted(self)
        return _grid() if self._targets == 1 else _latents(self._targets)

    def _values(self, X: Any, z: Tensor) -> Array:
        """(N, Q, K): y of each row for each of the latents z, (Q, K)."""
        context = self._rows(X)
        return self._decode(np.broadcast_to(z.numpy(), (len(context), *z.shape)), context)

    def _decode(self, z: Array, context: Array) -> Array:
        """(N, Q, K): y of the latents z, (N, Q, K), given each row."""
        if z.shape[2] == 1:
            return each(self._decode_column, z, context)
        return each(
            lambda z, context: self.flow_.decode(
                z.flatten(0, 1), context.repeat_interleave(z.shape[1], 0)
            ).view(z.shape),
            z,
            context,
        )

    def _decode_column(self, z: Tensor, context: Tensor) -> Tensor:
        """(B, Q, 1): by one pass of the network for all Q, since the map is elementwise."""
        numbers = self.flow_.embed_context(context, len(context))
        return self.flow_.bijection.inverse(z.transpose(1, 2), numbers).transpose(1, 2)

    def _log_probs_column(self, values: Tensor, context: Tensor) -> Tensor:
        """(B, Q): log p(y | x) of the values, (B, Q, 1)."""
        numbers = self.flow_.embed_context(context, len(context))
        z, terms = self.flow_.bijection.pointwise_log_det(values.transpose(1, 2), numbers)
        return (StandardNormal().pointwise_log_prob(z) + terms)[:, 0]

    def _shaped(self, values: Array) -> Array:
        """Without the axis of targets where y had none."""
        return values[..., 0] if self._one else values


class RealNVPClassifier(ClassifierMixin, FlowEstimator):
    """Classes by Bayes' rule: p(c | x) from the density of x given c and the shares of the classes.

    One flow learns all classes' densities, so that what they share is learned once. Parameters are
    RealNVPDensity's.

    Attributes
    ----------
    classes_
        The classes.
    flow_
        The fitted `realnvp.Flow`, float64: `flow_.log_prob(x, given="name of a class")`.
    n_iter_, best_iter_, loss_curve_, validation_scores_
        As of RealNVPDensity.
    """

    classes_: NDArray[Any]

    def fit(self, X: Any, y: Any) -> "RealNVPClassifier":
        """Fit the flow of the rows of X, (N, D), given their classes y, (N,)."""
        again = self._goes_on()
        rows, labels = validate_data(
            self, X, y, dtype=np.float64, ensure_min_samples=2, reset=not again
        )
        check_classification_targets(labels)
        classes, index = np.unique(labels, return_inverse=True)
        if again and not np.array_equal(classes, self.classes_):
            raise ValueError("warm_start: the fit before was of other classes")
        self.classes_ = classes
        self._fit(rows, index, classes=[str(name) for name in classes])
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """(N,): the most probable class of each row."""
        most = self.predict_log_proba(X).argmax(1)
        return self.classes_[most]

    def predict_proba(self, X: Any) -> Array:
        """(N, K): p(c | x) of each class, in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> Array:
        """(N, K): log p(c | x) of each class, in the order of `classes_`."""
        rows = self._rows(X)
        return each(self.flow_.class_log_probs, rows)

    def score_samples(self, X: Any) -> Array:
        """(N,): log p(x) of the mixture of all classes, nats: low where x is like none of them."""
        rows = self._rows(X)
        return each(self.flow_.mixture_log_prob, rows)


def _grid() -> tuple[Tensor, Array]:
    """Points over the standard normal, (Q, 1), and their weights: the trapezoidal rule."""
    z = torch.linspace(-8, 8, 161, dtype=torch.float64, device="cpu")
    weights = torch.softmax(-z.square() / 2, 0)
    return z[:, None], weights.numpy()


def _latents(columns: int) -> tuple[Tensor, Array]:
    """Fixed samples of N(0, I), (Q, columns), each beside its mirror image, and their weights."""
    half = generator(0, Purpose.SAMPLE).standard_normal((LATENTS // 2, columns))
    return torch.from_numpy(np.concatenate([half, -half])), np.full(LATENTS, 1 / LATENTS)


def _columns(targets: Any) -> Array:
    """(N, K) targets of (N,) or (N, K)."""
    return np.asarray(targets, np.float64).reshape(len(targets), -1)


def _warn_of_targets(rows: Array, *, noise: float) -> None:
    """Warn of targets that have no density, or one that can grow without bound."""
    names = tuple(f"target {i}" for i in range(rows.shape[1]))
    for name in constant_columns(rows, names):
        warnings.warn(f"y: {name} is constant: it has no density", stacklevel=3)
    if not noise:
        warn_of_few_values("y", rows, names)
