"""Runs that came out otherwise than a record which counted: kept beside it, both to be seen.

Such a record decides nothing any more, until ``mcnn run --redo-stale`` replaces it.
The lines stand in a folder of their own, each the record of the later run with the digest of the
one that it speaks against; for others of the same trial it says nothing.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from mcnn.errors import RecordError
from mcnn.ledger import store

FOLDER = "differing"
FLAW = "a later run of it came out otherwise"


def path(experiment: str, results: Path) -> Path:
    """Return the file of the runs that speak against records of an experiment."""
    return results / FOLDER / f"{experiment}.jsonl"


def keep(line: dict[str, Any], against: str, difference: str, results: Path) -> Path:
    """Keep a run that came out otherwise and return the file.

    Parameters
    ----------
    line
        The record of the later run.
    against
        Digest of the record that it speaks against.
    difference
        In words.
    results
        Folder of the records.
    """
    file = path(line["experiment"], results)
    told = {"against": against, "difference": difference}
    store.append([store.seal(line | told)], file, overwrite=True)  # the last for each record
    return file


def digests(experiment: str, results: Path) -> set[str]:
    """Return the digests of the records that a later run speaks against.

    Raises
    ------
    RecordError
        If a line is damaged or altered; the message gives file and line.
    """
    found, problems = scan(path(experiment, results))
    if problems:
        raise RecordError(problems[0])
    return found


def scan(file: Path) -> tuple[set[str], list[str]]:
    """Read a file: the digests that it names, and a line for each that is damaged or altered."""
    found, problems = set(), []
    for number, text in store.lines(file):
        try:
            found.add(_against(text))
        except RecordError as error:
            problems.append(f"{file}:{number}: {error}; take it back from the last commit")
    return found, problems


@lru_cache(4096)  # every reader of records asks
def _against(text: bytes) -> str:
    digest = store.parse(text).get("against")
    if not isinstance(digest, str):
        raise RecordError("damaged: it names no record")
    return digest
