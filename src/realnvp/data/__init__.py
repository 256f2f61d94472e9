"""Images to uint8 arrays, tables to float64: found, checked, prepared once, then memory-mapped."""

from realnvp.data.dataset import (
    Dataset,
    Split,
    channels_first,
    channels_last,
    dequantize,
    quantize,
    to_pixels,
)
from realnvp.data.folder import image_files
from realnvp.data.images import codec_bits_per_dim, read_image, to_size
from realnvp.data.prepared import (
    discard_prepared,
    find_data,
    find_split,
    open_splits,
    prepare,
    splits_of_run,
)
from realnvp.data.tables import read_table

__all__ = [
    "Dataset",
    "Split",
    "channels_first",
    "channels_last",
    "codec_bits_per_dim",
    "dequantize",
    "discard_prepared",
    "find_data",
    "find_split",
    "image_files",
    "open_splits",
    "prepare",
    "quantize",
    "read_image",
    "read_table",
    "splits_of_run",
    "to_pixels",
    "to_size",
]
