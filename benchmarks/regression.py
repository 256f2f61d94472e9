"""Regression of a whole density: python -m benchmarks.regression diamonds.csv [--help].

Log price given the other nine columns of diamonds.csv (in the package pydataset): mean log-density
of 5,394 rows, and how many of them lie in the intervals of 50, 80 and 95 %.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from realnvp.sklearn import RealNVPRegressor

ORDERS = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": [*"JIHGFED"],
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.read_csv(args.file)
    for name, order in ORDERS.items():
        table[name] = table[name].map(order.index)
    rows = table[["carat", *ORDERS, "depth", "table", "x", "y", "z"]].to_numpy(float)
    x, x_test, y, y_test = train_test_split(
        rows, np.log(table["price"]).to_numpy(), test_size=5394, random_state=0
    )
    model = RealNVPRegressor(
        max_iter=args.steps,
        n_iter_no_change=args.steps,
        batch_size=512,
        num_blocks=3,
        noise=0.005,
        random_state=0,
    )
    began = time.process_time()
    model.fit(x, y)
    seconds = time.process_time() - began
    nats = model.score_samples(x_test, y_test)
    error = nats.std() / math.sqrt(len(nats))
    print(f"{len(x):,} rows, {model.n_iter_} steps, {seconds:.0f} s of one core")
    print(f"mean log-density: {nats.mean():.3f} +- {error:.3f} nats a row")
    print(f"RMSE of the mean: {np.sqrt(np.mean((model.predict(x_test) - y_test) ** 2)):.4f}")
    for level in (0.5, 0.8, 0.95):
        low, high = model.predict_quantiles(x_test, [0.5 - level / 2, 0.5 + level / 2]).T
        inside = np.mean((low <= y_test) & (y_test <= high))
        print(f"{100 * level:.0f} % intervals cover {100 * inside:.1f} %")


if __name__ == "__main__":
    main()
