"""Monte Carlo methods and neural networks.

One module per idea of Alexander Keller's talk of that name; each module's docstring is its lesson.
"""

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"

_MODULES = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used, so that ``import mcnn`` stays quick."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
