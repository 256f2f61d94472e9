"""The line of code, or the flag, that mends what is given in other units or another order."""

from collections.abc import Sequence


def as_uint8(name: str, dtype: object, *, numpy: bool) -> str:
    """How to make uint8 images of these; dtype: torch's, numpy's or its name."""
    cast = ".astype(np.uint8)" if numpy else ".to(torch.uint8)"
    if "float" in str(dtype):
        return f"floats in 0..1 become it by (255 * {name}).round(){cast}"
    if "16" in str(dtype):
        return f"16 bits become it by ({name} >> 8){cast}"
    return f"values in 0..255 become it by {name}{cast}"


def in_order(name: str, shape: Sequence[int], expected: Sequence[int], *, numpy: bool) -> str:
    """': if ..., line' that makes a batch, (B, *expected), of this shape, or ''.

    expected: of one x, (C, H, W) or (D,); only its first entry and length count.
    """
    channels, sides = expected[0], len(expected) - 1
    if sides and len(shape) == 2 + sides and shape[-1] == channels:
        move = "np.moveaxis({}, -1, 1)" if numpy else "{}.movedim(-1, 1)"
        return f"; channels last? {move.format(name)}"
    if len(shape) == 1 + sides and shape[:1] == (channels,):
        return f"; one alone? {name}[None]"
    if sides == len(shape) - 1 == 2 and channels == 1:
        return f"; grey, without channels? {name}[:, None]"
    return ""


def as_colours(channels: int) -> str:
    """The flag that makes all pictures have so many channels, or ''."""
    return {1: "--colours grey", 3: "--colours rgb"}.get(channels, "")


def as_levels(name: str, levels: int, *, negative: bool) -> str:
    """How to make v, grey levels, of floats in 0..1 or, if some are negative, in -1..1."""
    scale = f"{(levels - 1) / 2:g} * ({name} + 1)" if negative else f"{levels - 1} * {name}"
    return f"v = ({scale}).round().to(torch.uint{8 if levels <= 256 else 16})"
