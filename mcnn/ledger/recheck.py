"""Checking notes again: proofs from git, and samples by running their trials once more.

A note is evidence only as long as this can be done.
"""

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mcnn.errors import McnnError
from mcnn.ledger import moves, notes, project, provenance, records, registry, runner, verification
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.repeats import Repeats


def check(count: int, device: str, results: Path, seed: int | None = None, jobs: int = 1) -> int:
    """Check notes again and print what does not hold, and what cannot be checked here.

    Parameters
    ----------
    count
        Trials of samples to run again, chosen at random.
    device
        Where they run.
    results
        Folder of the records.
    seed
        Of the choice; by default a new one each time.
    jobs
        Processes, each with one thread.

    Returns
    -------
    int
        0 if all that was checked holds, else 1.
    """
    held = notes.revalidations(results)
    proofs = [note for note in held if "moved" in note]
    bad = 0
    for note, reason in proved_again(proofs):
        bad += 1
        print(f"{note['experiment']}: the note of {note['noted']} does not hold: {reason}")
    print(f"{len(proofs) - bad} of {len(proofs)} proofs that code only moved hold")
    if lost := notes.lost(results):
        print(f"{len(lost)} notes count for nothing: trials of their samples are not recorded")
    trials = list(sampled([note for note in held if "moved" not in note], results))
    chosen = random.Random(seed).sample(trials, min(count, len(trials)))
    calls = [(experiment, r.profile, r.config) for experiment, r in chosen]
    everything = {e.name: records.held(e, results) for e, _ in chosen}
    where = runner.resolve_device(device)
    with Repeats(sys.stdout) as told:
        for number, line in runner.again(calls, where, jobs) if calls else ():
            experiment, record = chosen[number]
            if isinstance(line, McnnError):
                text = f"{record.experiment} {record.key} did not run: {line}"
                told.tell(record.experiment, str(line), text)
                bad += 1
            else:
                others = everything[experiment.name]
                bad += not verification.compared(experiment, record, line, others).good
    print(f"{len(chosen)} of {len(trials)} trials of samples were run again")
    return 1 if bad else 0


def sampled(
    samples: Sequence[Mapping[str, Any]], results: Path
) -> list[tuple[Experiment, records.Record]]:
    """Return the trials that notes rest on, each once, with their records of today."""
    wanted = {key for note in samples for key in note["sample"]}
    found = []
    for experiment in registry.all_experiments().values():
        held = records.held(experiment, results)
        found += [(experiment, r) for r in held if r.key in wanted and r.flaw is None]
    return found


def proved_again(proofs: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the proofs that do not hold, and why; git must have the commits of both sides.

    Parameters
    ----------
    proofs
        Notes that code only moved.
    """
    sides: dict[str, list[dict[str, Any]]] = {}
    for note in proofs:
        name = f"{note['moved']['commit']} {note['commit']} {sorted(note['moved']['map'].items())}"
        sides.setdefault(name, []).append(note)
    for together in tqdm(sides.values(), unit="move", disable=None, leave=False):
        yield from _again(together)


def _again(proofs: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Do the same as :func:`mcnn.ledger.revalidation.prove_moves`, between two commits."""
    root = provenance.here().root
    before, after = proofs[0]["moved"]["commit"], proofs[0]["commit"]
    for commit in (before, after):
        if not known(commit, root):
            yield from ((note, f"git has no commit {commit[:12]}") for note in proofs)
            return
    moved = proofs[0]["moved"]["map"]
    with moves.checkout(before, root) as old_tree, moves.checkout(after, root) as new_tree:
        fresh, now = moves.described(old_tree), moves.described(new_tree)
        old, new = moves.Version(old_tree, moved), moves.Version(new_tree)
        for note in proofs:
            name = note["experiment"]
            if name not in now or note["code"] != now[name]["code"]:
                yield note, f"its code is not that of commit {after[:12]}"
            elif foreign := set(note["older"]) - set(fresh.get(name, {"fresh": ()})["fresh"]):
                yield note, f"commit {before[:12]} counts no record of code {min(foreign)}"
            elif reasons := moves.unproved(old, new, now[name]["roots"]):
                yield note, "; ".join(reasons[:3])


def known(commit: str, root: Path) -> bool:
    """Whether git has a commit here; a shallow clone has one alone."""
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, check=False, env=project.git_environment()
        )
        return not done.returncode
    except OSError:
        return False
