"""Do the tests notice a change of the code? A random sample of small changes tells.

`make mutants` changes one operator, comparison, number or keyword at a time, as cosmic-ray makes
them, in a copy of the last commit, and runs the tests of that module.
A place in the code is drawn first, then one of the changes that are possible there: else lines with
`+` or `*`, which have a dozen, would crowd out the others.
Annotations are left out, whose changes are noticed by no import or by every one.

The outcomes are in `tests/mutants.json`, the reasons of those that live in `tests/mutants.yml`, and
`python tests/mutants.py --page` makes `book/mutants.md` of both.
"""

import argparse
import ast
import importlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "mutants.json"
REASONS = ROOT / "tests" / "mutants.yml"
PAGE = ROOT / "book" / "mutants.md"
SEED, EACH, SECONDS = 14, 9, 60

# For each part of the package its modules, and for each module the tests that are to notice.
# Pictures, which compute nothing that a claim rests on, and lists of names are left out.
PARTS: dict[str, dict[str, str]] = {
    "density": {
        "budget": "density_calibrated",
        "calibrate": "density_calibrated",
        "calibrated": "density_calibrated",
        "coding": "density_stored",
        "counts": "density",
        "folding": "density_importance",
        "importance": "density_importance",
        "integers": "density_integers",
        "model": "density",
        "native": "density",
        "sequential": "density_calibrated",
        "stored": "density_stored",
        "theory": "density density_picture",
    },
    "partition": {
        "hashed": "partition_hashed",
        "layer": "partition",
        "lfsr": "partition",
        "model": "partition_model",
        "native": "partition_hashed",
        "parts": "partition",
        "theory": "partition partition_hashed",
    },
    "paths": {
        "base": "paths_layers paths",
        "chain": "paths_chain",
        "cnn": "paths_layers paths_parameter",
        "compress": "paths_compress",
        "conv": "paths_layers paths_parameter",
        "export": "paths_layers paths_compress sparse/layer",
        "generators": "paths",
        "graph": "paths",
        "growth": "paths_growth",
        "layers": "paths_layers",
        "nets": "paths_layers paths_growth",
        "optimizer_state": "paths_growth training/fit",
        "parameter": "paths_parameter",
        "regular": "paths_regular",
        "sobol": "paths",
        "sparsify": "sparsify",
    },
    "relu": dict.fromkeys(("check", "halfspace", "maxima", "pool", "rounding"), "relu"),
    "sampling": {"": "sampling"},
    "sparse": {
        "autograd": "sparse/autograd sparse/c",
        "layer": "sparse/layer sparse/c",
        "ops": "sparse/autograd sparse/c sparse/layer",
        "structure": "sparse/structure sparse/layer",
        "backends/c": "sparse/c",
        "backends/torch": "sparse/autograd sparse/layer sparse/c",
    },
    "records": {
        "records": "ledger/records ledger/claims",
        "store": "ledger/records ledger/faults",
        "notes": "ledger/records ledger/revalidation ledger/faults",
        "merging": "ledger/records",
    },
    "claims": {
        "claims": "ledger/claims ledger/forger",
        "verdicts": "ledger/verdicts ledger/claims",
        "protocol": "ledger/protocol",
    },
    "verification": {
        "verification": "ledger/records ledger/cli ledger/forger",
        "agreement": "ledger/agreement ledger/records",
        "revalidation": "ledger/revalidation ledger/moves",
        "recheck": "ledger/revalidation ledger/moves",
    },
}
_LEDGER = ("records", "claims", "verification")


@dataclass
class Mutant:
    """A small change, and what the tests said of it."""

    part: str
    module: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    outcome: str = ""
    first: str = ""  # the outcome before anybody wrote a test against it
    seconds: float = 0.0
    noticed_by: str = ""

    @property
    def name(self) -> str:
        """What it is known by, also after its lines have moved."""
        return f"{self.module}: {self.before} -> {self.after}"


def file_of(part: str, module: str) -> str:
    """Return the path of a module in the project."""
    folder = "ledger" if part in _LEDGER else part
    return f"mcnn/{folder}/{module}.py" if module else f"mcnn/{folder}.py"


def files_of_tests(part: str, module: str, root: Path) -> list[str]:
    """Return the files of tests that are to notice a change of a module, and its own examples."""
    names = PARTS[part][module].split()
    files = [f"tests/{folder}{slash}test_{name}.py" for folder, slash, name in map(_split, names)]
    pinned = f"tests/test_pinned_{'ledger' if part in _LEDGER else part}.py"
    first = [pinned] if (root / pinned).is_file() else []  # they are quick
    return [*first, file_of(part, module), *files]


def _split(name: str) -> tuple[str, str, str]:
    folder, slash, last = name.rpartition("/")
    return folder, slash, last


def drawn(each: int, seed: int) -> list[Mutant]:
    """Draw as many changes of each part: places at random, and one change at each.

    More of them begin with the same ones, and the parts take turns.
    """
    chosen = []
    for part, modules in PARTS.items():
        rng = random.Random(f"{seed} {part}")
        places: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
        for module in sorted(modules):
            for place, *change in possible(file_of(part, module)):
                places.setdefault(place, []).append(change)
        order = sorted(places)
        rng.shuffle(order)
        picked = [(place, rng.choice(places[place])) for place in order[:each]]
        chosen.append([mutant(part, place, *change) for place, change in picked])
    turns = zip_longest(*chosen)
    return [one for turn in turns for one in turn if one is not None]


def possible(module: str) -> list[tuple[tuple[str, int, int], str, int]]:
    """List all changes of a module: the place, the operator and which of its occurrences."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (ROOT / module).read_text(encoding="utf-8")
    nodes, outside = list(ast_nodes(get_ast(source))), _annotations(source)
    found = []
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        if kind.arguments():
            continue
        positions = [p for node in nodes for p in kind().mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            if not any(first <= start < last for first, last in outside):
                found.append(((module, *start), name.removeprefix("core/"), occurrence))
    return found


def mutant(part: str, place: tuple[str, int, int], operator: str, occurrence: int) -> Mutant:
    """Return a change with the line as it was and as it is."""
    module, line, _ = place
    source = (ROOT / module).read_text(encoding="utf-8")
    before, after = _difference(source, changed(source, operator, occurrence))
    return Mutant(part, module, operator, occurrence, line, before, after)


def changed(source: str, operator: str, occurrence: int) -> str:
    """Return the text of a module with one change."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    return mutate_code(source, plugins.get_operator(f"core/{operator}")(), occurrence)


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where type hints begin and end."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if hint is not None:
                first = (hint.lineno, hint.col_offset)
                spans.append((first, (hint.end_lineno, hint.end_col_offset)))
    return sorted(spans)


def _difference(old: str, new: str) -> tuple[str, str]:
    """Return the lines in which two texts differ, each side as one line."""
    a, b = old.splitlines(), new.splitlines()
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return tuple(" ".join(" ".join(lines).split()) for lines in (a, b))


def run(mutants: list[Mutant], python: str, seconds: int, keep: list[dict]) -> None:
    """Run the tests of each change in a copy of the last commit; the record is kept up to date.

    In the end those that noticed run without any change: what fails then, noticed nothing.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _server(python) as ask:
        copy = Path(folder, "copy")
        subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(copy)], check=True)
        # Bytecode that goes by the hash of its source, not by the second of its time.
        compiled = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
        subprocess.run([python, *compiled, str(copy / "mcnn")], check=True)
        for number, one in enumerate(mutants, start=1):
            inside = "/".join(Path(one.module).with_suffix("").parts[2:])
            file = copy / one.module
            source = file.read_text(encoding="utf-8")
            text = changed(source, one.operator, one.occurrence)
            file.write_text(text, encoding="utf-8")
            rc, one.seconds, said = ask(files_of_tests(one.part, inside, copy), copy, seconds)
            file.write_text(source, encoding="utf-8")
            one.outcome = {None: "timed out", 0: "survived"}.get(rc, "killed")
            one.first = one.first or one.outcome
            # Ids may have blanks; a reason follows behind a dash.
            failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
            one.noticed_by = failed[1] if rc and failed else ""
            print(f"{number}/{len(mutants)} {one.outcome} {one.name}", flush=True)
            _save(mutants[:number], keep)
        noticed = sorted({one.noticed_by for one in mutants} - {""})
        if noticed:
            rc, _, said = ask(noticed, copy, 10 * seconds)
            if rc != 0:
                sys.exit(f"tests fail without any change\n{said[-3000:]}")


@contextmanager
def _server(python: str) -> Iterator[Callable]:
    """Start :func:`serve` in the environment of the tests and yield how to ask it."""
    command = [python, __file__, "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:

        def ask(tests: list[str], copy: Path, seconds: int) -> tuple:
            print(json.dumps([tests, str(copy), seconds]), file=process.stdin, flush=True)
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


def serve() -> None:
    """Run tests as asked: exit status or none, seconds of the processor, and what was said.

    Each time in a fork of this process, in which what the package needs is imported already.
    The limit is on the processor's time, for a busy machine proves nothing; sleepers get thirty
    times as long.
    """
    for name in ("torch", "torch._dynamo", "torchvision", "sklearn.datasets", "scipy.stats"):
        importlib.import_module(name)
    for name in ("hypothesis", "pydantic", "yaml", "matplotlib.pyplot", "pytest", "onnx"):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        tests, copy, seconds = json.loads(line)
        with tempfile.TemporaryFile() as said:
            pid = os.fork()
            if not pid:
                os.setsid()
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
                os._exit(_pytest(tests, copy))
            status, took = _ended(pid, time.monotonic() + 30 * seconds)
            said.seek(0)
            text = said.read().decode(errors="replace")
        rc = os.waitstatus_to_exitcode(status)
        answer = [None if rc in (-signal.SIGXCPU, -signal.SIGKILL) else rc, round(took, 1), text]
        print(json.dumps(answer), file=answers, flush=True)


def _pytest(tests: list[str], copy: str) -> int:
    import pytest

    os.chdir(copy)
    sys.path[0] = copy
    os.environ |= {"PYTHONPATH": copy, "OMP_NUM_THREADS": "1", "CI": "true"}
    os.environ.pop("MCNN_RESULTS", None)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    options = ["-q", "-x", "-p", "no:cacheprovider", "--tb=short", "-W", "ignore"]
    status = int(pytest.main([*options, *tests]))
    sys.stdout.flush()
    return status


def _ended(pid: int, deadline: float) -> tuple[int, float]:
    """Wait for a process, and end it and all that it started at the deadline."""
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return status, used.ru_utime + used.ru_stime
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.05)


def _save(mutants: list[Mutant], keep: list[dict]) -> None:
    done = {m.name for m in mutants}
    lines = [m for m in keep if Mutant(**m).name not in done] + [asdict(m) for m in mutants]
    lines.sort(key=lambda m: (list(PARTS).index(m["part"]), m["module"], m["line"], m["before"]))
    text = json.dumps(lines, indent=1, ensure_ascii=False)
    RECORD.write_text(f"{text}\n", encoding="utf-8")


def found_again(lines: list[dict]) -> list[Mutant]:
    """Return recorded changes at the places where they are today."""
    found = []
    for line in lines:
        known = Mutant(**line)
        for place, operator, occurrence in possible(known.module):
            if operator == known.operator:
                now = mutant(known.part, place, operator, occurrence)
                if now.name == known.name:
                    now.first = known.first
                    found.append(now)
                    break
    return found


def page(lines: list[dict], reasons: dict[str, str]) -> str:
    """Return the page that shows a record."""
    from scipy.stats import binomtest

    mutants = [Mutant(**line) for line in lines]
    lived = [m for m in mutants if m.outcome == "survived"]
    equal = [m for m in lived if reasons.get(m.name, "").startswith("equivalent")]
    killed = len(mutants) - len(lived)
    before = sum(m.first != "survived" for m in mutants)
    low, high = binomtest(before, len(mutants)).proportion_ci()
    text = [
        "# Do the tests notice?",
        "",
        f"{killed} of {len(mutants)} small changes of the code fail a test, "
        f"{killed / len(mutants):.0%}; of those that change what it does, "
        f"{killed / (len(mutants) - len(equal)):.0%}.",
        f"When they were drawn, {before} did, {before / len(mutants):.0%} "
        f"(95% interval: {low:.0%} to {high:.0%}): for others that matter, tests were added.",
        "`make mutants` draws places at random, makes one change at each with "
        "[cosmic-ray](https://cosmic-ray.readthedocs.io), and runs the tests of that module alone.",
        "Nothing on this page is typed but the reasons: `python tests/mutants.py --page` makes it "
        "of the record of the runs.",
        "",
        "| part | changes | noticed | of these by time | live | equivalent |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for part in PARTS:
        count = Counter(m.outcome for m in mutants if m.part == part)
        same = sum(m.part == part for m in equal)
        late, alive = count["timed out"], count["survived"]
        noticed = count["killed"] + late
        cells = (part, count.total(), noticed, late, alive - same, same)
        text.append("| " + " | ".join(map(str, cells)) + " |")
    text += [
        "",
        "A change that runs past the limit of time counts as noticed: a run of the tests would not "
        "end.",
        "",
    ]
    if lived:
        text += ["## What lives, and why", ""]
        text += ["| module | line | becomes | reason |", "|---|---|---|---|"]
        for m in lived:
            why = reasons.get(m.name, "no test notices")
            cells = (m.module.removeprefix("mcnn/"), _code(m.before), _code(m.after), why)
            text.append("| " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text)


def _code(text: str) -> str:
    if not text:
        return "nothing"
    text = text if len(text) < 90 else f"{text[:87]}..."
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def main() -> None:
    """Draw and run changes, run those that lived once more, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=EACH, help="changes of each part")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draw")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for the tests of a change")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="that has pytest")
    parser.add_argument("--again", action="store_true", help="only those that lived")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    lines = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    if args.serve:
        serve()
    elif args.page:
        import yaml

        reasons = yaml.safe_load(REASONS.read_text(encoding="utf-8")) or {}
        PAGE.write_text(page(lines, reasons), encoding="utf-8")
    elif args.again:
        alive = [line for line in lines if line["outcome"] == "survived"]
        run(found_again(alive), args.python, args.seconds, lines)
    else:
        known = {Mutant(**line).name for line in lines}
        new = [one for one in drawn(args.each, args.seed) if one.name not in known]
        run(new, args.python, args.seconds, lines)


if __name__ == "__main__":
    main()
