"""Three densities of points in a plane: kernels, a mixture of Gaussians, a flow.

    python examples/density_estimation.py [FOLDER]

Writes density_estimation.png. Each model is fitted to 2,000 points, the first two with the
setting that is best by cross-validation, the flow for a minute. Above each picture of the density
stands the mean log-density of 2,000 other points, in nats: the higher, the closer to the truth.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import make_circles, make_moons, make_swiss_roll
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from realnvp.sklearn import RealNVPDensity

Points = NDArray[np.float64]
N = 2000

SETS: dict[str, Points] = {
    "moons": make_moons(2 * N, noise=0.08, random_state=0)[0],
    "rings": make_circles(2 * N, noise=0.06, factor=0.4, random_state=0)[0],
    "roll": make_swiss_roll(2 * N, noise=0.4, random_state=0)[0][:, [0, 2]] / 8,
}
MODELS = {
    "kernels": GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.02, 0.3, 10)}, cv=3),
    "mixture of Gaussians": GridSearchCV(
        GaussianMixture(random_state=0), {"n_components": [8, 16, 24, 32]}, cv=3
    ),
    "flow": RealNVPDensity(
        num_couplings=16, num_blocks=1, max_iter=3000, n_iter_no_change=1000, random_state=0
    ),
}


def main(folder: Path) -> None:
    """Fit, compare, draw."""
    figure, axes = plt.subplots(len(SETS), 1 + len(MODELS), figsize=(10, 7.5), layout="constrained")
    for row, (name, points) in zip(axes, SETS.items(), strict=True):
        train, test = points[:N], points[N:]  # each drawn at random
        low, high = points.min() - 0.3, points.max() + 0.3
        across, up = np.meshgrid(*[np.linspace(low, high, 200)] * 2)
        row[0].scatter(*train.T, s=0.5)
        row[0].set(title=name, xlim=(low, high), ylim=(low, high))
        for axis, (model, estimator) in zip(row[1:], MODELS.items(), strict=True):
            estimator.fit(train)
            best = getattr(estimator, "best_estimator_", estimator)
            nats = best.score_samples(test).mean()
            density = np.exp(best.score_samples(np.column_stack([across.ravel(), up.ravel()])))
            axis.pcolormesh(across, up, density.reshape(across.shape), rasterized=True)
            axis.set(title=f"{model}: {nats:.3f} nats")
            print(f"{name:6} {model:22} {nats:7.3f} nats")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal")
    figure.savefig(folder / "density_estimation.png", dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path())
