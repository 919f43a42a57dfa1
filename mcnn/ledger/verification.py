"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from mcnn.errors import UsageError
from mcnn.ledger import agreement, records, registry, runner


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
        0 if all agree, see :mod:`mcnn.ledger.agreement`, else 1.

    Raises
    ------
    UsageError
        If there is no record to run again.
    """
    names = registry.all_experiments()
    found = [r for name in names for r in records.read(name, results) if not r.stale]
    if not found:
        raise UsageError(f"no fresh records in {results}")
    return 0 if again(_sample(found, count, seed), device, found) else 1


def _sample(found: Sequence[records.Record], count: int, seed: int | None) -> list[records.Record]:
    return random.Random(seed).sample(list(found), min(count, len(found)))


def again(chosen: Sequence[records.Record], device: str, others: Sequence[records.Record]) -> bool:
    """Run the trials again, print how each compares, and say whether all agree."""
    good = True
    for record in tqdm(chosen, unit="trial", disable=None, leave=False):
        of_experiment = [r for r in others if r.experiment == record.experiment]
        found = rerun(record, runner.resolve_device(device), of_experiment)
        good &= found.good
        tqdm.write(f"{record.experiment} {record.key} {found}")
    return good


def rerun(
    record: records.Record, device: torch.device, others: Sequence[records.Record] = ()
) -> agreement.Agreement:
    """Run a recorded trial again and compare its metrics.

    Parameters
    ----------
    record
        Of the trial.
    device
        Where it runs.
    others
        Records of the experiment, for the spread over seeds.
    """
    line = runner.run_trial(record.experiment, record.profile, record.config, device)
    tolerance = registry.get(record.experiment).tolerance
    return agreement.compare(record, line["metrics"], tolerance, others)
