"""Small records as JSON that zlib has packed, with the words that all of them have known before."""

import json
import zlib
from pathlib import Path
from typing import Any

from realnvp.config.typed import Record
from realnvp.files.records import fields_of, parse_record

# Part of the format: another dictionary is another version.
DICTIONARY = (
    b'{"kinds":"wwwwwrrrrrffffffff","lanes":256,"mosaics":[],"batches":[1,1,2,3,4,5,6,8,10,13,16,16],'
    b'"nonces":{},"flow":"photos-small","channels":3,"divisor":8,"levels":256,"bits":13,'
    b'"runs":[[3,512,512,1]],"names":[".png","1.png"],"given_as":"list"}'
)


def packed(record: Any) -> bytes:
    """A dataclass as bytes."""
    text = json.dumps(fields_of(record), separators=(",", ":")).encode()
    packer = zlib.compressobj(9, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def unpacked(kind: type[Record], content: bytes, most: int) -> Record:
    """What `packed` was given. ValueError: damaged, or more than `most` bytes of JSON."""
    unpacker = zlib.decompressobj(zdict=DICTIONARY)
    try:
        text = unpacker.decompress(content, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("cut off, or too long")
    return parse_record(kind, text, Path("header"))
