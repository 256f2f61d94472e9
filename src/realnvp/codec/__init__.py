"""Lossless compression with a flow: files of the size that bits/dim promises."""

from realnvp.codec.images import compress, decompress

__all__ = ["compress", "decompress"]
