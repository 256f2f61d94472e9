"""p(x | c) beside the truth and other libraries' flows: python -m benchmarks.regression [--help]

KL(truth, flow) is the mean of log p(x | c) - log q(x | c) over fresh pairs, whose density p is
known. Ours is `realnvp.fit`. The others, where they are installed, are spline flows of zuko (NSF)
and nflows (autoregressive), given c, on the same rows, standardised, for as many seconds of CPU
time of one thread, Adam along a cosine.

--diamonds FILE: instead, log price given the other nine columns of diamonds.csv (in the package
pydataset), by RealNVPRegressor: mean log-density of 5,394 rows, and how many of them lie in the
intervals of 50, 80 and 95 %.
"""

import argparse
import csv
import importlib.util
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import realnvp
from benchmarks.known import Array, log_mixture

FRESH = 50_000
ORDERS = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": [*"JIHGFED"],
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}


class Truth(NamedTuple):
    """p(x | c), and where c comes from."""

    sample: Callable[[int, np.random.Generator], tuple[Array, Array]]
    """x, (N, D), and c, (N, k)."""
    log_prob: Callable[[Array, Array], Array]
    """Nats."""


def normal(x: Array, mean: Array, deviation: Array) -> Array:
    """log N(x; mean, deviation^2)."""
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * math.log(2 * math.pi)


def heteroscedastic() -> Truth:
    """c ~ U(-2, 2); y ~ N(sin 2c, (.1 + .4 |c|)^2)."""

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        c = rng.uniform(-2, 2, (n, 1))
        return np.sin(2 * c) + (0.1 + 0.4 * abs(c)) * rng.standard_normal((n, 1)), c

    return Truth(sample, lambda x, c: normal(x, np.sin(2 * c), 0.1 + 0.4 * abs(c))[:, 0])


def banana() -> Truth:
    """x2 ~ N(0, 4); x1 ~ N(x2^2 / 4, 1)."""

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        c = 2 * rng.standard_normal((n, 1))
        return c**2 / 4 + rng.standard_normal((n, 1)), c

    return Truth(sample, lambda x, c: normal(x, c**2 / 4, np.ones(1))[:, 0])


def classes(centres: list[Array], deviation: float) -> Truth:
    """c is one of classes, one-hot; x is near one of its centres."""

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        which = rng.integers(len(centres), size=n)
        x = np.stack([centres[i][rng.integers(len(centres[i]))] for i in which])
        return x + deviation * rng.standard_normal(x.shape), np.eye(len(centres))[which]

    def log_prob(x: Array, c: Array) -> Array:
        found = np.empty(len(x))
        for i, each in enumerate(centres):
            mine = c[:, i] == 1
            found[mine] = log_mixture(x[mine], each, deviation)
        return found

    return Truth(sample, log_prob)


def two_moons() -> Truth:
    """Which moon: arcs of 2,000 points with noise of .1."""
    t = (np.arange(2000) + 0.5) / 2000 * math.pi
    arcs = [(np.cos(t), np.sin(t)), (1 - np.cos(t), 0.5 - np.sin(t))]
    return classes([np.stack(arc, 1) for arc in arcs], 0.1)


def eight_gaussians() -> Truth:
    """Which quarter of a circle of radius 2: each has two modes of deviation .2."""
    t = np.arange(8) * math.pi / 4
    points = 2 * np.stack([np.cos(t), np.sin(t)], 1)
    return classes([points[2 * i : 2 * i + 2] for i in range(4)], 0.2)


TRUTHS = {
    "heteroscedastic": heteroscedastic,
    "two moons given which": two_moons,
    "8 Gaussians given the quadrant": eight_gaussians,
    "banana x1 given x2": banana,
}
Density = Callable[[Array, Array], Array]


def ours(x: Array, c: Array, steps: int, coupling: Any) -> Density:
    """`realnvp.fit` of a flow given columns; of splines half as many couplings."""
    count = 4 if coupling == "spline" else 8
    flow = realnvp.vector_flow(
        x.shape[1], context=c.shape[1], coupling=coupling, num_couplings=count
    )
    realnvp.fit(flow, x, context=c, max_steps=steps, batch_size=512, noise=0.0)
    flow.double()

    @torch.no_grad()
    def log_prob(x: Array, c: Array) -> Array:
        return flow.log_prob(torch.tensor(x), context=c).numpy()

    return log_prob


def zuko(dim: int, context: int) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """zuko's neural spline flow."""
    import zuko

    flow = zuko.flows.NSF(dim, context, transforms=3, bins=16, hidden_features=(64, 64))
    return flow, lambda x, c: flow(c).log_prob(x)


def nflows(dim: int, context: int) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """nflows' autoregressive splines."""
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        CompositeTransform,
        MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
        ReversePermutation,
    )

    parts: list[Any] = []
    for _ in range(3):
        parts += [
            ReversePermutation(dim),
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                dim, 64, context_features=context, num_bins=16, tails="linear", tail_bound=5.0
            ),
        ]
    flow = Flow(CompositeTransform(parts), StandardNormal([dim]))
    return flow, lambda x, c: flow.log_prob(x, context=c)


def theirs(make: Callable[..., Any], x: Array, c: Array, seconds: float, lr: float) -> Density:
    """Another library's flow, fitted for some seconds of CPU time."""
    torch.manual_seed(0)
    mean, deviation = x.mean(0), x.std(0)
    middle, width = c.mean(0), c.std(0)
    scaled = torch.tensor((x - mean) / deviation, dtype=torch.float32)
    context = torch.tensor((c - middle) / width, dtype=torch.float32)
    flow, log_prob = make(x.shape[1], c.shape[1])
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    began = time.process_time()
    while (done := (time.process_time() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * done))
        rows = torch.randint(len(x), (512,))
        optimizer.zero_grad()
        (-log_prob(scaled[rows], context[rows]).mean()).backward()
        optimizer.step()

    @torch.no_grad()
    def density(x: Array, c: Array) -> Array:
        rows = torch.tensor((x - mean) / deviation, dtype=torch.float32)
        found = log_prob(rows, torch.tensor((c - middle) / width, dtype=torch.float32))
        return found.double().numpy() - np.log(deviation).sum()

    return density


def kl(truth: Truth, density: Density) -> str:
    """KL(truth, density) and its error, over fresh pairs."""
    x, c = truth.sample(FRESH, np.random.default_rng(1))
    gaps = truth.log_prob(x, c) - density(x, c)
    return f"{gaps.mean():.4f} +- {gaps.std() / math.sqrt(FRESH):.4f}"


def known(names: list[str], rows: int, steps: int, coupling: str) -> None:
    """Measure and print, set by set."""
    others = [make for make in (zuko, nflows) if importlib.util.find_spec(make.__name__)]
    heads = ["set", "CPU s", "realnvp", *(make.__name__ for make in others)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in names:
        truth = TRUTHS[name]()
        x, c = truth.sample(rows, np.random.default_rng(0))
        began = time.process_time()
        density = ours(x, c, steps, coupling)
        seconds = time.process_time() - began
        cells = [f"{seconds:.0f}", kl(truth, density)]
        for make in others:
            cells.append(kl(truth, theirs(make, x, c, seconds, 2e-3)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def diamonds(path: Path, steps: int, noise: float) -> None:
    """Log price of diamonds given the other nine columns."""
    from sklearn.model_selection import train_test_split

    from realnvp.sklearn import RealNVPRegressor

    with path.open(newline="") as file:
        table = [*csv.DictReader(file)]
    names = [name for name in table[0] if name and name != "price"]
    x = np.array(
        [
            [ORDERS[n].index(row[n]) if n in ORDERS else float(row[n]) for n in names]
            for row in table
        ]
    )
    y = np.log([float(row["price"]) for row in table])
    x, x_test, y, y_test = train_test_split(x, y, test_size=5394, random_state=0)
    model = RealNVPRegressor(
        max_iter=steps,
        n_iter_no_change=steps,
        batch_size=512,
        num_blocks=3,
        noise=noise,
        random_state=0,
    )
    began = time.process_time()
    model.fit(x, y)
    seconds = time.process_time() - began
    nats = model.score_samples(x_test, y_test)
    error = nats.std() / math.sqrt(len(nats))
    print(
        f"{len(names)} columns, {len(x):,} rows, {model.n_iter_} steps, {seconds:.0f} s of one core"
    )
    print(f"negative log-density: {-nats.mean():.3f} +- {error:.3f} nats a row")
    print(f"RMSE of the mean: {np.sqrt(np.mean((model.predict(x_test) - y_test) ** 2)):.4f}")
    for share in (0.5, 0.8, 0.95):
        low, high = model.predict_quantiles(x_test, [0.5 - share / 2, 0.5 + share / 2]).T
        inside = np.mean((low <= y_test) & (y_test <= high))
        print(f"{100 * share:.0f} % intervals hold {100 * inside:.1f} %")


def main() -> None:
    """Measure and print."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("--sets", nargs="+", choices=[*TRUTHS], default=[*TRUTHS])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--coupling", choices=["affine", "spline"], default="affine")
    parser.add_argument("--diamonds", type=Path, metavar="FILE")
    parser.add_argument("--noise", type=float, default=0.005, help="of the diamonds' log price")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.diamonds:
        diamonds(args.diamonds, args.steps, args.noise)
    else:
        known(args.sets, args.rows, args.steps, args.coupling)


if __name__ == "__main__":
    main()
