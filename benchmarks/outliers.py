"""Outliers in the tables that scikit-learn ships: ROC AUC of RealNVPOutlier beside other detectors, as a Markdown table.

python -m benchmarks.outliers

One class is normal, the others are outliers, each class in turn (of breast cancer: benign is normal). Detectors are fitted to
70 % of the normal rows alone and tried on the others and all outliers. Mean over classes; standard error over the seeds of the
split.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from realnvp.sklearn import RealNVPOutlier

SEEDS = range(5)
SETS: dict[str, tuple[Callable[..., Any], list[int]]] = {
    "breast cancer": (load_breast_cancer, [1]),
    "wine": (load_wine, [0, 1, 2]),
    "digits": (load_digits, [*range(10)]),
    "iris": (load_iris, [0, 1, 2]),
}
DETECTORS: dict[str, Callable[[int], Any]] = {
    "RealNVPOutlier": lambda seed: RealNVPOutlier(random_state=seed),
    "IsolationForest": lambda seed: IsolationForest(random_state=seed),
    "LocalOutlierFactor": lambda seed: make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
    "one Gaussian": lambda seed: make_pipeline(StandardScaler(), GaussianMixture(reg_covar=1e-2)),
}


def auc(detector: Any, x: NDArray[Any], normal: NDArray[Any], *, seed: int) -> float:
    """The probability that an outlier scores lower than a normal row that was not fitted to."""
    train, test = train_test_split(x[normal], train_size=0.7, random_state=seed)
    rows = np.concatenate([test, x[~normal]])
    scores = detector.fit(train).score_samples(rows)
    return float(roc_auc_score(np.arange(len(rows)) < len(test), scores))


def main(names: list[str]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"| normal class of | rows | columns | {' | '.join(DETECTORS)} |\n|---|---|---|{'---|' * len(DETECTORS)}")
    for name in names or SETS:
        load, classes = SETS[name]
        x, y = load(return_X_y=True)
        cells = []
        for detector in DETECTORS.values():
            found = [[auc(detector(seed), x, y == label, seed=seed) for label in classes] for seed in SEEDS]
            means = np.mean(found, axis=1)
            cells.append(f"{means.mean():.3f} +- {means.std(ddof=1) / len(means) ** 0.5:.3f}")
        rows = round(np.mean([(y == label).sum() for label in classes]))
        print(f"| {name} | {rows} | {x.shape[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
