"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from mcnn import experiments, provenance, records, runner
from mcnn.errors import UsageError


def foreign_files(results: Path) -> list[str]:
    """Return a line for each file of records that belongs to no experiment."""
    known = {*(f"{name}.jsonl" for name in experiments.all_experiments()), records.REVALIDATIONS}
    files = sorted(results.glob("*.jsonl"))
    return [f"{f}:1: foreign: no experiment {f.stem!r}" for f in files if f.name not in known]


def spot(count: int, device: str, results: Path, seed: int | None = None) -> int:
    """Run recorded trials again, chosen at random, and compare.

    Returns
    -------
    int
        0 if all agree within the tolerance of their experiment, else 1.

    Raises
    ------
    UsageError
        If there is no record to run again.
    """
    names = experiments.all_experiments()
    found = [r for name in names for r in records.read(name, results) if not r.stale]
    if not found:
        raise UsageError(f"no fresh records in {results}")
    return 0 if _again(_sample(found, count, seed), device) else 1


def revalidate(name: str, count: int, device: str, results: Path, seed: int | None = None) -> int:
    """Run a sample of an experiment's stale records again; if all agree, note that they hold.

    Returns
    -------
    int
        0 if they agree or none is stale, else 1.
    """
    stale = [r for r in records.read(name, results) if r.stale]
    if not stale:
        print(f"{name}: no record is stale")
        return 0
    chosen = _sample(stale, count, seed)
    if not _again(chosen, device):
        print(f"{name}: the records do not hold under today's code; run it with --redo-stale")
        return 1
    where = runner.resolve_device(device)
    module = experiments.get(name).run.__module__
    made = provenance.describe(module, where)
    note = {
        "experiment": name,
        "older": sorted({r.provenance["code"] for r in stale}),
        "sample": [r.key for r in chosen],
        "noted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    records.append([records.seal(note | made)], results / records.REVALIDATIONS)
    print(f"{name}: {len(stale)} stale records hold; noted in {results / records.REVALIDATIONS}")
    return 0


def _sample(found: Sequence[records.Record], count: int, seed: int | None) -> list[records.Record]:
    return random.Random(seed).sample(list(found), min(count, len(found)))


def _again(chosen: Sequence[records.Record], device: str) -> bool:
    """Run the trials again, print how far each is off, and say whether all agree."""
    agree = True
    for record in tqdm(chosen, unit="trial", disable=None, leave=False):
        tolerance = experiments.get(record.experiment).tolerance
        difference = runner.rerun(replace(record), runner.resolve_device(device))
        good = difference <= tolerance
        agree &= good
        word = "agrees" if good else "DIFFERS"
        print(
            f"{record.experiment} {record.key} {word}: largest difference {difference:.3g}, "
            f"tolerance {tolerance:g}"
        )
    return agree
