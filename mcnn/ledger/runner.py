"""Running trials: those that have no record yet, here, on several processes, or on a cluster.

The trials are independent, so every engine is an executor that maps a trial to its record.
The driver alone writes records, each as soon as it comes; a trial that fails stops no other.
"""

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn import data
from mcnn.errors import McnnError, TrialError, UsageError, unknown
from mcnn.ledger import execution, project, provenance, records, registry
from mcnn.ledger.experiment import Experiment, Trial

_GONE = (
    "the workers are gone: killed, or out of memory; "
    "what was recorded stays, run again with fewer jobs"
)


@dataclass(frozen=True)
class Plan:
    """What is to be run of one experiment, and what need not be or cannot.

    ``left_out`` trials are on data sets that are missing and that no command can download.
    """

    experiment: Experiment
    profile: str
    todo: tuple[Trial, ...]
    done: int
    stale: int
    left_out: int = 0


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device that is there.

    Raises
    ------
    UsageError
        If ``cuda`` is asked for and PyTorch finds none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device here; use --device auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def plan(
    experiment: Experiment | str,
    profile: str = "fast",
    seeds: Sequence[int] | None = None,
    results: Path | None = None,
    where: dict[str, str] | None = None,
    redo_stale: bool = False,
    scheduler: str | None = None,
) -> Plan:
    """List the trials of an experiment that have no record yet.

    Those on a missing data set that must be asked for are left out, unless they are named.

    Parameters
    ----------
    experiment
        An experiment or its name.
    profile
        ``"fast"`` or ``"full"``.
    seeds
        By default the experiment's own for this profile.
    results
        Folder of the records, by default the profile's own.
    where
        Keep only the trials with these values of these fields, compared as text.
    redo_stale
        Whether trials whose records were made by older code run again.
    scheduler
        As in :func:`run`: the data are then where the workers are, and nothing is left out.

    Raises
    ------
    UsageError
        For an unknown experiment, profile or field, or if ``where`` leaves no trial.
    DataError
        If ``where`` names a data set that is missing and that no command can download.
    """
    if isinstance(experiment, str):
        experiment = registry.get(experiment)
    name = experiment.name
    if profile not in project.PROFILES:
        raise unknown("profile", profile, project.PROFILES)
    trials = experiment.trials(profile, experiment.seeds[profile] if seeds is None else seeds)
    fields = [f.name for f in dataclasses.fields(experiment.trial)]
    for field, value in (where or {}).items():
        if field not in fields:
            raise unknown(f"field of {name}'s trials", field, fields)
        values = {str(getattr(trial, field)) for trial in trials}
        trials = [trial for trial in trials if str(getattr(trial, field)) == value]
        if not trials:
            known = ", ".join(sorted(values))
            raise UsageError(
                f"no {profile} trial of {name} has {field}={value}; there are: {known}"
            )
    held = {r.key: r for r in records.read(experiment, results, profile)}
    keys = {experiment.key(profile, trial): trial for trial in trials}
    stale = {key for key in keys if key in held and held[key].stale}
    done = {key for key in keys if key in held} - (stale if redo_stale else set())
    todo = tuple(trial for key, trial in keys.items() if key not in done)
    needed = set() if scheduler else _datasets(todo)
    absent = {name for name in needed if _must_be_asked_for(name)}
    if (named := (where or {}).get("dataset")) in absent:
        data.load(named)  # says what to do
    at_hand = tuple(trial for trial in todo if not _datasets([trial]) & absent)
    left_out = len(todo) - len(at_hand)
    return Plan(experiment, profile, at_hand, len(done), len(stale), left_out)


def _datasets(trials: Iterable[Trial]) -> set[str]:
    return {getattr(trial, "dataset", None) or "" for trial in trials} - {""}


def _must_be_asked_for(name: str) -> bool:
    known = data.DATASETS.get(name)
    return known is not None and known.fetch is None and data.status(name).state == "missing"


def run(
    plans: Sequence[Plan],
    device: torch.device,
    results: Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
) -> None:
    """Run what the plans list, and write each record as it comes.

    A trial that fails is named on stderr, and the others run on.

    Parameters
    ----------
    plans
        From :func:`plan`.
    device
        Of every trial.
    results
        Folder of the records, by default the profile's own.
    jobs
        Processes on this machine, each with one thread.
    scheduler
        Address of a ``dask.distributed`` scheduler, whose workers then run the trials and have
        the data.

    Raises
    ------
    TrialError
        If trials failed; the others are recorded.
    McnnError
        If data are missing, the results folder cannot be written, or the workers are gone or run
        other code; what was recorded before stays.
    """
    work = [(p, trial) for p in plans for trial in p.todo]
    for folder in {results or project.results_dir(p.profile) for p in plans}:
        _check_writable(folder)
    if not scheduler:
        _check_data(trial for _, trial in work)
    codes = {p.experiment.name: provenance.code_state(p.experiment.roots)["code"] for p in plans}
    failures = []
    bar = tqdm(total=len(work), unit="trial", desc="trials", disable=None, smoothing=0)
    with bar, _executor(min(jobs, len(work)), scheduler) as executor:
        for p, trial, finish in _finished(executor, work, device):
            name = p.experiment.name
            try:
                line = finish()
            except (BrokenExecutor, CancelledError) as error:
                raise McnnError(_GONE) from error
            except Exception as error:
                failures.append(f"{name} failed on {trial}: {_first_line(error)}")
                shown = [] if isinstance(error, McnnError) else traceback.format_exception(error)
                tqdm.write("".join([*shown, failures[-1]]), file=sys.stderr)
            else:
                if line["provenance"]["code"] != codes[name]:
                    raise UsageError(f"a worker runs other code of {name} than is here: update it")
                file = records.path(name, results or project.results_dir(p.profile))
                records.append([line], file, overwrite=True)
            bar.update()
    if failures:
        raise TrialError(f"{len(failures)} of {len(work)} trials failed, first {failures[0]}")


def again(
    calls: Sequence[tuple[Experiment, str, Trial]], device: torch.device, jobs: int = 1
) -> Iterator[tuple[int, dict[str, Any] | McnnError]]:
    """Run recorded trials again, in their order, and yield the number and the line of each.

    Parameters
    ----------
    calls
        Experiment, profile and trial.
    device
        Of every trial.
    jobs
        Processes on this machine, each with one thread; trials then end in any order.

    Yields
    ------
    int
        Which of the calls.
    dict or McnnError
        Its record, or why it has none: one that fails stops no other.

    Raises
    ------
    McnnError
        If the workers are gone.
    """
    work = [(Plan(e, profile, (trial,), 0, 0), trial) for e, profile, trial in calls]
    numbers = {id(plan): number for number, (plan, _) in enumerate(work)}
    with _executor(min(jobs, len(work)), None) as executor:
        for plan, _, finish in _finished(executor, work, device):
            yield numbers[id(plan)], _outcome(finish)


def _outcome(finish: Callable[[], dict[str, Any]]) -> dict[str, Any] | McnnError:
    try:
        return finish()
    except McnnError as error:
        return error
    except (BrokenExecutor, CancelledError) as error:
        raise McnnError(_GONE) from error
    except Exception as error:
        return TrialError(_first_line(error))


def _finished(
    executor: Executor | None, work: list[tuple[Plan, Trial]], device: torch.device
) -> Iterator[tuple[Plan, Trial, Callable[[], dict[str, Any]]]]:
    """Yield each piece of work when it is done, with the call that gives its outcome."""
    if executor is None:
        for p, trial in work:
            yield p, trial, partial(run_trial, p.experiment, p.profile, trial, device)
        return
    futures = {}
    for p, trial in work:  # only a name can be sent to another process
        call = partial(run_trial, p.experiment.name, p.profile, trial, device)
        futures[executor.submit(call)] = (p, trial)
    try:
        for future in as_completed(futures):
            yield *futures[future], future.result
    finally:
        for future in futures:
            future.cancel()


def _first_line(error: Exception) -> str:
    text = str(error) if isinstance(error, McnnError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]


def run_trial(
    experiment: Experiment | str, profile: str, trial: Trial, device: torch.device
) -> dict[str, Any]:
    """Run one trial and return its sealed record.

    Parameters
    ----------
    experiment
        An experiment; or its name, which is what can be sent to another process.
    profile
        That the trial belongs to.
    trial
        Its configuration.
    device
        Where it runs.
    """
    if isinstance(experiment, str):
        experiment = registry.get(experiment)
    with execution.one_at_a_time:  # memory is measured of the whole process, too
        provenance.code_state(experiment.roots)  # before: files may be edited while it runs
        provenance.reset_peak_memory(device)
        start = time.perf_counter()
        metrics = execution.execute(experiment, trial, device)
        seconds = time.perf_counter() - start
        peak = provenance.peak_memory(device)
    made_by = provenance.describe(experiment.roots, device) | {
        "data": _fingerprint(getattr(trial, "dataset", None)),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    line = {
        "experiment": experiment.name,
        "profile": profile,
        "hash": experiment.key(profile, trial),
        "config": trial.config(),
        "metrics": metrics,
        "provenance": made_by,
    }
    return records.seal(line)


@cache
def _fingerprint(dataset: str | None) -> str | None:
    """Return the fingerprint of a data set; reading one takes a while."""
    return dataset and data.load(dataset).fingerprint


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor | None]:
    if scheduler:
        with _cluster(scheduler) as executor:
            yield executor
    elif jobs > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as executor:
            yield executor
    else:
        yield None


def _start_worker() -> None:
    """Keep a worker's inner bars quiet, and end it when its driver is stopped or killed."""
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--scheduler needs dask: pip install 'mcnn[cluster]'") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"no dask scheduler answers at {address} ({error})") from None
    with client:
        yield client.get_executor(pure=False)


def _check_writable(folder: Path) -> None:
    """Find out before the first trial, not after it, that its record cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror}; choose another with --results"
        ) from None


def _check_data(trials: Iterator[Trial]) -> None:
    """Find out before the first trial that a data set is missing or damaged."""
    for name in sorted(_datasets(trials)):
        data.load(name)
