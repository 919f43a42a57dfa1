"""What the hash of the code covers, and what it does not."""

import ast
import subprocess
import sys

import pytest
import torch

from mcnn import experiments, provenance

FILES = {
    "probe/__init__.py": "",
    "probe/experiment.py": "from probe import middle\n\ndef run():\n    return middle.x\n",
    "probe/middle.py": "from probe.deep import leaf\nx = leaf.y\n",
    "probe/deep/__init__.py": "from . import side\n",
    "probe/deep/leaf.py": "y = 1\n",
    "probe/deep/side.py": "z = 1\n",
    "probe/dotted.py": "import probe\n\ndef f():\n    return probe.deep.leaf.y\n",
    "probe/late.py": "def f():\n    from probe.deep.leaf import y\n    return y\n",
    "probe/apart.py": "w = 1\n",
    "probe/report.py": "from probe import apart\n",
}


def clear():
    for function in (provenance.code_hash, provenance.code_state, provenance._closure):
        function.cache_clear()


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A package of its own, in which files can be changed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(provenance, "_PACKAGE", "probe")
    clear()
    yield tmp_path / "probe"
    clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == "probe"]:
        del sys.modules[name]


def changed(file, text, module="probe.experiment"):
    """Whether the hash of a module changes with the text of a file."""
    clear()
    before, old = provenance.code_hash(module), file.read_text()
    file.write_text(text)
    clear()
    after = provenance.code_hash(module)
    file.write_text(old)
    return before != after


def test_comments_docstrings_and_layout_do_not_count(probe):
    same = (
        '"""Another lesson,\nlonger."""\n\n# why\nfrom probe import (\n    middle,\n)\n\n\n'
        "def run():\n    '''What.'''\n\n    return (middle .x)  # so\n"
    )
    assert not changed(probe / "experiment.py", same)
    classes = 'class A:\n    {}\n    async def f(self):\n        {}\n        return "text"\n'
    (probe / "middle.py").write_text(classes.format('"""Doc."""', '"""Doc."""'))
    assert not changed(probe / "middle.py", classes.format("", ""))
    assert changed(probe / "middle.py", classes.replace("text", "other").format("", ""))
    assert changed(probe / "middle.py", classes.format("", '1; "no docstring"'))


@pytest.mark.parametrize(
    "text", ["x = 2", "x = 1.0", "y = 1", "x = 1\nx", "x = '1'", "x = -1", "x: int = 1"]
)
def test_any_change_of_code_counts(probe, text):
    (probe / "experiment.py").write_text("x = 1\n")
    assert changed(probe / "experiment.py", text)


@pytest.mark.parametrize(
    ("module", "file", "counts"),
    [
        ("experiment", "middle.py", True),
        ("experiment", "deep/leaf.py", True),
        ("experiment", "deep/__init__.py", True),
        ("experiment", "deep/side.py", True),  # a relative import inside a package
        ("dotted", "deep/leaf.py", True),
        ("late", "deep/leaf.py", True),
        ("late", "middle.py", False),
        ("experiment", "apart.py", False),
        ("experiment", "__init__.py", False),
    ],
)
def test_the_hash_follows_imports_and_nothing_else(probe, module, file, counts):
    if module == "dotted":  # reached as an attribute, without the package's own import
        (probe / "deep/__init__.py").write_text("")
    text = (probe / file).read_text() + "new = 1\n"
    assert changed(probe / file, text, f"probe.{module}") == counts


def test_modules_that_only_report_take_no_part(probe):
    (probe / "experiment.py").write_text("from probe import report\n")
    assert not changed(probe / "report.py", "x = 2\n")
    assert not changed(probe / "apart.py", "x = 2\n")


def test_the_dump_has_no_fields_that_depend_on_the_python_version():
    class FunctionDef(ast.FunctionDef):  # as later versions have it
        _fields = (*ast.FunctionDef._fields, "type_params", "note")

    text = (
        "def f(a, *, b=None):\n    '''Doc.'''\n    return f'{a!r:>{b}}' if a else [None, 0, '']\n"
    )
    (now,) = ast.parse(text).body
    later = FunctionDef(**dict(ast.iter_fields(now)), type_params=[], note=None)
    assert provenance._dump(later) == provenance._dump(now)
    assert provenance._dump(ast.parse("x = 'u'")) == provenance._dump(
        ast.parse("x = u'u'")
    ).replace(",kind='u'", "")
    # Written out once: a version that gave another text would make all records stale.
    assert provenance._dump(ast.parse("x[1:] = -y, 2.5")) == (
        "Module(body=[Assign(targets=[Subscript(value=Name(id='x',ctx=Load()),"
        "slice=Slice(lower=Constant(value=1)),ctx=Store())],value=Tuple(elts=[UnaryOp(op=USub(),"
        "operand=Name(id='y',ctx=Load())),Constant(value=2.5)],ctx=Load()))])"
    )


def test_empty_values_are_told_apart():
    texts = ["f(None)", "f(0)", "f(False)", "f('')", "f([])", "f()", "f(())", "f(...)", "f(b'')"]
    assert len({provenance._dump(ast.parse(t)) for t in texts}) == len(texts)


def test_dirty_covers_exactly_the_files_of_the_closure(probe):
    def git(*arguments):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        run = subprocess.run(
            ["git", *name, *arguments], cwd=probe.parent, check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    def state(module="probe.late"):
        clear()
        return provenance.code_state(module)

    assert (state()["commit"], state()["dirty"]) == (None, None), "no repository yet"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    clean = state()
    assert clean == {
        "commit": git("rev-parse", "HEAD"),
        "dirty": False,
        "code": provenance.code_hash("probe.late"),
    }
    (probe / "apart.py").write_text("changed = 1\n")
    (probe / "middle.py").write_text("changed = 1\n")
    (probe / "new.py").write_text("")
    assert state() == clean
    (probe / "deep/leaf.py").write_text("y = 1  # a comment\n")
    assert state() == clean | {"dirty": True}
    git("checkout", "--quiet", "probe/deep/leaf.py")
    assert state() == clean
    assert state("probe.new")["dirty"], "not in the repository"
    (probe.parent / ".gitignore").write_text("new.py\n")
    assert state("probe.new")["dirty"], "nor this one"


def test_the_state_is_read_once(probe):
    before = provenance.code_state("probe.experiment")
    (probe / "experiment.py").write_text("edited = 1\n")
    assert provenance.code_state("probe.experiment") == before
    assert provenance.code_hash("probe.experiment") == before["code"]


def test_every_experiment_of_the_book_has_a_hash():
    clear()
    for name, experiment in experiments.all_experiments().items():
        closure = provenance._closure(experiment.run.__module__)
        assert experiment.run.__module__ in closure
        assert not {"mcnn.runner", "mcnn.claims", "mcnn.cli", "mcnn.records"} & set(closure), name
        assert len(provenance.code_hash(experiment.run.__module__)) == 16


def test_describing_says_where_it_ran():
    device = torch.device("cpu")
    made = provenance.describe("mcnn.stats", device)
    assert made.keys() == {
        *("commit", "dirty", "code", "device", "mcnn", "torch", "cuda", "python")
    }
    assert made["device"]
    assert made["cuda"] is None


def test_peak_memory_grows_by_what_is_held():
    # In a process of its own, for this one may have held more before; and through a shell, for the
    # peak of a process that starts another is handed on to it.
    code = """
import torch
from mcnn.provenance import peak_memory
device = torch.device("cpu")
before = peak_memory(device)
hold = torch.ones(2**26)  # 256 MiB
print((peak_memory(device) - before) / hold.nbytes)
"""
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]
    grown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.8 < float(grown.stdout) < 1.5
