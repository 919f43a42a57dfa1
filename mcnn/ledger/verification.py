"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn.errors import UsageError
from mcnn.ledger import records, registry, runner
from mcnn.ledger.experiment import Experiment


def problems(results: Path) -> list[str]:
    """Return a line for each record or note that is damaged, altered or foreign."""
    known = registry.all_experiments()
    lines = []
    for file in sorted(results.glob("*.jsonl")):
        if file.name == records.REVALIDATIONS:
            lines += records.scan_notes(results)[1]
        elif file.stem in known:
            lines += records.scan(file, known[file.stem])[1]
        else:
            lines.append(f"{file}:1: foreign: no experiment {file.stem!r}")
    return lines


def spot(count: int, device: str, results: Path, seed: int | None = None) -> int:
    """Run recorded trials again, chosen at random, and print how far each is off.

    Returns
    -------
    int
        0 if all agree within the tolerance of their experiment, else 1.

    Raises
    ------
    UsageError
        If there is no record to run again.
    """
    known = registry.all_experiments()
    fresh = [(e, r) for e in known.values() for r in records.read(e, results) if not r.stale]
    if not fresh:
        raise UsageError(f"no fresh records in {results}")
    where = runner.resolve_device(device)
    sample = random.Random(seed).sample(fresh, min(count, len(fresh)))
    agree = True
    for experiment, record in tqdm(sample, unit="trial", disable=None, leave=False):
        line = runner.run_trial(experiment, record.profile, record.config, where)
        agree &= agrees(experiment, record, line)
    return 0 if agree else 1


def agrees(experiment: Experiment, record: records.Record, line: dict[str, Any]) -> bool:
    """Compare a trial that ran again with its record, and print by how much they differ.

    Parameters
    ----------
    experiment
        Its tolerance counts.
    record
        What was recorded.
    line
        The new record.
    """
    head = f"{record.experiment} {record.key}"
    try:
        off = difference(record.metrics, line["metrics"])
    except ValueError as error:
        tqdm.write(f"{head} DIFFERS: {error}")
        return False
    good = off <= experiment.tolerance
    word = "agrees" if good else "DIFFERS"
    tqdm.write(f"{head} {word}: largest difference {off:.3g}, tolerance {experiment.tolerance:g}")
    return good


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
