"""Who may import whom: each contract of pyproject.toml catches what it is there for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS, LEDGER, RECORDS, CIRCLES = "Foundation", "The ledger knows", "The library", "No circles"

# What is appended to a module, and the contracts that it breaks.
PLANTED = {
    "mcnn/paths/graph.py": ("from mcnn.training import fit", {LAYERS, CIRCLES}),
    "mcnn/native.py": ("import mcnn.density", {LAYERS, LEDGER, CIRCLES}),  # records name it
    "mcnn/density/theory.py": ("from mcnn.paths import graph", {CIRCLES}),
    "mcnn/paths/sobol.py": ("from mcnn.paths import nets", {CIRCLES}),
    "mcnn/relu/pool.py": ("from mcnn.ledger import project", {RECORDS}),
    "mcnn/ledger/report.py": ("from mcnn import nutshell", {LEDGER}),
    "mcnn/experiments/relu/pooling.py": ("from mcnn.ledger import runner", {RECORDS}),
    "mcnn/of_no_layer.py": ("", {LAYERS}),
    "mcnn/relu/check.py": ("if TYPE_CHECKING:\n    from mcnn.training import fit", set()),
}


@pytest.mark.parametrize("file", PLANTED)
def test_a_planted_import_breaks_its_contract(file, tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
    shutil.copytree(ROOT / "mcnn", tmp_path / "mcnn", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text, contracts = PLANTED[file]
    with open(tmp_path / file, "a", encoding="utf-8") as module:
        module.write(f"from typing import TYPE_CHECKING\n\n{text}\n")
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True, check=False)
    shown = " ".join(done.stdout.split())
    summary = shown.partition("Contracts: ")[0]
    broken = {name for name in (LAYERS, LEDGER, RECORDS, CIRCLES) if _broken(summary, name)}
    assert broken == contracts, done.stdout + done.stderr
    assert done.returncode == bool(contracts)


def _broken(summary, name):
    """Whether the line of the contract, from its name to the verdict, says so."""
    verdict = summary[summary.index(name) :]
    kept, broken = verdict.find("KEPT"), verdict.find("BROKEN")
    return broken >= 0 and not 0 <= kept < broken


def test_every_documented_module_is_an_attribute_after_importing_the_package():
    """Each is looked for alone: what one imports is not there for another."""
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book" / "api").iterdir()]
    modules = sorted(set(re.findall(r"automodule:: (\S+)", "\n".join(pages))))
    assert len(modules) > 50
    code = """
import json, sys
import mcnn

def missing(module):
    for name in [x for x in sys.modules if x.startswith("mcnn.")]:
        parent, _, child = name.rpartition(".")
        vars(sys.modules.get(parent, mcnn)).pop(child, None)
    value = mcnn
    for part in module.split(".")[1:]:
        value = getattr(value, part, None)
    return value is None

print(json.dumps([x for x in sys.argv[1:] if missing(x)]))
"""
    command = [sys.executable, "-c", code, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_a_module_that_is_none_is_not_found():
    import mcnn

    for package in (mcnn, mcnn.density, mcnn.paths):
        with pytest.raises(AttributeError, match=r"module 'mcnn.*' has no attribute 'nothing'"):
            package.nothing  # noqa: B018
