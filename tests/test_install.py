"""What an installation brings: the library with what it needs, and extras that say their name."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mcnn.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = sorted(module for modules in EXTRAS.values() for module in modules)
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def without_extras(tmp_path):
    """Return a call that runs Python where no module of any extra is found."""

    def run(code):
        command = [sys.executable, "-c", BLOCKER + code]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    return run


def test_the_library_works_without_extras(without_extras):
    done = without_extras("""
import importlib, pkgutil
import torch
import mcnn

model = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 2))
small, report = mcnn.density.quantize(model, fraction=0.5)
net = mcnn.paths.PathMLP([20, 10, 2], paths=40)
assert net(small[0].weight).shape == (10, 2)
for module in pkgutil.walk_packages(mcnn.__path__, "mcnn."):
    if not module.name.startswith(("mcnn.ledger", "mcnn.experiments", "mcnn.figures", "mcnn.__")):
        importlib.import_module(module.name)
""")
    assert done.returncode == 0, done.stderr


# What asks for a module of an extra, and the extra.
ASKED = {
    "mcnn.data.load('digits')": "data",
    "mcnn.data.load('mnist')": "data",
    "mcnn.data.load('mnist', root='nowhere', download=True)": "data",
    "mcnn.training.nets.build('alexnet')": "data",
    "mcnn.figures": "figures",
    "mcnn.paths.export_onnx(mcnn.paths.PathMLP([8, 4], paths=16), torch.ones(2, 8), 'x')": "onnx",
}


def test_an_extra_that_is_missing_is_named(without_extras):
    done = without_extras(f"""
import torch, mcnn, mcnn.training.nets

for code, extra in {ASKED}.items():
    try:
        eval(code)
    except ImportError as error:
        assert isinstance(error, mcnn.errors.UsageError), code
        assert f"an extra: pip install '.[{{extra}}]' in a checkout" in str(error), (code, error)
    else:
        raise AssertionError(code)
""")
    assert done.returncode == 0, done.stderr


def test_the_command_line_names_it_in_one_line(without_extras):
    calls = {"list": "ledger", "run nutshell-backprop": "ledger", "verify": "ledger"}
    calls |= {"merge results": "ledger", "data": "data", "data mnist --download": "data"}
    done = without_extras(f"""
from mcnn.ledger import cli

for call in {list(calls)}:
    assert cli.main(call.split()) == 2, call
""")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("mcnn: error: no module ") for line in lines)
    named = [
        re.search(r", an extra: pip install '\.\[(\w+)\]' in a checkout$", x)[1] for x in lines
    ]
    assert named == list(calls.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Build the package as pip does, from a copy."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "mcnn", folder / "mcnn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    (folder / "dist").mkdir()
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(folder / "dist" / built.stdout.splitlines()[-1])


def test_the_wheel_has_all_sources(wheel):
    sources = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "mcnn").rglob("*")
        if file.suffix in (".py", ".c", ".h", ".typed")
    }
    assert {Path(x).suffix for x in sources} == {".py", ".c", ".h", ".typed"}
    assert sources == {name for name in wheel.namelist() if name.startswith("mcnn/")}


def requirements(wheel) -> dict[str, set[str]]:
    """Return what the wheel asks for, by extra; ``""`` is what always comes."""
    (name,) = (x for x in wheel.namelist() if x.endswith(".dist-info/METADATA"))
    message = Parser().parsestr(wheel.read(name).decode())
    found = {extra: set() for extra in ("", *message.get_all("Provides-Extra"))}
    for requirement in map(Requirement, message.get_all("Requires-Dist")):
        for extra, names in found.items():
            always = not requirement.marker and extra == ""
            if always or (requirement.marker and requirement.marker.evaluate({"extra": extra})):
                names.add(canonicalize_name(requirement.name))
    return found


def test_a_plain_installation_brings_what_the_library_needs(wheel):
    found = requirements(wheel)
    assert found.pop("") == {"torch", "torchdiffeq", "numpy", "scipy", "tqdm"}
    assert found.pop("all") == {"mcnn"}  # with all other extras
    assert set(found) == set(EXTRAS)
    distributions = packages_distributions()
    brought = {"cycler": "matplotlib"}  # comes with it
    for extra, modules in EXTRAS.items():
        names = {canonicalize_name(brought.get(m) or distributions[m][0]) for m in modules}
        assert found[extra] - {"mcnn"} == names


def test_every_import_of_the_package_is_of_something_it_asks_for():
    asked = {"torch", "triton", "torchdiffeq", "numpy", "scipy", "tqdm", "mcnn", *BLOCKED}
    unknown = {}
    for file in (ROOT / "mcnn").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names}:
                if name not in asked | sys.stdlib_module_names:
                    unknown.setdefault(name, file.name)
    assert unknown == {}
