"""CIFAR-10's binary version: six files of records, a byte of label, 3072 of pixels, (C, H, W)."""

import re
from pathlib import PurePosixPath

import numpy as np

from realnvp.data.dataset import Dataset, Lazy, Pixels, channels_last
from realnvp.data.published.archives import Files
from realnvp.data.published.request import Place, Prepared, PrepareRequest, chained

RECORD = 1 + 3 * 32 * 32
RECORDS_PER_FILE = 10_000
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
COUNTS = {"train": 50_000, "test": 10_000}
NAMES = {"train": re.compile(r"data_batch_[1-5]\.bin"), "test": re.compile(r"test_batch\.bin")}
PICKLES = re.compile(r"data_batch_\d|test_batch|cifar-10-python\.tar\.gz")


def read_cifar10(request: PrepareRequest) -> Prepared:
    """cifar-10-binary.tar.gz, or a folder with it or with its files somewhere inside."""
    every = request.collect(lambda name: name.startswith("cifar-10-binary"))
    found: dict[str, list[Place]] = {}
    for files in every:
        names = {name: PurePosixPath(name).name for name in files.sizes}
        found = {
            split: [(files, name) for name in names if pattern.fullmatch(names[name])]
            for split, pattern in NAMES.items()
        }
        if all(found.values()):
            break  # a folder may hold the archive and its files, too: take the first
    if not all(found.values()):
        if any(
            PICKLES.fullmatch(PurePosixPath(name).name) for files in every for name in files.sizes
        ):
            raise ValueError(
                f"{request.source}: its files are pickles and can run code; "
                "get cifar-10-binary.tar.gz"
            )
        raise ValueError(
            f"{request.source}: lacks data_batch_1.bin ... data_batch_5.bin or test_batch.bin"
        )
    counts = {
        split: [_count(request, *place) for place in places] for split, places in found.items()
    }
    complete = request.complete({split: sum(each) for split, each in counts.items()}, COUNTS)
    splits = {split: _images(places, counts[split]) for split, places in found.items()}
    labels = {
        split: np.concatenate([_records(*place)[:, 0] for place in places])
        for split, places in found.items()
    }
    return Prepared(
        Dataset(
            "cifar10",
            "binary version" if complete else "binary version, partial",
            256,
            (3, 32, 32),
            splits,
            comparable=complete,
            labels=labels,
            class_names=CLASSES,
        ),
        [*found["train"], *found["test"]],
        "channel-major records to rows of pixels",
    )


def _count(request: PrepareRequest, files: Files, name: str) -> int:
    count, rest = divmod(files.sizes[name], RECORD)
    if rest or not count or (count != RECORDS_PER_FILE and not request.allow_partial):
        raise ValueError(
            f"{files.label(name)}: {files.sizes[name]:,} bytes are not {RECORDS_PER_FILE:,} "
            f"records of {RECORD} bytes: truncated, or not CIFAR-10"
        )
    return count


def _images(places: list[Place], counts: list[int]) -> Lazy:
    def load(file: int) -> Pixels:
        return channels_last(_records(*places[file])[:, 1:].reshape(-1, 3, 32, 32))

    return chained(counts, load)


def _records(files: Files, name: str) -> Pixels:
    """(N, 3073): the bytes of each record, its label first."""
    records = np.frombuffer(files.read(name), np.uint8).reshape(-1, RECORD)
    if (worst := int(records[:, 0].max())) > 9:
        raise ValueError(f"{files.label(name)}: has a label of {worst}; CIFAR-10's are 0 to 9")
    return records
