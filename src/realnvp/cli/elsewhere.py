"""What flags of other programs are called here."""

import difflib
from collections.abc import Iterable, Sequence

ELSEWHERE: tuple[tuple[str, str, str], ...] = (
    (
        "epochs num-epochs max-epochs n-epochs train-epochs nb-epochs",
        "train.max-steps train.max-minutes",
        "a training counts steps, of --train.batch-size images or rows each",
    ),
    (
        "steps num-steps max-steps max-iter iterations n-iter num-iterations train-steps",
        "train.max-steps",
        "",
    ),
    ("minutes max-minutes max-time time-limit", "train.max-minutes", ""),
    ("lr learning-rate base-lr", "train.lr", ""),
    ("batch-size bs batch train-batch-size batchsize", "train.batch-size", ""),
    ("weight-decay wd", "train.l2 train.muon-weight-decay", ""),
    ("clip-grad grad-clip max-grad-norm clip-norm", "train.clip", ""),
    ("optimizer optim", "train.muon-lr", "it is Adam, beside Muon where that has a learning rate"),
    ("scheduler lr-scheduler", "train.decay train.warmup", ""),
    ("fp16 bf16 amp half mixed-precision precision", "train.precision", ""),
    ("ema ema-decay", "train.average", ""),
    ("early-stopping patience", "train.patience", ""),
    (
        "gpu gpus cuda use-cuda no-cuda cpu use-gpu accelerator",
        "device",
        "cuda, cuda:1 ..., or cpu",
    ),
    (
        "num-workers workers n-jobs num-threads",
        "threads",
        "batches are read ahead without processes of their own",
    ),
    (
        "output output-dir outdir out-dir out save-dir logdir log-dir exp-dir",
        "run-dir out onnx DIR",
        "",
    ),
    (
        "data dataset data-dir data-path datadir input input-dir root train-dir source",
        "data.source source",
        "",
    ),
    (
        "pretrained checkpoint ckpt finetune weights load init load-from",
        "init-from",
        "a training that was stopped goes on with its own command",
    ),
    (
        "resume resume-from continue",
        "run-dir",
        "a training that was stopped goes on with its own command",
    ),
    ("hidden hidden-dim hidden-size hidden-channels dim n-filters", "model.width", ""),
    ("layers num-layers n-layers n-flows num-flows flows", "model.num-couplings", ""),
    ("levels n-levels num-levels", "data.levels", ""),
    ("image-size img-size size", "data.resize resize", ""),
    ("hflip horizontal-flip augment", "data.flip", ""),
    ("val-split validation-split val-fraction validation-fraction test-split", "data.held-out", ""),
    ("wandb tensorboard logger tracker report-to", "train.tracker", ""),
    ("random-state random-seed manual-seed", "seed", ""),
    ("num num-samples n-samples num-images count samples", "n", ""),
    ("temp", "temperature", ""),
)
"""Names elsewhere, names here of which a command has some, and what to know. Capitals: a place."""


def meant(flag: str, known: Iterable[str], places: Sequence[str] = ()) -> str:
    """'; here it is --train.lr', ' (did you mean --data.columns?)', or ''.

    flag: an unknown flag, --learning-rate.
    known: the flags of the command.
    places: what the command takes without a flag, as `--help` calls it.
    """
    known = [*known]
    for names, here, remark in ELSEWHERE:
        there = [f"--{name}" for name in here.split() if f"--{name}" in known]
        there += [f"{name}, without a flag" for name in here.split() if name in places]
        if flag.removeprefix("--") in names.split() and there:
            return f"; here it is {' or '.join(there)}" + (remark and f" ({remark})")
    by_leaf = {_leaf(name): name for name in known}
    spellings = by_leaf | {name: name for name in known}
    near = difflib.get_close_matches(flag, spellings, n=1)
    near = near or difflib.get_close_matches(_leaf(flag), spellings, n=1)
    found = by_leaf.get(_leaf(flag)) or (spellings[near[0]] if near else "")
    return f" (did you mean {found}?)" if found else ""


def _leaf(flag: str) -> str:
    """--train.max-steps -> max-steps."""
    return flag.removeprefix("--").rpartition(".")[2]
