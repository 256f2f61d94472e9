"""CIFAR-10, binary version: six files of records, a byte of label and 3,072 of pixels (C, H, W)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from realnvp.data.dataset import channels_last
from realnvp.data.published.prepare import LabeledImage, Published, files_in

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# From the publisher's page.
MD5 = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
COUNTS = {"train": 50_000, "test": 10_000}
ARCHIVE, BATCH = r"cifar-10-binary\.tar\.gz", r"(data_batch_\d|test_batch)\.bin"
RECORD = 1 + 3 * 32 * 32


def read_cifar10(source: Path) -> Published:
    """Read cifar-10-binary.tar.gz, or a folder that holds the archive or its files."""
    version = "binary version"
    return Published(_read_batches(source), {version: COUNTS}, version, CLASSES, MD5)


def _read_batches(source: Path) -> Iterator[LabeledImage]:
    # By name, since the archive has its own order, and a folder may hold a file twice.
    batches = {path.name: content for path, content in files_in(source, BATCH, ARCHIVE)}
    for name, content in sorted(batches.items()):
        if len(content) % RECORD:
            raise ValueError(f"{name}: {len(content)} bytes are not records of {RECORD} bytes")
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        if records[:, 0].max(initial=0) >= len(CLASSES):
            raise ValueError(f"{name}: has labels above {len(CLASSES) - 1}")
        split = "train" if name.startswith("data") else "test"
        images = channels_last(records[:, 1:].reshape(-1, 3, 32, 32))
        for label, image in zip(records[:, 0].tolist(), images, strict=True):
            yield split, image, label
