"""Curves beside metrics.jsonl: TensorBoard or Weights & Biases."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from realnvp.config import Config, flat

Log = Callable[[Mapping[str, float], int], None]
"""Adds values by name to the curves, at a step."""


@contextmanager
def tracking(config: Config, run_dir: Path, *, step: int) -> Iterator[Log]:
    """Context: the function that adds points to the curves of `train.tracker`.

    step: where the training stands; TensorBoard drops later points of an interrupted session.
    """
    if config.train.tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run_dir / "curves"), purge_step=step + 1) as writer:

            def log(values: Mapping[str, float], step: int) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

            yield log
    elif config.train.tracker == "wandb":
        import wandb

        name = run_dir.resolve().name
        with wandb.init(
            project="realnvp", name=name, group=name, dir=run_dir, config=flat(config)
        ) as run:
            yield lambda values, step: run.log(dict(values), step=step)
    else:
        yield lambda values, step: None
