"""The columns that a table's others are given, and the numbers that stand for their values."""

import json
from dataclasses import dataclass

MISSING = "(missing)"
"""What a missing text counts as, where missing values are marked."""


@dataclass(frozen=True)
class GivenColumn:
    """One column of a condition."""

    name: str
    texts: tuple[str, ...] = ()
    """What it may say. (): it holds numbers."""
    ordered: bool = False
    """Whether a text is one number, its place in `texts`, and not one number for each of them."""
    mean: float | None = None
    """The number that stands for a missing one, beside a mark. None: none may be missing."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers that a value becomes."""
        if self.texts and not self.ordered:
            return tuple(f"{self.name}={text}" for text in self.texts)
        return (self.name, f"{self.name} is missing") if self.mean is not None else (self.name,)

    def as_text(self) -> str:
        """The column without its name, as `data.given_values` has it."""
        if self.texts:
            return json.dumps({"ordered": self.texts} if self.ordered else self.texts)
        return json.dumps(self.mean)

    @classmethod
    def parse(cls, name: str, text: str) -> "GivenColumn":
        """The column of such a text. ValueError: it is none."""
        value = json.loads(text)
        if value is None or type(value) in (int, float):
            return cls(name, mean=None if value is None else float(value))
        ordered = isinstance(value, dict) and {*value} == {"ordered"}
        texts = value["ordered"] if ordered else value
        if not (isinstance(texts, list) and texts and all(type(each) is str for each in texts)):
            raise ValueError(f"{text[:40]!r}: neither a number nor texts")
        if len({*texts}) < len(texts):
            raise ValueError(f"{text[:40]!r}: a text twice")
        return cls(name, tuple(texts), ordered)


def given_columns(
    names: tuple[str, ...] | None, values: tuple[str, ...] | None
) -> tuple[GivenColumn, ...]:
    """The columns of `data.given` and `data.given_values`. ValueError: they make no sense."""
    if len(names or ()) != len(values or ()):
        raise ValueError("has another length than data.given")
    return tuple(map(GivenColumn.parse, names or (), values or ()))


def numbers_of(columns: tuple[GivenColumn, ...]) -> tuple[str, ...]:
    """Names of all numbers that the columns' values become."""
    return tuple(name for column in columns for name in column.numbers)


def order_of(words: str) -> tuple[str, tuple[str, ...]]:
    """("cut", ("Fair", "Good")) of "cut: Fair < Good". ValueError: it is of another form."""
    name, colon, texts = words.partition(":")
    order = tuple(text.strip() for text in texts.split("<"))
    if not colon or len(order) < 2 or not all(order) or len({*order}) < len(order):
        raise ValueError("must be like 'cut: Fair < Good < Ideal'")
    return name.strip(), order
