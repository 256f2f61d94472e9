"""Small records as JSON, deflated with a dictionary of their usual text."""

import json
import zlib
from pathlib import Path
from typing import Any

from realnvp.config.fields import Record
from realnvp.io.files import fields_of, parse_record

LONGEST, MOST_PACKED = 4096, 64  # characters of a record, and of each of its bytes
# Part of the format: the nearer to the end, the shorter a reference to it.
DICTIONARY = (
    b'"given_as":"tensor","nonces":{"0":1,"1":1}}","names":["pictures/1.png","2.jpg","3.png"],'
    b'"side":256},"names":["1.png"],"side":128}1,256,256,1]],"names":["a.png"],"side":64}8,8,1]],'
    b'"given_as":"array","side":32}512,512,1]],"given_as":"list","side":128}'
    b'{"flow":"photos-32","channels":3,"divisor":4,"levels":256,"bits":13,"runs":[[3,32,32,'
    b'{"flow":"photos-full","channels":3,"divisor":8,"levels":256,"bits":14,"runs":[[3,'
    b'{"flow":"","channels":1,"divisor":8,"levels":256,"bits":13,"runs":[[1,'
    b'{"kinds":"rrrrrrrrwwwwwwwwhhhhhhhhwwhwwhhffhffhhffhffhhffhhffhffhffhffffffffffffffffff",'
    b'"lanes":128,"mosaics":[],"batches":[1,1,1,1,2,2,4,4,8,8,16,16,16],"nonces":{}}'
    b'","lanes":16,"mosaics":[205],"batches":[1,1,2,2],"nonces":{}}'
)


def packed(record: Any) -> bytes:
    """A dataclass as bytes."""
    text = json.dumps(fields_of(record), separators=(",", ":")).encode()
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def unpacked(kind: type[Record], content: bytes) -> Record:
    """The record of `packed`. ValueError: it is damaged, or hardly packed text could be so long."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(content, LONGEST + MOST_PACKED * len(content))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("cut off, or too long")
    return parse_record(kind, text, Path("header"))
