"""Merging the records of several machines, by hash."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mcnn.errors import RecordError
from mcnn.ledger import records, registry


def merge(sources: Sequence[Path], results: Path) -> Counter:
    """Add the records of other machines to a folder, by hash, and the notes of a folder.

    A trial that is recorded here stays as it is, unless its record is stale and the other is not.

    Parameters
    ----------
    sources
        Folders of records, or files named after their experiments.
    results
        Folder to add to.

    Returns
    -------
    Counter
        How many records of each experiment were taken over.

    Raises
    ------
    RecordError
        If a source is missing, or a record in it is damaged, altered or foreign: nothing is
        merged then.
    """
    good: dict[str, list[records.Record]] = {}
    notes = []
    for source in sources:
        if not source.exists():
            raise RecordError(f"no such file or folder: {source}")
        for file in sorted(source.glob("*.jsonl")) if source.is_dir() else [source]:
            if file.name == records.REVALIDATIONS:
                notes += records.revalidations(file.parent)
                continue
            held, problems = records.scan(file)
            if problems:
                raise RecordError(problems[0])
            good.setdefault(file.stem, []).extend(held)
    records.append(notes, results / records.REVALIDATIONS)
    added = Counter()
    for name, held in good.items():
        file = records.path(name, results)
        fresh = records.fresh_codes(registry.get(name), results)
        held.sort(key=lambda r: r.provenance["code"] in fresh)  # of two, the last is taken
        stale = {r.key for r in records.scan(file)[0] if r.provenance["code"] not in fresh}
        better = [r.line for r in held if r.key in stale and r.provenance["code"] in fresh]
        added[name] = records.append(better, file, overwrite=True)
        added[name] += records.append([r.line for r in held], file)
    return added
