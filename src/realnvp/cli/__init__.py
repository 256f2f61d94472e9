"""The command line: dataclasses that tyro fills, one for each command."""

import sys
from typing import NoReturn


def entry() -> NoReturn:
    """Run the command realnvp; name the packages to install where they are missing."""
    try:
        from realnvp.cli.main import main
    except ModuleNotFoundError as error:
        if error.name not in ("tyro", "rich"):
            raise
        sys.exit(f"realnvp: error: {error.name} is not installed: pip install 'realnvp[cli]'")
    main()
