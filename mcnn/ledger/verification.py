"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn.errors import UsageError
from mcnn.ledger import agreement, records, registry, runner
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
        0 if all agree, see :mod:`mcnn.ledger.agreement`, else 1.

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
        others = [r for e, r in fresh if e is experiment]
        agree &= compared(experiment, record, line, others).good
    return 0 if agree else 1


def compared(
    experiment: Experiment,
    record: records.Record,
    line: dict[str, Any],
    others: Sequence[records.Record],
) -> agreement.Agreement:
    """Compare a trial that ran again with its record, and print how they differ.

    Parameters
    ----------
    experiment
        Its tolerance counts.
    record
        What was recorded.
    line
        The new record.
    others
        Records of the experiment, for the spread over seeds.
    """
    result = agreement.compare(record, line["metrics"], experiment.tolerance, others)
    tqdm.write(f"{record.experiment} {record.key} {result}")
    return result
