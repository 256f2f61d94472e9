"""The modules of version 0.1.0 under their old names, which still import and warn."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NOW = {
    "checkpoint": ("files.saved", "files.checkpoint"),
    "device": ("tools.device",),
    "distributions": ("flows.distribution",),
    "figures": ("evaluation.figures",),
    "fitting": ("training.fit",),
    "flow": ("flows.flow",),
    "folded": ("flows.fast",),
    "latent": ("evaluation.latent",),
    "likelihood": ("evaluation.likelihood", "flows.flow"),
    "models": ("flows.build", "flows.paper", "flows.modern", "flows.vector"),
    "moments": ("tools.moments",),
    "nets": ("networks.resnet", "networks.modern"),
    "noise": ("tools.noise",),
    "nonfinite": ("training.nonfinite",),
    "prior": ("flows.flow",),
    "progress": ("tools.progress",),
    "train": ("training.train",),
    "views": ("evaluation.views",),
}
"""{module of version 0.1.0: the modules that hold its names now}."""


class Earlier(MetaPathFinder, Loader):
    """Import `realnvp.OLD`, with a warning, as a module whose names are found where `NOW` says."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "realnvp" and old in NOW else None

    def exec_module(self, module: ModuleType) -> None:
        rooms = [f"realnvp.{room}" for room in NOW[module.__name__.partition(".")[2]]]
        warnings.warn(
            f"{module.__name__} is {' and '.join(rooms)} since version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )

        def find(name: str) -> Any:
            # Whoever walks through all modules, as inspect does, asks for __file__ and the like,
            # also while a room is half imported.
            if not name.startswith("__"):
                for room in map(importlib.import_module, rooms):
                    if hasattr(room, name):
                        return getattr(room, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = find


sys.meta_path.append(Earlier())
