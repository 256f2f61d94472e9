"""The user's own images: any folder, zip or tar, cropped or resized to one size."""

from pathlib import PurePosixPath

from realnvp.data.dataset import SPLITS, Dataset, Lazy, Pixels, chosen, cut_rows
from realnvp.data.folder import (
    NAMES,
    SHALLOW,
    in_common,
    is_image,
    warn_of_left_out,
    warn_of_lost_pixels,
)
from realnvp.data.images import RefusedImage, to_size
from realnvp.data.published.request import Place, Prepared, PrepareRequest, decoded_images


def read_pictures(request: PrepareRequest) -> Prepared:
    """Folders called train, validation, test are the splits; the seed cuts a test off train.

    Every file is decoded once before anything is written; ValueError names all that cannot be used.
    Warns of images that are left out.
    """
    files = request.open()
    if not (images := [name for name in files.sizes if is_image(name)]):
        raise ValueError(f"{request.source}: no image files in it")
    splits, folders = _splits(images)
    labels = {files.label(name): name for name in splits}

    def change(pixels: Pixels, _: int) -> Pixels:
        return to_size(pixels, resize=request.resize, crop=request.crop)

    before: list[tuple[int, int]] = []

    def look(label: str) -> Pixels:
        pixels = files.image(labels[label], request.reading)
        before.append(pixels.shape[:2])
        try:
            return change(pixels, 0)
        except ValueError as error:
            raise RefusedImage(label, str(error), several="too small or too large") from None

    found = in_common(list(labels), look, cure="--resize 64, or --crop 64 of each middle")
    if request.resize:
        warn_of_lost_pixels(
            f"--resize {'x'.join(map(str, request.resize))}",
            before,
            found.sizes,
            f"realnvp train images-modern --data.source {request.source} --crop "
            f"{min(found.shape[1:])} trains on pieces at full resolution",
        )
    places: dict[str, list[Place]] = {}
    for name, split in splits.items():
        places.setdefault(split, []).append((files, name))
    if "train" not in places:
        raise ValueError(
            f"{request.source}: has folders called {' and '.join(places)}, but none called train"
        )
    warn_of_left_out(
        request.source,
        [name for name in images if name not in splits],
        folders,
        [*files.sizes],
        files.hidden,
    )
    there: dict[str, Lazy] = {
        split: decoded_images(inside, found.shape, change, reading=request.reading, deep=found.deep)
        for split, inside in places.items()
    }
    if "test" not in there:
        rows = cut_rows(len(there["train"]), request.val_fraction, ["test"], seed=request.seed)
        there |= {split: chosen(there["train"], rows[split]) for split in rows}
    return Prepared(
        Dataset(
            "images",
            None,
            found.levels(SHALLOW),
            found.shape,
            {split: there[split] for split in SPLITS if split in there},
            reading=request.reading,
        ),
        [(files, name) for name in splits],
        _words(request),
    )


def _splits(names: list[str]) -> tuple[dict[str, str], set[str]]:
    """The split of each file, and the names of the splits' folders.

    The uppermost level of folders at which the files differ decides. If no folder there is named
    like a split, all files are train.
    """
    parts = [PurePosixPath(name).parts for name in names]
    depth = 0
    while (
        all(len(part) > depth + 1 for part in parts) and len({part[depth] for part in parts}) == 1
    ):
        depth += 1
    folders = [part[depth] if len(part) > depth + 1 else "" for part in parts]
    if not any(folder in NAMES for folder in folders):
        return dict.fromkeys(names, "train"), set()
    return {
        name: NAMES[folder] for name, folder in zip(names, folders, strict=True) if folder in NAMES
    }, NAMES.keys() & {*folders}


def _words(request: PrepareRequest) -> str:
    words = {"resized to": request.resize, "the middle": request.crop}
    return (
        ", ".join(f"{word} {'x'.join(map(str, size))}" for word, size in words.items() if size)
        or "none"
    )
