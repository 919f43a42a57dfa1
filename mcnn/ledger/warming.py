"""Workers of a Dask cluster import what a trial needs while their driver still does so itself.

Both take seconds, PyTorch above all, and one after the other they delay the first trials.
Nothing here imports PyTorch, and nothing here fails: what is wrong with a cluster is found, and
said, by the driver that sends trials to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

PATIENCE = "2s"  # for a scheduler that does not answer; the driver waits longer, and says so


@contextmanager
def warming(address: str | None, patterns: Sequence[str]) -> Iterator[None]:
    """Let the workers of a cluster prepare for experiments meanwhile.

    Those that are not done in the end go on, and those that have not begun do not.

    Parameters
    ----------
    address
        Of the scheduler; ``None`` does nothing.
    patterns
        Of the experiments' names, as the command line takes them.
    """
    client = None
    if address:
        with suppress(ImportError, OSError, ValueError):
            from distributed import Client

            client = Client(address, timeout=PATIENCE, set_as_default=False)
    if client is None:
        yield
        return
    try:
        waiting = []
        with suppress(OSError):  # the connection broke
            waiting = [
                client.submit(prepare, tuple(patterns), workers=[worker], pure=False)
                for worker in client.nthreads()
            ]
        yield
        del waiting  # not earlier: what nobody waits for is given up
    finally:
        with suppress(OSError):
            client.close(timeout=PATIENCE)


def prepare(patterns: Sequence[str]) -> None:
    """Import all experiments here, and read the code behind the first that is meant."""
    import torch

    from mcnn.ledger import provenance, registry, runner  # noqa: F401  what the trials go through

    known = registry.all_experiments()
    first = next((name for name in known if any(fnmatchcase(name, p) for p in patterns)), None)
    if first is not None:
        provenance.describe(known[first].roots, torch.device("cpu"))
