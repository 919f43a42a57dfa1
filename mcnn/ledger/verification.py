"""Running recorded trials again: do the numbers repeat, here and under today's code?"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn import data
from mcnn.errors import UsageError
from mcnn.ledger import agreement, differing, notes, records, registry, runner
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
    for file in sorted((results / differing.FOLDER).glob("*.jsonl")):
        lines += differing.scan(file)[1]
    return lines


def support(results: Path) -> notes.Support:
    """Count what all records rest on: today's code, or notes that lead to older."""
    known = registry.all_experiments().values()
    return notes.support([(e, records.held(e, results)) for e in known], results)


def spot(
    count: int, device: str, results: Path, seed: int | None = None, within: float | None = None
) -> int:
    """Run recorded trials again, chosen at random, and print how far each is off.

    Parameters
    ----------
    count
        How many.
    device
        Where they run.
    results
        Folder of the records.
    seed
        Of the choice; by default a new one each time, which is printed.
    within
        Seconds that they may take in all, as recorded: then the cheapest record of each of
        ``count`` random experiments is chosen, among those that are cheap enough and whose data
        are at hand.

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
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    choice = fresh if within is None else _cheap(fresh, within / count)
    sample = random.Random(seed).sample(choice, min(count, len(choice)))
    print(f"{len(sample)} of {len(fresh)} records run again, --seed {seed}")
    agree = True
    for experiment, record in tqdm(sample, unit="trial", disable=None, leave=False):
        line = runner.run_trial(experiment, record.profile, record.config, where)
        others = [r for e, r in fresh if e is experiment]
        agree &= compared(experiment, record, line, others).good
    return 0 if agree else 1


def _cheap(
    pairs: Sequence[tuple[Experiment, records.Record]], seconds: float
) -> list[tuple[Experiment, records.Record]]:
    """Return the cheapest record of each experiment, if it is cheap and its data are here."""
    cheapest: dict[str, tuple[Experiment, records.Record]] = {}
    here: dict[str | None, bool] = {None: True}
    for pair in sorted(pairs, key=lambda pair: pair[1].provenance["seconds"]):
        if pair[0].name in cheapest or pair[1].provenance["seconds"] > seconds:
            continue
        name = getattr(pair[1].config, "dataset", None) or None
        if name not in here:
            here[name] = data.status(name).state == "ok"
        if here[name]:
            cheapest[pair[0].name] = pair
    return list(cheapest.values())


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
    result = agreement.compare(
        record, line["metrics"], experiment.tolerance, others, line["provenance"]
    )
    tqdm.write(f"{record.experiment} {record.key} {result}")
    return result
