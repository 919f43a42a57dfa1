"""What runs trials: this process, several on this machine, or the workers of a Dask cluster.

An engine runs *batches*, a trial each at first, and more when they turn out to be short: to send
one costs as much as a trial of a few milliseconds.
Only as many batches wait at an engine as keep its workers busy, so that another driver finds
work to do.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from mcnn.errors import McnnError, UsageError
from mcnn.ledger.experiment import Experiment, Trial

BATCH = 1.0  # seconds that a batch of short trials should take
LARGEST = 32  # trials in a batch
_UNREAD = "Error during deserialization of the task graph"  # what Dask says then
SILENT = 10.0  # seconds of silence after which a cluster without workers is named


class Call(NamedTuple):
    """A trial to run: the experiment, or its name, which is what can be sent elsewhere."""

    experiment: Experiment | str
    profile: str
    trial: Trial

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return getattr(self.experiment, "name", self.experiment)


@dataclass(frozen=True)
class Failure:
    """Why a trial has no record: in one line, and with what a programmer wants to see."""

    text: str
    shown: str


Outcome = dict[str, Any] | Failure
Batch = Callable[[Sequence[Call], torch.device], list[Outcome]]


def outcome(run: Callable[[], dict[str, Any]]) -> Outcome:
    """Call what runs a trial; one that fails stops no other."""
    try:
        return run()
    except McnnError as error:
        return Failure(_first_line(str(error)), "")
    except Exception as error:
        shown = "".join(traceback.format_exception(error))
        return Failure(_first_line(f"{type(error).__name__}: {error}"), shown)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


class Here:
    """The driver's own process, one trial after the other."""

    def __init__(self, run: Batch) -> None:
        self._run = run

    def finished(
        self, work: Iterable[Call], device: torch.device
    ) -> Iterator[tuple[Call, Outcome]]:
        """Yield each trial with its outcome, as it is done."""
        for call in work:
            yield call, self._run([call], device)[0]


class Workers:
    """Processes of an executor.

    Parameters
    ----------
    run
        What a worker does with a batch.
    executor
        Of ``concurrent.futures``, or like one.
    slots
        ``() -> int``, how many batches run at a time.
    gone
        The error for when they are gone.
    silent
        ``(seconds) -> None``, called while nothing comes back; it may raise.
    cancel
        ``(futures) -> None``, for when the rest is not wanted any more.
    """

    def __init__(
        self,
        run: Batch,
        executor: Executor,
        slots: Callable[[], int],
        gone: str,
        silent: Callable[[float], None] = lambda seconds: None,
        cancel: Callable[[Iterable[Future]], None] = lambda futures: None,
    ) -> None:
        self._run, self._executor, self._slots, self._gone = run, executor, slots, gone
        self._silent, self._cancel = silent, cancel

    def finished(
        self, work: Iterable[Call], device: torch.device
    ) -> Iterator[tuple[Call, Outcome]]:
        """Yield each trial with its outcome, in the order in which they are done.

        Raises
        ------
        McnnError
            If the workers are gone.
        """
        waiting = _Queue(work)
        running: dict[Future, list[Call]] = {}
        since = time.monotonic()
        try:
            while True:
                slots = max(1, self._slots())
                while len(running) < 2 * slots and (batch := waiting.take(slots)):
                    sent = [call._replace(experiment=call.name) for call in batch]
                    running[self._submit(sent, device)] = batch
                if not running:
                    return
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                since = time.monotonic() if done else since
                if not done:
                    self._silent(time.monotonic() - since)
                for future in done:
                    batch = running.pop(future)
                    for call, result in zip(batch, self._results(future, batch), strict=True):
                        waiting.learn(call, result)
                        yield call, result
        except BrokenExecutor as error:  # so does submitting say
            raise McnnError(self._gone) from error
        finally:
            if running:
                self._cancel(running)

    def _submit(self, batch: Sequence[Call], device: torch.device) -> Future:
        try:
            return self._executor.submit(self._run, batch, device)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__name__ == "ClosedClientError":
                raise McnnError(self._gone) from error
            raise

    def _results(self, future: Future, batch: Sequence[Call]) -> list[Outcome]:
        """Return the outcomes of a batch; what a trial raises is one, and all else the engine's."""
        try:
            return future.result()
        except Exception as error:
            lost = (BrokenExecutor, CancelledError, OSError)
            if isinstance(error, lost) or type(error).__name__ == "KilledWorker":
                raise McnnError(self._gone) from error
            if _UNREAD in str(error):
                raise UsageError(
                    "the scheduler cannot read what it is sent: install there what is here, of one "
                    "version, and start it again"
                ) from error
            return [outcome(future.result)] * len(batch)


class _Queue:
    """What is still to be sent, and how long trials of each experiment take."""

    def __init__(self, work: Iterable[Call]) -> None:
        self._work = iter(work)
        self._ahead: deque[Call] = deque()
        self._seconds: dict[str, float] = {}
        self._left = getattr(work, "__len__", lambda: 2**31)()

    def take(self, slots: int) -> list[Call]:
        """Return the next batch; of what is left, each worker gets several."""
        batch: list[Call] = []
        size = 1
        while len(batch) < size and (call := self._next()) is not None:
            if batch and call.name != batch[0].name:
                self._ahead.append(call)
                break
            batch.append(call)
            if len(batch) == 1 and (seconds := self._seconds.get(call.name)) is not None:
                size = min(LARGEST, int(BATCH / max(seconds, 1e-3)), self._left // (3 * slots))
        self._left -= len(batch)
        return batch

    def _next(self) -> Call | None:
        return self._ahead.popleft() if self._ahead else next(self._work, None)

    def learn(self, call: Call, result: Outcome) -> None:
        """Remember the longest time."""
        if not isinstance(result, Failure):
            seconds = result["provenance"]["seconds"]
            self._seconds[call.name] = max(seconds, self._seconds.get(call.name, 0.0))


@contextmanager
def processes(run: Batch, jobs: int, device: torch.device) -> Iterator[Workers]:
    """Run trials on processes of this machine, each with one thread.

    On Linux they are forked from this one, and so are ready at once, unless that is unsafe: it has
    other threads, or a GPU is used. Otherwise each starts anew and imports all there is.
    """
    safe = sys.platform == "linux" and device.type == "cpu" and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if safe else "spawn")
    gone = (
        "the workers are gone: killed, or out of memory; "
        "what was recorded stays, run again with fewer jobs"
    )
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as executor:
        executor.submit(int)  # starts workers now, before this process has more threads

        def cancel(_: Iterable[Future]) -> None:
            # Not the futures one by one: the executor would fail on them if its workers end, too.
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in list((executor._processes or {}).values()):
                worker.terminate()

        yield Workers(run, executor, lambda: jobs, gone, cancel=cancel)


def _start_worker() -> None:
    """Keep a worker's inner bars quiet, and end it when its driver is stopped or killed."""
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def cluster(run: Batch, address: str, patience: float | None = None) -> Iterator[Workers]:
    """Run trials on a Dask cluster.

    Parameters
    ----------
    run
        What a worker does with a batch.
    address
        Of the scheduler.
    patience
        Seconds after which a cluster without workers is an error; by default it is only named.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--scheduler needs dask: pip install 'mcnn[cluster]'") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no dask scheduler answers at {address} ({error})") from None
    told = False

    def workers() -> int:
        try:
            return sum(client.nthreads().values()) if client.status == "running" else 0
        except OSError as error:  # the connection broke, and the client has yet to notice
            raise McnnError(gone) from error

    def silent(seconds: float) -> None:
        nonlocal told
        if client.status != "running":
            raise McnnError(gone)
        if seconds < min(SILENT, patience or SILENT) or workers():
            return
        text = f"the scheduler at {address} has no worker: start some with `dask worker {address}`"
        if patience is not None and seconds >= patience:
            raise UsageError(text)
        if not told and seconds >= SILENT:
            told = True
            tqdm.write(f"mcnn: {text}; waiting for one", file=sys.stderr)

    def cancel(futures: Iterable[Future]) -> None:
        for future in futures:
            future.cancel()

    gone = (
        f"the scheduler at {address} or its workers are gone; "
        "what was recorded stays, call again when they are back"
    )
    with client:
        executor = client.get_executor(pure=False)
        yield Workers(run, executor, workers, gone, silent, cancel)
