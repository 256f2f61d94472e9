"""Two downsampled ImageNets: van den Oord's PNG files ("old"), Chrabaszcz's npz batches ("new").

32x32 and 64x64. Their bits/dim differ by about .25. Results are reported on what both call
validation: it becomes test.npy.
"""

import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from realnvp.config.errors import reason
from realnvp.data.dataset import Dataset, Lazy, Pixels, channels_last
from realnvp.data.folder import is_image
from realnvp.data.images import rgb
from realnvp.data.published.archives import Files, check_bomb
from realnvp.data.published.request import Place, Prepared, PrepareRequest, chained, decoded_images

OLD, NEW = "van den Oord 2016 (the paper's)", "Chrabaszcz 2017 (not the paper's)"
COUNTS = {OLD: {"train": 1_281_149, "test": 49_999}, NEW: {"train": 1_281_167, "test": 50_000}}
BATCH = re.compile(r"(train_data_batch_(?P<number>\d+)|val_data)(?P<npz>\.npz)?")


def read_imagenet(request: PrepareRequest) -> Prepared:
    """train_SxS and valid_SxS, tars or folders of PNG; or npz batches, in folders or zips."""
    side = int(request.set.removeprefix("imagenet"))
    other = {32: 64, 64: 32}[side]
    of_other_size = re.compile(rf"{other}x{other}|imagenet{other}", re.IGNORECASE)
    batches: dict[str, list[Place]] = {"train": [], "test": []}
    pictures: dict[str, list[Place]] = {"train": [], "test": []}
    for files in request.collect(lambda name: not of_other_size.search(name)):
        for name in files.sizes:
            path = PurePosixPath(files.path.name, name)
            match = BATCH.fullmatch(path.name)
            if of_other_size.search(str(path)):
                continue
            if match and not match["npz"]:
                raise ValueError(
                    f"{files.label(name)}: a pickle, which can run code; get the npz version, "
                    "*_npz.zip"
                )
            if match:
                batches["train" if match["number"] else "test"].append((files, name))
            elif is_image(name) and (split := _split(path)):
                pictures[split].append((files, name))
    if any(batches.values()) and any(pictures.values()):
        raise ValueError(
            f"{request.source}: holds both PNG files ({OLD}) and npz batches ({NEW}); "
            "name one of them"
        )
    found = batches if any(batches.values()) else pictures
    if not all(found.values()):
        raise ValueError(
            f"{request.source}: {request.set} needs train_{side}x{side} and valid_{side}x{side} "
            "(tar or folder of PNG), or train_data_batch_*.npz and val_data.npz"
        )
    splits = {
        split: _batches(places, side)
        if found is batches
        else decoded_images(places, (3, side, side), lambda pixels, _: rgb(pixels))
        for split, places in found.items()
    }
    counts = {name: len(split) for name, split in splits.items()}
    complete = request.complete(counts, *([COUNTS[NEW]] if found is batches else COUNTS.values()))
    version = NEW if found is batches or counts == COUNTS[NEW] else OLD
    return Prepared(
        Dataset(
            request.set,
            version if complete else f"{version}, partial",
            256,
            (3, side, side),
            splits,
            comparable=complete and version == OLD,
        ),
        [*found["train"], *found["test"]],
        "none: published at this size",
    )


def _split(path: PurePosixPath) -> str | None:
    """Which split a picture belongs to, by the folder or archive that it is in."""
    for part in path.parts[-2::-1]:
        if part.lower().startswith(("train", "val")):
            return "train" if part.lower().startswith("train") else "test"
    return None


def _batches(places: list[Place], side: int) -> Lazy:
    # Batch 10 comes after batch 9.
    places.sort(key=lambda place: (Path(place[1]).name.zfill(40), place[1]))

    def load(file: int) -> Pixels:
        return channels_last(_rows(*places[file], side, read=True)[1].reshape(-1, 3, side, side))

    return chained([_rows(*place, side, read=False)[0] for place in places], load)


def _rows(files: Files, name: str, side: int, *, read: bool) -> tuple[int, Pixels]:
    """How many images an npz batch holds, and its `data`, uint8 (N, 3 S^2), channel-major.

    read: False leaves `data` empty.
    """
    rows = np.empty(0, np.uint8)
    try:
        with files.opener(name) as file, zipfile.ZipFile(file) as npz:
            member = npz.getinfo("data.npy")
            check_bomb("data.npy", member.file_size, member.compress_size)
            with npz.open(member) as array:
                shape, fortran, dtype = (
                    np.lib.format.read_array_header_1_0(array)
                    if np.lib.format.read_magic(array) == (1, 0)
                    else np.lib.format.read_array_header_2_0(array)
                )
                if dtype.hasobject:
                    raise ValueError(
                        "data holds Python objects, that is, a pickle, which can run code; refused"
                    )
                if (
                    dtype != np.uint8
                    or fortran
                    or len(shape) != 2
                    or shape[1] != 3 * side**2
                    or not shape[0]
                ):
                    raise ValueError(f"data is {dtype} {shape}, not uint8 (N, {3 * side**2})")
                if read:
                    rows = np.frombuffer(array.read(), np.uint8).reshape(shape)
    except Exception as error:  # a damaged zip or header raises nearly anything
        raise ValueError(f"{files.label(name)}: {reason(error)}") from None
    return shape[0], rows
