"""The experiments of all chapters, found by looking: modules that define ``EXPERIMENTS``.

The ledger knows no chapter: it asks the package :data:`PACKAGE` by name.
"""

import importlib
import pkgutil
from functools import cache

from mcnn.errors import unknown
from mcnn.ledger.experiment import Experiment

PACKAGE = "mcnn.experiments"


@cache
def all_experiments() -> dict[str, Experiment]:
    """Return every experiment by name, in the order of modules and of their lists."""
    experiments = {}
    package = importlib.import_module(PACKAGE)
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{PACKAGE}.{info.name}")
        for experiment in getattr(module, "EXPERIMENTS", ()):
            experiments[experiment.name] = experiment
    return experiments


def get(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises
    ------
    UsageError
        If there is none; the message says which there are.
    """
    try:
        return all_experiments()[name]
    except KeyError:
        raise unknown("experiment", name, all_experiments()) from None
