"""Notes that records of older code still count: their form, what they reach, what rests on them.

A note stands beside the records and leads from the hash of a newer code to older ones.
It is evidence like a record, and holds only with what anyone needs to check it again:

* *A sample* names trials that were run again under the newer code, for each older code that it
  speaks of at least one, with the seed of the choice, the difference found and the device.
  One at least must still be recorded, of this experiment or of one that shares its code: else
  nobody could run it again.
* *A proof* has no sample; it names the two commits between which code only moved, and the map.

``mcnn verify --notes`` does all of it again, see :mod:`mcnn.ledger.revalidation`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcnn.errors import RecordError
from mcnn.ledger import registry, store
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.provenance import code_hash

if TYPE_CHECKING:
    from mcnn.ledger.records import Record

REVALIDATIONS = "revalidations.jsonl"
GOOD = ("repeats", "consistent")
UNLISTED = "their trials are not listed, or no longer"


def revalidations(results: Path) -> list[dict[str, Any]]:
    """Read the notes that say that records of older code still hold.

    Raises
    ------
    RecordError
        If a note is damaged, altered, or without what would let it be checked; the message gives
        file and line.
    """
    notes, problems = scan_notes(results)
    if problems:
        raise RecordError(problems[0])
    return notes


def scan_notes(results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the notes of a folder: those that hold, and a line for each that does not."""
    file = results / REVALIDATIONS
    notes, problems = [], []
    for number, text in store.lines(file):
        note, problem = _note(text)
        if problem:
            problems.append(f"{file}:{number}: {problem}; take the line out and revalidate again")
        else:
            notes.append(note)
    return notes, problems


@lru_cache(4096)  # every experiment asks for its notes, and each is checked
def _note(text: bytes) -> tuple[dict[str, Any], str]:
    try:
        note = store.parse(text)
    except RecordError as error:
        return {}, str(error)
    return note, _problem(note)


def _is(pattern: str) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None


_code, _commit, _text = _is("[0-9a-f]{16}"), _is("[0-9a-f]{40,64}"), _is(r"(?s).+")

_NOTE = {
    "experiment": _text,
    "older": lambda x: isinstance(x, list) and x and all(map(_code, x)),
    "code": _code,
    "commit": _commit,
    "dirty": lambda x: x is False,
    "noted": _text,
}
_PROOF = {"moved": lambda x: isinstance(x, dict), "sample": lambda x: x == []}
_MOVED = {
    "commit": _commit,
    "map": lambda x: isinstance(x, dict) and all(map(_text, x.values())),
}
_SAMPLE = {  # of format 1, which told neither the seed nor the differences
    "sample": lambda x: isinstance(x, list) and x and all(map(_code, x)),
    "device": _text,
}
_SAMPLE_2 = {
    "sample": lambda x: isinstance(x, dict) and x and all(map(_code, x)),
    "device": _text,
    "seed": lambda x: type(x) is int,
}
_TRIAL = {
    "experiment": _text,
    "code": _code,
    "agreement": lambda x: x in GOOD,
    "difference": lambda x: type(x) in (int, float) and isfinite(x) and x >= 0,
}


def _problem(note: Mapping[str, Any]) -> str:
    """Return what a note lacks so that it could be checked, or nothing."""
    proof = "moved" in note
    sample = _SAMPLE_2 if note.get("format", 1) == 2 else _SAMPLE
    if problem := _lacks(note, _NOTE | (_PROOF if proof else sample), "note"):
        return problem
    if proof:
        return _lacks(note["moved"], _MOVED, "proof")
    if sample is _SAMPLE:
        words = note.get("agreement", {})
        good = isinstance(words, dict) and all(word in GOOD for word in words.values())
        return "" if good else "damaged: its sample does not agree"
    for trial in note["sample"].values():
        if not isinstance(trial, dict):
            return f"damaged: a trial of its sample is {trial!r:.40}"
        if problem := _lacks(trial, _TRIAL, "trial of its sample"):
            return problem
    shown = {trial["code"] for trial in note["sample"].values()}
    if unseen := sorted(set(note["older"]) - shown):
        return f"damaged: its sample has no trial of the older code {unseen[0]}"
    return ""


def _lacks(held: Mapping[str, Any], fields: Mapping[str, Callable], what: str) -> str:
    for name, holds in fields.items():
        if name not in held:
            return f"damaged: a {what} without {name!r}"
        if not holds(held[name]):
            return f"damaged: a {what} whose {name!r} is {held[name]!r:.40}"
    return ""


def steps(experiment: Experiment, results: Path) -> dict[str, int]:
    """Return the code hashes whose records count, with the number of notes that lead there.

    Today's is no step away, and a note can lead on from another.
    """
    mine = [note for note in revalidations(results) if note["experiment"] == experiment.name]
    recorded = _recorded(mine, experiment, results)
    mine = [note for note in mine if "moved" in note or _can_run_again(note, recorded)]
    reached, newest = {}, {code_hash(experiment.roots)}
    while newest:
        reached |= dict.fromkeys(newest, max(reached.values(), default=-1) + 1)
        newest = {code for note in mine if note["code"] in newest for code in note["older"]}
        newest -= reached.keys()
    return reached


def _recorded(
    found: Iterable[Mapping[str, Any]], experiment: Experiment, results: Path
) -> dict[str, set[str]]:
    """Return of the trials in samples those that are recorded, by experiments of one code."""
    wanted = {key for note in found if "moved" not in note for key in note["sample"]}
    if not wanted:
        return {}
    known = registry.all_experiments().values()
    names = {experiment.name, *(e.name for e in known if e.roots == experiment.roots)}
    return {name: set(store.find(results / f"{name}.jsonl", wanted)) for name in names}


def _can_run_again(note: Mapping[str, Any], recorded: Mapping[str, set[str]]) -> bool:
    """Whether a trial of the sample is recorded, for each older code that a note speaks of."""
    sample = note["sample"]
    if not isinstance(sample, dict):  # of format 1, which did not say of which experiment
        return any(key in keys for key in sample for keys in recorded.values())
    shown = {
        trial["code"]
        for key, trial in sample.items()
        if key in recorded.get(trial["experiment"], ())
    }
    return shown >= set(note["older"])


def lost(results: Path) -> list[dict[str, Any]]:
    """Return the notes that count for nothing, as too little of their samples is recorded."""
    known, found = registry.all_experiments(), []
    for note in revalidations(results):
        experiment = known.get(note["experiment"])
        if "moved" not in note and not (
            experiment and _can_run_again(note, _recorded([note], experiment, results))
        ):
            found.append(note)
    return found


def fresh_codes(experiment: Experiment, results: Path) -> set[str]:
    """Return the code hashes whose records count: today's, and those revalidated under it."""
    return set(steps(experiment, results))


@dataclass(frozen=True)
class Support:
    """What records rest on.

    Attributes
    ----------
    total
        Number of records.
    steps
        Of those that count, how many are as many notes away from today's code.
    flaws
        Of those that decide nothing, how many for which reason: a flaw, or that the experiment
        does not list their trials, be it that seeds were added or taken away.
    """

    total: int
    steps: Counter
    flaws: Counter

    def __str__(self) -> str:
        noted = sum(n for step, n in self.steps.items() if step)
        text = f"{self.total} records: {self.steps[0]} made by today's code"
        if noted:
            far = max(self.steps)
            one = self.steps[1]
            text += f", {noted} rest on notes that they hold under it"
            text += f" ({one} on one, others on up to {far})" if far > 1 else ""
        stale = self.total - self.steps.total() - self.flaws.total()
        parts = [text] + ([f"{stale} stale"] if stale else [])
        parts += [f"{n} decide nothing, for {why}" for why, n in self.flaws.most_common()]
        return "; ".join(parts)


def support(experiments: Iterable[tuple[Experiment, Iterable["Record"]]], results: Path) -> Support:
    """Count what the records of experiments rest on."""
    total, far, flaws = 0, Counter(), Counter()
    for experiment, held in experiments:
        reached = steps(experiment, results)
        listed = registry.listed(experiment)
        for record in held:
            total += 1
            if record.key not in listed:
                flaws[UNLISTED] += 1
            elif record.flaw:
                flaws[record.flaw] += 1
            elif (code := record.provenance["code"]) in reached:
                far[reached[code]] += 1
    return Support(total, far, flaws)
