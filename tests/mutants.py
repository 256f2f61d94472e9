"""Can the suite fail? Plant one mistake after the other in a copy of the source and see which test tells: make mutants.

Prints a Markdown table, mistake by mistake, with the test that killed it; exit code 1 if one survived.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = "src tests benchmarks docs examples .github README.md Makefile pyproject.toml requirements-dev.lock"
CORE = "tests/test_contract.py tests/test_equations.py tests/test_likelihood.py tests/test_models.py tests/test_speed.py"
TRAIN = "tests/test_training.py tests/test_batches.py tests/test_nonfinite.py tests/test_speed.py"
DEVICES = "tests/test_devices.py"
TWO = "tests/test_training.py -k two_processes_take"
FILES = "tests/test_folders.py tests/test_training.py tests/test_hostile.py tests/test_faults.py"


class Mutant(NamedTuple):
    """A planted mistake."""

    file: str
    old: str
    new: str
    tests: str = CORE


MUTANTS = [
    Mutant("bijections/coupling.py", "return z, sum_per_example(log_scale)", "return z, -sum_per_example(log_scale)"),
    Mutant("bijections/coupling.py", "x * log_scale.exp() + shift", "(x + shift) * log_scale.exp()"),
    Mutant("bijections/coupling.py", "(z - shift) * torch.exp(-log_scale)", "z * torch.exp(-log_scale) - shift"),
    Mutant("bijections/coupling.py", "(self.bound * ~mask)", "~mask"),
    Mutant("bijections/coupling.py", "(self.bound * ~mask)", "self.bound"),
    Mutant("bijections/coupling.py", "x.where(mask, 0)", "x"),
    Mutant("bijections/coupling.py", "return torch.where(mask, z, z - shift)", "return torch.where(mask, z, z + shift)"),
    Mutant("bijections/masks.py", "(0 if flip else 1)", "(1 if flip else 0)"),
    Mutant("bijections/masks.py", "(rows + columns) % 2", "(rows * 0 + columns) % 2"),
    Mutant("bijections/masks.py", "~first_half if flip else first_half", "first_half if flip else ~first_half"),
    Mutant("bijections/batchnorm.py", "-0.5 * (var + EPS)", "-0.5 * var"),
    Mutant("bijections/batchnorm.py", "(var + EPS).log()", "var"),
    Mutant("bijections/batchnorm.py", ".expand(x.shape[1:])", ""),
    Mutant("bijections/batchnorm.py", "z * (var + EPS).sqrt() + mean", "z * var.sqrt() + mean"),
    Mutant("bijections/logit.py", "math.log1p(-2 * self.alpha) - math.log(self.levels)", "-math.log(self.levels)"),
    Mutant("bijections/logit.py", "math.log1p(-2 * self.alpha) - math.log(self.levels)", "math.log1p(-2 * self.alpha)"),
    Mutant("bijections/logit.py", "(z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)", "z.sigmoid()"),
    Mutant("bijections/logit.py", ".masked_fill(outside, -math.inf)", ""),
    Mutant("bijections/multiscale.py", "[x[..., 0::2, 1::2], x[..., 1::2, 0::2]]", "[x[..., 0::2, 0::2], x[..., 1::2, 1::2]]"),
    Mutant(
        "bijections/multiscale.py", "num_scales - 1) + 1\n", "num_scales - 1)\n", "tests/test_latent.py tests/test_equations.py"
    ),
    Mutant("bijections/base.py", "log_det = log_det + term", "log_det = term"),
    Mutant("bijections/base.py", "for bijection in reversed(self.bijections)", "for bijection in self.bijections"),
    Mutant("bijections/base.py", "if self.training:\n            raise", "if False:\n            raise"),
    Mutant("bijections/base.py", "(nullcontext(), again)", "(nullcontext(), nullcontext())"),
    Mutant("moments.py", "torch.ones(channels))", "torch.zeros(channels))"),
    Mutant("moments.py", "old_var.lerp(var, 1 - momentum)", "old_var.lerp(var, momentum)"),
    Mutant("moments.py", "self._store(mean.detach(), var.detach(), decay)", "self._store(mean, var, decay * 0.9)"),
    Mutant("moments.py", "momentum = decay = self.batches_averaged / (self.batches_averaged + 1)", "momentum = decay = 0.0"),
    Mutant("moments.py", "torch.where(finite, self.mean.lerp(mean, 1 - decay), self.mean)", "self.mean.lerp(mean, 1 - decay)"),
    Mutant("moments.py", "/ everywhere", "/ (everywhere - 1)"),
    Mutant("moments.py", "        moments.mean, moments.var = mean, var\n", "        moments.mean = mean\n", TRAIN),
    Mutant("moments.py", "        dist.all_reduce(x)\n        return x", "        return x", "tests/test_training.py"),
    Mutant("normalise.py", "-share * scale.square() * total_gy", "-share * scale * total_gy", "tests/test_training.py"),
    Mutant("normalise.py", "- slope * batch_mean", "", "tests/test_training.py"),
    Mutant("normalise.py", "if share < 1:", "if False:"),
    Mutant("normalise.py", "if out is not None:\n            g =", "if False:\n            g ="),
    Mutant("normalise.py", "mean, var, mean, scale, False, EPS", "mean, var, None, None, False, EPS", DEVICES),
    Mutant("moments.py", "mean.new_full((1,), numbers)", "mean.new_tensor([numbers])", DEVICES),
    Mutant("moments.py", "(variances + (means - mean).square())", "variances", DEVICES),
    Mutant("moments.py", "not _alone.get() and dist", "dist", TWO),
    Mutant("bijections/mixing.py", "turned.append(left @ right @ space.T)", "turned.append(space.T)", "tests/test_modern.py"),
    Mutant("bijections/mixing.py", "ratios > 1 + ALIKE", "ratios > 1", TWO),
    Mutant("bijections/base.py", 'x.cpu().double() if x.device.type == "mps" else x.double()', "x.double()", DEVICES),
    Mutant("models.py", "torch.default_generator.manual_seed", "torch.manual_seed", DEVICES),
    Mutant("models.py", "layer(x if layer in parts else x[:few])", "layer(x)", "tests/test_fitting.py"),
    Mutant("convolution.py", "kernel / math.sqrt(6)", "kernel / math.sqrt(3)"),
    Mutant("convolution.py", "return *grads, g, None", "return *grads, 2 * g, None"),
    Mutant("nets.py", "torch.cat([2 * r, -2 * r, plane], dim=1)", "torch.cat([r, -r, plane], dim=1)"),
    Mutant("nets.py", "skip.add_to(accumulated, h, in_place=True)", "accumulated"),
    Mutant("folded.py", "plus=shifts[i + 1] - shifts[i]", "plus=shifts[i + 1]"),
    Mutant("folded.py", "bias = bias - weight[:, :, 0, 0] @ sees", "bias = bias + weight[:, :, 0, 0] @ sees"),
    Mutant("folded.py", "copied.exact = False", "copied.exact = True"),
    Mutant("prior.py", "math.log(2 * math.pi)", "math.log(math.pi)"),
    Mutant("prior.py", "standard_normal(tuple(shape))", "standard_normal(tuple(shape)) * 1.05"),
    Mutant("flow.py", "for start in range(first, end, size)", "for start in range(0, n, size)"),
    Mutant("flow.py", "temperature * self.latents", "self.latents"),
    Mutant("models.py", "channelwise_couplings(further, 4 * channels, 3)", "channelwise_couplings(model, 4 * channels, 3)"),
    Mutant("config/sizes.py", "int(model.growth * model.width)", "model.width"),
    Mutant("models.py", "bound=0.0", "bound=1.0"),
    Mutant("models.py", "and not isinstance(m.net, KeptHalf)", ""),
    Mutant("views.py", " - math.log(len(views))", "", "tests/test_views.py"),
    Mutant("views.py", "x.flip(3) if mirror else x", "x", "tests/test_views.py"),
    Mutant("noise.py", "[0, 0, index, round]", "[0, 0, index, 0]", "tests/test_batches.py tests/test_likelihood.py"),
    Mutant("noise.py", "np.array([seed, purpose]", "np.array([seed, 0]"),
    Mutant("data/pixels.py", "1 - 128 * torch", "1 - torch", "tests/test_likelihood.py tests/test_data.py"),
    Mutant("data/pixels.py", "x.floor()", "x.round()", "tests/test_likelihood.py tests/test_data.py"),
    Mutant("units.py", "(-math.log(2) * math.prod(shape))", "(-math.prod(shape))"),
    Mutant("likelihood.py", "mean = per_image.mean()", "mean = per_image[per_image.isfinite()].mean()"),
    Mutant("likelihood.py", "count / (count - 1)", "1"),
    Mutant("likelihood.py", "return total / noise_draws", "return total"),
    Mutant("likelihood.py", "            child.training = mode", "            child.training = True"),
    Mutant("likelihood.py", "    module.eval()\n    try:", "    try:"),
    Mutant("bijections/dequantisation.py", "e.square() - moved.square()", "moved.square() - e.square()"),
    Mutant("bijections/dequantisation.py", "return u.clamp(least, 1 - least)", "return u", "tests/test_modern.py"),
    Mutant("folded.py", "compressed(x).to(self.dtype", "x.to(self.dtype", "tests/test_speed.py"),
    Mutant("data/prepare.py", ' and "inputs" not in read_description(folder)', "", "tests/test_prepare.py"),
    Mutant("muon.py", "factor @ square @ factor", "factor @ square", "tests/test_muon.py"),
    Mutant("muon.py", "max(1, rows / columns)", "max(1, columns / rows)", "tests/test_muon.py"),
    Mutant("muon.py", '1 - group["lr"] * group["weight_decay"]', '1 - group["weight_decay"]', "tests/test_muon.py"),
    Mutant("config/sizes.py", "int(model.coupling_growth * model.num_couplings)", "model.num_couplings", "tests/test_modern.py"),
    Mutant("step.py", "nats = -run.model(x).mean()", "nats = -run.model(x).sum()", TRAIN),
    Mutant("step.py", "    else:\n        restore_moments(before)", "    else:\n        pass", TRAIN),
    Mutant(
        "step.py",
        "if finite and not _far_out(recipe, state, norm):",
        "if not _far_out(recipe, state, norm):",
        TRAIN,
    ),
    Mutant("step.py", "run.flow.zero_grad()", "None", TRAIN),
    Mutant("train.py", "unit.sign * result.mean > unit", "unit.sign * result.mean < unit", TRAIN),
    Mutant("train.py", "        restore_moments(before)\n        raise", "        raise", TRAIN),
    Mutant("run.py", "        return enough and not state.pending", "        return enough", TRAIN),
    Mutant("train.py", "averaging(run.flow), full_precision()", "averaging(run.flow)", TRAIN),
    Mutant("batches.py", "self.indices(step)[self.mine]", "self.indices(step)[: len(self.indices(step)[self.mine])]", TRAIN),
    Mutant("batches.py", "pixels[mirrored, :, ::-1]", "pixels[mirrored]", TRAIN),
    Mutant("batches.py", "self._ahead.pop(step, None)", "self._ahead.pop(next(iter(self._ahead), None), None)", TRAIN),
    Mutant("checkpoint.py", "torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)", "tensor", TRAIN),
    Mutant("checkpoint.py", 'tensors |= {f"optimizer', '_ = {f"optimizer', FILES),
    Mutant("checkpoint.py", 'mean.copy_(tensors[f"average.{name}"])', "pass", TRAIN),
    Mutant("checkpoint.py", 'keep_last(parent, "step", 2)', 'keep_last(parent, "step", 1)', FILES),
    Mutant("folders.py", "hashlib.sha256(files[name]).hexdigest() != digest", "False", FILES),
]


def verdict(number: int, mutant: Mutant) -> str:
    """The test that fails, or '' if all pass. Works on a copy of source and tests."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED.split():
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        path = Path(folder, "src/realnvp", mutant.file)
        text = path.read_text()
        assert mutant.old in text, f"mutant {number}: {mutant.file} has no {mutant.old!r}"
        path.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *mutant.tests.split()]
        environment = os.environ | {"PYTHONPATH": f"{folder}/src", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "(no end within 600 s)"
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?::.+?)(?: - .*)?$", done.stdout, re.M)
    assert found, f"mutant {number}: the tests did not run: {done.stdout[-300:]}"
    return found[1]


def main() -> int:
    """The table; how many survived decides the exit code."""
    chosen = [int(number) for number in sys.argv[1:]] or range(len(MUTANTS))
    survivors = 0
    print("| mistake | killed by |\n|---|---|")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, killer in zip(chosen, pool.map(lambda i: verdict(i, MUTANTS[i]), chosen), strict=True):
            mutant = MUTANTS[number]
            survivors += not killer
            old, new = (" ".join(text.split()).replace("|", "\\|") for text in (mutant.old, mutant.new))
            print(f"| `{mutant.file}`: `{old}` -> `{new}` | {f'`{killer}`' if killer else '**survived**'} |", flush=True)
    print(f"\n{len(chosen) - survivors} of {len(chosen)} killed")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
