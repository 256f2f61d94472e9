"""Small records as JSON, deflated with a dictionary of what nearly all of them say."""

import json
import zlib
from pathlib import Path
from typing import Any

from realnvp.config.fields import Record
from realnvp.io.files import fields_of, parse_record

WIDE, EXACT, BATCHED, LATEST = 1, 2, 3, 4  # versions of the format: `archive.py`

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
EARLIER_DICTIONARY = (
    b'{"kinds":"wwwwwrrrrrffffffff","lanes":256,"mosaics":[],"batches":[1,1,2,3,4,5,6,8,10,13,16,16],'
    b'"nonces":{},"flow":"photos-32","channels":3,"divisor":8,"levels":256,"bits":13,'
    b'"runs":[[3,512,512,1]],"names":[".png","1.png"],"given_as":"list"}'
)
EARLIER = b"\x78"  # how a zlib stream begins, and deflate's never does


def packed(record: Any) -> bytes:
    """A dataclass as bytes."""
    text = json.dumps(fields_of(record), separators=(",", ":")).encode()
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def unpacked(kind: type[Record], content: bytes, most: int) -> Record:
    """What `packed` was given. ValueError: damaged, or more than `most` bytes of JSON.

    Earlier files have a frame around it, zlib's, of ten bytes.
    """
    if content.startswith(EARLIER):
        unpacker = zlib.decompressobj(zdict=EARLIER_DICTIONARY)
    else:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(content, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("cut off, or too long")
    return parse_record(kind, text, Path("header"))
