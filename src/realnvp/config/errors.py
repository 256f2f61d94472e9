"""Errors and their words."""


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


def install_line(extra: str) -> str:
    """How to install the packages of an extra of this one."""
    return f"pip install 'realnvp[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def reason(error: Exception) -> str:
    """Why something failed, in one line; an error of the system without its number and path."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
