"""The command line: words to calls."""

import sys
from typing import NoReturn


def entry() -> NoReturn:
    """The command realnvp; where the command line is not installed, say how to install it."""
    try:
        from realnvp.cli.main import main
    except KeyboardInterrupt:
        print("realnvp: interrupted", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in ("tyro", "rich"):
            raise
        print(
            f"realnvp: error: {error.name} is not installed: pip install 'realnvp[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
    main()
