"""Can the tests fail? Plant one mistake at a time, each in an equation, in a copy of the source.

`make mutants` prints a line for each mistake; exit code 1: a test file passed in spite of one.
`python -m tests.mutants tanh muon` plants those whose equation or file contains a word.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# The equation; the file in src/realnvp and the test that must fail; the right and the wrong code.
MISTAKES = r"""
log p(x) = log p_Z(f(x)) + log |det df/dx| (eq 3)
flows/flow.py test_equations.py
- return self.prior.log_prob(z) + log_det
+ return self.prior.log_prob(z) - log_det

log N(z; 0, 1) = -(z^2 + log 2 pi) / 2
flows/flow.py test_equations.py
- math.log(2 * math.pi)
+ math.log(math.pi)

log |det d(g f)/dx| = log |det df/dx| + log |det dg/df|
bijections/base.py test_contract.py
- log_det = log_det + term
+ log_det = term

z = x exp(l) + m (eq 7)
bijections/coupling.py test_contract.py
- x * self.log_scale.exp() + self.shift, self
+ (x + self.shift) * self.log_scale.exp(), self

x = (z - m) exp(-l) (eq 8)
bijections/coupling.py test_contract.py
- (z - self.shift) * torch.exp(-self.log_scale)
+ z * torch.exp(-self.log_scale) - self.shift

log_det = sum of (1 - b) log T'(x) (eq 6)
bijections/coupling.py test_contract.py
- torch.where(mask, 0, log_slope)
+ log_slope

the network sees b x (eq 9)
bijections/coupling.py test_contract.py
- x.where(mask, 0)
+ x

b = 1 where row plus column is odd (section 3.4)
bijections/coupling.py test_equations.py
- (rows + columns) % 2 == (0 if flip else 1)
+ (rows + columns) % 2 == (1 if flip else 0)

each 2x2 square's upper left and lower right pixel stays (eq 10)
bijections/multiscale.py test_equations.py
- [x[..., 0::2, 1::2], x[..., 1::2, 0::2]]
+ [x[..., 1::2, 0::2], x[..., 0::2, 1::2]]

log_det = -H W sum of log(var + eps) / 2 (batch norm)
bijections/norms.py test_contract.py
- -0.5 * (var + EPS).log()
+ -0.5 * var.log()

mu' = rho mu + (1 - rho) mu_batch (eq 15-16)
moments.py test_equations.py
- old_var.lerp(var, 1 - momentum)
+ old_var.lerp(var, momentum)

log p'(x) = log(1 - 2a) - log levels - log p - log(1 - p) (section 4.1)
bijections/norms.py test_equations.py
- math.log1p(-2 * self.alpha) - math.log(self.levels)
+ math.log1p(-2 * self.alpha)

log_det = H W log |det W|
bijections/linear.py test_contract.py
- x[0, 0].numel() * log_det
+ log_det

log ds/dx = log slope of the bin + log height - log width (splines)
bijections/splines.py test_contract.py
- slope.log() - 2 * whole.log()
+ slope.log() - whole.log()

log z'(x) = t + l + log cosh b - log cosh asinh u (sinh-arcsinh)
bijections/norms.py test_contract.py
- log_cosh(b) - log_cosh(a)
+ log_cosh(a) - log_cosh(b)

z_c = v_c + u'_c + u'_0 - 1/2 (oblique cells)
bijections/dequantization.py test_dequantization.py
- (u[:, 1:] + u[:, :1] - 0.5)
+ (u[:, 1:] + u[:, :1])

the Jacobian of autoregressive noise is triangular
bijections/dequantization.py test_dequantization.py
- ~checkerboard(u.shape, u.device)
+ checkerboard(u.shape, u.device)

log p is the mean over draws of the noise
evaluation/likelihood.py test_likelihood.py
- torch.stack(draws).mean(0)
+ torch.stack(draws).sum(0)

bits/dim = -log2 p(x) / D
evaluation/likelihood.py test_likelihood.py
- (-math.log(2) * math.prod(shape))
+ (-math.prod(shape))

variance = sum of squares / (n - 1)
evaluation/likelihood.py test_likelihood.py
- sums.square().sum() * count / (count - 1)
+ sums.square().sum()

log p(x) = log sum of p(c) p(x | c)
flows/context.py test_context.py
- dim=1) + self.log_priors.to(log_probs[0])
+ dim=1)

W = g v / |v| (weight norm)
nets/layers.py test_equations.py
- kernel / math.sqrt(6)
+ kernel / math.sqrt(3)

W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) O (Muon)
training/optim.py test_modern.py
- * max(1, rows / columns)
+ * max(1, columns / rows)

loss = -mean of log p
training/optim.py test_golden.py
- nats = -model(x, *context).mean()
+ nats = -model(x, *context).sum()

noise = function of (seed, index, epoch)
random.py test_batches.py
- [0, 0, index, round]
+ [0, 0, index, 0]

y = R X + d, Z = floor(y / S) (modular scale transform)
codec/steps.py test_codec_steps.py
- stack.push(y & (S - 1), np.full_like(y, S))
+ stack.push(y & (S - 1), np.full_like(y, 2 * S))

R = round(S e^l), l = bound tanh(raw) (scales of integers)
codec/steps.py test_codec_steps.py
- .mul_(bound).exp_()
+ .mul_(bound).exp_().sqrt_()

t <- t - 2 floor(U t / 2 + 1/2) (lifting)
codec/steps.py test_codec_steps.py
- t[i] -= 2 *
+ t[i] -= 1 *
"""


class Mutant(NamedTuple):
    """A planted mistake; none where `right` and `wrong` are equal."""

    equation: str
    file: str
    test: str
    right: str
    wrong: str


def parsed(entry: str) -> Mutant:
    """A mutant of four lines of `MISTAKES`."""
    equation, files, right, wrong = entry.strip().splitlines()
    return Mutant(equation, *files.split(), right.removeprefix("- "), wrong.removeprefix("+ "))


def fails(mutant: Mutant) -> bool:
    """Whether the test file fails on a copy of the source with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "realnvp")
        shutil.copytree(ROOT / "src/realnvp", source, ignore=shutil.ignore_patterns("__pycache__"))
        text = (source / mutant.file).read_text()
        assert text.count(mutant.right) == 1, f"{mutant.file}: {text.count(mutant.right)} places"
        (source / mutant.file).write_text(text.replace(mutant.right, mutant.wrong))
        command = [sys.executable, "-m", "pytest", "-xq", f"tests/{mutant.test}"]
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout
    return done.returncode == 1


def main() -> int:
    """Print the verdicts. 1: a mistake went unseen, or a test file fails without one."""
    chosen = [
        mutant
        for mutant in map(parsed, MISTAKES.split("\n\n"))
        if len(sys.argv) == 1 or any(word in f"{mutant[:2]}" for word in sys.argv[1:])
    ]
    tests = sorted({mutant.test for mutant in chosen})
    none = [Mutant("(no mistake)", "__main__.py", test, "entry()", "entry()") for test in tests]
    mutants = none + chosen
    wrong = 0
    with ThreadPoolExecutor() as pool:
        for mutant, failed in zip(mutants, pool.map(fails, mutants), strict=True):
            expected = failed == (mutant.right != mutant.wrong)
            wrong += not expected
            print("ok   " if expected else "WRONG", mutant.test, mutant.equation, flush=True)
    print(f"{len(mutants) - wrong} of {len(mutants)} as expected")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
