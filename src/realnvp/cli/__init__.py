"""The command line: words to calls."""

from realnvp.cli.main import main

__all__ = ["main"]
