"""Executing a trial: all of the ledger that can change a number, and so counts in its code."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mcnn.ledger.experiment import Experiment, Trial

one_at_a_time = threading.RLock()


def execute(experiment: Experiment, trial: Trial, device: torch.device) -> dict[str, Any]:
    """Run one trial and return its metrics.

    CPU trials run on one thread: sums then come in one order, and the numbers repeat exactly.
    The number of threads is the whole process's, and Python 3.11 parses on one thread only, so
    that a process runs one trial at a time, also where it is a worker with many threads.

    Parameters
    ----------
    experiment
        Whose ``run`` is called.
    trial
        One of its configurations.
    device
        Where it runs.
    """
    with one_at_a_time, _one_thread():
        return experiment.run(trial, device)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
