"""The experiments of all chapters, found by looking: modules that define ``EXPERIMENTS``.

The ledger knows no chapter: it asks the package :data:`PACKAGE` by name.
"""

import importlib
import pkgutil
import threading

from mcnn.errors import unknown
from mcnn.ledger.experiment import Experiment, Trial

PACKAGE = "mcnn.experiments"


_found: dict[str, Experiment] = {}
_lock = threading.RLock()  # a worker of a cluster asks from several threads


def all_experiments() -> dict[str, Experiment]:
    """Return every experiment by name, in the order of modules and of their lists."""
    with _lock:
        if not _found:
            path = importlib.import_module(PACKAGE).__path__
            names = [info.name for info in pkgutil.iter_modules(path)]
            modules = [importlib.import_module(f"{PACKAGE}.{name}") for name in names]
            _found.update((e.name, e) for m in modules for e in getattr(m, "EXPERIMENTS", ()))
    return _found


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


def listed(experiment: Experiment, profile: str = "full") -> dict[str, Trial]:
    """Return the trials that an experiment lists for its own seeds, by their hash."""
    trials = experiment.trials(profile, experiment.seeds[profile])
    return {experiment.key(profile, trial): trial for trial in trials}
