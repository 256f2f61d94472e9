"""Training batches: each image once an epoch, augmented, functions of the step alone."""

from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch

from realnvp.config.fields import Config
from realnvp.config.presets import PRESETS
from realnvp.training.batches import Batches

IMAGES = np.random.default_rng(0).integers(256, size=(50, 4, 4, 3)).astype(np.uint8)
DIM = (IMAGES % 40 + 4).astype(np.uint8)


def batches(*, process: int = 0, processes: int = 1, **data: object) -> Batches:
    base = PRESETS["photos"]
    recipe = replace(base.train, batch_size=8)
    config: Config = replace(base, data=replace(base.data, **data), train=recipe)
    images = IMAGES if config.levels == 256 else DIM
    return Batches(images, config, device=torch.device("cpu"), process=process, processes=processes)


def test_each_image_at_most_once_an_epoch_and_in_another_order_the_next() -> None:
    ours = batches()
    steps = [ours.indices(step) for step in range(12)]
    epochs = np.concatenate(steps[:6]), np.concatenate(steps[6:])
    for seen in epochs:
        assert len(np.unique(seen)) == 48
    assert not np.array_equal(*epochs)


def test_a_batch_is_a_function_of_its_step() -> None:
    forwards, backwards = batches(), batches()
    x = [forwards.at(step) for step in range(12)]
    assert all(torch.equal(x[step], backwards.at(step)) for step in reversed(range(12)))


def test_pixels_and_noise() -> None:
    """About half of the images are mirrored, and other noise comes each epoch."""
    plain, mirrored, count = batches(augment=()), batches(), 0
    for step in range(12):
        pixels = torch.from_numpy(IMAGES[plain.indices(step)]).permute(0, 3, 1, 2)
        assert torch.equal(plain.at(step).floor(), pixels.float())
        same = (mirrored.at(step).floor() == pixels).flatten(1).all(1)
        flipped = (mirrored.at(step).floor() == pixels.flip(-1)).flatten(1).all(1)
        assert (same ^ flipped).all()
        count += int(flipped.sum())
    assert 30 < count < 66
    noise = [plain.at(step) % 1 for step in range(12)]
    assert len({round(float(n.sum()), 4) for n in noise}) == 12


def test_rotate90_and_channel_shuffle() -> None:
    """All 4 turns and 6 orders of channels come, about equally often, whatever the other is."""
    ours = batches(augment=("rotate90", "channel_shuffle"))
    orders = list(permutations(range(3)))
    counts = np.zeros((4, 6), int)
    for step in range(60):
        batch = ours.at(step).floor().byte().permute(0, 2, 3, 1).numpy()
        for seen, image in zip(batch, IMAGES[ours.indices(step)], strict=True):
            (found,) = [
                (turns, order)
                for turns, order in np.ndindex(4, 6)
                if (np.rot90(image, turns)[..., orders[order]] == seen).all()
            ]
            counts[found] += 1
    assert counts.min() > 5, counts
    assert counts.sum(1).max() < 1.35 * 120, counts
    assert counts.sum(0).max() < 1.35 * 80, counts


def test_brightness() -> None:
    """All numbers of an image change alike, by any number up to the most, and none is cut off."""
    ours, changes = batches(augment=("brightness",), levels=48), list[int]()
    for step in range(60):
        images = DIM[ours.indices(step)].astype(int)
        seen = ours.at(step).floor().permute(0, 2, 3, 1).numpy().astype(int)
        for change, image in zip(seen - images, images, strict=True):
            assert (change == change[0, 0, 0]).all()
            assert -min(3, image.min()) <= change[0, 0, 0] <= min(3, 47 - image.max())
            changes.append(int(change[0, 0, 0]))
    counts = np.unique(changes, return_counts=True)
    assert [*counts[0]] == [-3, -2, -1, 0, 1, 2, 3]
    assert counts[1].min() > 0.05 * len(changes)


def test_processes_share_a_batch() -> None:
    whole, parts = batches().at(3), [batches(process=i, processes=2).at(3) for i in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_of_a_small_table_all_rows_are_a_batch() -> None:
    rows, table = np.random.default_rng(0).normal(size=(5, 2)), PRESETS["table"]
    of = partial(Batches, config=table, device=torch.device("cpu"))
    assert of(rows).at(3).shape == (5, 2)
    assert sorted(of(rows).indices(3)) == [0, 1, 2, 3, 4]
    assert of(rows, process=1, processes=2).at(0).shape == (2, 2)
    with pytest.raises(ValueError, match="batch_size"):
        of(rows[:1], processes=2)
