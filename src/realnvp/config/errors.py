"""Errors about what a caller gave."""


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
