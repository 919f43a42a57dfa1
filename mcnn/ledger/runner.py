"""Running trials: those that have no record yet, here, on several processes, or on a cluster.

The trials are independent, and what runs them is an engine, see :mod:`mcnn.ledger.engines`.
The driver alone writes records, each as soon as it comes; a trial that fails stops no other.
Several drivers on one folder share the work, see :mod:`mcnn.ledger.leases`.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn import data
from mcnn.errors import McnnError, RecordError, TrialError, UsageError, unknown
from mcnn.ledger import engines, execution, project, provenance, records, registry, store
from mcnn.ledger.engines import Call, Failure
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.leases import Leases
from mcnn.ledger.repeats import Repeats


@dataclass(frozen=True)
class Plan:
    """What is to be run of one experiment, and what need not be or cannot.

    ``flawed`` are those whose record decides nothing, see :attr:`mcnn.ledger.records.Record.flaw`.
    ``left_out`` trials are on data sets that are missing and that no command can download.
    ``replaced`` has the keys of records that new ones are to replace.
    """

    experiment: Experiment
    profile: str
    todo: tuple[Trial, ...]
    done: int
    stale: int
    left_out: int = 0
    flawed: int = 0
    replaced: frozenset[str] = frozenset()


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
        Whether trials run again whose records were made by older code, or decide nothing.
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
    held = {r.key: r for r in records.held(experiment, results, profile)}
    keys = {experiment.key(profile, trial): trial for trial in trials}
    stale = {key for key in keys if key in held and held[key].stale}
    flawed = {key for key in keys if key in held and held[key].flaw} - stale
    replaced = frozenset(stale | flawed) if redo_stale else frozenset()
    done = {key for key in keys if key in held} - replaced
    todo = tuple(trial for key, trial in keys.items() if key not in done)
    needed = set() if scheduler else _datasets(todo)
    absent = {name for name in needed if _must_be_asked_for(name)}
    if (named := (where or {}).get("dataset")) in absent:
        data.load(named)  # says what to do
    at_hand = tuple(trial for trial in todo if not _datasets([trial]) & absent)
    left_out = len(todo) - len(at_hand)
    counts = (len(done), len(stale), left_out, len(flawed))
    return Plan(experiment, profile, at_hand, *counts, replaced)


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
    patience: float | None = None,
) -> int:
    """Run what the plans list, and write each record as it comes.

    A trial that fails is named on stderr, those that fail the same way are counted, and the others
    run on.
    One that another driver runs, or has recorded meanwhile, is left to it.

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
    patience
        Seconds after which a cluster without workers is an error; by default it is waited for.

    Returns
    -------
    int
        How many records were written.

    Raises
    ------
    TrialError
        If trials failed; the others are recorded.
    McnnError
        If data are missing, the results folder cannot be written or is removed, or the workers
        are gone or run other code; what was recorded before stays.
    """
    folders = {p.profile: results or project.results_dir(p.profile) for p in plans}
    for folder in folders.values():
        _check_writable(folder, {p.experiment.name for p in plans if p.todo})
    if not scheduler:
        _check_data(trial for p in plans for trial in p.todo)
    codes = {p.experiment.name: provenance.code_state(p.experiment.roots)["code"] for p in plans}
    total = sum(len(p.todo) for p in plans)
    written: dict[Path, set[str]] = {}
    failures = []
    _warn(plans)
    engine_of = _engine(min(jobs, total), device, scheduler, patience)
    with engine_of as engine, Leases(*folders.values()) as leases, Repeats() as told:
        leases.start()
        work = _Shared(plans, folders, leases)
        bar = tqdm(total=total, unit="trial", desc="trials", disable=None, smoothing=0)
        with bar:
            for call, line in engine.finished(work, device):
                bar.update(1 + work.passed())
                name, folder = call.name, folders[call.profile]
                key = call.experiment.key(call.profile, call.trial)
                if isinstance(line, Failure):
                    failures.append(f"{name} failed on {call.trial}: {line.text}")
                    told.tell(name, line.text, line.shown + failures[-1])
                elif line["provenance"]["code"] != codes[name]:
                    text = f"a worker runs other code of {name} than is here: update it"
                    raise UsageError(text)
                else:
                    file = records.path(name, folder)
                    _check_there(file, written.get(file, set()))
                    records.append([line], file, overwrite=True)
                    written.setdefault(file, set()).add(key)
                leases.give_back(folder, key)
    for file, keys in written.items():
        _check_there(file, keys, every=True)
    if work.elsewhere:
        print(f"mcnn: {work.elsewhere} trials are left to another driver", file=sys.stderr)
    if failures:
        raise TrialError(f"{len(failures)} of {total} trials failed, first {failures[0]}")
    return sum(map(len, written.values()))


class _Shared:
    """The trials of plans, as this driver takes them: not those that another one has."""

    def __init__(self, plans: Sequence[Plan], folders: dict[str, Path], leases: Leases) -> None:
        self._plans, self._folders, self._leases = plans, folders, leases
        self._len = sum(len(p.todo) for p in plans)
        self._before = {
            (p.experiment.name, p.profile): store.find(self._file(p), p.replaced) for p in plans
        }
        self.elsewhere = 0
        self._passed = 0

    def __len__(self) -> int:
        return self._len

    def _file(self, p: Plan) -> Path:
        return records.path(p.experiment.name, self._folders[p.profile])

    def passed(self) -> int:
        """Return how many were left to others since the last call."""
        passed, self._passed = self._passed, 0
        return passed

    def __iter__(self) -> Iterator[Call]:
        for p in self._plans:
            folder = self._folders[p.profile]
            before = self._before[p.experiment.name, p.profile]
            for trial in p.todo:
                key = p.experiment.key(p.profile, trial)
                if not self._leases.take(folder, key):
                    self.elsewhere += 1
                    self._passed += 1
                    continue
                now = store.find(self._file(p), [key]).get(key)
                if now is not None and now != before.get(key):  # recorded since it was planned
                    self._leases.give_back(folder, key)
                    self._passed += 1
                    continue
                yield Call(p.experiment, p.profile, trial)


def _check_there(file: Path, keys: set[str], *, every: bool = False) -> None:
    """Find out that somebody removed what was written, rather than count it."""
    gone = not file.exists() if not every else len(store.find(file, keys)) < len(keys)
    if keys and gone:
        raise RecordError(
            f"{file} was removed or replaced while trials ran, and records of this run with it: "
            "run again, which makes those that are missing"
        )


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
    work = [Call(*call) for call in calls]
    numbers = {id(call): number for number, call in enumerate(work)}
    with _engine(min(jobs, len(work)), device) as engine:
        for call, line in engine.finished(work, device):
            yield numbers[id(call)], TrialError(line.text) if isinstance(line, Failure) else line


def run_batch(calls: Sequence[Call], device: torch.device) -> list[engines.Outcome]:
    """Run trials one after the other; what a worker does."""
    return [engines.outcome(lambda call=call: run_trial(*call, device)) for call in calls]


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
def _engine(
    jobs: int, device: torch.device, scheduler: str | None = None, patience: float | None = None
) -> Iterator[engines.Here | engines.Workers]:
    if scheduler:
        with engines.cluster(run_batch, scheduler, patience) as engine:
            yield engine
    elif jobs > 1:
        with engines.processes(run_batch, jobs, device) as engine:
            yield engine
    else:
        yield engines.Here(run_batch)


def _check_writable(folder: Path, names: Iterable[str]) -> None:
    """Find out before the first trial, not after it, that its record cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
        for name in names:
            if (file := records.path(name, folder)).exists():
                folder = file
                os.close(os.open(file, os.O_RDWR | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror}; choose another with --results"
        ) from None


def _warn(plans: Sequence[Plan]) -> None:
    """Say before the work, not after it, that its records will decide nothing."""
    names = []
    for p in plans:
        state = provenance.code_state(p.experiment.roots)
        in_commit = state["commit"] and state["dirty"] is False
        if p.profile == "full" and p.todo and not in_commit:
            names.append(p.experiment.name)
    if names:
        text = f"the code of {', '.join(names)} is in no commit, so that its records decide nothing"
        print(f"mcnn: {text}: commit first", file=sys.stderr)


def _check_data(trials: Iterator[Trial]) -> None:
    """Find out before the first trial that a data set is missing or damaged."""
    for name in sorted(_datasets(trials)):
        data.load(name)
