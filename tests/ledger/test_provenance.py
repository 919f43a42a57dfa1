"""What a record says of the commit, the code and the machine."""

import subprocess
import sys

import numpy
import pytest
import scipy
import torch

from mcnn import native
from mcnn.ledger import code, provenance, registry

FILES = {
    "probe/__init__.py": "",
    "probe/experiments/__init__.py": "",
    "probe/experiments/one.py": "from probe.leaf import y\n\ndef run():\n    return y\n",
    "probe/leaf.py": "y = 1\n",
    "probe/apart.py": "w = 1\n",
    "probe/new.py": "",
}
RUN = ("probe.experiments.one:run",)


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A package of its own, in which files can be changed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "here", lambda: code.Code(tmp_path, "probe"))
    yield tmp_path / "probe"
    clear()


def clear():
    provenance._files.cache_clear()
    provenance.code_hash.cache_clear()
    provenance.code_state.cache_clear()


def test_dirty_covers_exactly_the_files_of_the_closure(probe):
    def git(*arguments):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        run = subprocess.run(
            ["git", *name, *arguments], cwd=probe.parent, check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    def state(roots=RUN):
        clear()
        return provenance.code_state(roots)

    assert (state()["commit"], state()["dirty"]) == (None, None), "no repository yet"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    clean = state()
    assert clean == {
        "commit": git("rev-parse", "HEAD"),
        "dirty": False,
        "code": provenance.code_hash(RUN),
    }
    (probe / "apart.py").write_text("changed = 1\n")
    assert state() == clean
    (probe / "leaf.py").write_text("y = 1  # a comment\n")
    assert state() == clean | {"dirty": True}
    git("checkout", "--quiet", "probe/leaf.py")
    assert state() == clean
    (probe / "__init__.py").write_text("import torch\n\ntorch.Tensor.sum = None\n")
    assert state()["dirty"], "a parent is executed too"
    git("checkout", "--quiet", "probe/__init__.py")
    git("rm", "--quiet", "--cached", "probe/new.py")
    git("commit", "--quiet", "-m", "y")
    assert state(("probe.new",))["dirty"], "not in the repository"
    (probe.parent / ".gitignore").write_text("new.py\n")
    assert state(("probe.new",))["dirty"], "nor this one"


@pytest.fixture
def committed(probe, monkeypatch):
    """The package in a repository of its own, and git with an identity."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "x")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "x@example.org")

    def git(*arguments):
        command = ["git", "-C", str(probe.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "x")
    return git


def dirty(roots=RUN):
    clear()
    return provenance.code_state(roots)["dirty"]


@pytest.mark.parametrize("hidden", ["--assume-unchanged", "--skip-worktree"])
def test_what_git_is_told_to_pass_over_is_dirty_even_so(probe, committed, hidden):
    assert dirty() is False
    committed("update-index", hidden, "probe/leaf.py")
    (probe / "leaf.py").write_text("y = 2\n")
    assert committed("status", "--porcelain") == ""
    assert dirty() is True


def test_what_was_never_added_is_dirty_where_git_shows_no_such_files(probe, committed):
    committed("config", "status.showUntrackedFiles", "no")
    (probe / "leaf.py").write_text("from probe.fresh import y\n")
    committed("-c", "commit.gpgsign=false", "commit", "--quiet", "-a", "-m", "y")
    (probe / "fresh.py").write_text("y = 1\n")
    assert committed("status", "--porcelain", "--", "probe/fresh.py") == ""
    assert dirty() is True


def test_other_ends_of_lines_are_no_other_code(probe, committed):
    (probe / "leaf.py").write_bytes(b"y = 1\r\n")
    assert dirty() is False
    (probe / "leaf.py").write_bytes(b"y = 2\r\n")
    assert dirty() is True


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_the_commit_is_that_of_the_code_and_not_of_a_hook(
    probe, committed, name, monkeypatch, tmp_path
):
    head = committed("rev-parse", "HEAD")
    monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    clear()
    state = provenance.code_state(RUN)
    assert (state["commit"], state["dirty"]) == (head, False)


def test_without_git_there_is_no_commit(probe, committed, monkeypatch):
    monkeypatch.setenv("PATH", "")
    clear()
    state = provenance.code_state(RUN)
    assert (state["commit"], state["dirty"]) == (None, None)


def test_variables_that_change_numbers_are_told_and_folders_are_not(monkeypatch):
    for name in provenance.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert provenance.environment() == {}
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("LD_PRELOAD", "/home/somebody/libfast.so")
    told = provenance.describe(("mcnn.stats",), torch.device("cpu"))["environment"]
    assert told["ATEN_CPU_CAPABILITY"] == "default"
    assert len(told["LD_PRELOAD"]) == 16
    assert "/" not in told["LD_PRELOAD"]


def test_the_state_is_read_once(probe):
    before = provenance.code_state(RUN)
    (probe / "leaf.py").write_text("edited = 1\n")
    assert provenance.code_state(RUN) == before
    assert provenance.code_hash(RUN) == before["code"]


def test_code_outside_of_the_package_can_start_from_there(probe, monkeypatch, tmp_path):
    file = tmp_path / "elsewhere.py"
    file.write_text("from probe.leaf import y\n\ndef run():\n    return y\n")
    monkeypatch.syspath_prepend(tmp_path)
    import elsewhere  # noqa: F401

    before = provenance.code_hash(("elsewhere:run",))
    clear()
    (probe / "leaf.py").write_text("y = 2\n")
    assert provenance.code_hash(("elsewhere:run",)) != before
    del sys.modules["elsewhere"]


def test_every_experiment_of_the_book_has_a_hash():
    for name, experiment in registry.all_experiments().items():
        items = code.here().closure(experiment.roots)
        assert {experiment.run.__module__, experiment.trial.__module__} <= {i.module for i in items}
        ledger = {i.module for i in items if i.module.startswith("mcnn.ledger")}
        assert ledger == {"mcnn.ledger.experiment", "mcnn.ledger.execution"}, name
        assert len(provenance.code_hash(experiment.roots)) == 16


def test_describing_says_where_it_ran():
    device = torch.device("cpu")
    made = provenance.describe(("mcnn.stats",), device)
    assert made.keys() == {
        *("commit", "dirty", "code", "device", "mcnn", "torch", "cuda", "python"),
        *("numpy", "scipy", "torchdiffeq", "compiler", "environment"),
    }
    assert made["device"]
    assert made["cuda"] is None
    assert made["numpy"] == numpy.__version__
    assert made["scipy"] == scipy.__version__
    assert made["compiler"] is None, "statistics reach no C"


def test_the_compiler_is_named_with_its_flags_where_c_is_reached(tmp_path, monkeypatch):
    compiler = tmp_path / "mycc"
    compiler.write_text('#!/bin/sh\n[ "$2" = --version ] && echo "mycc 1.2\nmore"\nexit 0\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} -m64")
    roots = registry.get("density-mnist").roots
    told = provenance.describe(roots, torch.device("cpu"))["compiler"]
    assert told == f"mycc 1.2 -m64 {' '.join(native._FLAGS)} -march=native"
    compiler.write_text(compiler.read_text().replace("exit 0", "[ $2 != -march=native ]"))
    provenance._compiler.cache_clear()
    told = provenance.compiler()
    assert told == f"mycc 1.2 -m64 {' '.join(native._FLAGS)}", "it does not know its own machine"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert provenance.compiler() is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "LIBRARIES", ("no-such-package",))
    assert provenance.describe(("mcnn.stats",), torch.device("cpu"))["no-such-package"] is None


def test_peak_memory_grows_by_what_is_held():
    # In a process of its own, for this one may have held more before; and through a shell, for the
    # peak of a process that starts another is handed on to it.
    code = """
import torch
from mcnn.ledger.provenance import peak_memory
device = torch.device("cpu")
before = peak_memory(device)
hold = torch.ones(2**26)  # 256 MiB
print((peak_memory(device) - before) / hold.nbytes)
"""
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]
    grown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.8 < float(grown.stdout) < 1.5
