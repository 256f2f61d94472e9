"""Small archives of each kind of flow, tests/data/codec, which all later versions must decode.

`python -m tests.codec_files NAME...` writes those that are named: only for a new kind, or a new
version of the format, which their names end with. Of version 1 they have none.
"""

import dataclasses
import io
import sys
from pathlib import Path
from unittest import mock

import numpy as np

import realnvp
from realnvp.codec import choice, compress, decompress, index
from realnvp.codec.archive import Archive
from tests.test_codec import MODELS, flow_of, smooth

FOLDER = Path(__file__).parent / "data" / "codec"
KINDS = {name.replace(" ", "-"): (model, 256) for name, model in MODELS.items()}
KINDS["16-bits"] = (MODELS["modern"], 65536)
KINDS["tiles"] = (MODELS["modern"], 256)  # of 64 pixels, the first of them divided by the index
KINDS["halves"] = (dataclasses.replace(MODELS["learned noise"], width=4), 256)
KINDS["classes"] = (dataclasses.replace(MODELS["modern"], context=3), 256)


def images(name: str, levels: int) -> np.ndarray:
    """Images that a flow codes, and noise that it does not."""
    if name in ("tiles", "halves"):
        height, width = (72, 136) if name == "tiles" else (16, 72)
        picture = smooth(1, 3, height, width)
        picture[..., -8:] = np.random.default_rng(0).integers(0, 256, (1, 3, height, 8))
        return picture
    noise = np.random.default_rng(0).integers(0, levels, (1, 3, 16, 16))
    smoothed = smooth(15, 3, 16, 16, levels=levels)
    return np.concatenate([smoothed, noise.astype(smoothed.dtype)])


def main() -> None:
    """Write flows and archives."""
    for name in sys.argv[1:]:
        model, levels = KINDS[name]
        if not (FOLDER / f"{name}.safetensors").exists():
            realnvp.save_flow(
                flow_of(model, (3, 16, 16), levels=levels), FOLDER / f"{name}.safetensors"
            )
        flow, pixels = realnvp.load_flow(FOLDER / f"{name}.safetensors"), images(name, levels)
        # The flow's images shall be coded by the flow, though it was not trained.
        with (
            mock.patch.object(choice, "bytes_alone", lambda tiles, _: np.full(len(tiles), 1e5)),
            mock.patch.object(choice, "mosaic", lambda tiles, _: bytes(10**5 * len(tiles))),
            mock.patch.object(index, "best_side", return_value=64),
        ):
            data = compress(flow, pixels)
        assert np.array_equal(decompress(flow, data), pixels)
        version = Archive(io.BytesIO(data), name).version
        (FOLDER / f"{name}.{version}.rnvp").write_bytes(data)
        np.save(FOLDER / f"{name}.npy", pixels)
        print(f"{name}: {len(data)} bytes for {pixels.nbytes}")


if __name__ == "__main__":
    main()
