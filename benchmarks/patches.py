"""What `benchmarks.odd` compares with: oddness of 8x8 patches, without a flow."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

Array = NDArray[Any]
PATCH, STRIDE = 8, 4
TRAINED = 4000  # patches
Oddness = Callable[[Array], Array]
"""(n, 64) patches to (n,): larger is odder."""


def patches(image: Array) -> tuple[Array, tuple[int, int]]:
    """(n, 64): a patch at every fourth pixel of an image, and (rows, columns) of them."""
    padded = np.pad(image.astype(np.float32), PATCH // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH))
    windows = windows[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    rows, columns = image.shape[0] // STRIDE, image.shape[1] // STRIDE
    return windows[:rows, :columns].reshape(-1, PATCH * PATCH), (rows, columns)


def contestants(train: Array, seed: int) -> dict[str, Oddness]:
    """Fitted to the patches of a training picture."""
    every, _ = patches(train)
    rng = np.random.default_rng(seed)
    x = every[rng.choice(len(every), min(TRAINED, len(every)), replace=False)]
    mean, precision = every.mean(0), np.linalg.inv(np.cov(every.T) + np.eye(PATCH**2))
    pca = PCA(16, random_state=seed).fit(every)
    nearest = NearestNeighbors(n_neighbors=1).fit(x)
    forest = IsolationForest(random_state=seed).fit(x)
    factor = LocalOutlierFactor(novelty=True).fit(x)

    def gaussian(p: Array) -> Array:
        return np.einsum("ni,ij,nj->n", p - mean, precision, p - mean)

    def reconstruction(p: Array) -> Array:
        return ((pca.inverse_transform(pca.transform(p)) - p) ** 2).mean(1)

    return {
        "patch Gaussian": gaussian,
        "nearest patch": lambda p: nearest.kneighbors(p)[0][:, 0],
        "PCA of patches": reconstruction,
        "IsolationForest": lambda p: -forest.score_samples(p),
        "LocalOutlierFactor": lambda p: -factor.score_samples(p),
    }
