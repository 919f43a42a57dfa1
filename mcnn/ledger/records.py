"""Records: one JSON line for every finished trial, complete or not there at all.

A line holds the configuration and its hash, the metrics, the provenance, and a digest of it all.
How files of such lines are written, and survive whatever happens, says :mod:`mcnn.ledger.store`.
Which records of older code count, say the notes beside them: :mod:`mcnn.ledger.notes`.
"""

import dataclasses
import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mcnn.errors import McnnError, RecordError
from mcnn.ledger import differing, project, registry, store
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.notes import (  # noqa: F401 (old commits and callers know them by these names)
    REVALIDATIONS,
    fresh_codes,
    revalidations,
    scan_notes,
)
from mcnn.ledger.store import append, digest, replace_file, seal  # noqa: F401


class Record:
    """A finished trial as it stands in a file, with its configuration.

    Of a hundred thousand records few are looked into: a line that was checked is kept as its bytes,
    and parsed when it is first asked for.

    Parameters
    ----------
    line
        The line.
    config
        The configuration.
    stale
        Whether older code made it, and no note says that it holds.
        The attribute ``flaw`` says why it decides nothing even so, if it does not.
    text
        The line's bytes, if they are to be kept in its place.
    """

    __slots__ = ("_line", "code", "config", "flaw", "key", "profile", "stale")

    def __init__(
        self,
        line: dict[str, Any],
        config: Trial,
        stale: bool = False,
        text: bytes | None = None,
    ) -> None:
        self._line = line if text is None else text
        self.config, self.stale = config, stale
        self.key: str = line["hash"]  # of experiment, profile and configuration
        self.profile: str = line["profile"]
        self.code: str = line["provenance"]["code"]
        self.flaw = _flaw(line["provenance"], config)

    def __repr__(self) -> str:
        return f"Record({self.experiment} {self.key}, {self.config}, stale={self.stale})"

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Record) and self.line == other.line
        return same and self.stale == other.stale

    __hash__ = None

    @property
    def line(self) -> dict[str, Any]:
        """All of it."""
        if isinstance(self._line, bytes):
            self._line = store.decode(self._line)
        return self._line

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.line["experiment"]

    @property
    def metrics(self) -> dict[str, Any]:
        """What the trial measured."""
        return self.line["metrics"]

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the numbers."""
        return self.line["provenance"]


def _flaw(made: dict[str, Any], config: Trial) -> str | None:
    """Return why a record can decide nothing: nobody could make it again from what it says."""
    if not made.get("commit"):
        return "its code is of no commit"
    if made.get("dirty") is not False:
        return "its code differs from its commit"
    name, mark = getattr(config, "dataset", None) or None, made.get("data")
    if name is None:
        return None
    return None if _published(name, mark) else f"its data are not the published {name}"


@cache
def _published(name: str, mark: str | None) -> bool:
    """Whether a data set of this fingerprint is the one that was published."""
    from mcnn.data import DATASETS  # which reads no data

    known = DATASETS.get(name)
    return mark is not None and known is not None and known.fingerprint in (None, mark)


def path(experiment: str, results: Path) -> Path:
    """Return the file of an experiment's records."""
    return results / f"{experiment}.jsonl"


def read(
    experiment: Experiment | str, results: Path | None = None, profile: str = "full"
) -> list[Record]:
    """Read the records that verdicts and figures may use, each marked as stale or not.

    At ``full`` these are the trials that the experiment lists for its own seeds, and no others,
    without those that have a flaw, see :class:`Record`.

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
    found = held(experiment, results, profile)
    if profile != "full":
        return found
    listed = registry.listed(experiment)
    return [r for r in found if r.key in listed and r.flaw is None]


def held(
    experiment: Experiment, results: Path | None = None, profile: str = "full"
) -> list[Record]:
    """Read all records of a profile, also those that decide nothing; parameters as :func:`read`."""
    results = results or project.results_dir(profile)
    good, problems = scan(path(experiment.name, results), experiment)
    if problems:
        raise RecordError(problems[0])
    fresh = fresh_codes(experiment, results)
    refuted = differing.digests(experiment.name, results)
    of_profile = [r for r in good if r.profile == profile]
    for record in of_profile:
        record.stale = record.code not in fresh
        if refuted and record.line["digest"] in refuted:
            record.flaw = record.flaw or differing.FLAW
    return of_profile


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
    with _without_collection():  # nothing here refers in a circle, and much is made
        return _scan(file, experiment)


@contextmanager
def _without_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan(file: Path, experiment: Experiment | None) -> tuple[list[Record], list[str]]:
    good, problems = [], []
    keys: set[str] = set()
    for number, text in store.lines(file):
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


def _check(text: bytes, experiment: Experiment) -> Record:
    """Turn one line into a record that is whole, unaltered and of this experiment."""
    line = store.parse(text)
    for name, holds in _FIELDS.items():
        if name not in line:
            raise RecordError(f"damaged: no {name!r}")
        if not holds(line[name]):
            raise RecordError(f"damaged: {name} is {line[name]!r:.40}")
    made = line["provenance"]
    for name, holds in _MADE_BY.items():
        if name not in made:
            raise RecordError(f"damaged: no {name!r} in its provenance")
        if not holds(made[name]):
            raise RecordError(f"damaged: {name} of its provenance is {made[name]!r:.40}")
    name, profile = line["experiment"], line["profile"]
    if "against" in line:
        raise RecordError("foreign: a run that speaks against a record, of a folder `differing`")
    if name != experiment.name or profile not in project.PROFILES:
        raise RecordError(f"foreign: a record of {name!r} ({profile!r})")
    try:
        config = _config(experiment, line["config"])
        # As Experiment.key, without making the configuration anew from the trial.
        named = store.SORTED([name, profile, line["config"]])
    except RecursionError:
        raise RecordError("damaged: its configuration is nested too deeply") from None
    if line["hash"] != hashlib.sha256(named.encode()).hexdigest()[:16]:
        raise RecordError("foreign: its hash is not that of its configuration")
    return Record(line, config, text=text if len(text) < _SHORT else None)


_SHORT = 4096  # bytes: longer lines take longer to parse twice than they take memory


def _config(experiment: Experiment, config: dict[str, Any]) -> Trial:
    """Return the trial of a configuration, as :meth:`Experiment.parse`, quickly."""
    if config.keys() != _names(experiment.trial):
        return experiment.parse(config)  # says which fields differ
    return experiment.trial(**{k: _tuples(v) if type(v) is list else v for k, v in config.items()})


@cache
def _names(trial: type[Trial]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(trial))


def _tuples(values: list[Any]) -> tuple[Any, ...]:
    return tuple([_tuples(v) if type(v) is list else v for v in values])


# What a record must have, in every format, and what it may be.
_FIELDS = {
    "experiment": lambda x: isinstance(x, str),
    "profile": lambda x: isinstance(x, str),
    "config": lambda x: isinstance(x, dict),
    "hash": lambda x: isinstance(x, str),
    "metrics": lambda x: isinstance(x, dict) and x,
    "provenance": lambda x: isinstance(x, dict),
}
_MADE_BY = {
    "code": lambda x: isinstance(x, str),
    "commit": lambda x: x is None or isinstance(x, str),
    "dirty": lambda x: x is None or isinstance(x, bool),
    "device": lambda x: isinstance(x, str),
    "seconds": lambda x: isinstance(x, int | float) and x >= 0,
}
