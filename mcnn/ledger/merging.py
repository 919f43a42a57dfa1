"""Merging the records of several machines, by hash."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mcnn.errors import RecordError
from mcnn.ledger import differing, records, registry, store


def merge(sources: Sequence[Path], results: Path) -> Counter:
    """Add the records of other machines to a folder, by hash, and what a folder says of them.

    That are its notes, and its runs that came out otherwise than a record.
    A trial that is recorded here stays as it is, unless its record is stale, or a later run speaks
    against it, and the other is neither.

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
    notes, against = [], defaultdict(list)
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
        for file in sorted((source / differing.FOLDER).glob("*.jsonl")):
            if problems := differing.scan(file)[1]:
                raise RecordError(problems[0])
            against[file.stem] += [store.parse(text) for _, text in store.lines(file)]
    records.append(notes, results / records.REVALIDATIONS)
    for name, lines in against.items():
        records.append(lines, differing.path(name, results), overwrite=True)
    added = Counter()
    for name, held in good.items():
        file = records.path(name, results)
        fresh = records.fresh_codes(registry.get(name), results)
        refuted = differing.digests(name, results)

        def counts(r: records.Record, fresh: set = fresh, refuted: set = refuted) -> bool:
            return r.code in fresh and not (refuted and r.line["digest"] in refuted)

        held.sort(key=counts)  # of two, the last is taken
        poor = {r.key for r in records.scan(file)[0] if not counts(r)}
        better = [r.line for r in held if r.key in poor and counts(r)]
        added[name] = records.append(better, file, overwrite=True)
        added[name] += records.append([r.line for r in held], file)
    return added
