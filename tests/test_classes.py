"""Classes of images, from folders and files to numbers and pictures."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import realnvp
from realnvp.cli.main import run
from realnvp.config.fields import Config, TrainConfig
from realnvp.config.presets import PRESETS
from realnvp.data.dataset import Dataset, to_pixels
from realnvp.data.prepared import open_splits, write_dataset
from realnvp.evaluation.evaluate import classification
from realnvp.evaluation.likelihood import log_probs
from realnvp.figures.paper import TrainedRun, manifold
from realnvp.flows.context import Classes
from realnvp.io.run_dir import RunDir
from realnvp.training.batches import Batches
from tests.command_output import Out, answer, refused

SHORT = ["--train.max-steps", "6", "--train.eval-every", "3", "--train.sample-every", "6"]
SHORT += ["--model.width", "4"]


def labeled_by_level(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose only gray level is their class."""
    labels = np.random.default_rng(0).integers(0, 17, count)
    return np.tile(labels[:, None, None, None], (1, 8, 8, 1)).astype(np.uint8), labels


def test_validation_that_is_cut_off_keeps_its_labels(tmp_path: Path) -> None:
    train, test = labeled_by_level(50), labeled_by_level(9)
    whole = Dataset(
        name="digits",
        levels=17,
        shape=(1, 8, 8),
        splits={"train": train[0], "test": test[0]},
        labels={"train": train[1], "test": test[1]},
        class_names=tuple(map(str, range(17))),
    )
    write_dataset(whole, tmp_path)
    found = open_splits(tmp_path, val_fraction=0.2, seed=3)
    assert found.labels is not None
    assert len(found.validation) == 10
    for split, images in found.splits.items():
        assert np.array_equal(images[:][:, 0, 0, 0], found.labels[split])


def test_batches_have_their_labels() -> None:
    images, labels = labeled_by_level(50)
    config = Config("digits", PRESETS["digits"].data, train=TrainConfig(batch_size=8))
    for process in range(2):
        own: dict[str, Any] = {"process": process, "processes": 2, "labels": labels}
        batches = Batches(images, config, device=torch.device("cpu"), **own)
        for step in (0, 3, 7):
            [context] = batches.condition_on([step])
            assert torch.equal(batches.at(step)[:, 0, 0, 0].floor().long(), context)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps on digits given the digit."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    command = ["train", "digits-modern", "--data.classes", "--run-dir", str(folder), *SHORT]
    assert run([*command, "--device", "cpu"]) == 0
    return folder


def test_digits_are_trained_and_evaluated_given_the_digit(trained: Path, capsys: Out) -> None:
    flow = realnvp.load_flow(trained)
    assert isinstance(flow.condition, Classes)
    assert flow.condition.names == [*"0123456789"]
    data = open_splits(trained / "data")
    assert data.labels is not None
    frequencies = np.bincount(data.labels["train"]) / len(data.train)
    assert flow.condition.log_priors.exp().numpy() == pytest.approx(frequencies, abs=1e-6)

    result: Any = answer(capsys, "evaluate", trained)
    images = np.moveaxis(np.asarray(data.test[:]), -1, 1).copy()
    context = realnvp.bits_per_dim(flow, images, context=data.labels["test"])
    assert result["bits_per_dim"] == pytest.approx(context.mean, abs=1e-6)
    mixture, found = realnvp.bits_per_dim(flow, images), result["measures"]
    assert found["mixture_bits_per_dim"]["mean"] == pytest.approx(mixture.mean, abs=1e-6)
    error = found["mixture_bits_per_dim"]["standard_error"]
    assert error == pytest.approx(mixture.standard_error, abs=1e-6)
    nats = torch.stack([log_probs(flow, images, context=c) for c in range(10)], dim=1)
    right = (nats + flow.condition.log_priors).argmax(1).numpy() == data.labels["test"]
    assert found["accuracy"]["mean"] == pytest.approx(right.mean())


def test_accuracy_log_loss_and_calibration() -> None:
    """Two classes, told apart with p(c | x) = .8, rightly in 3 of 5 images."""
    p = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    right, count = np.repeat([1, 1, 1, 0, 0], 40), 200
    joint = (p + torch.tensor(0.5).log()).expand(count, 2)
    found = classification(joint, 1 - right)
    assert found["accuracy"].mean == pytest.approx(0.6)
    assert found["accuracy"].standard_error == pytest.approx((0.6 * 0.4 / 199) ** 0.5)
    assert found["log_loss"].mean == pytest.approx(-(0.6 * np.log(0.8) + 0.4 * np.log(0.2)))
    assert found["calibration_error"].mean >= 0.2 - 1e-9  # exactly that, were there a single bin
    assert 0 < found["calibration_error"].standard_error < 0.1


def test_samples_of_a_class_and_of_all(trained: Path, tmp_path: Path, capsys: Out) -> None:
    flow = realnvp.load_flow(trained)
    assert isinstance(flow.condition, Classes)
    drawn = flow.condition.draw(range(20), 3)
    command = ["sample", trained, "-n", "20", "--seed", "3", "--out", tmp_path / "samples.npy"]
    for flags, classes in ((["--class", "7"], "7"), ([], drawn)):
        answer(capsys, *command, *flags)
        samples = flow.sample(20, context=classes, seed=3, dtype=torch.float64)
        assert np.array_equal(np.load(tmp_path / "samples.npy"), to_pixels(samples, levels=17))
    assert len(set(drawn.tolist())) > 3
    assert flow.condition.draw(range(5, 9), 3).equal(drawn[5:9])
    assert "--class" in refused(capsys, "sample", trained, "--class", "seven")


def test_how_often_a_class_is_drawn() -> None:
    classes = Classes(["a", "b"])
    classes.count(torch.tensor([0, 1, 1, 1]))
    assert classes.draw(range(2000), 0).double().mean().item() == pytest.approx(0.75, abs=0.03)


def test_figures_and_checks_are_of_one_class(trained: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "figures"
    only = [word for name in ("classes", "samples", "manifold") for word in ("--only", name)]
    answer(capsys, "figures", trained, "--out", out, "--arrays", "--class", "4", *only)
    assert np.load(out / "classes-samples.npy").shape == (10, 10, 8, 8, 1)
    data = open_splits(trained / "data")
    assert data.labels is not None
    fours = data.test[:][data.labels["test"] == 4]
    shown = np.load(out / "samples-data.npy")
    assert {image.tobytes() for image in shown} <= {image.tobytes() for image in fours}
    assert answer(capsys, "check", trained, "--class", "4")["ok"]
    few = TrainedRun(realnvp.load_flow(trained), RunDir(trained).config, trained)
    empty = {**data.splits, "validation": data.test[:0]}
    few.whole = replace(data, splits=empty, labels={**data.labels, "validation": np.array([], int)})
    few.condition_on("4")
    with pytest.raises(ValueError, match="validation"):
        next(manifold(few))


def test_the_class_that_is_drawn_has_images_in_all_splits() -> None:
    splits = {split: np.zeros((3, 8, 8, 1), np.uint8) for split in ("train", "validation", "test")}
    labels = dict(zip(splits, np.array([[0, 0, 1], [0, 1, 1], [1, 1, 2]]), strict=True))
    about = {"name": "x", "levels": 17, "shape": (1, 8, 8), "class_names": ("a", "b", "c")}
    data = Dataset(**about, splits=splits, labels=labels)
    assert data.most_frequent == "b"
    nowhere = replace(data, labels=labels | {"test": np.array([2, 2, 2])})
    assert nowhere.most_frequent == "a"


@pytest.mark.parametrize("kind", ["own", "others", "none"])
def test_other_data_are_evaluated_given_their_class_if_they_have_it(
    trained: Path, tmp_path: Path, kind: str, capsys: Out
) -> None:
    data = open_splits(trained / "data")
    assert data.labels is not None
    for i, image in enumerate(data.test[:6]):
        name = {"own": str(data.labels["test"][i]), "others": "cat", "none": ""}[kind]
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / name / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if kind == "own" else "ignore")
        result: Any = answer(capsys, "evaluate", trained, "--data.source", tmp_path)
    assert ("accuracy" in result["measures"]) == (kind == "own")


def test_crops_of_a_run_and_of_other_data_have_their_class(tmp_path: Path, capsys: Out) -> None:
    """In training and in other data: pictures of one gray are all dark or all bright."""
    random = np.random.default_rng(0)
    for name, gray in {"bright": 200, "dark": 20}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.full((*random.integers(9, 30, 2), 3), gray, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / name / f"{i}.png")
    folder, source = tmp_path / "run", ["--data.source", tmp_path / "in"]
    command = ["train", "images-modern", *source, "--data.classes", "--data.crop", "8"]
    small = ["--model.num-scales", "1", "--model.num-couplings", "1", "--train.batch-size", "4"]
    answer(capsys, *command, *small, "--run-dir", folder, *SHORT, "--device", "cpu")
    assert open_splits(folder / "data").class_names == ("bright", "dark")
    result: Any = answer(capsys, "evaluate", folder, *source)
    assert "accuracy" in result["measures"]
    assert result["num_images"] > 16
