"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn import experiments, provenance, records, runner
from mcnn.errors import McnnError, UsageError


def problems(results: Path) -> list[str]:
    """Return a line for each record or note that is damaged, altered or foreign."""
    found = []
    for file in sorted(results.glob("*.jsonl")):
        if file.name == records.REVALIDATIONS:
            found += records.scan_notes(results)[1]
        elif file.stem in experiments.all_experiments():
            found += records.scan(file)[1]
        else:
            found.append(f"{file}:1: foreign: no experiment {file.stem!r}")
    return found


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

    Every version of the code that made some of them is sampled, ``count`` records of each.

    Returns
    -------
    int
        0 if they agree or none is stale, else 1.
    """
    stale = [r for r in records.read(name, results) if r.stale]
    if not stale:
        print(f"{name}: no record is stale")
        return 0
    older = sorted({r.provenance["code"] for r in stale})
    of_each = [[r for r in stale if r.provenance["code"] == code] for code in older]
    chosen = [r for group in of_each for r in _sample(group, count, seed)]
    if not _again(chosen, device):
        print(f"{name}: the records do not hold under today's code; run it with --redo-stale")
        return 1
    note = {
        "experiment": name,
        "older": older,
        "sample": [r.key for r in chosen],
        "noted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    module = experiments.get(name).run.__module__
    note |= provenance.describe(module, runner.resolve_device(device))
    file = results / records.REVALIDATIONS
    records.append([records.seal(note)], file)
    print(f"{name}: {len(stale)} stale records hold; noted in {file}")
    return 0


def _sample(found: Sequence[records.Record], count: int, seed: int | None) -> list[records.Record]:
    return random.Random(seed).sample(list(found), min(count, len(found)))


def _again(chosen: Sequence[records.Record], device: str) -> bool:
    """Run the trials again, print how far each is off, and say whether all agree."""
    agree = True
    for record in tqdm(chosen, unit="trial", disable=None, leave=False):
        tolerance = experiments.get(record.experiment).tolerance
        difference = rerun(record, runner.resolve_device(device))
        good = difference <= tolerance
        agree &= good
        word = "agrees" if good else "DIFFERS"
        tqdm.write(
            f"{record.experiment} {record.key} {word}: largest difference {difference:.3g}, "
            f"tolerance {tolerance:g}"
        )
    return agree


def rerun(record: records.Record, device: torch.device) -> float:
    """Run a recorded trial again and return by how much its metrics differ at most.

    Raises
    ------
    McnnError
        If the metrics have another shape.
    """
    line = runner.run_trial(record.experiment, record.profile, record.config, device)
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
