"""Records: one JSON line for every finished trial, complete or not there at all.

A line holds the configuration and its hash, the metrics, the provenance, and a digest of it all.
The file is replaced as a whole, under a lock: a kill at any moment leaves the old file or the new
one, and two writers wait for each other.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from mcnn.errors import McnnError, RecordError
from mcnn.ledger import project, registry
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.provenance import code_hash

REVALIDATIONS = "revalidations.jsonl"


@dataclass(frozen=True)
class Record:
    """A finished trial as it stands in a file, with its configuration."""

    line: dict[str, Any]
    config: Trial
    stale: bool = False

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.line["experiment"]

    @property
    def profile(self) -> str:
        """Profile that the trial belongs to."""
        return self.line["profile"]

    @property
    def key(self) -> str:
        """Hash of experiment, profile and configuration."""
        return self.line["hash"]

    @property
    def metrics(self) -> dict[str, Any]:
        """What the trial measured."""
        return self.line["metrics"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the numbers."""
        return self.line["provenance"]


def digest(line: dict[str, Any]) -> str:
    """Return the digest of a line, over everything but the digest itself."""
    text = json.dumps({k: v for k, v in line.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(line: dict[str, Any]) -> dict[str, Any]:
    """Return the line with its digest, as it will read back from its file.

    Raises
    ------
    RecordError
        If a metric is NaN or infinite, or not plain JSON; the message says which.
    """
    if unfit := _unfit(line, ""):
        raise RecordError(f"cannot be recorded: {unfit}; only finite numbers, text, lists and such")
    line = json.loads(json.dumps(line, allow_nan=False))
    return line | {"digest": digest(line)}


def _unfit(value: Any, place: str) -> str | None:
    """Return the place of the first value that is not plain JSON, with the value, if any is."""
    if isinstance(value, dict):
        parts = [(f"{place}.{k}".lstrip("."), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{place}[{i}]", v) for i, v in enumerate(value)]
    else:
        plain = isinstance(value, str | int | None) or (
            isinstance(value, float) and isfinite(value)
        )
        return None if plain else f"{place} is {value!r:.60}"
    return next(filter(None, (_unfit(v, p) for p, v in parts)), None)


def path(experiment: str, results: Path) -> Path:
    """Return the file of an experiment's records."""
    return results / f"{experiment}.jsonl"


def read(
    experiment: Experiment | str, results: Path | None = None, profile: str = "full"
) -> list[Record]:
    """Read the records of an experiment, each checked and marked as stale or not.

    Parameters
    ----------
    experiment
        The experiment or its name; the records are in ``<results>/<name>.jsonl``.
    results
        Folder; by default the profile's own.
    profile
        ``"full"`` or ``"fast"``.

    Raises
    ------
    RecordError
        If a line is damaged, altered or foreign; the message gives file and line.
    """
    if isinstance(experiment, str):
        experiment = registry.get(experiment)
    results = results or project.results_dir(profile)
    good, problems = scan(path(experiment.name, results), experiment)
    if problems:
        raise RecordError(problems[0])
    fresh = fresh_codes(experiment, results)
    of_profile = [r for r in good if r.profile == profile]
    return [replace(r, stale=r.provenance["code"] not in fresh) for r in of_profile]


def scan(file: Path, experiment: Experiment | None = None) -> tuple[list[Record], list[str]]:
    """Read a file of records: those that hold, and what is wrong with the others.

    Parameters
    ----------
    file
        Named after its experiment.
    experiment
        The one of that name, if the caller has it.

    Returns
    -------
    list of Record
        The good ones, in the file's order; staleness is not judged.
    list of str
        One line for each bad one: file, line number, reason.
    """
    good, problems = [], []
    keys: set[str] = set()
    for number, text in _lines(file):
        try:
            experiment = experiment or registry.get(file.stem)
            record = _check(text, experiment)
            if record.key in keys:
                raise RecordError("stands twice in this file")
            keys.add(record.key)
            good.append(record)
        except McnnError as error:
            problems.append(f"{file}:{number}: {error}; take the line out and run its trial again")
    return good, problems


def _lines(file: Path) -> list[tuple[int, bytes]]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from None
    numbered = enumerate(content.split(b"\n"), start=1)
    return [(number, text) for number, text in numbered if text.strip()]


def _check(text: bytes, experiment: Experiment) -> Record:
    """Turn one line into a record that is whole, unaltered and of this experiment."""
    line = _parse(text)
    try:
        name, profile = line["experiment"], line["profile"]
        if name != experiment.name or profile not in project.PROFILES:
            raise RecordError(f"foreign: a record of {name!r} ({profile!r})")
        config = experiment.parse(line["config"])
        if line["hash"] != experiment.key(profile, config):
            raise RecordError("foreign: its hash is not that of its configuration")
        line["metrics"], line["provenance"]["code"]
    except (KeyError, TypeError) as error:
        raise RecordError(f"damaged: no {error}") from None
    return Record(line, config)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        raise RecordError("damaged: not a whole JSON line") from None
    if not isinstance(line, dict) or "digest" not in line:
        raise RecordError("damaged: not a record")
    if line["digest"] != digest(line):
        raise RecordError("altered: its digest does not fit its content")
    return line


def append(lines: Iterable[dict[str, Any]], file: Path, *, overwrite: bool = False) -> int:
    """Add sealed lines to a file at once.

    Parameters
    ----------
    lines
        Records or notes, sealed.
    file
        Made if it is not there.
    overwrite
        What happens to a record whose hash is in the file already: the old one goes, or the new.

    Returns
    -------
    int
        How many were added.

    Raises
    ------
    RecordError
        If the folder cannot be written or the disk is full; the file is then as it was.
    """
    from filelock import FileLock  # which who only reads can do without

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.parent / ".lock"):
            for orphan in file.parent.glob(f".{file.name}.*"):
                orphan.unlink()  # left by a kill: whoever holds the lock is the only writer
            old = [(_key_of(text), text) for _, text in _lines(file)]
            new = {_key(line): line for line in lines}
            if overwrite:
                old = [(key, text) for key, text in old if key not in new]
            else:
                held = {key for key, _ in old}
                new = {key: line for key, line in new.items() if key not in held}
            texts = [text for _, text in old] + [json.dumps(x).encode() for x in new.values()]
            if new:
                replace_file(file, b"".join(text + b"\n" for text in texts))
    except OSError as error:
        raise RecordError(
            f"cannot write {file}: {error.strerror or error}; "
            "what it held is untouched, run again once it can be written"
        ) from None
    return len(new)


def _key(line: dict[str, Any]) -> str:
    """Return what may stand in a file once: a trial's hash; a note has none but its digest."""
    return line.get("hash", line["digest"])


def _key_of(text: bytes) -> str | None:
    """Return the key of a line in a file; a damaged line has none and is kept as it is."""
    try:
        return _key(_parse(text))
    except RecordError:
        return None


def replace_file(file: Path, content: bytes) -> None:
    """Write a file as a whole: a kill or a full disk leaves the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def fresh_codes(experiment: Experiment, results: Path) -> set[str]:
    """Return the code hashes whose records count: today's, and those revalidated under it."""
    now = code_hash(experiment.roots)
    notes = [note for note in revalidations(results) if note["experiment"] == experiment.name]
    fresh, more = set(), {now}
    while more - fresh:  # a note can lead on from another
        fresh |= more
        more = {code for note in notes if note["code"] in fresh for code in note["older"]}
    return fresh


def revalidations(results: Path) -> list[dict[str, Any]]:
    """Read the notes that say that records of older code still hold.

    Raises
    ------
    RecordError
        If a note is damaged or altered; the message gives file and line.
    """
    notes, problems = scan_notes(results)
    if problems:
        raise RecordError(problems[0])
    return notes


def scan_notes(results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the notes of a folder: those that hold, and a line for each that does not."""
    file = results / REVALIDATIONS
    notes, problems = [], []
    for number, text in _lines(file):
        note, problem = _note(text)
        if problem:
            problems.append(f"{file}:{number}: {problem}; take the line out and revalidate again")
        else:
            notes.append(note)
    return notes, problems


@lru_cache(4096)  # every experiment asks for its notes, and each is checked
def _note(text: bytes) -> tuple[dict[str, Any], str]:
    try:
        return _parse(text), ""
    except RecordError as error:
        return {}, str(error)
