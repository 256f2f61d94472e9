"""The estimators keep scikit-learn's laws, and say the truth about the data, in their units."""

import math
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import realnvp
from realnvp.sklearn import RealNVPClassifier, RealNVPDensity, RealNVPOutlier, RealNVPRegressor

Array = NDArray[np.float64]
SMALL: dict[str, Any] = {"num_couplings": 2, "width": 8, "num_blocks": 1, "max_iter": 20}


def small(**changed: Any) -> RealNVPDensity:
    return RealNVPDensity(**(SMALL | {"random_state": 0} | changed))


def points(n: int = 200, seed: int = 0) -> Array:
    """Two columns of other units, one a curve over the other."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(n)
    return np.c_[1e3 * x + 5e3, 1e-3 * (x**2 + 0.3 * random.standard_normal(n))]


@pytest.fixture(scope="module")
def fitted() -> RealNVPDensity:
    """Only read it."""
    return small(num_couplings=4, width=32, max_iter=150, learning_rate=1e-2).fit(points(600))


@pytest.mark.slow
@parametrize_with_checks(
    [
        RealNVPDensity(**SMALL),
        RealNVPOutlier(RealNVPDensity(**SMALL, random_state=0)),
        RealNVPRegressor(**SMALL),
        RealNVPClassifier(**SMALL),
    ]
)
def test_laws_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_score_is_the_mean_log_density_in_the_units_of_the_data(fitted: RealNVPDensity) -> None:
    x = points(500, seed=1)
    nats = fitted.score_samples(x)
    assert nats.dtype == np.float64
    assert fitted.score(x) == pytest.approx(nats.mean(), abs=1e-12)
    # log p = log N(x0; 5e3, 1e3) + log N(x1 | x0; deviation 3e-4), of which the entropy is known
    truth = -math.log(2 * math.pi * math.e) - math.log(1e3) - math.log(0.3e-3)
    assert truth - 0.35 < fitted.score(x) < truth + 0.15


def test_density_integrates_to_one(fitted: RealNVPDensity) -> None:
    across, up = np.linspace(-1e3, 11e3, 500), np.linspace(-4e-3, 25e-3, 600)
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    cell = (across[1] - across[0]) * (up[1] - up[0])
    assert np.exp(fitted.score_samples(grid)).sum() * cell == pytest.approx(1, abs=5e-3)


def test_latents_and_the_way_back(fitted: RealNVPDensity) -> None:
    x = points(1000, seed=1)
    z = fitted.transform(x)
    np.testing.assert_allclose(fitted.inverse_transform(z), x, rtol=1e-9)
    assert np.abs(z.mean(0)).max() < 0.2
    assert np.abs(z.std(0) - 1).max() < 0.2
    assert abs(np.corrcoef(z[:, 0] ** 2, z[:, 1])[0, 1]) < 0.2  # of the curve nothing is left
    with pytest.raises(ValueError, match="3"):
        fitted.inverse_transform(np.zeros((4, 3)))


def test_samples_are_of_the_data(fitted: RealNVPDensity) -> None:
    samples, x = fitted.sample(2000), points(2000, seed=1)
    assert samples.shape == (2000, 2)
    quartiles, expected = (np.quantile(rows, [0.25, 0.5, 0.75], axis=0) for rows in (samples, x))
    assert np.all(np.abs(quartiles - expected) < 0.15 * x.std(0))
    assert np.array_equal(fitted.sample(7), fitted.sample(7))
    generator = (
        clone(fitted).set_params(random_state=np.random.RandomState(0), max_iter=1).fit(x[:20])
    )
    assert not np.array_equal(generator.sample(7), generator.sample(7))
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(0)


def test_same_random_state_same_fit_and_torchs_generator_is_left_alone() -> None:
    x, state = points(), torch.get_rng_state()
    first, again = small().fit(x), small().fit(x)
    assert np.array_equal(first.score_samples(x), again.score_samples(x))
    assert not np.array_equal(first.score_samples(x), small(random_state=1).fit(x).score_samples(x))
    first.sample(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_pipelines_searches_and_folds() -> None:
    x = points(90)
    pipeline = make_pipeline(StandardScaler(), small())
    search = GridSearchCV(pipeline, {"realnvpdensity__max_iter": [1, 60]}, cv=3).fit(x)
    assert search.best_params_ == {"realnvpdensity__max_iter": 60}
    assert search.best_estimator_.score_samples(x).shape == (90,)
    assert search.best_estimator_.transform(x).shape == (90, 2)
    scores = cross_val_score(small(), x, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    latents = make_pipeline(small(max_iter=1), KernelDensity())
    assert np.isfinite(latents.fit(x).score(x))


def test_data_frames() -> None:
    frame = pd.DataFrame(points(60), columns=["mass", "charge"])
    density = small().fit(frame)
    assert density.feature_names_in_.tolist() == ["mass", "charge"]
    assert density.get_feature_names_out().tolist() == ["realnvpdensity0", "realnvpdensity1"]
    assert density.set_output(transform="pandas").transform(frame).columns.tolist() == [
        "realnvpdensity0",
        "realnvpdensity1",
    ]
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(frame.rename(columns={"mass": "weight"}))
    with pytest.raises(ValueError, match="feature names"):
        RealNVPOutlier(small()).fit(frame).predict(frame[["charge", "mass"]])


def test_pickles_and_saved_flows_are_the_same_density(
    fitted: RealNVPDensity, tmp_path: Path
) -> None:
    x = points(50)
    expected = fitted.score_samples(x)
    joblib.dump(fitted, tmp_path / "density.joblib")
    realnvp.save_flow(fitted.flow_, tmp_path / "flow")
    for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "density.joblib")):
        assert np.array_equal(again.score_samples(x), expected)
        assert np.array_equal(again.sample(3), fitted.sample(3))
    with torch.no_grad():
        assert np.array_equal(
            realnvp.load_flow(tmp_path / "flow").log_prob(torch.tensor(x)).numpy(), expected
        )


def test_warm_start_goes_on() -> None:
    x = points()
    density = small(warm_start=True).fit(x)
    before, norms = density.score(x), density.flow_.bijection.bijections[0]
    density.set_params(max_iter=60, early_stopping=False).fit(x + np.array([10.0, 0.0]))
    assert density.score(x) > before + 0.01
    assert torch.equal(
        density.flow_.bijection.bijections[0].mean, norms.mean
    )  # the standardization stays
    assert not torch.equal(
        small().fit(x + np.array([10.0, 0.0])).flow_.bijection.bijections[0].mean, norms.mean
    )
    with pytest.raises(ValueError, match="warm_start"):
        density.set_params(width=9).fit(x)
    with pytest.raises(ValueError, match="features"):
        density.set_params(width=8).fit(x[:, :1])


def test_early_stopping_keeps_the_best_on_rows_held_out() -> None:
    x = np.random.default_rng(0).standard_normal((60, 4))
    density = small(
        width=32, num_couplings=4, max_iter=300, learning_rate=2e-2, n_iter_no_change=50
    ).fit(x)
    assert density.n_iter_ < 300
    assert density.best_iter_ == 25 * int(np.argmax(density.validation_scores_))
    assert len(density.loss_curve_) == density.n_iter_
    last = clone(density).set_params(early_stopping=False, max_iter=40).fit(x)
    assert (last.n_iter_, last.best_iter_, last.validation_scores_) == (40, 40, [])


ODD = {
    "five rows": np.arange(10.0).reshape(5, 2) ** 2,
    "two rows": np.arange(4.0).reshape(2, 2),
    "one column": np.arange(50.0)[:, None],
    "a constant column": np.c_[points(50), np.full(50, 7.0)],
    "all constant": np.full((20, 3), -3.0),
    "a column twice": points(50)[:, [0, 0, 1]],
    "integers": np.arange(60).reshape(20, 3) % 7,
    "float32": points(50).astype(np.float32),
    "more columns than rows": np.random.default_rng(0).standard_normal((10, 40)),
    "far from zero": points(50) + 1e9,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables(name: str) -> None:
    x = ODD[name]
    density = small(max_iter=60).fit(x)
    assert np.isfinite(density.score_samples(x)).all()
    assert np.isfinite(density.sample(20)).all()
    np.testing.assert_allclose(
        density.inverse_transform(density.transform(x)), x, rtol=1e-6, atol=1e-6 * np.abs(x).max()
    )
    if name == "a constant column":
        assert np.abs(density.sample(50)[:, 2] - 7).mean() < 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_iter": 0},
        {"learning_rate": -1},
        {"validation_fraction": 1.0},
        {"n_iter_no_change": 0},
        {"batch_size": 0},
        {"width": 0},
        {"coupling": "linear"},
    ],
)
def test_what_is_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong).fit(points(20))


def test_outliers_are_found() -> None:
    normal, strange = (
        points(400),
        np.array([[5e3, 8e-3], [9e3, 0.0], [1e4, 1e-3]]),
    )  # each column alone is as usual
    outlier = RealNVPOutlier(
        small(num_couplings=4, width=32, max_iter=150, learning_rate=1e-2), contamination=0.02
    ).fit(normal)
    assert outlier.predict(strange).tolist() == [-1, -1, -1]
    assert (outlier.predict(normal) == -1).sum() == 8
    assert np.array_equal(
        outlier.decision_function(normal), outlier.score_samples(normal) - outlier.offset_
    )
    assert np.array_equal(outlier.score_samples(normal), outlier.density_.score_samples(normal))


def test_outliers_take_any_density_and_leave_it_alone() -> None:
    x, density = points(100), small(random_state=3)
    outlier = RealNVPOutlier(density).fit(x)
    assert not hasattr(density, "flow_")
    assert outlier.density_.random_state == 3
    assert clone(outlier).set_params(density__width=4).fit_predict(x).shape == (100,)
    kernels = RealNVPOutlier(KernelDensity(bandwidth=300.0), contamination=0.1).fit(x)
    assert (kernels.predict(x) == -1).mean() == pytest.approx(0.1)
    for contamination in (0.0, 0.6, math.nan):
        with pytest.raises(ValueError, match="contamination"):
            RealNVPOutlier(density, contamination=contamination).fit(x)
    with pytest.raises(NotFittedError):
        RealNVPOutlier(density).predict(x)


def test_numbers_beyond_float32_are_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3))
    rows[5, 1] = -1.797e308
    with pytest.raises(ValueError, match=r"^x"):
        RealNVPDensity().fit(rows)


def test_rows_that_are_reversed_are_rows() -> None:
    x, y = points(60)[::-1, :1], points(60)[::-1, 1]

    def found(x: Array, y: Array) -> list[Array]:
        density = small(max_iter=2).fit(x)
        regressor = RealNVPRegressor(**SMALL, random_state=0).fit(x, y)
        classifier = RealNVPClassifier(**SMALL, random_state=0).fit(x, y > 0)
        return [
            density.score_samples(x),
            regressor.score_samples(x, y),
            classifier.predict_log_proba(x),
        ]

    for reversed_, copied in zip(found(x, y), found(x.copy(), y.copy()), strict=True):
        assert np.array_equal(reversed_, copied)


def test_widths_may_be_numbers_of_numpy() -> None:
    search = GridSearchCV(
        small(max_iter=2), {"width": np.arange(4, 9, 4)}, cv=2, error_score="raise"
    )
    assert search.fit(points(40)).best_params_["width"] in (4, 8)
