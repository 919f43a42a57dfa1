"""Running trials: those that have no record yet, here, on several processes, or on a cluster.

The trials are independent, so every engine is an executor that maps a trial to its record.
The driver alone writes records, each as soon as it comes.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn import data, experiments, project, provenance, records
from mcnn.errors import McnnError, UsageError
from mcnn.experiments.base import PROFILES, Experiment, Trial


@dataclass(frozen=True)
class Plan:
    """What is to be run of one experiment, and what need not be."""

    experiment: Experiment
    profile: str
    todo: tuple[Trial, ...]
    done: int
    stale: int


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device that is there.

    Raises
    ------
    UsageError
        If ``cuda`` is asked for and PyTorch finds none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"no device {name!r}; there are: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device here; use --device auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def plan(
    name: str,
    profile: str = "fast",
    seeds: Sequence[int] | None = None,
    results: Path | None = None,
    where: dict[str, str] | None = None,
    redo_stale: bool = False,
) -> Plan:
    """List the trials of an experiment that have no record yet.

    Parameters
    ----------
    name
        The experiment.
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

    Raises
    ------
    UsageError
        For an unknown experiment, profile or field, or if ``where`` leaves no trial.
    """
    experiment = experiments.get(name)
    if profile not in PROFILES:
        raise UsageError(f"no profile {profile!r}; there are: {', '.join(PROFILES)}")
    trials = experiment.trials(profile, experiment.seeds[profile] if seeds is None else seeds)
    for field, value in (where or {}).items():
        if trials and not hasattr(trials[0], field):
            known = ", ".join(trials[0].config())
            raise UsageError(f"trials of {name} have no field {field!r}; they have: {known}")
        values = {str(getattr(trial, field)) for trial in trials}
        trials = [trial for trial in trials if str(getattr(trial, field)) == value]
        if not trials:
            known = ", ".join(sorted(values))
            raise UsageError(
                f"no {profile} trial of {name} has {field}={value}; there are: {known}"
            )
    found = {r.key: r for r in records.read(name, results, profile)}
    keys = {experiment.key(profile, trial): trial for trial in trials}
    stale = {key for key in keys if key in found and found[key].stale}
    done = {key for key in keys if key in found} - (stale if redo_stale else set())
    todo = tuple(trial for key, trial in keys.items() if key not in done)
    return Plan(experiment, profile, todo, len(done), len(stale))


def run(
    plans: Sequence[Plan],
    device: torch.device,
    results: Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    report: Callable[[records.Record], None] = lambda record: None,
) -> None:
    """Run what the plans list, and write each record as it comes.

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
        Address of a ``dask.distributed`` scheduler, whose workers then run the trials.
    report
        Called with each new record.

    Raises
    ------
    McnnError
        What a trial or the results folder complains of; what was recorded before stays.
    """
    work = [(p, trial) for p in plans for trial in p.todo]
    for folder in {results or project.results_dir(p.profile) for p in plans}:
        _check_writable(folder)
    _check_data(trial for _, trial in work)
    bar = tqdm(total=len(work), unit="trial", desc="trials", disable=None, smoothing=0)
    with bar, _executor(jobs, scheduler) as executor:
        for p, line in _results(executor, work, device):
            file = records.path(p.experiment.name, results or project.results_dir(p.profile))
            records.append([line], file, overwrite=True)
            bar.update()
            report(records.Record(line))


def _results(
    executor: Executor | None, work: list[tuple[Plan, Trial]], device: torch.device
) -> Iterator[tuple[Plan, dict[str, Any]]]:
    if executor is None:
        for p, trial in work:
            yield p, run_trial(p.experiment.name, p.profile, trial, device)
        return
    futures = {
        executor.submit(run_trial, p.experiment.name, p.profile, trial, device): p
        for p, trial in work
    }
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def run_trial(name: str, profile: str, trial: Trial, device: torch.device) -> dict[str, Any]:
    """Run one trial and return its sealed record.

    CPU trials run on one thread: sums then come in one order, and the numbers repeat exactly.
    """
    experiment = experiments.get(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        metrics = experiment.run(trial, device)
    finally:
        torch.set_num_threads(threads)
    dataset = getattr(trial, "dataset", None)
    made_by = provenance.describe(experiment.run.__module__, device) | {
        "data": dataset and data.load(dataset).fingerprint,
        "seconds": round(time.perf_counter() - start, 3),
        "peak_memory_bytes": provenance.peak_memory(device),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    line = {
        "experiment": name,
        "profile": profile,
        "hash": experiment.key(profile, trial),
        "config": trial.config(),
        "metrics": metrics,
        "provenance": made_by,
    }
    return records.seal(line)


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
    """Keep a worker's inner bars quiet, and end it when its driver is killed."""
    os.environ["TQDM_DISABLE"] = "1"
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
    for name in sorted({getattr(trial, "dataset", None) or "" for trial in trials} - {""}):
        data.load(name)


def rerun(record: records.Record, device: torch.device) -> float:
    """Run a recorded trial again and return by how much its metrics differ at most.

    Raises
    ------
    McnnError
        If the metrics have another shape.
    """
    line = run_trial(record.experiment, record.profile, record.config, device)
    try:
        return _difference(record.metrics, line["metrics"])
    except ValueError as error:
        raise McnnError(f"trial {record.key} of {record.experiment}: {error}") from None


def _difference(a: Any, b: Any, place: str = "metrics") -> float:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((_difference(a[k], b[k], f"{place}.{k}") for k in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return max((_difference(x, y, f"{place}[{i}]") for i, (x, y) in pairs), default=0.0)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b)
    if a == b:
        return 0.0
    raise ValueError(f"{place} is no longer the same")
