"""Images to uint8 arrays: found, checked, prepared once, and memory-mapped from then on."""

from realnvp.data.codecs import codec_bits_per_dim
from realnvp.data.folder import find_split, image_files
from realnvp.data.images import read_image
from realnvp.data.pixels import dequantise, quantize
from realnvp.data.prepare import atomic_save, discard_prepared, find_data, prepare, splits_of_run
from realnvp.data.rows import Rows
from realnvp.data.source import Part, Source, array_part
from realnvp.data.splits import Splits, open_splits

__all__ = [
    "Part",
    "Rows",
    "Source",
    "Splits",
    "array_part",
    "atomic_save",
    "codec_bits_per_dim",
    "dequantise",
    "discard_prepared",
    "find_data",
    "find_split",
    "image_files",
    "open_splits",
    "prepare",
    "quantize",
    "read_image",
    "splits_of_run",
]
