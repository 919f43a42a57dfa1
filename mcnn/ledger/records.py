"""Records: one JSON line for every finished trial, complete or not there at all.

A line holds the configuration and its hash, the metrics, the provenance, and a digest of it all.
How files of such lines are written, and survive whatever happens, says :mod:`mcnn.ledger.store`.
Which records of older code count, say the notes beside them: :mod:`mcnn.ledger.notes`.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcnn.errors import McnnError, RecordError
from mcnn.ledger import project, registry, store
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.notes import (  # noqa: F401 (old commits and callers know them by these names)
    REVALIDATIONS,
    fresh_codes,
    revalidations,
    scan_notes,
)
from mcnn.ledger.store import append, digest, replace_file, seal  # noqa: F401


@dataclass(frozen=True, slots=True)
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

    @property
    def flaw(self) -> str | None:
        """Why it can decide nothing, if so: nobody could make it again from what it says."""
        made = self.provenance
        if not made["commit"]:
            return "its code is of no commit"
        if made["dirty"] is not False:
            return "its code differs from its commit"
        name, mark = getattr(self.config, "dataset", None) or None, made.get("data")
        if name is None:
            return None
        return None if _published(name, mark) else f"its data are not the published {name}"


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
    without those that have a :attr:`~Record.flaw`.

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
    listed = experiment.trials(profile, experiment.seeds[profile])
    keys = {experiment.key(profile, trial) for trial in listed}
    return [r for r in found if r.key in keys and r.flaw is None]


def held(
    experiment: Experiment, results: Path | None = None, profile: str = "full"
) -> list[Record]:
    """Read all records of a profile, also those that decide nothing; parameters as :func:`read`."""
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
    if name != experiment.name or profile not in project.PROFILES:
        raise RecordError(f"foreign: a record of {name!r} ({profile!r})")
    try:
        config = experiment.parse(line["config"])
        text = json.dumps([name, profile, line["config"]], sort_keys=True)
    except RecursionError:
        raise RecordError("damaged: its configuration is nested too deeply") from None
    # As Experiment.key, without making the configuration anew from the trial.
    if line["hash"] != hashlib.sha256(text.encode()).hexdigest()[:16]:
        raise RecordError("foreign: its hash is not that of its configuration")
    return Record(line, config)


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
