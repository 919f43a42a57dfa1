"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mcnn.errors import McnnError, UsageError
from mcnn.ledger import records, registry, runner


def problems(results: Path) -> list[str]:
    """Return a line for each record or note that is damaged, altered or foreign."""
    found = []
    for file in sorted(results.glob("*.jsonl")):
        if file.name == records.REVALIDATIONS:
            found += records.scan_notes(results)[1]
        elif file.stem in registry.all_experiments():
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
    names = registry.all_experiments()
    found = [r for name in names for r in records.read(name, results) if not r.stale]
    if not found:
        raise UsageError(f"no fresh records in {results}")
    return 0 if again(_sample(found, count, seed), device) else 1


def _sample(found: Sequence[records.Record], count: int, seed: int | None) -> list[records.Record]:
    return random.Random(seed).sample(list(found), min(count, len(found)))


def again(chosen: Sequence[records.Record], device: str) -> bool:
    """Run the trials again, print how far each is off, and say whether all agree."""
    agree = True
    for record in tqdm(chosen, unit="trial", disable=None, leave=False):
        tolerance = registry.get(record.experiment).tolerance
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
        return difference(record.metrics, line["metrics"])
    except ValueError as error:
        raise McnnError(f"trial {record.key} of {record.experiment}: {error}") from None


def difference(a: Any, b: Any, place: str = "metrics") -> float:
    """Return the largest absolute difference between metrics.

    Raises
    ------
    ValueError
        If they have another shape; the message says where.
    """
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((difference(a[k], b[k], f"{place}.{k}") for k in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return max((difference(x, y, f"{place}[{i}]") for i, (x, y) in pairs), default=0.0)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b)
    if a == b:
        return 0.0
    raise ValueError(f"{place} is no longer the same")
