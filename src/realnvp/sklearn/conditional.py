"""p(y | x) of columns and p(x | class), as a regressor and a classifier."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from realnvp.device import as_tensor
from realnvp.flows.flow import ROWS, StandardNormal
from realnvp.random import Purpose, generator
from realnvp.sklearn.base import Array, FlowEstimator, in_blocks, warn_of_columns

LATENTS = 256
"""Number of z that stand for p(y | x) of several targets, for means and quantiles."""
MOST_SPLINES = 3
"""Targets up to which splines are more likely than affine couplings in equal time."""


class RealNVPRegressor(RegressorMixin, FlowEstimator):
    """The density of y given x: means, quantiles, intervals, samples and exact log-densities.

    Nothing is assumed of the errors: they may be skewed, of several modes, and of another size for
    each x. The flow standardizes x and y inside; y is in its own units everywhere. Of one target
    p(y | x) is a monotone spline of noise, which a network predicts from x; of several it is a flow
    given x. The rows held out also calibrate the intervals. `flow_.log_prob(y, x)` is the density.
    """

    __doc__ += (FlowEstimator.__doc__ or "").partition("\n")[2]

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
            reset=not self._continues(),
        )
        self._one = np.ndim(targets) == 1
        rows = np.asarray(targets, np.float64).reshape(len(targets), -1)
        names = [f"target {i}" for i in range(rows.shape[1])]
        warn_of_columns("y", rows, names, noisy=bool(self.noise))
        self._fit(rows, context, context=context.shape[1])
        return self

    def _defaults(self, columns: int) -> dict[str, Any]:
        splines = self.coupling == "spline" or (self.coupling is None and columns <= MOST_SPLINES)
        return {
            "coupling": "spline" if splines else "affine",
            "num_couplings": 4 if splines else 8,
            "noise": 0.0,
            "n_iter_no_change": self.max_iter,
        }

    def predict(self, X: Any) -> Array:
        """(N,) or (N, K): the mean of y given each row."""
        z, weights = self._points()
        return self._shaped(self._each(lambda y, _: torch.einsum("bqk,q->bk", y, weights), X, z))

    def predict_quantiles(self, X: Any, q: ArrayLike) -> Array:
        """(N, Q) or (N, Q, K): the quantiles of y given each row, of each q; (N,) for a single q.

        One target: exact. Several: each target's own quantiles, over 256 samples.
        """
        levels = as_tensor(np.asarray(q, np.float64))
        if levels.ndim > 1 or not len(levels.view(-1)) or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q: must be numbers above 0 and below 1, got {q!r}")
        z, _ = self._points()
        if self._targets == 1:
            found = self._each(lambda y, _: y, X, torch.special.ndtri(levels.view(-1, 1)))
        else:
            flat = levels.view(-1)
            found = self._each(lambda y, _: torch.quantile(y, flat, dim=1).movedim(0, 1), X, z)
        shaped = self._shaped(found)
        return shaped if levels.ndim else shaped[:, 0]

    def sample(self, X: Any, n: int = 1) -> Array:
        """(N, n) or (N, n, K): samples of y given each row.

        The same each time if random_state is an integer.
        """
        context = self._rows(X)
        if n < 1:
            raise ValueError(f"n: must be at least 1, got {n}")
        random = generator(self._seed(), Purpose.SAMPLE)
        z = random.standard_normal((len(context), n, self._targets))
        return self._shaped(in_blocks(self._decode, z, context, rows=self._block(n)))

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """(N,): the log-density of each row's y given its x, nats.

        y: None: its expectation, minus the entropy of p(y | x), which is high where y is certain.
        """
        if y is None:
            z, weights = self._points()
            return self._each(lambda y, c: self._log_probs(y, c) @ weights, X, z)
        check_is_fitted(self)
        context, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=False
        )
        rows = np.asarray(targets, np.float64).reshape(len(targets), -1)
        if rows.shape[1] != self._targets:
            raise ValueError(f"y: has {rows.shape[1]} targets, but `fit` had {self._targets}")
        return in_blocks(self.flow_.log_prob, rows, context)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean log-density of y given x, nats; weighted, if there are weights."""
        return float(np.average(self.score_samples(X, y), weights=sample_weight))

    @property
    def _targets(self) -> int:
        assert self.flow_.shape is not None
        return int(self.flow_.shape[0])

    def _points(self) -> tuple[Tensor, Tensor]:
        """Latents that stand for N(0, I), (Q, K), and their weights, (Q,)."""
        check_is_fitted(self)
        if self._targets == 1:  # the trapezoidal rule
            z = torch.linspace(-8, 8, 161, dtype=torch.float64, device="cpu")
            return z[:, None], torch.softmax(-z.square() / 2, 0)
        # Samples, each beside its mirror image.
        shape = (LATENTS // 2, self._targets)
        half = torch.from_numpy(generator(0, Purpose.SAMPLE).standard_normal(shape))
        return torch.cat([half, -half]), half.new_full((LATENTS,), 1 / LATENTS)

    def _each(self, function: Callable[[Tensor, Tensor], Tensor], X: Any, z: Tensor) -> Array:
        """function(y, c) over blocks of rows c, (B, D): y, (B, Q, K), has the latents z, (Q, K)."""

        def block(c: Tensor) -> Tensor:
            return function(self._decode(z.expand(len(c), *z.shape), c), c)

        return in_blocks(block, self._rows(X), rows=self._block(len(z)))

    def _block(self, latents: int) -> int:
        """Rows at once: each passes the network once, or once for each latent."""
        return ROWS if self._targets == 1 else max(1, ROWS // latents)

    def _decode(self, z: Tensor, c: Tensor) -> Tensor:
        """(B, Q, K): y of the latents z, (B, Q, K), given each row of c, (B, D)."""
        if self._targets > 1:
            repeated = c.repeat_interleave(z.shape[1], 0)
            return self.flow_.decode(z.flatten(0, 1), repeated).view(z.shape)
        # The map is elementwise, so that one pass of the network is enough for all Q.
        numbers = self.flow_.embed_context(c, len(c))
        return self.flow_.bijection.inverse(z.transpose(1, 2), numbers).transpose(1, 2)

    def _log_probs(self, y: Tensor, c: Tensor) -> Tensor:
        """(B, Q): log p(y | c) of the values y, (B, Q, K)."""
        if self._targets > 1:
            repeated = c.repeat_interleave(y.shape[1], 0)
            return self.flow_.log_prob(y.flatten(0, 1), repeated).view(y.shape[:2])
        numbers = self.flow_.embed_context(c, len(c))
        z, terms = self.flow_.bijection.pointwise_log_det(y.transpose(1, 2), numbers)
        return (StandardNormal().pointwise_log_prob(z) + terms)[:, 0]

    def _shaped(self, values: Array) -> Array:
        """Without the axis of targets where y had none."""
        return values[..., 0] if self._one else values


class RealNVPClassifier(ClassifierMixin, FlowEstimator):
    """Classes by Bayes' rule: p(c | x) from the density of x given c and the shares of the classes.

    One flow learns all classes' densities, so that common structure is learned once.
    `flow_.log_prob(x, "name of a class")` is the density; `classes_` has the classes.
    """

    __doc__ += (FlowEstimator.__doc__ or "").partition("\n")[2]

    classes_: NDArray[Any]

    def fit(self, X: Any, y: Any) -> "RealNVPClassifier":
        """Fit the flow of the rows of X, (N, D), given their classes y, (N,)."""
        again = self._continues()
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
        return in_blocks(self.flow_.class_log_probs, rows)

    def score_samples(self, X: Any) -> Array:
        """(N,): log p(x) of the mixture of all classes, nats: low where x is like none of them."""
        rows = self._rows(X)
        return in_blocks(self.flow_.mixture_log_prob, rows)
