"""RealNVPRegressor and RealNVPClassifier against truths that are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import realnvp
from realnvp.bijections import Affine, Coupling, RQSpline
from realnvp.sklearn import RealNVPClassifier, RealNVPRegressor

Array = NDArray[np.float64]
SMALL: dict[str, Any] = {
    "num_couplings": 2,
    "width": 16,
    "num_blocks": 1,
    "max_iter": 400,
    "learning_rate": 1e-2,
    "random_state": 0,
}


def fan(n: int, seed: int = 0) -> tuple[Array, Array]:
    """x, and y = 10 + 3 x with errors of deviation exp(x)."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, n)
    return x[:, None], 10 + 3 * x + np.exp(x) * random.standard_normal(n)


@pytest.fixture(scope="module")
def fitted() -> RealNVPRegressor:
    """Only read it."""
    return RealNVPRegressor(**SMALL).fit(*fan(3000))


def test_mean_quantiles_and_density_of_errors_that_grow(fitted: RealNVPRegressor) -> None:
    x, y = fan(2000, seed=1)
    mean, deviation = 10 + 3 * x[:, 0], np.exp(x[:, 0])
    assert np.abs((fitted.predict(x) - mean) / deviation).mean() < 0.1
    for q in (0.05, 0.5, 0.9):
        off = (fitted.predict_quantiles(x, q) - norm.ppf(q, mean, deviation)) / deviation
        assert np.abs(off).mean() < 0.2
    nats = fitted.score_samples(x, y)
    assert nats.shape == (2000,)
    assert fitted.score(x, y) == pytest.approx(nats.mean())
    assert norm.logpdf(y, mean, deviation).mean() - nats.mean() < 0.03


def test_quantiles_are_those_of_the_density_and_the_samples(fitted: RealNVPRegressor) -> None:
    x = np.array([[-0.5], [0.5]])
    levels = [0.1, 0.25, 0.5, 0.9]
    quantiles = fitted.predict_quantiles(x, levels)
    assert quantiles.shape == (2, 4)
    assert (np.diff(quantiles, axis=1) > 0).all()
    samples = fitted.sample(x, 20_000)
    assert samples.shape == (2, 20_000)
    for i in range(2):
        below = (samples[i] <= quantiles[i][:, None]).mean(1)
        np.testing.assert_allclose(below, levels, atol=0.015)
        assert samples[i].mean() == pytest.approx(fitted.predict(x)[i], abs=0.05)
        grid = np.linspace(quantiles[i, 0], quantiles[i, 3], 2001)
        nats = fitted.score_samples(np.full((2001, 1), x[i, 0]), grid)
        mass = np.exp(nats).sum() * (grid[1] - grid[0])
        assert mass == pytest.approx(0.8, abs=2e-3)
        expected = -fitted.score_samples(np.full((20_000, 1), x[i, 0]), samples[i]).mean()
        assert -fitted.score_samples(x)[i] == pytest.approx(expected, abs=0.03)


def test_starts_as_the_linear_regression() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 3)) * [1, 10, 100] + [0, 5, 1e6]
    y = x @ [[1.0, -2.0], [0.3, 0.1], [0.01, 0.0]] + 0.1 * random.standard_normal((400, 2))
    first = RealNVPRegressor(**SMALL | {"max_iter": 1, "learning_rate": 1e-9}, early_stopping=False)
    linear = LinearRegression().fit(x, y)
    for target in (y, y[:, 0]):
        found = first.fit(x, target).predict(x)
        mine = linear.predict(x) if target.ndim == 2 else linear.predict(x)[:, 0]
        assert np.abs(found - mine).max() < 0.06 * target.std(0).max()


def test_several_targets_depend_on_each_other() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (1500, 1))
    first = x[:, 0] + 0.1 * random.standard_normal(1500)
    y = np.c_[first, first**2 + 0.1 * random.standard_normal(1500)]
    several = RealNVPRegressor(**SMALL).fit(x[:1000], y[:1000])
    truth = -2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    assert several.score(x[1000:], y[1000:]) > truth - 0.3
    assert several.predict(x[:5]).shape == (5, 2)
    assert several.predict_quantiles(x[:5], [0.1, 0.9]).shape == (5, 2, 2)
    assert several.sample(x[:5], 7).shape == (5, 7, 2)
    assert several.score_samples(x[:5]).shape == (5,)
    with pytest.raises(ValueError, match=r"^y"):
        several.score_samples(x, y[:, 0])


@pytest.mark.parametrize(
    ("targets", "chosen", "kind", "count"),
    [
        (2, {}, RQSpline, 4),
        (4, {}, Affine, 8),
        (2, {"coupling": "affine"}, Affine, 8),
        (4, {"coupling": "spline", "num_couplings": 2}, RQSpline, 2),
    ],
)
def test_few_targets_are_splines(
    targets: int, chosen: dict[str, Any], kind: type, count: int
) -> None:
    random = np.random.default_rng(0)
    model = RealNVPRegressor(width=4, num_blocks=1, max_iter=1, random_state=0, **chosen)
    flow = model.fit(random.standard_normal((40, 2)), random.standard_normal((40, targets))).flow_
    couplings = [layer for layer in flow.modules() if isinstance(layer, Coupling)]
    assert [layer.transform for layer in couplings] == [kind] * count


def test_grid_search_and_pipeline() -> None:
    x, y = fan(800)
    pipeline = make_pipeline(StandardScaler(), RealNVPRegressor(**SMALL | {"max_iter": 120}))
    grid = {"realnvpregressor__learning_rate": [1e-9, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
    assert search.best_params_ == {"realnvpregressor__learning_rate": 1e-2}
    assert search.best_estimator_.predict(x).shape == (800,)


def test_same_random_state_same_samples(fitted: RealNVPRegressor) -> None:
    x = fan(4)[0]
    assert np.array_equal(fitted.sample(x, 3), fitted.sample(x, 3))


@pytest.mark.parametrize("q", [0, 1.0, [0.5, -0.1], [], [[0.5]], float("nan")])
def test_quantiles_that_make_no_sense(fitted: RealNVPRegressor, q: Any) -> None:
    with pytest.raises(ValueError, match=r"^q"):
        fitted.predict_quantiles([[0.0]], q)


def test_targets_without_a_density_are_told() -> None:
    x, _ = fan(100)
    with pytest.warns(UserWarning, match="target 0"):
        RealNVPRegressor(**SMALL | {"max_iter": 2}).fit(x, np.full(100, 3.0))
    with pytest.warns(UserWarning, match="target 0"):
        RealNVPRegressor(**SMALL | {"max_iter": 2}).fit(x, (x[:, 0] > 0).astype(float))


def test_classes_by_bayes_rule() -> None:
    """One of three times as likely as the other, both unit Gaussians, at -1 and at 1."""
    random = np.random.default_rng(0)
    which = random.random(4000) < 0.75
    x = np.where(which, 1.0, -1.0)[:, None] + random.standard_normal((4000, 1))
    classifier = RealNVPClassifier(**SMALL).fit(x, np.where(which, "right", "left"))
    assert classifier.classes_.tolist() == ["left", "right"]
    at = np.linspace(-2, 2, 9)[:, None]
    odds = 3 * np.exp(2 * at[:, 0])
    np.testing.assert_allclose(classifier.predict_proba(at)[:, 1], odds / (1 + odds), atol=0.1)
    p = 0.25 * norm.pdf(at[:, 0], -1) + 0.75 * norm.pdf(at[:, 0], 1)
    np.testing.assert_allclose(np.exp(classifier.score_samples(at)), p, atol=0.05)
    assert classifier.predict([[-3.0], [3.0]]).tolist() == ["left", "right"]


def test_iris_and_what_is_saved(tmp_path: Any) -> None:
    x, y = load_iris(return_X_y=True)
    classifier = RealNVPClassifier(**SMALL | {"max_iter": 50})
    assert cross_val_score(classifier, x, y, cv=3).mean() > 0.9
    flow = classifier.fit(x, y).flow_
    realnvp.save_flow(flow, tmp_path / "flow")
    again = realnvp.load_flow(tmp_path / "flow").double()
    rows = torch.tensor(x[:5])
    assert torch.equal(again.class_log_probs(rows), flow.class_log_probs(rows))
