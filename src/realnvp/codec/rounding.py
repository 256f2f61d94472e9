"""Real numbers to integers, alike on every machine."""

from collections.abc import Callable

from torch import Tensor

Rounding = Callable[[Tensor], Tensor]

LIMIT = 2**26  # of the integers, so that all sums and products of them are exact
MARGIN = 1e-8  # of a step: a thousand times the differences between machines
RELATIVE = 1e-14  # the same for large numbers, whose last digits count more


class Ambiguous(Exception):
    """A number lies so near to the middle of two integers that machines could differ."""


class Unfit(ValueError):
    """Images leave the range of the integers: of a file, it is damaged.

    images: their indices in the batch.
    """

    def __init__(self, images: list[int]) -> None:
        super().__init__("numbers beyond the range of the integers")
        self.images = images


def nearest(y: Tensor) -> Tensor:
    """The nearest integers, int64, to y (B, ...). Unfit: beyond `LIMIT`, or no numbers."""
    return within_limit(y.round()).long()


def certain(y: Tensor) -> Tensor:
    """`nearest`. Ambiguous: another machine's rounding of y could end at the next integer."""
    integers = within_limit(y.round())
    distance = (y - integers).abs_()
    if distance.max() > 0.5 - (MARGIN + RELATIVE * LIMIT):  # nearly never, so look closely
        doubt = MARGIN + RELATIVE * y.abs()
        if (distance > 0.5 - doubt).any():
            raise Ambiguous
    return integers.long()


def within_limit(x: Tensor) -> Tensor:
    """x, (B, ...), if it is. Unfit names the images that are not."""
    least, most = x.aminmax()
    if not (least > -LIMIT and most < LIMIT):  # also where one is no number
        fits = (x.abs() < LIMIT).reshape(len(x), -1).all(1)
        raise Unfit((~fits).nonzero().flatten().tolist())
    return x
