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
COPIED = "src tests benchmarks docs examples .github README.md Makefile pyproject.toml requirements-dev.lock requirements-lowest.txt"
LAWS = "tests/test_contract.py"
EQUATIONS = "tests/test_equations.py"
LIKELIHOOD = "tests/test_likelihood.py"
MODELS = "tests/test_models.py"
SPEED = "tests/test_speed.py"
GOLDEN = "tests/test_golden.py"
BATCHES = "tests/test_batches.py"
RECOMPUTED = "tests/test_speed.py -k recomput"
RESUMED = "tests/test_training.py -k bit_equal"
SKIPPED = "tests/test_training.py -k changes_nothing"
CUT_SHORT = "tests/test_training.py -k cuts_an_evaluation_short"
TWO = "tests/test_training.py -k two_processes_take"
DEVICES = "tests/test_devices.py"
DEVICE = "tests/test_device.py"
FEW_CHECKED = "tests/test_check.py -k few_images"
JACOBIAN = "tests/test_check.py -k jacobian_is_too_large"
OURS = "tests/test_belongings.py"
FOLDERS = "tests/test_folders.py"
CODEC = "tests/test_codec.py --deselect tests/test_codec.py::test_files_decode_with_other_threads_and_instructions"
COMPRESS = "tests/test_compress.py"
READING = "tests/test_reading.py"
REASONS = "tests/test_data.py -k reason"
CROPS = "tests/test_crops.py"
WHOLE = "tests/test_whole.py"
FITTING = "tests/test_fitting.py"
ODD = "tests/test_odd.py"
AT_ONCE = "tests/test_at_once.py"
ODD_SCORE = "tests/test_odd_score.py -k no_sense"
GIVEN = "tests/test_given.py"
CLASSES = "tests/test_classes.py"
CALIBRATED = "tests/test_calibrate.py"
ARGUMENTS = "tests/test_arguments.py"
FIRST_HOUR = "tests/test_first_hour.py"
UNITS = "tests/test_units.py"
COLUMNS = "tests/test_columns.py"


class Mutant(NamedTuple):
    """A planted mistake."""

    file: str
    old: str
    new: str
    tests: str = LAWS
    """Those that see it soonest: a file, or names in one."""


MUTANTS = [
    Mutant(
        "data/folder.py",
        "to_size(pixels, resize=(resize,))",
        "smallest_side(pixels, resize)",
        "tests/test_resize.py -k prepare_takes",
    ),
    Mutant(
        "evaluation/evaluate.py",
        "            resize=config.data.resize,\n",
        "",
        "tests/test_resize.py -k remembers",
    ),
    Mutant(
        "evaluation/score.py",
        "if resize or data.resize:",
        "if resize:",
        "tests/test_resize.py -k remembers",
    ),
    Mutant(
        "evaluation/record.py",
        "not name or bits >= self.bits_per_dim",
        "not name or bits <= self.bits_per_dim",
        "tests/test_cli.py -k fewer_bits",
    ),
    Mutant(
        "training/fit.py",
        "        flow.shape = tuple(x.shape[1:])\n",
        "        pass\n",
        "tests/test_own_flow.py -k remembers",
    ),
    Mutant(
        "files/saved.py",
        "    flow.load_state_dict(dict(tensors))\n",
        "    pass\n",
        "tests/test_own_flow.py -k built_again",
    ),
    Mutant(
        "files/saved.py",
        'here.get(name, "missing")):',
        "given):",
        "tests/test_own_flow.py -k first_weight",
    ),
    Mutant(
        "cli/fine_tune.py",
        "if named and asked[name] != there:",
        "if named:",
        "tests/test_fine_tune.py -k agree",
    ),
    Mutant(
        "cli/fine_tune.py",
        "replace(config, model=replace(start.model, given=config.model.context_dim, **begun))",
        "config",
        "tests/test_fine_tune.py -k taken_over",
    ),
    Mutant(
        "training/run.py",
        "_initial_flow(config, init_from if new else None)",
        "_initial_flow(config, init_from)",
        "tests/test_fine_tune.py -k remembers",
    ),
    Mutant(
        "bijections/coupling.py",
        "shift), log_scale",
        "shift), -log_scale",
    ),
    Mutant("bijections/actnorm.py", "-log_scale.expand", "log_scale.expand"),
    Mutant("bijections/entries.py", "total / x[0].numel()", "total / x.shape[1]"),
    Mutant("bijections/batchnorm.py", "-0.5 * (var + EPS).log().expand(x.shape)\n", "-0.5 * var\n"),
    Mutant(
        "bijections/multiscale.py",
        "from_squares(torch.zeros_like(odd), log_det)",
        "from_squares(log_det, torch.zeros_like(odd))",
    ),
    Mutant("bijections/multiscale.py", "self._unsqueeze(log_det)", "pixel_shuffle(log_det, 2)"),
    Mutant("bijections/chain.py", "bijection.inverse(z, given)", "bijection.inverse(z)"),
    Mutant(
        "bijections/coupling.py", "x.where(mask, 0), mask, given)", "x.where(mask, 0), mask)", GIVEN
    ),
    Mutant("networks/layers.py", "with without_autocast(given):", "if True:", GIVEN),
    Mutant("networks/modern.py", "torch.addmm(self.first.bias, x,", "torch.mm(x,", GIVEN),
    Mutant(
        "flows/given.py",
        "and not c.sum().isfinite() and len(",
        "and not c.sum().isfinite() and 1 + len(",
        GIVEN,
    ),
    Mutant("networks/resnet.py", "h.add_(self.embedding(given).to(h.dtype))", "pass", GIVEN),
    Mutant("flows/given.py", "(given[:, None] == classes)", "(given[:1, None] == classes)", GIVEN),
    Mutant("flows/given.py", "if not 0 <= int(end) < len(self.names)", "if int(end) < 0", GIVEN),
    Mutant("flows/start.py", "flow.numbers_of(given, len(x))", "None", GIVEN),
    Mutant("flows/flow.py", "c[chunk]", "c[: chunk.stop - chunk.start]", GIVEN),
    Mutant("training/fit.py", "c[order[held:]]", "c[held:]", GIVEN),
    Mutant(
        "data/folder.py", "labels[split][each.groups] if isinstance(each, Crops) else ", "", CLASSES
    ),
    Mutant(
        "evaluation/figures/points.py",
        "if column.ordered else int(value.argmax())",
        "if column.ordered else 0",
        "tests/test_context_columns.py -k drawn",
    ),
    Mutant("odd/rows.py", "p <= false_alarms", "p < 0", "tests/test_table.py -k verdicts_on_rows"),
    Mutant(
        "sklearn/given.py",
        "columns <= MOST_SPLINES",
        "columns < MOST_SPLINES - 1",
        "tests/test_regression.py -k few_targets",
    ),
    Mutant("training/calibrate.py", "optimizer.step(loss)", "loss()", CALIBRATED),
    Mutant("training/calibrate.py", "PRIOR_ROWS = 50", "PRIOR_ROWS = 1", CALIBRATED),
    Mutant("training/fit.py", "calibrate(flow, validation, c_validation)", "pass", CALIBRATED),
    Mutant("training/validation.py", "last.load_state_dict(calibration)", "pass", CALIBRATED),
    Mutant("data/dataset.py", "self.labels[split] == index", "self.labels[split] >= 0", CLASSES),
    Mutant("evaluation/check.py", "layer.inverse(after, *given)", "layer.inverse(after)", CLASSES),
    Mutant(
        "flows/guided.py", "self.weight * (with_class - without)", "self.weight * with_class", GIVEN
    ),
    Mutant(
        "data/folder.py", "labels[end - counts[split] : end]", "labels[: counts[split]]", CLASSES
    ),
    Mutant(
        "data/prepared.py",
        'labels["train"][rows[split]]',
        'labels["train"][: len(rows[split])]',
        CLASSES,
    ),
    Mutant("training/batches.py", "down + up + 1", "down + up", BATCHES),
    Mutant("training/batches.py", "self.labels[rows]", "self.labels[np.sort(rows)]", CLASSES),
    Mutant("training/run.py", "flow.condition.count(", "len(", CLASSES),
    Mutant("flows/given.py", " + self.log_priors.to(log_probs[0])", "", CLASSES),
    Mutant("evaluation/likelihood.py", "part_of(c, rows)", "part_of(c, slice(len(x)))", CLASSES),
    Mutant("flows/flow.py", "terms + prior_map(self.prior, z)", "terms", "tests/test_map.py"),
    Mutant(
        "bijections/coupling.py", "x * log_scale.exp() + shift", "(x + shift) * log_scale.exp()"
    ),
    Mutant(
        "bijections/coupling.py",
        "(z - shift) * torch.exp(-log_scale)",
        "z * torch.exp(-log_scale) - shift",
    ),
    Mutant("bijections/coupling.py", "(self.bound * ~mask)", "~mask", EQUATIONS),
    Mutant("bijections/coupling.py", "(self.bound * ~mask)", "self.bound"),
    Mutant("bijections/coupling.py", "x.where(mask, 0)", "x"),
    Mutant(
        "bijections/coupling.py",
        "return torch.where(mask, z, z - shift)",
        "return torch.where(mask, z, z + shift)",
    ),
    Mutant("bijections/masks.py", "(0 if flip else 1)", "(1 if flip else 0)", EQUATIONS),
    Mutant("bijections/masks.py", "(rows + columns) % 2", "(rows * 0 + columns) % 2", EQUATIONS),
    Mutant(
        "bijections/masks.py",
        "~first_half if flip else first_half",
        "first_half if flip else ~first_half",
        EQUATIONS,
    ),
    Mutant("bijections/batchnorm.py", "-0.5 * (var + EPS)", "-0.5 * var"),
    Mutant("bijections/batchnorm.py", "(var + EPS).log()", "var"),
    Mutant("bijections/batchnorm.py", ".expand(x.shape[1:])", ""),
    Mutant("bijections/batchnorm.py", "z * (var + EPS).sqrt() + mean", "z * var.sqrt() + mean"),
    Mutant(
        "bijections/logit.py",
        "math.log1p(-2 * self.alpha) - math.log(self.levels)",
        "-math.log(self.levels)",
    ),
    Mutant(
        "bijections/logit.py",
        "math.log1p(-2 * self.alpha) - math.log(self.levels)",
        "math.log1p(-2 * self.alpha)",
    ),
    Mutant(
        "bijections/logit.py", "(z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)", "z.sigmoid()"
    ),
    Mutant("bijections/logit.py", ".masked_fill(outside, -math.inf)", "", EQUATIONS),
    Mutant(
        "bijections/multiscale.py",
        "[x[..., 0::2, 1::2], x[..., 1::2, 0::2]]",
        "[x[..., 0::2, 0::2], x[..., 1::2, 1::2]]",
    ),
    Mutant(
        "bijections/multiscale.py",
        "num_scales - 1) + 1\n",
        "num_scales - 1)\n",
        "tests/test_latent.py -k shares",
    ),
    Mutant("bijections/chain.py", "log_det = log_det + term", "log_det = term"),
    Mutant(
        "bijections/chain.py",
        "for bijection in reversed(self.bijections)",
        "for bijection in self.bijections",
    ),
    Mutant(
        "bijections/base.py", "if self.training:\n            raise", "if False:\n            raise"
    ),
    Mutant(
        "training/recompute.py",
        "(nullcontext(), second)",
        "(nullcontext(), nullcontext())",
        RECOMPUTED,
    ),
    Mutant("tools/moments.py", "torch.ones(channels))", "torch.zeros(channels))"),
    Mutant(
        "tools/moments.py",
        "old_var.lerp(var, 1 - momentum)",
        "old_var.lerp(var, momentum)",
        EQUATIONS,
    ),
    Mutant(
        "tools/moments.py",
        "self._store(mean.detach(), var.detach(), decay)",
        "self._store(mean, var, decay * 0.9)",
        EQUATIONS,
    ),
    Mutant(
        "tools/moments.py",
        "momentum = decay = self.batches_averaged / (self.batches_averaged + 1)",
        "momentum = decay = 0.0",
        EQUATIONS,
    ),
    Mutant("tools/moments.py", "torch.where(finite, after, before)", "after", EQUATIONS),
    Mutant("tools/moments.py", "/ everywhere", "/ (everywhere - 1)", DEVICES),
    Mutant(
        "tools/moments.py",
        ".square().sum(axes) / count(x)",
        ".square().mean(axes) * 1.01",
        EQUATIONS,
    ),
    Mutant(
        "tools/moments.py",
        "        moments.mean, moments.var = mean, var\n",
        "        moments.mean = mean\n",
        "tests/test_training.py -k leave_the_training_alone",
    ),
    Mutant(
        "tools/moments.py", "        dist.all_reduce(x)\n        return x", "        return x", TWO
    ),
    Mutant(
        "networks/kernels.py",
        "-share * scale.square() * total_gy",
        "-share * scale * total_gy",
        TWO,
    ),
    Mutant("networks/kernels.py", "- slope * batch_mean", "", TWO),
    Mutant("networks/kernels.py", "if share < 1:", "if False:", SPEED),
    Mutant(
        "networks/kernels.py",
        "if out is not None:\n            g =",
        "if False:\n            g =",
        SPEED,
    ),
    Mutant(
        "networks/kernels.py",
        "moments = (mean, var, mean, scale)",
        "moments = (mean, var, None, None)",
        DEVICES,
    ),
    Mutant(
        "tools/moments.py", "mean.new_full((1,), numbers)", "mean.new_tensor([numbers])", DEVICES
    ),
    Mutant("tools/moments.py", "(variances + (means - mean).square())", "variances", DEVICES),
    Mutant("tools/moments.py", "started = not _alone.get() and dist", "started = dist", TWO),
    Mutant(
        "bijections/mixing.py",
        "turned.append(left @ right @ space.T)",
        "turned.append(space.T)",
        "tests/test_modern.py",
    ),
    Mutant("bijections/mixing.py", "ratios > 1 + ALIKE", "ratios > 1", TWO),
    Mutant(
        "bijections/precision.py",
        'x.cpu().double() if x.device.type == "mps" else x.double()',
        "x.double()",
        DEVICES,
    ),
    Mutant("flows/build.py", "torch.default_generator.manual_seed", "torch.manual_seed", DEVICES),
    Mutant(
        "flows/start.py",
        "x if layer in waiting else x[:few]",
        "x",
        "tests/test_fitting.py",
    ),
    Mutant("networks/layers.py", "kernel / math.sqrt(6)", "kernel / math.sqrt(3)", EQUATIONS),
    Mutant("networks/kernels.py", "return *grads, g, None", "return *grads, 2 * g, None", SPEED),
    Mutant(
        "networks/resnet.py",
        "torch.cat([2 * r, -2 * r, plane], dim=1)",
        "torch.cat([r, -r, plane], dim=1)",
        EQUATIONS,
    ),
    Mutant(
        "networks/resnet.py", "skip.add_to(accumulated, h, in_place=True)", "accumulated", SPEED
    ),
    Mutant("flows/fast.py", "plus=shifts[i + 1] - shifts[i]", "plus=shifts[i + 1]", SPEED),
    Mutant(
        "flows/fast.py",
        "bias = bias - weight[:, :, 0, 0] @ sees",
        "bias = bias + weight[:, :, 0, 0] @ sees",
        SPEED,
    ),
    Mutant("flows/fast.py", "copied.made_by = False", "copied.made_by = True", SPEED),
    Mutant("flows/flow.py", "math.log(2 * math.pi)", "math.log(math.pi)", EQUATIONS),
    Mutant(
        "flows/flow.py",
        "standard_normal(tuple(shape))",
        "standard_normal(tuple(shape)) * 1.05",
        LIKELIHOOD,
    ),
    Mutant("flows/flow.py", "indices = range(first, first + n)", "indices = range(n)", LIKELIHOOD),
    Mutant("flows/flow.py", "temperature * self.latents", "self.latents", LIKELIHOOD),
    Mutant(
        "flows/paper.py",
        "channelwise_couplings(further, 4 * channels, 3)",
        "channelwise_couplings(model, 4 * channels, 3)",
        MODELS,
    ),
    Mutant("config/sizes.py", "int(model.growth * model.width)", "model.width", MODELS),
    Mutant("flows/paper.py", "bound=0.0", "bound=1.0", EQUATIONS),
    Mutant("flows/paper.py", " and not isinstance(module.net, KeptHalf)", "", MODELS),
    Mutant("evaluation/views.py", " - math.log(len(views))", "", "tests/test_views.py"),
    Mutant("evaluation/views.py", "x.flip(3) if mirror else x", "x", "tests/test_views.py"),
    Mutant("tools/noise.py", "[0, 0, index, round]", "[0, 0, index, 0]", BATCHES),
    Mutant("tools/noise.py", "np.array([seed, purpose]", "np.array([seed, 0]", LIKELIHOOD),
    Mutant(
        "data/pixels.py",
        "else 128) * torch",
        "else 0) * torch",
        "tests/test_data.py -k dequantised",
    ),
    Mutant("data/pixels.py", "x.floor()", "x.round()", LIKELIHOOD),
    Mutant(
        "config/units.py", "(-math.log(2) * math.prod(shape))", "(-math.prod(shape))", LIKELIHOOD
    ),
    Mutant(
        "evaluation/likelihood.py",
        "mean = per_image.mean()",
        "mean = per_image[per_image.isfinite()].mean()",
        LIKELIHOOD,
    ),
    Mutant("evaluation/likelihood.py", "count / (count - 1)", "1", LIKELIHOOD),
    Mutant(
        "evaluation/likelihood.py", "torch.cat(parts) / noise_draws", "torch.cat(parts)", LIKELIHOOD
    ),
    Mutant(
        "flows/flow.py",
        "            child.training = mode",
        "            child.training = True",
        LIKELIHOOD,
    ),
    Mutant("flows/flow.py", "    module.eval()\n    try:", "    try:", LIKELIHOOD),
    Mutant(
        "evaluation/score.py",
        "read_given(file, config.data) if config.data.context_columns else None",
        "[0.0] * flow.config.model.context_dim if config.data.context_columns else None",
        "tests/test_context_columns.py -k scores",
    ),
    Mutant(
        "data/given.py",
        "np.c_[values, missing]",
        "np.c_[values, ~missing]",
        "tests/test_context_columns.py -k sampl",
    ),
    Mutant(
        "training/run.py",
        '(splits.labels or {}).get("train"))',
        "(splits.labels or {}).get('validation'))",
        "tests/test_context_columns.py -k configuration",
    ),
    Mutant(
        "bijections/regression.py",
        "linalg.solve(squares + ridge, products)",
        "zeros_like(products)",
        "tests/test_regression.py",
    ),
    Mutant(
        "sklearn/given.py",
        "weights = torch.softmax(-z.square() / 2, 0)",
        "weights = torch.softmax(-z.abs(), 0)",
        "tests/test_regression.py",
    ),
    Mutant(
        "sklearn/given.py",
        "torch.special.ndtri(p)",
        "p.logit()",
        "tests/test_regression.py",
    ),
    Mutant("bijections/splines.py", "- 2 * whole.log()", "- whole.log()"),
    Mutant("bijections/splines.py", "+ (height / width).log()", ""),
    Mutant("bijections/splines.py", "torch.where(z.abs() < END, left + width * u, z)", "left + u"),
    Mutant(
        "bijections/splines.py",
        "NARROWEST + (1 - bins * NARROWEST) * raw.softmax(-1)",
        "raw.softmax(-1)",
        "tests/test_splines.py",
    ),
    Mutant(
        "bijections/splines.py",
        "most * torch.tanh(slopes / most), (1, 1)",
        "slopes, (1, 1)",
        "tests/test_splines.py",
    ),
    Mutant(
        "flows/vector.py",
        'if dim == 1 and (model.context_dim or model.coupling == "spline"):',
        'if dim == 1 and model.coupling == "spline":',
        "tests/test_splines.py",
    ),
    Mutant("bijections/coupling.py", "torch.where(mask, 0, log_slope)", "log_slope"),
    Mutant("bijections/dequantization.py", "in reversed(bends(raw, lean))", "in bends(raw, lean)"),
    Mutant(
        "bijections/dequantization.py",
        "[p + lean, q - lean, c]",
        "[p, q, c]",
        "tests/test_modern.py",
    ),
    Mutant(
        "bijections/dequantization.py",
        "~checkerboard(u.shape, u.device)",
        "checkerboard(u.shape, u.device)",
        "tests/test_modern.py",
    ),
    Mutant(
        "bijections/dequantization.py",
        "in stages(z.shape[1]) if",
        "in stages(1) if",
        "tests/test_modern.py",
    ),
    Mutant(
        "config/fields.py",
        "kinds.index(noise) > kinds",
        "kinds.index(noise) != kinds",
        "tests/test_fine_tune.py",
    ),
    Mutant("codec/lifting.py", "with suppress(ValueError)", "with suppress()", CODEC),
    Mutant(
        "training/fine_tune.py", "int(layer[2]) + more", "int(layer[2])", "tests/test_fine_tune.py"
    ),
    Mutant(
        "codec/noise.py",
        "layer.noise_numbers(v.to(dtype)",
        "layer.noise_numbers(1.0 * v",
        "tests/test_codec.py",
    ),
    Mutant("codec/cells.py", "(low + 1).to(self.dtype)", "low + 1", CODEC),
    Mutant(
        "bijections/dequantization.py",
        "u.clamp(room, 1 - room)",
        "u",
        "tests/test_modern.py",
    ),
    Mutant(
        "training/fine_tune.py",
        "if new_cells and",
        "if False and",
        "tests/test_fine_tune.py",
    ),
    Mutant("codec/cells.py", " + 2 * self.oblique", "", CODEC),
    Mutant("codec/cells.py", "- v - 0.5", "- v", CODEC),
    Mutant("codec/cells.py", "(place + 0.5).double() / size", "0.5", CODEC),
    Mutant(
        "bijections/dequantization.py",
        "STEEPEST) * raw.tanh()",
        "STEEPEST) * raw",
        "tests/test_modern.py",
    ),
    Mutant(
        "bijections/dequantization.py",
        "v + u.clamp(max=1 - self.levels * torch.finfo(u.dtype).eps)",
        "v + u",
        "tests/test_modern.py",
    ),
    Mutant(
        "bijections/dequantization.py",
        'if f"{prefix}bound" in tensors',
        "if False",
        "tests/test_modern.py",
    ),
    Mutant(
        "flows/fast.py", "compressed(x).to(self.dtype", "x.to(self.dtype", "tests/test_speed.py"
    ),
    Mutant(
        "training/sittings.py", "if new and not", "if not", "tests/test_prepare.py -k never_deletes"
    ),
    Mutant("training/muon.py", "factor @ square @ factor", "factor @ square", "tests/test_muon.py"),
    Mutant(
        "training/muon.py", "max(1, rows / columns)", "max(1, columns / rows)", "tests/test_muon.py"
    ),
    Mutant(
        "training/muon.py",
        '1 - group["lr"] * group["weight_decay"]',
        '1 - group["weight_decay"]',
        "tests/test_muon.py",
    ),
    Mutant(
        "config/sizes.py",
        "int(model.coupling_decay * model.num_couplings)",
        "model.num_couplings",
        "tests/test_modern.py",
    ),
    Mutant(
        "flows/modern.py",
        "reversed(range(model.num_couplings))",
        "range(model.num_couplings)",
        "tests/test_given.py",
    ),
    Mutant("config/sizes.py", "given_every=1)", "given_every=2)", "tests/test_earlier.py"),
    Mutant(
        "training/step.py",
        "nats = -run.model(x, *given).mean()",
        "nats = -run.model(x, *given).sum()",
        GOLDEN,
    ),
    Mutant(
        "training/step.py",
        "    else:\n        restore_moments(before)",
        "    else:\n        pass",
        SKIPPED,
    ),
    Mutant(
        "training/step.py",
        "if finite and not _far_out(recipe, state, norm):",
        "if not _far_out(recipe, state, norm):",
        SKIPPED,
    ),
    Mutant("training/step.py", "run.flow.zero_grad()", "None", GOLDEN),
    Mutant(
        "training/validation.py",
        "unit.sign * result.mean > unit",
        "unit.sign * result.mean < unit",
        "tests/test_training.py -k best_is_the_lowest",
    ),
    Mutant("training/validation.py", "        restore_moments(before)\n", "        pass\n", GOLDEN),
    Mutant("training/run.py", " and not self.state.pending", "", CUT_SHORT),
    Mutant("training/train.py", "        full_precision(),\n", "", DEVICE),
    Mutant("training/train.py", "        deterministic(),\n", "", DEVICE),
    Mutant(
        "training/pace.py", "60 * recipe.max_minutes - state.training_seconds", "60", FIRST_HOUR
    ),
    Mutant("training/validation.py", "on_device=True", "on_device=False", DEVICE),
    Mutant("tools/device.py", "    _backends.mkldnn.matmul,\n", "", DEVICE),
    Mutant("tools/device.py", "    _backends,\n", "", DEVICE),
    Mutant(
        "tools/device.py",
        "while self.before and not self.users:",
        "if self.before and not self.users:",
        DEVICE,
    ),
    Mutant("tools/device.py", "cudnn.deterministic, cudnn.benchmark = before", "pass", DEVICE),
    Mutant(
        "tools/device.py",
        '"cuda" if there["cuda"] else "cpu"',
        "next(kind for kind in there if there[kind])",
        DEVICE,
    ),
    Mutant("cli/threads.py", "if threads <= free:", "if True:", "tests/test_threads.py"),
    Mutant(
        "cli/threads.py",
        "max(1, cores.usable - cores.busy)",
        "cores.usable - cores.busy",
        "tests/test_threads.py",
    ),
    Mutant("cli/threads.py", "float(idle + own)", "float(idle)", "tests/test_threads.py"),
    Mutant("cli/threads.py", '"OMP_NUM_THREADS" in os.environ or ', "", "tests/test_threads.py"),
    Mutant("training/sittings.py", "if old != new]", "if False]", "tests/test_threads.py"),
    Mutant("tools/device.py", "CUSOLVER)_STATUS", "CUSOLVER)_OTHER", DEVICE),
    Mutant("training/processes.py", "GradientAccumulationPlugin(num_steps=1)", "None", DEVICE),
    Mutant("training/processes.py", "            state.update(before)\n", "", DEVICE),
    Mutant("training/processes.py", "    if processes > gpus:", "    if False:", DEVICE),
    Mutant("training/step.py", ".view(-1, 4).cpu()", ".view(-1, 4).cpu().cpu()", DEVICE),
    Mutant(
        "training/batches.py",
        "return pinned(values, self.device), pinned(noise, self.device)",
        "return values, noise",
        DEVICE,
    ),
    Mutant(
        "training/batches.py",
        "self.indices(step)[self.mine]",
        "self.indices(step)[: len(self.indices(step)[self.mine])]",
        TWO,
    ),
    Mutant("training/batches.py", "pixels[mirrored, :, ::-1]", "pixels[mirrored]", BATCHES),
    Mutant(
        "training/batches.py",
        "self._ahead.pop(step, None)",
        "self._ahead.pop(next(iter(self._ahead), None), None)",
        BATCHES,
    ),
    Mutant(
        "files/checkpoint.py",
        "torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)",
        "tensor",
        RESUMED,
    ),
    Mutant(
        "files/checkpoint.py",
        "for weight, entries in optimizer.state.items()",
        "for weight, entries in ()",
        RESUMED,
    ),
    Mutant("files/checkpoint.py", 'mean.copy_(tensors[f"average.{name}"])', "pass", CUT_SHORT),
    Mutant("files/checkpoint.py", '"step", 2)', '"step", 1)', FOLDERS),
    Mutant(
        "files/atomic.py",
        "left = name is None and bool(old.fullmatch(orphan.name))",
        "left = True",
        OURS,
    ),
    Mutant(
        "files/atomic.py", "left = not _at_work(int(found[1]), orphan.name)", "left = True", OURS
    ),
    Mutant("files/folders.py", " if not _why_not_ours(folder)]", "]", OURS),
    Mutant("files/atomic.py", ".realnvp-{os.getpid()}-", ".realnvp-0-", OURS),
    Mutant("training/run.py", "check_data(files, splits)\n", "pass\n", OURS),
    Mutant(
        "evaluation/evaluate.py",
        "if changed := RunDir(run).changed_data(",
        'if changed := "" and RunDir(run).changed_data(',
        OURS,
    ),
    Mutant("files/run_dir.py", "known.get(name) != sha256.get(name)", "name not in sha256", OURS),
    Mutant("training/run.py", "    if init_from is not None:\n        run.save()\n", "", OURS),
    Mutant("training/sittings.py", "traceback.clear_frames(error.__traceback__)", "pass", OURS),
    Mutant(
        "files/folders.py", "hashlib.sha256(files[name]).hexdigest() != digest", "False", FOLDERS
    ),
    Mutant(
        "evaluation/views.py",
        "(data.recolour and shape[0] > 1)",
        "data.recolour",
        "tests/test_views.py",
    ),
    Mutant(
        "evaluation/figures/draw.py", "if lacking_memory(error):", "if False:", "tests/test_few.py"
    ),
    Mutant(
        "evaluation/figures/draw.py",
        "isinstance(error, ValueError | DamagedError)",
        "True",
        "tests/test_few.py",
    ),
    Mutant(
        "evaluation/figures/trust.py",
        "in (keys | {**maybe}).items()",
        "in keys.items()",
        "tests/test_few.py",
    ),
    Mutant("evaluation/check.py", "0.2 * max(1.0, 16 / len(x))", "0.2", FEW_CHECKED),
    Mutant(
        "evaluation/check.py",
        "0.2 * max(1.0, 16 / len(x))",
        "20 * max(1.0, 16 / len(x))",
        FEW_CHECKED,
    ),
    Mutant("evaluation/check.py", "data if training is None else training", "data", FEW_CHECKED),
    Mutant(
        "evaluation/check.py",
        "        terms.append(log_det)",
        "        terms.append(0 * log_det)",
        JACOBIAN,
    ),
    Mutant("config/rules.py", "> MOST_BLOCKS:", "> 2 * MOST_BLOCKS:", "tests/test_config.py"),
    Mutant("config/sizes.py", "36 * channels", "72 * channels", "tests/test_config.py"),
    Mutant("evaluation/table.py", " if result.comparable else {}", "", "tests/test_report.py"),
    Mutant(
        "cli/sample.py",
        "temperature: float = 1.0",
        "temperature: float = 0.9",
        "tests/test_surface.py",
    ),
    Mutant(
        "cli/evaluate.py", 'arg(name="data.source")', 'arg(name="source")', "tests/test_surface.py"
    ),
    Mutant("cli/results.py", '"files": [', '"paths": [', "tests/test_surface.py"),
    Mutant(
        "evaluation/figures/grids.py",
        "side_by_side(path: Path, panels",
        "side_by_side(panels: Any, path",
        "tests/test_surface.py",
    ),
    Mutant(
        "files/records.py", "    exit_code = 1\n", "    exit_code = 2\n", "tests/test_surface.py"
    ),
    Mutant(
        "files/checkpoint.py",
        'f"flow.{name}": tensor',
        'f"model.{name}": tensor',
        RESUMED,
    ),
    Mutant("training/train.py", "        keep_unevaluated(run)\n", "", FIRST_HOUR),
    Mutant(
        "training/validation.py",
        "max(1, int(SECONDS_TO_STOP / forward)) if forward else 1",
        "0",
        FIRST_HOUR,
    ),
    Mutant("files/checkpoint.py", ' | _below("average", tensors)', "", FIRST_HOUR),
    Mutant("training/train.py", " or unsaved > SAVED_EVERY", "", FIRST_HOUR),
    Mutant("training/pace.py", "state.step - state.pending", "state.step", FIRST_HOUR),
    Mutant("training/pace.py", "max(self.steps - 1, 1)", "self.steps", FIRST_HOUR),
    Mutant("training/voice.py", "self.pace.warm or late", "self.pace.warm and late", FIRST_HOUR),
    Mutant("data/folder.py", "100 * (1 - kept)", "100 * kept", "tests/test_resize.py"),
    Mutant("training/fit.py", "z.shape == x.shape and", "", "tests/test_own_flow.py"),
    Mutant("training/rehearsal.py", "+ (whole.size - many) * each", "", FIRST_HOUR),
    Mutant("training/rehearsal.py", "max(seconds, pace.step)", "pace.step", FIRST_HOUR),
    Mutant(
        "training/run.py",
        "        check_may_train(config, files)\n        splits",
        "        splits",
        FIRST_HOUR,
    ),
    Mutant("tools/progress.py", "pause = min(2 * pause, LONGEST_PAUSE)", "pass", FIRST_HOUR),
    Mutant("files/saved.py", '"facts.json"', '"about.json"', "tests/test_earlier.py"),
    Mutant(
        "tools/noise.py", "[0, 0, index, round]", "[0, 0, round, index]", "tests/test_earlier.py"
    ),
    Mutant("training/muon.py", 'alpha=-group["lr"]', 'alpha=group["lr"]', GOLDEN),
    Mutant("training/step.py", "recipe.l2 * l2_penalty", "-recipe.l2 * l2_penalty", GOLDEN),
    Mutant(
        "config/presets.py",
        '"vector", num_couplings=16',
        '"vector", num_couplings=15',
        "tests/test_surface.py",
    ),
    Mutant(
        "cli/arguments.py", "on = SWITCHES[words.popleft().lower()]", "words.popleft()", ARGUMENTS
    ),
    Mutant("cli/arguments.py", "and self.kind not in (str, Path)", "", ARGUMENTS),
    Mutant(
        "cli/arguments.py", "in (typing.Union, types.UnionType)", "is types.UnionType", ARGUMENTS
    ),
    Mutant("cli/arguments.py", "[*rest, *words]", "[*rest]", ARGUMENTS),
    Mutant("cli/elsewhere.py", 'if f"--{name}" in known', "", ARGUMENTS),
    Mutant("flows/units.py", ".abs().max()", ".max()", UNITS),
    Mutant("data/table_files.py", "if name not in dropped]", "]", COLUMNS),
    Mutant("data/table_files.py", 'delimiter != "," and re', "re", COLUMNS),
    Mutant("data/table_files.py", "or {*parts}.isdisjoint(there)", "", COLUMNS),
    Mutant("data/table.py", "first + np.arange(len(rows))", "np.arange(len(rows))", COLUMNS),
    Mutant(
        "config/sizes.py",
        "columns=columns or config.data.columns, drop=None",
        "columns=columns",
        COLUMNS,
    ),
    Mutant("training/batches.py", "index=step)", "index=0)", COLUMNS),
    Mutant(
        "training/batches.py",
        "(self.size, len(spread)))[self.mine]",
        "(len(range(self.size)[self.mine]), len(spread)))",
        COLUMNS,
    ),
    Mutant("data/find.py", "if config.columns or config.drop:", "if config.columns:", COLUMNS),
    Mutant("flows/flow.py", "        flow._looked = True", "        pass", UNITS),
    Mutant("flows/flow.py", "            self._looked = True", "            pass", UNITS),
    Mutant("config/remedies.py", "shape[-1] == channels", "shape[1] == channels", UNITS),
    Mutant("config/rules.py", "min(shape[:2]) > 4", "min(shape[:2]) > 400", UNITS),
    Mutant("export.py", "    _name_batch(proto.graph)\n", "", "tests/test_export.py -k onnx_of"),
    Mutant("files/partial.py", "file.flush()", "pass", "tests/test_odd_score.py"),
    Mutant("odd/verdicts.py", "<= detector.false_alarms", "< 0", "tests/test_odd_score.py"),
    Mutant(
        "evaluation/figures/odd.py",
        "max(first + SMALLEST, round(scale * end))",
        "round(scale * end)",
        "tests/test_odd_score.py",
    ),
    Mutant("odd/show.py", "-verdict.score", "verdict.score", "tests/test_odd_score.py"),
    Mutant("evaluation/score.py", "math.prod(shape) / sum(sizes)", "1", "tests/test_odd_score.py"),
    Mutant("odd/conformal.py", "(1 + odder)", "odder", ODD),
    Mutant("odd/conformal.py", 'side="left"', 'side="right"', ODD),
    Mutant("odd/usual.py", "away.square().mean", "away.clamp(min=0).square().mean", ODD),
    Mutant(
        "odd/usual.py", "torch.linalg.inv(torch.linalg.cholesky(correlations))", "identity", ODD
    ),
    Mutant("odd/usual.py", " - cross - cross.T + ", " - ", ODD),
    Mutant("odd/statistics.py", "means[:, :1] + LEAST", "means[:, 1:2] + LEAST", ODD),
    Mutant(
        "odd/usual.py", ".lerp(mean.expand_as(own_mean), own_mean, weight)", ".clone(mean)", ODD
    ),
    Mutant("odd/shares.py", "- self._exponent() * beyond", "", ODD),
    Mutant("odd/statistics.py", "return log_prob + more", "return log_prob", ODD),
    Mutant("odd/statistics.py", "class_log_probs(x).max(", "class_log_probs(x).min(", ODD),
    Mutant("odd/statistics.py", "nats[:, :, :height, :width]", "nats", ODD),
    Mutant("odd/statistics.py", "return total / inside", "return total / weights.sum() ** 2", ODD),
    Mutant("odd/detector.py", "among_normal(oddness_around(odd))", "among_normal(odd)", ODD),
    Mutant("odd/detector.py", ".clamp(max=MOST)", "", ODD),
    Mutant(
        "bijections/coupling.py",
        "return self.forward_map(x, given)[0], x.new_zeros",
        "return type(self).forward_map(self, x, given)[0], x.new_zeros",
        WHOLE,
    ),
    Mutant("odd/detector.py", "flatten(1).amax(1)", "flatten(1).mean(1)", ODD),
    Mutant("odd/detector.py", "*oddness.shape[1:]", "oddness.shape[2]", ODD),
    Mutant("odd/places.py", "odd.argmax()", "odd.argmin()", ODD),
    Mutant("data/images.py", "mixed + largest // 2", "mixed", READING),
    Mutant("data/images.py", "pixels >> 8", "pixels & 255", READING),
    Mutant("data/images.py", "np.uint16(257)", "np.uint16(256)", READING),
    Mutant("data/images.py", "[19595, 38470, 7471]", "[38470, 19595, 7471]", READING),
    Mutant("data/images.py", "'L' if big else 'B'", "'B' if big else 'L'", READING),
    Mutant("data/images.py", "and (grey or reading.depth != 8)", "", READING),
    Mutant("data/images.py", "if len(same) == 1 else", "if same else", REASONS),
    Mutant(
        "data/crops.py",
        "np.minimum(np.maximum(1, (self.grid * share)",
        "np.minimum(np.maximum(1, (self.grid * share * 2)",
        CROPS,
    ),
    Mutant(
        "data/crops.py",
        "start = end - height * width * self.channels",
        "start = end - height * width",
        CROPS,
    ),
    Mutant("data/crops.py", "doubled // (2 * last)", "doubled // (3 * last)", CROPS),
    Mutant(
        "data/crops.py",
        "sizes[self._picture(wanted)] - self.side + 1",
        "sizes[self._picture(wanted)] - self.side",
        CROPS,
    ),
    Mutant("data/prepared.py", "self.levels <= 256 else", "self.levels <= 65536 else", CROPS),
    Mutant("training/batches.py", "index=int(i), round=epoch", "index=int(i)", CROPS),
    Mutant(
        "training/batches.py",
        "isinstance(self.images, Rows | Crops)",
        "isinstance(self.images, Rows)",
        CROPS,
    ),
    Mutant(
        "data/find.py", "each.groups.tolist() for split", "[*range(len(each))] for split", CROPS
    ),
    Mutant("flows/strips.py", "reach + reach % 2", "2 * (reach // 2) - 2", WHOLE),
    Mutant(
        "flows/strips.py",
        "overlap = 2 * reach if squeezed",
        "overlap = reach // 2 * 2 if squeezed",
        WHOLE,
    ),
    Mutant("flows/strips.py", "max(2, wanted // 2 * 2)", "max(3, wanted // 2 * 2 + 1)", WHOLE),
    Mutant(
        "flows/strips.py",
        "slice(rows.start - top, rows.stop - top)",
        "slice(0, rows.stop - rows.start)",
        WHOLE,
    ),
    Mutant(
        "evaluation/whole.py",
        "2 * side - 1 - there_and_back",
        "2 * side - 2 - there_and_back",
        WHOLE,
    ),
    Mutant("evaluation/whole.py", "[0, :, :width]", "[0, :, -width:]", WHOLE),
    Mutant("codec/stack.py", "c < sizes << 16", "c < sizes << 15", CODEC),
    Mutant("codec/stack.py", "c >= 1 << 32", "c >= 1 << 31", CODEC),
    Mutant(
        "codec/stack.py",
        "for row in reversed(self.rows(len(sizes)))",
        "for row in self.rows(len(sizes))",
        CODEC,
    ),
    Mutant("codec/steps.py", "(x[:, kept] + 0.5)", "x[:, kept]", CODEC),
    Mutant("codec/steps.py", "reversed(stack.rows(len(x)))", "stack.rows(len(x))", CODEC),
    Mutant(
        "codec/steps.py",
        "self.layer.bound).exp_()",
        "self.layer.bound).exp_().sqrt_()",
        CODEC,
    ),
    Mutant("codec/lifting.py", "self.lower.forward(t * self.sign)", "self.lower.forward(t)", CODEC),
    Mutant("codec/lifting.py", "t[i] -= 2 *", "t[i] -= 1 *", CODEC),
    Mutant("codec/lifting.py", "distance = above.abs()", "distance = -logs", CODEC),
    Mutant("codec/exact_nets.py", 'generator=random, device="cpu"', "generator=random", DEVICE),
    Mutant("sklearn/base.py", 'with torch.device("cpu"):', "if True:", DEVICE),
    Mutant("config/bounds.py", "and not isinstance(number, bool)", "", ODD),
    Mutant("training/fit.py", "bool((x == x.floor()).all())", "False", UNITS),
    Mutant("cli/inputs.py", "any(_reads(path, out) for path in read)", "False", OURS),
    Mutant("cli/inputs.py", "and not out.is_file()", "and False", OURS),
    Mutant(
        "cli/score.py",
        "and value != field.default",
        "and False",
        "tests/test_odd_score.py -k heat_maps_a_sheet_and_a_page",
    ),
    Mutant("cli/score.py", "in {file.resolve().parent for file in read}", "in set()", ODD_SCORE),
    Mutant("config/bounds.py", "value.item() if", "value if", FITTING),
    Mutant("config/bounds.py", "and number.is_integer()", "", FITTING),
    Mutant("config/bounds.py", "Integral if kind is int else Real", "Real", FITTING),
    Mutant("codec/exact_nets.py", "room.log2().floor()", "room.log2().ceil()", CODEC),
    Mutant(
        "codec/exact_nets.py", "self._convolved(x.sub_(high, alpha=256))", "x.new_zeros(1)", CODEC
    ),
    Mutant("codec/exact_nets.py", ".add_(self.bias)", "", CODEC),
    Mutant("codec/exact_nets.py", "if torch.equal(wide, fast.double())", "if True", CODEC),
    Mutant("codec/exact_nets.py", "weight[:, 0, 1, 1] = 16383", "pass", CODEC),
    Mutant("codec/plan.py", "if version > WIDE and", "if", CODEC),
    Mutant("codec/chunk.py", "if version <= EXACT:", "if False:", CODEC),
    Mutant("codec/stack.py", "(top == PLACES)", "(top > PLACES)", CODEC),
    Mutant("codec/cells.py", "(place - other_place[:, part]) % size)", "place)", CODEC),
    Mutant("codec/cells.py", "i.double() / self.pieces", "i.double() / (self.pieces + 1)", CODEC),
    Mutant(
        "codec/prior.py",
        "np.where(below, -place, place + 1)",
        "np.where(below, -place, place)",
        CODEC,
    ),
    Mutant(
        "codec/prior.py",
        "low in reversed(range(0, DIGITS, 16))",
        "low in range(0, DIGITS, 16)",
        CODEC,
    ),
    Mutant("codec/rounding.py", "if (distance > 0.5 - doubt).any():", "if False:", CODEC),
    Mutant("codec/plan.py", "delta * scale[:, None, None]", "delta / scale[:, None, None]", CODEC),
    Mutant(
        "codec/plan.py",
        "f._squeeze(delta[None])[0], large",
        "f._squeeze(delta[None])[0].flip(0), large",
        CODEC,
    ),
    Mutant(
        "codec/chunk.py",
        "in reversed(list(enumerate(batches)))",
        "in list(enumerate(batches))",
        CODEC,
    ),
    Mutant("codec/cells.py", "nonce >= OTHER_PIECES", "False", CODEC),
    Mutant("codec/side.py", "share * found[-1][0] + (1 - share) * bits", "bits", CODEC),
    Mutant("codec/index.py", "2 * (self.divided or 0)", "self.divided or 0", CODEC),
    Mutant(
        "codec/encoder.py",
        "seed = encoder.more_seeds(seed, words)",
        "raise",
        CODEC,
    ),
    Mutant("codec/leaves.py", "if numbers <= 0:", "if False:", CODEC),
    Mutant("codec/choice.py", "<= LOST * 8 * len(coded):", "< math.inf:", CODEC),
    Mutant("codec/choice.py", "told(-len(tiles))", "pass", CODEC),
    Mutant("codec/choice.py", "bits.look(~(took <= DOUBT * others))", "pass", CODEC),
    Mutant("codec/choice.py", "| (coder.classes > 0)", "", CODEC),
    Mutant("codec/choice.py", "some | unsure", "unsure", CODEC),
    Mutant("codec/choice.py", "some | unsure", "bits.by_flow >= 0", CODEC),
    Mutant("codec/choice.py", "MANY * near > np", "math.inf < np", CODEC),
    Mutant("codec/encoder.py", "numbers // SEED_SHARE", "0", CODEC),
    Mutant("codec/encoder.py", "int(words / each)", "0", CODEC),
    Mutant("data/codecs.py", "WEBP_METHODS[: 4 if thorough else 3]", "[6]", "tests/test_data.py"),
    Mutant("codec/encoder.py", "yield len(error.images)", "pass", CODEC),
    Mutant("codec/prior.py", "stack.bits += bits", "bits", CODEC),
    Mutant("codec/steps.py", "stack.bits -= stretched.sum", "stretched.sum", CODEC),
    Mutant("codec/encoder.py", "told(-done)", "pass", CODEC),
    Mutant("codec/leaves.py", "if next(letters, None):", "if False:", CODEC),
    Mutant("codec/header.py", "content.startswith(EARLIER)", "False", CODEC),
    Mutant(
        "codec/archive.py",
        "tiles if _digest(places, tiles) == chunk.digest else None",
        "tiles",
        CODEC,
    ),
    Mutant("codec/archive.py", "if zlib.crc32(content) != chunk.crc:", "if False:", CODEC),
    Mutant("codec/archive.py", "if count * ENTRY.size > self.size:", "if False:", CODEC),
    Mutant("codec/archive.py", "if flow_digest(flow) != self.flow_digest:", "if False:", CODEC),
    Mutant("codec/archive.py", "if value != usual[name]", "", CODEC),
    Mutant("codec/files.py", 'or ".." in path.parts', "", COMPRESS),
    Mutant(
        "codec/files.py", "if out and target.exists()", "if not out and target.exists()", COMPRESS
    ),
    Mutant("codec/tiles.py", 'mode="edge"', 'mode="constant"', CODEC),
    Mutant("evaluation/score.py", "min(CHUNK, NUMBERS // max(sizes))", "CHUNK", WHOLE),
    Mutant("evaluation/score.py", "report(first + number, f", "report(number, f", WHOLE),
    Mutant(
        "config/words.py", "'' if count == 1 else 's'", "'s'", "tests/test_odd_score.py -k any_size"
    ),
    Mutant(
        "cli/main.py",
        "            _flush()\n",
        "            pass\n",
        "tests/test_cli.py -k takes_nothing",
    ),
    Mutant(
        "files/checkpoint.py",
        'f"step-{state.step:09d}" / TENSORS',
        "TENSORS",
        "tests/test_bad_input.py -k width",
    ),
    Mutant(
        "cli/evaluate.py",
        "        self.save(result)",
        "        pass",
        "tests/test_cli.py -k test_evaluate",
    ),
    Mutant(
        "evaluation/figures/grids.py",
        "if not words.isascii():",
        "if False:",
        "tests/test_odd_score.py -k letters",
    ),
    Mutant(
        "evaluation/figures/paper.py",
        "if not len(images):",
        "if False:",
        "tests/test_classes.py -k figures_and",
    ),
    Mutant(
        "evaluation/likelihood.py",
        "rows = images if isinstance(images, Tensor) else as_tensor",
        "rows = images if isinstance(images, Tensor) else torch.as_tensor",
        "tests/test_table.py -k verdicts_on_rows",
    ),
    Mutant("cli/score.py", "if self.normal and not self.normal.exists():", "if False:", ODD_SCORE),
    Mutant("tools/device.py", "if self.users > 1:", "if False:", AT_ONCE),
    Mutant("tools/lock.py", "after_in_child=self._renew", "", AT_ONCE),
    Mutant("flows/build.py", "DRAWING, ", "", AT_ONCE),
    Mutant("flows/strips.py", "with ONE_AT_A_TIME, ", "with ", AT_ONCE),
    Mutant("files/atomic.py", "-{next(COUNT)}", "-0", AT_ONCE),
    Mutant("files/atomic.py", "return name in IN_USE", "return False", AT_ONCE),
    Mutant("files/folders.py", "with REPLACING:", "if True:", AT_ONCE),
    Mutant("tools/arrays.py", '.newbyteorder("=")', "", "tests/test_fitting.py -k any_order"),
    Mutant("training/fit.py", "@torch.enable_grad()", "@torch.no_grad()", "tests/test_fitting.py"),
    Mutant(
        "flows/build.py",
        "@torch.inference_mode(False)",
        "@torch.no_grad()",
        "tests/test_fitting.py",
    ),
    Mutant(
        "training/fit.py",
        "    finally:\n        flow.eval()",
        "    finally:\n        pass",
        "tests/test_fitting.py",
    ),
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
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            *mutant.tests.split(),
        ]
        environment = os.environ | {"PYTHONPATH": f"{folder}/src", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
            )
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
        for number, killer in zip(
            chosen, pool.map(lambda i: verdict(i, MUTANTS[i]), chosen), strict=True
        ):
            mutant = MUTANTS[number]
            survivors += not killer
            old, new = (
                " ".join(text.split()).replace("|", "\\|") for text in (mutant.old, mutant.new)
            )
            print(
                f"| `{mutant.file}`: `{old}` -> `{new}` | {f'`{killer}`' if killer else '**survived**'} |",
                flush=True,
            )
    print(f"\n{len(chosen) - survivors} of {len(chosen)} killed")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main())
