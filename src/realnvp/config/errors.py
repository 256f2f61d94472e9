"""Errors about what a caller gave."""

from collections.abc import Iterable


class ParameterError(ValueError):
    """A parameter of a function has a value that cannot be used.

    As a ValueError it reads `name: words`. The command line writes the flag instead of the name,
    scikit-learn's estimators their own name.
    """

    def __init__(self, name: str, words: str) -> None:
        super().__init__(f"{name}: {words}")
        self.name, self.words = name, words

    def __reduce__(self) -> tuple[type["ParameterError"], tuple[str, str]]:
        return type(self), (self.name, self.words)


class Reasons(ValueError):
    """Files that cannot be used: a line for each reason. The command line prints them so."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = [*lines]
        super().__init__("; ".join(self.lines))

    def __reduce__(self) -> tuple[type["Reasons"], tuple[list[str]]]:
        return type(self), (self.lines,)
