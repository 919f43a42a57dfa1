"""Monte Carlo methods and neural networks.

One module per idea of Alexander Keller's talk of that name; each module's docstring is its lesson.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers need to know; the rest of the package comes when it is used
    from mcnn import approximation as approximation
    from mcnn import baselines as baselines
    from mcnn import data as data
    from mcnn import density as density
    from mcnn import equations as equations
    from mcnn import errors as errors
    from mcnn import gates as gates
    from mcnn import integral as integral
    from mcnn import interpreter as interpreter
    from mcnn import kinetics as kinetics
    from mcnn import linear as linear
    from mcnn import modelwise as modelwise
    from mcnn import nutshell as nutshell
    from mcnn import partition as partition
    from mcnn import paths as paths
    from mcnn import profiling as profiling
    from mcnn import randomness as randomness
    from mcnn import ranking as ranking
    from mcnn import relu as relu
    from mcnn import residual as residual
    from mcnn import sampling as sampling
    from mcnn import sparse as sparse
    from mcnn import stats as stats
    from mcnn import training as training

__version__ = "0.1.0"


def lazy_modules(package: str, path: Iterable[str]) -> Callable[[str], ModuleType]:
    """Return a ``__getattr__`` that imports a module of a package when it is first used.

    ``import mcnn`` stays quick, and ``mcnn.density.importance`` needs no import of its own.

    Parameters
    ----------
    package, path
        ``__name__`` and ``__path__`` of the package.
    """
    modules = {module.name for module in pkgutil.iter_modules(path)}

    def load(name: str) -> ModuleType:
        if name in modules and not name.startswith("_"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load


__getattr__ = lazy_modules(__name__, __path__)


def __dir__() -> list[str]:
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted({*globals(), *names})
