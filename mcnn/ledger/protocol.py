"""Protocol before results: was a claim written as it stands before its records were made?

Each record names the commit of its code, and git has the ``claims.yml`` of that commit.
Where the claim in it has other tests, seeds, selection, metric or protocol, or is not there yet,
it was *judged after*: someone may have known the numbers.
That is no fault, and changes no verdict; a reader ought to know it.
"""

import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mcnn.ledger import project, records, registry
from mcnn.ledger.claims import Claim, Judgement

BEFORE, AFTER = "before", "judged after"
ABSENT = "commit not at hand"
MARKERS = "<!-- protocol:begin -->", "<!-- protocol:end -->"  # on the ledger page
_NEW, _TESTS = "no such claim", "tests"
# What must be the same, and its value where an entry leaves it out. The id is a name and the quote
# is the talk's: neither decides anything.
_FIELDS: dict[str, Any] = {
    "kind": None,
    "better": None,
    "seeds": None,
    "experiment": None,
    "where": {},
    "shown": [],
    "metric": None,
    "protocol": None,
}
_OF_TEST: dict[str, Any] = {"reading": None, "accept": None, "better": None, "effect": False}


@dataclass(frozen=True)
class Mark:
    """Whether a claim was there before its records.

    Attributes
    ----------
    records
        Number of records behind the verdict.
    differs
        Of those that were made under another claim, how many under one that differs in what.
    after
        How many those are.
    absent
        How many are of a commit that git does not have here.
    """

    records: int
    differs: Counter
    after: int
    absent: int

    @property
    def word(self) -> str:
        """``before``, ``judged after``, or that it cannot be told; nothing without records."""
        if self.after:
            return AFTER
        return ABSENT if self.absent else BEFORE if self.records else ""

    def __str__(self) -> str:
        parts = []
        if self.after:
            what = ", ".join(f"{name} {n}" for name, n in self.differs.most_common())
            parts.append(f"{self.after} of {self.records} records are older: {what}")
        if self.absent:
            parts.append(f"{ABSENT} of {self.absent} of {self.records} records")
        return "; ".join(parts)


def at(commits: Iterable[str], root: Path) -> dict[str, list[dict[str, Any]] | None]:
    """Return the entries of ``claims.yml`` at commits; None for one that git does not have here.

    A commit without the file, or with one that cannot be read, has no entries.
    A shallow clone, a folder without git, or a history that was written anew lack commits.
    """
    wanted = sorted(set(commits))
    # Hashes alone: a record might name something else, and git's input has a line for each.
    asked = [c for c in wanted if len(c) >= 40 and all(x in "0123456789abcdef" for x in c)]
    lines = "".join(f"{c}^{{commit}}\n{c}:./{project.CLAIMS}\n" for c in asked)
    answers = _git(root, ["cat-file", "--batch-check"], lines).decode().splitlines()
    found: dict[str, list[dict[str, Any]] | None] = dict.fromkeys(wanted)
    if len(answers) != 2 * len(asked):
        return found
    for commit, here, blob in zip(asked, answers[::2], answers[1::2], strict=True):
        if here.split()[1:2] == ["commit"]:
            is_file = blob.split()[1:2] == ["blob"]
            found[commit] = _entries(str(root), blob.split()[0]) if is_file else []
    return found


def _git(root: Path, arguments: Sequence[str], text: str = "") -> bytes:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            input=text.encode(),
            capture_output=True,
            check=True,
            env=project.git_environment(),
        )
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout


@lru_cache(1024)  # most commits leave the file as it is
def _entries(root: str, blob: str) -> list[dict[str, Any]]:
    text = _git(Path(root), ["cat-file", "blob", blob])
    try:
        held = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception:  # whatever YAML makes of it: what cannot be read held no protocol
        return []
    return [x for x in held if isinstance(x, dict)] if isinstance(held, list) else []


def differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Return what of a claim decides its verdict and is not the same in an older entry.

    Examples
    --------
    >>> test = {"reading": "error", "accept": [0, 1e-12], "reason": "rounding"}
    >>> wider = test | {"accept": [0, 1], "reason": "whatever"}
    >>> differences({"seeds": 5, "tests": [wider]}, {"seeds": 3, "tests": [test]})
    ['accepted range', 'seeds']
    """
    mine, theirs = _tests(now), _tests(then)
    found = []
    if mine != theirs:
        ranges = [[test[1:] for test in tests] for tests in (mine, theirs)]
        found.append("accepted range" if ranges[0] != ranges[1] else "names of readings")
    for name, default in _FIELDS.items():
        if _plain(now.get(name, default)) != _plain(then.get(name, default)):
            found.append(name)
    return found


def _tests(entry: Mapping[str, Any]) -> list[list[Any]]:
    tests = entry.get("tests") or []
    if not (isinstance(tests, list) and all(isinstance(test, dict) for test in tests)):
        return [[_TESTS]]
    return [[_plain(test.get(name, d)) for name, d in _OF_TEST.items()] for test in tests]


def _plain(value: Any) -> Any:
    """Return a value in which line breaks, and 1 for 1.0 or a list for one, make no difference."""
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value] if len(value) != 1 else _plain(value[0])
    if isinstance(value, dict):
        return {str(key): _plain(x) for key, x in value.items()}
    return value


def _mark(
    entry: Mapping[str, Any],
    commits: Iterable[str],
    then: Mapping[str, list[dict[str, Any]] | None],
) -> Mark:
    """Compare a claim with what stood under its id, or under another one, at the commits."""
    differs, after, absent, total = Counter(), 0, 0, 0
    for commit, count in Counter(commits).items():
        total += count
        entries = then.get(commit)
        if entries is None:
            absent += count
            continue
        same = [x for x in entries if x.get("id") == entry.get("id")]
        if same and not (found := differences(entry, same[0])):
            continue
        if any(not differences(entry, x) for x in entries):  # renamed since, and no more
            continue
        after += count
        differs.update(dict.fromkeys(found if same else [_NEW], count))
    return Mark(total, differs, after, absent)


def marks(judged: Sequence[Claim], results: Path | None = None) -> dict[str, Mark]:
    """Return for each claim, by id, whether it was there before the records that it is judged by.

    Those of older code are looked at, too, for it may turn out that they hold.
    """
    root = project.root()
    text = (root / project.CLAIMS).read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = {x["id"]: x for x in yaml.load(text, Loader=loader)}  # which claims.load has checked
    known = registry.all_experiments()
    commits: dict[str, list[str]] = {}
    read: dict[str, list[records.Record]] = {}
    for claim in judged:
        mine = commits.setdefault(claim.id, [])
        for name in claim.experiments:
            if name not in known:
                continue
            if name not in read:
                read[name] = records.read(known[name], results)
            mine += [r.provenance["commit"] for r in read[name] if claim.selects(r.config)]
    then = at({c for mine in commits.values() for c in mine}, root)
    return {name: _mark(entries[name], mine, then) for name, mine in commits.items()}


def table(judgements: Sequence[Judgement], found: Mapping[str, Mark]) -> str:
    """Return a line for each claim whose protocol is not known to be older than its records."""
    lines = [summary(found)]
    for judgement in judgements:
        mark = found[judgement.claim.id]
        if mark.after or mark.absent:
            lines.append(f"{judgement.claim.id:<32} {mark.word:<19} {mark}")
    return "\n".join(lines)


def summary(found: Mapping[str, Mark]) -> str:
    """Count the marks, in words."""
    words = Counter(mark.word for mark in found.values())
    parts = [f"{words[BEFORE]} of {len(found) - words['']} claims stood before their records"]
    parts += [f"{words[AFTER]} judged after"] * (words[AFTER] > 0)
    parts += [f"{words[ABSENT]} of which git lacks the commit"] * (words[ABSENT] > 0)
    return ", ".join(parts)


def section(found: Mapping[str, Mark]) -> str | None:
    """Return what the ledger page says of it, or nothing where git lacks a commit."""
    if any(mark.absent for mark in found.values()):
        return None
    lines = [f"- `{name}`: {mark}." for name, mark in sorted(found.items()) if mark.after]
    return "\n".join([f"{summary(found)}.", "", *lines]).rstrip()
