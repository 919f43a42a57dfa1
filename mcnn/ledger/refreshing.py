"""Replacing the records that rest on the most notes, as far as a budget of time goes.

A note says that a sample of the records of older code repeats, and notes follow on notes.
Where a machine is idle, the records furthest from today's code run again, and each that agrees
gives way to one of today's code.
One that does not agree is not replaced in silence: it stays, the new run is kept beside it, see
:mod:`mcnn.ledger.differing`, and it decides nothing until somebody has looked.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn import data
from mcnn.errors import McnnError
from mcnn.ledger import (
    agreement,
    differing,
    notes,
    records,
    registry,
    revalidation,
    runner,
    verification,
)
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.repeats import Repeats


@dataclass(frozen=True)
class Aged:
    """A record that counts, and how many notes it is away from today's code."""

    experiment: Experiment
    record: records.Record
    steps: int

    @property
    def seconds(self) -> float:
        """What its trial took."""
        return self.record.provenance["seconds"]


def oldest(names: Sequence[str], device: torch.device, results: Path) -> tuple[list[Aged], int]:
    """List records that rest on notes: those on the most first, of as many the cheapest first.

    Parameters
    ----------
    names
        Of experiments.
    device
        Records of the other kind of device are left out: their trials may take days here.
    results
        Folder of the records.

    Returns
    -------
    list of Aged
        Those that can run here.
    int
        How many cannot, for their device or because their data are missing.
    """
    found, left_out = [], 0
    here: dict[str | None, bool] = {None: True}
    for experiment in map(registry.get, names):
        reached = notes.steps(experiment, results)
        for record in records.read(experiment, results):
            if not reached.get(record.code):  # stale, or made by today's code
                continue
            name = getattr(record.config, "dataset", None) or None
            if name not in here:
                here[name] = data.status(name).state == "ok"
            on_gpu = record.provenance.get("cuda") is not None
            if here[name] and on_gpu == (device.type == "cuda"):
                found.append(Aged(experiment, record, reached[record.code]))
            else:
                left_out += 1
    return sorted(found, key=lambda aged: (-aged.steps, aged.seconds)), left_out


def within(aged: Sequence[Aged], seconds: float) -> list[Aged]:
    """Keep in their order those that fit a budget, by what their trials took."""
    chosen = []
    for one in aged:
        if one.seconds <= seconds:
            seconds -= one.seconds
            chosen.append(one)
    return chosen


def refresh(
    names: Sequence[str], hours: float, device: str, results: Path, jobs: int = 1
) -> tuple[int, int]:
    """Run the oldest records again and replace those that agree, each as it comes.

    What is stopped in between goes on from there: a record that was replaced rests on no note.

    Parameters
    ----------
    names
        Of experiments.
    hours
        That this may take: trials are chosen by what they took, and after that time none begins.
    device, results
        As in :func:`mcnn.ledger.verification.spot`.
    jobs
        Processes, each with one thread.

    Returns
    -------
    int
        How many records were replaced.
    int
        How many were not, for their trial came out otherwise or did not run.

    Raises
    ------
    UsageError
        If today's code is in no commit: its records would decide nothing.
    """
    where = runner.resolve_device(device)
    known, left_out = oldest(names, where, results)
    todo = within(known, hours * 3600 * jobs)
    total = sum(one.seconds for one in todo)
    text = f"{len(known)} records rest on notes, {len(todo)} fit into {hours:g} h"
    print(text + (f"; {left_out} more cannot run here" if left_out else ""))
    if not todo:
        return 0, 0
    revalidation.committed({one.experiment.name: one.experiment for one in todo}.values())
    everything = {
        e.name: records.held(e, results)
        for e in {o.experiment.name: o.experiment for o in todo}.values()
    }
    calls = [(one.experiment, one.record.profile, one.record.config) for one in todo]
    end = time.monotonic() + hours * 3600
    replaced = failed = 0
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s as recorded [{elapsed}<{remaining}]"
    bar_of = tqdm(total=total, desc="trials", bar_format=form, disable=None)
    with bar_of as bar, Repeats() as told:
        for number, line in runner.again(calls, where, jobs):
            one = todo[number]
            problem = _replaced(one, line, everything[one.experiment.name], results)
            text = f"mcnn: {one.record.experiment} {one.record.key}: {problem}"
            if isinstance(line, McnnError):
                told.tell(one.record.experiment, problem, text)
            elif problem:
                tqdm.write(text, sys.stderr)
            failed += bool(problem)
            replaced += not problem
            bar.update(one.seconds)
            if time.monotonic() > end:
                break
    return replaced, failed


def _replaced(
    one: Aged,
    line: dict[str, Any] | McnnError,
    others: Sequence[records.Record],
    results: Path,
) -> str:
    """Replace a record by a run that agrees with it, else return why it stays."""
    if isinstance(line, McnnError):
        return f"did not run, and stays: {line}"
    if flaw := records.Record(line, one.record.config).flaw:
        return f"stays, for the new run decides nothing: {flaw}"
    found: agreement.Agreement = verification.compared(one.experiment, one.record, line, others)
    if not found.good:
        digest = one.record.line["digest"]
        file = differing.keep(line, digest, str(found), results)
        return f"no longer comes out; it decides nothing now, and the new run is in {file}"
    records.append([line], records.path(one.experiment.name, results), overwrite=True)
    return ""
