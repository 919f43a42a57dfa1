"""What the hash of the code covers, and what it does not."""

import ast
import shutil
from pathlib import Path

import pytest
import small_package as probe
from small_package import FILES, FIRST, SECOND

from mcnn.ledger import code, registry, source
from mcnn.ledger.code import Code, Item

ROOT = Path(__file__).parents[2]
PATCH = "\nimport torch\n\ntorch.Tensor.sum = None\n"


@pytest.fixture
def package(tmp_path):
    return probe.write(tmp_path)


def changed(package, name, text, roots=FIRST):
    """Whether the hash changes with the text of a file."""
    before = Code(package.parent, "probe").hash(roots)
    file = package / name
    old = file.read_text() if file.exists() else None
    file.write_text(text)
    after = Code(package.parent, "probe").hash(roots)
    if old is None:
        file.unlink()
    else:
        file.write_text(old)
    return before != after


def replaced(package, name, old, new, roots=FIRST):
    assert old in FILES[name]
    return changed(package, name, FILES[name].replace(old, new), roots)


def appended(package, name, text, roots=FIRST):
    return changed(package, name, FILES[name] + text, roots)


def items(package, roots=FIRST):
    return {str(item) for item in Code(package.parent, "probe").closure(roots)}


FIRST_FILE, COMMON = "experiments/one/first.py", "experiments/one/common.py"


def test_the_closure_is_what_run_and_the_trial_reach(package):
    first, common = "probe.experiments.one.first:", "probe.experiments.one.common:"
    assert items(package) == {
        *(first + name for name in ("Trial", "WIDTH", "_helper", "_run")),
        *(common + name for name in ("Base", "SCALE", "scaled")),
        "probe.lib.other:*",
    }
    assert items(package, SECOND) == {
        "probe.experiments.one.second:_run",
        "probe.kernels:*",
        "probe.native.loops:*",
        "probe.native.loops:native/loops.c",
        "probe.ops:*",
    }
    with pytest.raises(KeyError, match="first:_walk"):
        items(package, ["probe.experiments.one.first:_walk"])


def test_comments_docstrings_and_layout_do_not_count(package):
    text = '"""A lesson,\nlonger."""\n\n# why\n' + FILES["lib/other.py"]
    text = text.replace("    return 2 * x", "    '''Twice.'''\n\n    return (2 *x)  # so")
    assert not changed(package, "lib/other.py", text)
    text = FILES[FIRST_FILE].replace("    return part", '    """Help."""\n\n    return part')
    assert not changed(package, FIRST_FILE, text)
    classes = 'class A:\n    {}\n    async def f(self):\n        {}\n        return "text"\n'
    (package / "lib/other.py").write_text(classes.format('"""Doc."""', '"""Doc."""'))
    assert not changed(package, "lib/other.py", classes.format("", ""))
    assert changed(package, "lib/other.py", classes.replace("text", "more").format("", ""))
    assert changed(package, "lib/other.py", classes.format("", '1; "no docstring"'))


@pytest.mark.parametrize(
    "text", ["x = 2", "x = 1.0", "y = 1", "x = 1\nx", "x = '1'", "x = -1", "x: int = 1"]
)
def test_any_change_of_a_library_module_counts(package, text):
    (package / "lib/other.py").write_text("x = 1\n")
    assert changed(package, "lib/other.py", text)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (FIRST_FILE, '"a summary"', '"another"'),
        (FIRST_FILE, "return 1", "return 2"),
        (FIRST_FILE, "for s in seeds", "for s in seeds[1:]"),
        (FIRST_FILE, "SEEDS = [1, 2]", "SEEDS = [3]"),
        (COMMON, "    return x\n", "    return -x\n"),
        ("experiments/one/__init__.py", "*first.EXPERIMENTS, ", ""),
        ("experiments/one/second.py", "ops.act(SOURCE)", "1"),
        ("lib/__init__.py", '"halve", ', ""),
        ("lib/leaf.py", "y = 1", "y = 2"),
        ("__init__.py", '"1"', '"2"'),
    ],
)
def test_what_does_not_count(package, name, old, new):
    assert not replaced(package, name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (FIRST_FILE, "WIDTH = 4", "WIDTH = 5"),
        (FIRST_FILE, "part(x) + WIDTH", "part(x) - WIDTH"),
        (FIRST_FILE, "size: int = 3", "size: int = 4"),
        (FIRST_FILE, "@cache\n", ""),
        (FIRST_FILE, "import halve as part", "import double as part"),
        (FIRST_FILE, "from functools import cache", "from functools import lru_cache as cache"),
        (FIRST_FILE, "SEEDS = [1, 2]", "SEEDS = [1, 2]\nWIDTH += 1"),
        (FIRST_FILE, "SEEDS = [1, 2]", "SEEDS = [1, 2]\nif True:\n    WIDTH = 7"),
        (FIRST_FILE, "SEEDS = [1, 2]", "@_helper.register\ndef _(x):\n    return 0\n"),
        (COMMON, "SCALE = 2", "SCALE = 3"),
        (COMMON, "seed: int = 0", "seed: int = 1"),
        ("lib/other.py", "x / 2", "x / 3"),
        ("lib/__init__.py", "double, halve", "halve, halve as double"),
    ],
)
def test_what_counts(package, name, old, new):
    assert replaced(package, name, old, new)


def test_a_new_neighbour_changes_nothing_unless_it_changes_others(package):
    text = FILES["experiments/one/second.py"]
    assert not changed(package, "experiments/one/third.py", text)
    assert not changed(package, "lib/third.py", "x = 1\n")
    assert changed(package, "experiments/one/third.py", text + PATCH)
    before = Code(package.parent, "probe").hash(FIRST)
    (package / "experiments/one/third.py").write_text(text)
    file = package / "experiments/one/__init__.py"
    file.write_text(file.read_text() + "from probe.experiments.one import third\n")
    assert Code(package.parent, "probe").hash(FIRST) == before


@pytest.mark.parametrize(
    "name",
    [
        *("__init__.py", "lib/__init__.py", "experiments/__init__.py"),
        *("experiments/one/__init__.py", "experiments/one/second.py", "lib/leaf.py"),
        "lib/unused.py",
    ],
)
@pytest.mark.parametrize(
    "patch",
    [
        PATCH,
        "\nimport torch\nif True:\n    torch.set_default_dtype(torch.float64)\n",
        "\nimport torch\n_old = torch.set_default_dtype(torch.float64)\n",
        "\nfrom probe.lib import other\nsetattr(other, 'double', None)\n",
        "\nimport torch\n@torch.library.impl('aten::sum', 'CPU')\ndef f(x):\n    return x\n",
    ],
)
def test_what_changes_others_on_import_is_noticed_everywhere(package, name, patch):
    assert appended(package, name, patch)


def test_what_an_effect_reaches_is_noticed(package):
    effect = "import torch\n\n\ndef patch():\n    torch.Tensor.sum = {}\n\n\npatch()\n"
    (package / "lib/unused.py").write_text(effect.format("None"))
    assert changed(package, "lib/unused.py", effect.format("max"))


def test_an_init_that_does_something_else_counts_whole(package):
    assert not appended(package, "lib/__init__.py", "from probe.lib.unused import z\n")
    (package / "lib/__init__.py").write_text(FILES["lib/__init__.py"] + "\n\nX = 1\n")
    assert {"probe.lib:*", "probe.lib.leaf:*"} <= items(package)
    assert changed(package, "lib/leaf.py", "y = 2\n\n\nleaf = None\n")


def test_a_package_that_is_passed_on_may_be_used_whole(package):
    text = FILES[FIRST_FILE].replace("lib.double(", "getattr(lib, 'double')(")
    (package / FIRST_FILE).write_text(text)
    assert {"probe.lib.leaf:*", "probe.lib.other:*", "probe.lib.unused:*"} <= items(package)
    facade = FILES["lib/__init__.py"].replace("double, halve", "halve, halve as double")
    assert changed(package, "lib/__init__.py", facade)


def test_type_checking_does_not_count_but_its_else_does(package):
    text = "from typing import TYPE_CHECKING\n\n{}    from probe.lib.unused import z\n"
    text += FILES["lib/other.py"]
    (package / "lib/other.py").write_text(text.format("if TYPE_CHECKING:\n"))
    assert not replaced(package, "lib/unused.py", "z = 1", "z = 2")
    assert not changed(
        package,
        "lib/other.py",
        FILES["lib/other.py"].join(["from typing import TYPE_CHECKING\n", ""]),
    )
    for condition in ("if not TYPE_CHECKING:\n", "if TYPE_CHECKING:\n    pass\nelse:\n"):
        (package / "lib/other.py").write_text(text.format(condition))
        assert "probe.lib.unused:*" in items(package)
        assert replaced(package, "lib/unused.py", "z = 1", "z = 2")


@pytest.mark.parametrize(
    "statements",
    [
        "import probe\n\n\ndef f():\n    return probe.lib.leaf.y\n",
        "import probe.lib.leaf\n",
        "import probe.lib.leaf as x\n",
        "from probe.lib import leaf\n\n\ndef f():\n    return leaf()\n",
        "from . import leaf\n",
        "from .leaf import y\n",
        "from ..lib.leaf import y as z\n",
        "def f():\n    from probe.lib.leaf import y\n    return y\n",
        "class A:\n    import probe.lib.leaf\n",
        "try:\n    from probe.lib.leaf import y\nexcept ImportError:\n    y = 2\n",
        "def f():\n    from probe.lib import leaf as m\n    return m\n\n\n"
        "def g():\n    from probe.lib import unused as m\n    return m.z\n",
    ],
)
def test_every_kind_of_import_is_followed(package, statements):
    (package / "lib/other.py").write_text(statements + FILES["lib/other.py"])
    if "lib import leaf" not in statements and "from . " not in statements:
        (package / "lib/__init__.py").write_text("")
        (package / FIRST_FILE).write_text(
            FILES[FIRST_FILE].replace("lib import halve", "lib.other import halve")
        )
    assert "probe.lib.leaf:*" in items(package)
    assert replaced(package, "lib/leaf.py", "y = 1", "y = 2")


def test_circles_and_a_function_named_as_its_module(package):
    (package / "lib/__init__.py").write_text("from probe.lib import leaf, other\n")
    (package / "lib/other.py").write_text(
        "from probe import lib\n\n\ndef double(x):\n    return lib.leaf.y\n\n\nhalve = double\n"
    )
    (package / FIRST_FILE).write_text(
        FILES[FIRST_FILE]
        .replace("lib.double", "lib.other.double")
        .replace("probe.lib import halve", "probe.lib.other import halve")
    )
    assert {"probe.lib.leaf:*", "probe.lib.other:*"} <= items(package)


def test_a_star_is_refused(package):
    (package / "lib/other.py").write_text("from probe.lib.leaf import *\n")
    with pytest.raises(ValueError, match="import names instead of"):
        items(package)


def test_names_at_run_time_make_the_whole_module_count(package):
    text = FILES[FIRST_FILE].replace("_helper(trial.size)", "globals()['SEEDS'][0]")
    (package / FIRST_FILE).write_text(text)
    assert "probe.experiments.one.first:*" in items(package)


def test_operators_lead_to_those_who_register_them(package):
    assert replaced(package, "kernels.py", "x + 1", "x + 2", SECOND)
    assert not replaced(package, "kernels.py", "x + 1", "x + 2", FIRST)
    assert appended(
        package, "lib/unused.py", "import torch\ntorch.library.define('probe::act', '')\n", SECOND
    )
    text = FILES["ops.py"].replace("torch.ops.probe.act(x)", "getattr(torch.ops.probe, 'act')(x)")
    (package / "ops.py").write_text(text)
    assert replaced(package, "kernels.py", "x + 1", "x + 2", SECOND)


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("native/loops.c", "+ 1", "+ 2", True),
        ("native/loops.c", "int f() {\n", "int f()\n{\n", False),
        ("native/loops.c", "Why", "Because", False),
        ("native/loops.c", "// so", "// or so", False),
        ("native/loops.c", "\nint f", "\n#define F\nint f", True),
        ("sampling.h", "3", "4", True),
        ("sampling.h", "STEP 3\n", "STEP 3 /* three */\n\n", False),
    ],
)
def test_c_sources_and_their_includes_count_without_comments(package, name, old, new, counts):
    assert replaced(package, name, old, new, SECOND) == counts
    assert not replaced(package, name, old, new, FIRST)


def test_c_text_keeps_what_looks_like_a_comment_or_ends_a_line(tmp_path):
    def text(content):
        file = tmp_path / "a.c"
        file.write_text(content)
        return source.file_text(file, tmp_path)

    assert text('f("a//b");') != text('f("a//c");')
    assert text('f("/*", 1, "*/");') != text('f("/*", 2, "*/");')
    assert text("#define A 1\nint x;") != text("#define A 1 int x;")
    assert text("#define A 1 \\\n+ 2\nint x;") == text("#define A 1 + 2\nint x;")
    assert text("int\nx;") == text("int x;")
    files = source.c_files(tmp_path / "a.c", tmp_path)
    (tmp_path / "a.c").write_text('#include "a.c"\n')  # which leads round in a circle
    assert source.c_files(tmp_path / "a.c", tmp_path) == files


def test_files_are_those_behind_the_code_and_the_packages_above(package):
    tree = Code(package.parent, "probe")
    names = {str(f.relative_to(package)) for f in tree.files(tree.closure(SECOND))}
    assert names == {
        *("__init__.py", "sampling.h", "native/__init__.py", "native/loops.py", "native/loops.c"),
        *("ops.py", "kernels.py", "experiments/__init__.py", "experiments/one/__init__.py"),
        "experiments/one/second.py",
    }


def test_the_dump_has_no_fields_that_depend_on_the_python_version():
    class FunctionDef(ast.FunctionDef):  # as later versions have it
        _fields = (*ast.FunctionDef._fields, "type_params", "note")

    text = (
        "def f(a, *, b=None):\n    '''Doc.'''\n    return f'{a!r:>{b}}' if a else [None, 0, '']\n"
    )
    (now,) = ast.parse(text).body
    later = FunctionDef(**dict(ast.iter_fields(now)), type_params=[], note=None)
    assert source.dump(later) == source.dump(now)
    assert source.dump(ast.parse("x = 'u'")) == source.dump(ast.parse("x = u'u'")).replace(
        ",kind='u'", ""
    )
    # Written out once: a version that gave another text would make all records stale.
    assert source.dump(ast.parse("x[1:] = -y, 2.5")) == (
        "Module(body=[Assign(targets=[Subscript(value=Name(id='x',ctx=Load()),"
        "slice=Slice(lower=Constant(value=1)),ctx=Store())],value=Tuple(elts=[UnaryOp(op=USub(),"
        "operand=Name(id='y',ctx=Load())),Constant(value=2.5)],ctx=Load()))])"
    )


def test_empty_values_are_told_apart():
    texts = ["f(None)", "f(0)", "f(False)", "f('')", "f([])", "f()", "f(())", "f(...)", "f(b'')"]
    assert len({source.dump(ast.parse(t)) for t in texts}) == len(texts)


# The real package


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(ROOT / "mcnn", tmp_path / "mcnn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def hashes():
    here = Code(ROOT)
    return {name: here.hash(e.roots) for name, e in registry.all_experiments().items()}


def stale(root, hashes):
    tree = Code(root)
    known = registry.all_experiments()
    return {name for name, value in hashes.items() if tree.hash(known[name].roots) != value}


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text, file
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_describes_and_reads_records_makes_none_stale(copied, hashes):
    mnist = copied / "mcnn/experiments/density/mnist.py"
    edit(mnist, '"""', '"""Another lesson. ')
    edit(mnist, "about = []", "about = ['measured']")
    edit(mnist, "summary=", "summary='other: ' + ")
    edit(mnist, "seeds=", "seeds={} or ")
    edit(mnist, "measures={", "measures={'new': None, ")
    edit(mnist, "for seed in seeds", "for seed in [*seeds, 77]")
    edit(copied / "mcnn/ledger/runner.py", "round(seconds, 3)", "round(seconds, 4)")
    edit(copied / "mcnn/ledger/verdicts.py", "_ON_BOUND = 0.1", "_ON_BOUND = 0.2")
    module = copied / "mcnn/experiments/density/another.py"
    shutil.copy(mnist, module)
    chapter = copied / "mcnn/experiments/density/__init__.py"
    edit(chapter, "import (\n    bits", "import (\n    another,\n    bits")
    assert stale(copied, hashes) == set()


def test_what_executes_trials_makes_all_stale(copied, hashes):
    edit(copied / "mcnn/ledger/execution.py", "set_num_threads(1)", "set_num_threads(2)")
    assert stale(copied, hashes) == set(hashes)


@pytest.mark.parametrize(
    ("file", "old", "new", "module"),
    [
        ("sparse/csr.c", "i < 8", "i < 7", "mcnn.sparse.backends.c"),
        ("density/counts.c", "0x1p-53", "0x1p-52", "mcnn.density.native"),
    ],
)
def test_a_constant_in_c_makes_exactly_those_stale_that_use_it(
    copied, hashes, file, old, new, module
):
    edit(copied / "mcnn" / file, old, new)
    here = Code(ROOT)
    uses = {
        name
        for name, e in registry.all_experiments().items()
        if Item(module, "*") in here.closure(e.roots)
    }
    assert 0 < len(uses) < len(hashes)
    assert stale(copied, hashes) == uses


def test_every_experiment_starts_from_what_names_can_find():
    here = code.here()
    for name, experiment in registry.all_experiments().items():
        for part in (experiment.run, experiment.trial):
            assert "." not in part.__qualname__, f"{name}: arguments of a factory do not count"
            assert part.__name__ in here.module(part.__module__).definitions, name


def test_every_file_of_the_package_that_is_no_module_counts_somewhere():
    here = code.here()
    named = {
        path
        for module in here.modules
        for item in here.after(Item(module.name, "*"))
        if "." in item.name
        for path in here.files([item])
    }
    others = {p for p in (ROOT / "mcnn").rglob("*") if p.is_file() and "pyc" not in str(p)}
    markers = {ROOT / "mcnn/py.typed"}  # for type checkers: nothing reads it
    assert {p for p in others if p.suffix != ".py"} - markers <= named


def test_few_modules_of_the_package_do_things_to_others_on_import():
    """Each of them is in the hash of every experiment: think twice before there are more."""
    parts = {str(item) for item in code.here()._on_import}
    finds_segments = {"", "_FIRST", "_of_context", "_of_generator"}  # looks PyTorch's functions up
    recomputation = {f"mcnn.recomputation:{name}" for name in finds_segments}
    assert parts == {"mcnn:*", "mcnn.native:", "mcnn.native:_pool", *recomputation}
