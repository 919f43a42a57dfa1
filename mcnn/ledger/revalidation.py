"""Notes that records of older code still hold: by a sample that runs again, or by a proof.

A note stands beside the records and leads from the hash of today's code to older ones.
A sample says that the numbers repeat; a proof says that the code only moved.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn.errors import McnnError
from mcnn.ledger import agreement, moves, provenance, records, registry, runner
from mcnn.ledger.experiment import Experiment

_DRAWN = 4  # times the size of a sample are drawn at random; the cheapest of them run


@dataclass(frozen=True)
class Group:
    """Experiments of one code: they share ``run`` and the trial, and so what a sample shows.

    Attributes
    ----------
    experiments
        In the order of the registry.
    older
        The hashes that made some of their stale records.
    sample
        Records to run again, some for each of those hashes, the cheapest first.
    stale
        Number of stale records of each experiment.
    records
        All that are recorded of them, for the spread over seeds.
    """

    experiments: tuple[Experiment, ...]
    older: tuple[str, ...]
    sample: tuple[records.Record, ...]
    stale: dict[str, int]
    records: tuple[records.Record, ...]

    @property
    def seconds(self) -> float:
        """What the sample took when it was recorded."""
        return sum(r.provenance["seconds"] for r in self.sample)


def groups(names: Sequence[str], count: int, results: Path, seed: int | None = None) -> list[Group]:
    """Choose what to run again so that the stale records of experiments count once more.

    For each version of the code that made some of them, ``count`` records: the cheapest of
    several times as many that are drawn at random.

    Parameters
    ----------
    names
        Of experiments; those without stale records are passed over.
    count
        Records for each hash.
    results
        Folder of the records.
    seed
        Of the choice; by default a new one each time.
    """
    by_code: dict[tuple[str, ...], list[Experiment]] = {}
    for name in names:
        experiment = registry.get(name)
        by_code.setdefault(experiment.roots, []).append(experiment)
    rng = random.Random(seed)
    found = []
    for experiments in by_code.values():
        held = {e.name: records.read(e.name, results) for e in experiments}
        stale = {name: [r for r in group if r.stale] for name, group in held.items()}
        everything = [r for group in stale.values() for r in group]
        older = sorted({r.provenance["code"] for r in everything})
        sample: list[records.Record] = []
        for code in older:
            made = [r for r in everything if r.provenance["code"] == code]
            drawn = rng.sample(made, min(_DRAWN * count, len(made)))
            drawn.sort(key=lambda r: r.provenance["seconds"])
            sample += drawn[:count]
        if sample:
            numbers = {name: len(group) for name, group in stale.items() if group}
            recorded = tuple(r for group in held.values() for r in group)
            found.append(Group(tuple(experiments), tuple(older), tuple(sample), numbers, recorded))
    return found


def revalidate(
    names: Sequence[str],
    count: int,
    device: str,
    results: Path,
    seed: int | None = None,
    jobs: int = 1,
) -> int:
    """Run samples of stale records again; where all agree, note that they hold.

    Parameters
    ----------
    names, count, results, seed
        As in :func:`groups`.
    device
        Where the trials run.
    jobs
        Processes, each with one thread.

    Returns
    -------
    int
        0 if all agree or none is stale, else 1.
    """
    todo = groups(names, count, results, seed)
    if not todo:
        print("no record is stale" if len(names) > 1 else f"{names[0]}: no record is stale")
        return 0
    where = runner.resolve_device(device)
    work = [(group, record) for group in todo for record in group.sample]
    work.sort(key=lambda item: -item[1].provenance["seconds"])  # long ones last would wait alone
    calls = [(record.experiment, record.profile, record.config) for _, record in work]
    left = {id(group): len(group.sample) for group in todo}
    outcomes: dict[int, dict[str, str]] = {id(group): {} for group in todo}
    differ: set[int] = set()
    total = sum(group.seconds for group in todo)
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s as recorded [{elapsed}<{remaining}]"
    bar = tqdm(total=total, desc="trials", bar_format=form, disable=None)
    with bar:
        for number, line in runner.again(calls, where, jobs):
            group, record = work[number]
            found = _agrees(record, line, group.records)
            if not found.good:
                differ.add(id(group))
            outcomes[id(group)][record.key] = found.word
            left[id(group)] -= 1
            if not left[id(group)] and id(group) not in differ:
                _note(group, outcomes[id(group)], where, results)
            bar.update(record.provenance["seconds"])
    for group in todo:
        if id(group) in differ:
            for experiment in group.experiments:
                print(
                    f"{experiment.name}: the records do not hold under today's code; "
                    "run it with --redo-stale"
                )
    return 1 if differ else 0


def _agrees(
    record: records.Record, line: dict[str, Any] | McnnError, others: Sequence[records.Record]
) -> agreement.Agreement:
    """Compare a trial that ran again with its record, and print how they differ."""
    if isinstance(line, McnnError):
        found = agreement.Agreement("DIFFERS", math.inf, str(line))
    else:
        tolerance = registry.get(record.experiment).tolerance
        found = agreement.compare(record, line["metrics"], tolerance, others)
    tqdm.write(f"{record.experiment} {record.key} {found}")
    return found


def _note(group: Group, outcomes: dict[str, str], device: Any, results: Path) -> None:
    sample = [record.key for record in group.sample]
    for name, number in group.stale.items():
        experiment = registry.get(name)
        _append(
            experiment, group.older, sample, results, provenance.describe(experiment.roots, device)
        )
        tqdm.write(
            f"{name}: {number} stale records hold; noted in {results / records.REVALIDATIONS}"
        )


def _append(
    experiment: Experiment,
    older: Sequence[str],
    sample: Sequence[str],
    results: Path,
    made: dict[str, Any],
) -> None:
    note = {
        "experiment": experiment.name,
        "older": list(older),
        "sample": list(sample),
        "noted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    records.append([records.seal(note | made)], results / records.REVALIDATIONS)


def prove_moves(names: Sequence[str], commit: str, map_file: Path, results: Path) -> int:
    """Prove for experiments that the code only moved since a commit, and note it.

    Parameters
    ----------
    names
        Of experiments.
    commit
        The old version, as git names it.
    map_file
        The moves, see :mod:`mcnn.ledger.moves`.
    results
        Folder of the records.

    Returns
    -------
    int
        0 if all are proved, else 1: the others get no note.
    """
    moved = moves.read_map(map_file)
    root = provenance.here().root
    proved = 0
    with moves.checkout(commit, root) as tree:
        full = moves.full_commit(commit, root)
        fresh = moves.fresh_codes(tree)
        old, new = moves.Version(tree, moved), moves.Version(root)
        for name in tqdm(names, unit="experiment", disable=None, leave=False):
            experiment = registry.get(name)
            reasons = moves.unproved(old, new, experiment.roots)
            if reasons:
                more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
                print(f"{name}: not proved: {'; '.join(reasons[:3])}{more}")
                continue
            proved += 1
            now = provenance.code_hash(experiment.roots)
            older = [code for code in fresh.get(name, []) if code != now]
            if set(older) - records.fresh_codes(experiment, results):
                made = {"moved": {"commit": full, "map": moved}}
                made |= provenance.code_state(experiment.roots)
                _append(experiment, older, [], results, made)
    print(f"{proved} of {len(names)} experiments are proved to be the same as in {full[:7]}")
    return 0 if proved == len(names) else 1
