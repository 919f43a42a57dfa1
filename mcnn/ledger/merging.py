"""Merging the records of several machines, by hash."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mcnn.errors import RecordError
from mcnn.ledger import agreement, differing, records, registry, store


def merge(sources: Sequence[Path], results: Path) -> Counter:
    """Add the records of other machines to a folder, by hash, and what a folder says of them.

    That are its notes, and its runs that came out otherwise than a record.
    A trial that is recorded here stays as it is, unless its record does not count, for it is stale
    or has a flaw, see :class:`mcnn.ledger.records.Record`, and the other does.
    Where both count, and one came out otherwise than the other, a line on stderr says so.

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
        If a source is missing or holds no records, or one is damaged, altered or foreign: nothing
        is merged then.
    """
    good: dict[str, list[records.Record]] = {}
    notes, against = [], defaultdict(list)
    for source in sources:
        if not source.exists():
            raise RecordError(f"no such file or folder: {source}")
        files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
        if not files:
            raise RecordError(f"no records in {source}: name the folder that has the .jsonl files")
        for file in files:
            if file.name == records.REVALIDATIONS:
                notes += records.revalidations(file.parent)
                continue
            if file.stem not in registry.all_experiments():
                raise RecordError(f"{file}: foreign: no experiment {file.stem!r}")
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
        records.append(lines, differing.path(name, results))
    added = Counter()
    for name, held in good.items():
        file = records.path(name, results)
        fresh = records.fresh_codes(registry.get(name), results)
        refuted = differing.digests(name, results)

        def counts(r: records.Record, fresh: set = fresh, refuted: set = refuted) -> bool:
            return r.code in fresh and not (r.flaw or (refuted and r.line["digest"] in refuted))

        held.sort(key=counts)  # of two, the last is taken
        poor = {r.key for r in records.scan(file)[0] if not counts(r)}
        better = [r.line for r in held if r.key in poor and counts(r)]
        added[name] = records.append(better, file, overwrite=True)
        added[name] += records.append([r.line for r in held], file)
        _tell_others([r for r in held if counts(r)], file)
    return added


def _tell_others(there: Sequence[records.Record], file: Path) -> None:
    """Say which trials came out otherwise in a source than in the record that is kept."""
    tolerance = registry.get(file.stem).tolerance
    here = records.scan(file)[0]
    kept = {r.key: r for r in here}
    for other in there:
        one = kept[other.key]
        if one.metrics == other.metrics:
            continue
        found = agreement.compare(one, other.metrics, tolerance, here, other.provenance)
        if not found.good:
            text = f"{file.stem} {one.key} stays as it is here, and came out otherwise elsewhere"
            print(f"mcnn: {text} ({found.detail}): run it again", file=sys.stderr)
