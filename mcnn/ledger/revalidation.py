"""Notes that records of older code still hold: by a sample that runs again, or by a proof.

A note stands beside the records and leads from the hash of today's code to older ones.
A sample says that the numbers repeat; a proof says that the code only moved.
"""

import random
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn.errors import McnnError, UsageError
from mcnn.ledger import moves, provenance, records, registry, runner, verification
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.repeats import Repeats

_DRAWN = 8  # times the size of a sample are drawn at random; the cheapest of them run
_DIFFER = "the records do not hold under today's code; run it with --redo-stale"


@dataclass(frozen=True)
class Group:
    """Experiments of one code: they share ``run`` and the trial, and so what a sample shows.

    Attributes
    ----------
    experiments
        Those with stale records, in the order of the registry.
    older
        The hashes that made some of their stale records.
    sample
        Records to run again with their experiments, some for each of those hashes.
    stale
        Number of stale records of each experiment.
    records
        All that are recorded of them, for the spread over seeds.
    """

    experiments: tuple[Experiment, ...]
    older: tuple[str, ...]
    sample: tuple[tuple[Experiment, records.Record], ...]
    stale: tuple[int, ...]
    records: tuple[records.Record, ...]


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
    by_code: dict[tuple[str, ...], list[tuple[Experiment, list[records.Record]]]] = {}
    held: dict[tuple[str, ...], list[records.Record]] = {}
    for experiment in map(registry.get, names):
        recorded = [r for r in records.held(experiment, results) if r.flaw is None]
        held.setdefault(experiment.roots, []).extend(recorded)
        stale = [r for r in recorded if r.stale]
        if stale:
            by_code.setdefault(experiment.roots, []).append((experiment, stale))
    rng = random.Random(seed)
    chosen = []
    for roots, members in by_code.items():
        everything = [(experiment, r) for experiment, stale in members for r in stale]
        older = sorted({r.provenance["code"] for _, r in everything})
        sample: list[tuple[Experiment, records.Record]] = []
        for code in older:
            made = [pair for pair in everything if pair[1].provenance["code"] == code]
            drawn = rng.sample(made, min(_DRAWN * count, len(made)))
            sample += sorted(drawn, key=_seconds)[:count]
        experiments, stale = zip(*members, strict=True)
        numbers = tuple(map(len, stale))
        recorded = tuple(held[roots])
        chosen.append(Group(experiments, tuple(older), tuple(sample), numbers, recorded))
    return chosen


def _seconds(pair: tuple[Experiment, records.Record]) -> float:
    return pair[1].provenance["seconds"]


def revalidate(
    names: Sequence[str],
    count: int,
    device: str,
    results: Path,
    seed: int | None = None,
    jobs: int = 1,
) -> int:
    """Run samples of stale records again; where all agree, note that they hold.

    The cheapest trials run first, and a note is written as soon as the sample of its group has
    run: what is stopped in between goes on from there.

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
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    todo = groups(names, count, results, seed)
    if not todo:
        print("no record is stale" if len(names) > 1 else f"{names[0]}: no record is stale")
        return 0
    committed(experiment for group in todo for experiment in group.experiments)
    where = runner.resolve_device(device)
    work = [(group, pair) for group in todo for pair in group.sample]
    work.sort(key=lambda item: _seconds(item[1]))
    calls = [(experiment, r.profile, r.config) for _, (experiment, r) in work]
    left = {id(group): len(group.sample) for group in todo}
    failed: dict[int, str] = {}
    outcomes: dict[int, dict[str, Any]] = {id(group): {} for group in todo}
    total = sum(_seconds(pair) for _, pair in work)
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s as recorded [{elapsed}<{remaining}]"
    bar_of = tqdm(total=total, desc="trials", bar_format=form, disable=None)
    with bar_of as bar, Repeats(sys.stdout) as told:
        for number, line in runner.again(calls, where, jobs):
            group, (experiment, record) = work[number]
            if isinstance(line, McnnError):
                text = f"{record.experiment} {record.key} did not run: {line}"
                told.tell(record.experiment, str(line), text)
                failed.setdefault(id(group), "not revalidated, for a trial did not run")
            else:
                result = verification.compared(experiment, record, line, group.records)
                outcomes[id(group)][record.key] = {
                    "experiment": record.experiment,
                    "code": record.provenance["code"],
                    "agreement": result.word,
                    "difference": result.difference,
                }
                if not result.good:
                    failed[id(group)] = _DIFFER
            left[id(group)] -= 1
            if not left[id(group)] and id(group) not in failed:
                _note(group, outcomes[id(group)], where, results, seed)
            bar.update(record.provenance["seconds"])
    for group in todo:
        for experiment in group.experiments if id(group) in failed else ():
            print(f"{experiment.name}: {failed[id(group)]}")
    return 1 if failed else 0


def committed(experiments: Iterable[Experiment]) -> None:
    """Find out before the work that its notes and records would name no commit.

    Raises
    ------
    UsageError
        If the code of one is in none: nobody could check what comes of it.
    """
    for experiment in experiments:
        state = provenance.code_state(experiment.roots)
        if not state["commit"] or state["dirty"] is not False:
            raise UsageError(
                f"the code of {experiment.name} is in no commit, and what it makes names one: "
                "commit first"
            )


def _note(group: Group, outcomes: dict[str, Any], device: Any, results: Path, seed: int) -> None:
    for experiment, number in zip(group.experiments, group.stale, strict=True):
        made = {"seed": seed} | provenance.describe(experiment.roots, device)
        _append(experiment, group.older, outcomes, results, made)
        place = results / records.REVALIDATIONS
        tqdm.write(f"{experiment.name}: {number} stale records hold; noted in {place}")


def _append(
    experiment: Experiment,
    older: Sequence[str],
    sample: Mapping[str, Any] | Sequence[str],
    results: Path,
    made: dict[str, Any],
) -> None:
    note = {
        "experiment": experiment.name,
        "older": list(older),
        "sample": sample,
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
    committed(map(registry.get, names))
    root = provenance.here().root
    proved = 0
    with moves.checkout(commit, root) as tree:
        full = moves.full_commit(commit, root)
        fresh = {name: told["fresh"] for name, told in moves.described(tree).items()}
        old, new = moves.Version(tree, moved), moves.Version(root)
        for experiment in tqdm(
            list(map(registry.get, names)), unit="experiment", disable=None, leave=False
        ):
            name = experiment.name
            reasons = moves.unproved(old, new, experiment.roots)
            if reasons:
                more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
                tqdm.write(f"{name}: not proved: {'; '.join(reasons[:3])}{more}")
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
