"""Proofs that a change only moved code: where they must hold, and where they must not."""

import subprocess
import sys
from pathlib import Path

import pytest
import small_package as probe
from small_package import FILES, FIRST, SECOND

from mcnn.errors import UsageError
from mcnn.ledger import cli, moves
from mcnn.ledger.moves import Version

ROOT = Path(__file__).parents[2]
FIRST_FILE, COMMON = "experiments/one/first.py", "experiments/one/common.py"
SECOND_FILE = "experiments/one/second.py"


def reasons(tmp_path, changes, moved=(), roots=FIRST, old=FILES):
    """Try to prove that the package is the same with other files; None removes one."""
    for side in ("old", "new"):
        (tmp_path / side).mkdir(exist_ok=True)
    new = {name: text for name, text in (old | changes).items() if text is not None}
    probe.write(tmp_path / "old", old)
    probe.write(tmp_path / "new", new)
    before = Version(tmp_path / "old", dict(moved), "probe")
    return moves.unproved(before, Version(tmp_path / "new", package="probe"), roots)


def edited(name, *pairs, files=FILES):
    text = files[name]
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return {name: text}


def test_nothing_changed(tmp_path):
    assert reasons(tmp_path, {}) == []
    assert reasons(tmp_path, {}, roots=SECOND) == []


def test_a_module_moves(tmp_path):
    changes = {
        "lib/other.py": None,
        "base/__init__.py": "",
        "base/numbers.py": FILES["lib/other.py"],
        **edited("lib/__init__.py", ("probe.lib.other", "probe.base.numbers")),
    }
    moved = {"probe.lib.other": "probe.base.numbers"}
    assert reasons(tmp_path, changes, moved) == []
    assert {"probe.base.numbers.double is new", "probe.base.numbers.halve is new"} <= set(
        reasons(tmp_path, changes)
    )
    changes["base/numbers.py"] = FILES["lib/other.py"].replace("x / 2", "x / 3")
    assert reasons(tmp_path, changes, moved) == ["probe.base.numbers.halve differs"]


def test_a_package_moves_with_its_c_source(tmp_path):
    changes = {
        "native/loops.py": None,
        "native/loops.c": None,
        "sparse/__init__.py": "",
        "sparse/loops.py": FILES["native/loops.py"],
        "sparse/loops.c": FILES["native/loops.c"],
        **edited(SECOND_FILE, ("probe.native.loops", "probe.sparse.loops")),
    }
    moved = {"probe.native.loops": "probe.sparse.loops"}
    assert reasons(tmp_path, changes, moved, SECOND) == []
    changes["sparse/loops.c"] = FILES["native/loops.c"].replace("+ 1", "+ 2")
    assert reasons(tmp_path, changes, moved, SECOND) == ["probe.sparse.loops/loops.c differs"]


def test_one_module_becomes_two_and_two_become_one(tmp_path):
    double, halve = (f"def {part}" for part in FILES["lib/other.py"].split("def ")[1:])
    split = {
        "lib/other.py": double,
        "lib/half.py": halve,
        "lib/__init__.py": "from probe.lib.half import halve\n"
        + FILES["lib/__init__.py"].replace("double, halve", "double", 1),
    }
    there = {"probe.lib.other.halve": "probe.lib.half.halve"}
    back = {"probe.lib.half.halve": "probe.lib.other.halve"}
    assert reasons(tmp_path / "1", split, there) == []
    old = FILES | split
    merged = {"lib/half.py": None} | {n: FILES[n] for n in ("lib/other.py", "lib/__init__.py")}
    assert reasons(tmp_path / "2", merged, back, old=old) == []


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in "12":
        (tmp_path / name).mkdir()


def test_a_definition_gets_another_name(tmp_path):
    changes = edited(FIRST_FILE, ("_helper", "_scaled"), ("WIDTH", "_WIDTH"))
    moved = {
        f"probe.experiments.one.first.{old}": f"probe.experiments.one.first.{new}"
        for old, new in (("_helper", "_scaled"), ("WIDTH", "_WIDTH"))
    }
    assert reasons(tmp_path, changes, moved) == []
    assert reasons(tmp_path, changes) != []


LOCAL = edited("lib/other.py", ("    return x / 2\n", "    half = x / 2\n    return half\n"))


def test_a_variable_of_a_function_may_be_called_otherwise(tmp_path):
    old = FILES | LOCAL
    renamed = edited(
        "lib/other.py", ("half = x / 2", "y = x / 2"), ("return half", "return y"), files=old
    )
    assert reasons(tmp_path, renamed, old=old) == []
    changed = edited(
        "lib/other.py", ("half = x / 2", "y = x / 3"), ("return half", "return y"), files=old
    )
    assert reasons(tmp_path, changed, old=old) == ["probe.lib.other.halve differs"]
    outer = edited("lib/other.py", ("half = x / 2", "y = x / 2"), files=old)
    assert reasons(tmp_path, outer, old=old) == ["probe.lib.other.halve differs"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("halve as part", "halve as h"), ("part(x)", "h(x)")],
        [("import halve as part", "import halve"), ("part(x)", "halve(x)")],
        [("from probe.lib import halve as part\n", "from probe.lib.other import halve as part\n")],
        [("import lib\n", "lib as tools\n".join(["import ", ""])), ("lib.double", "tools.double")],
        [("from probe import lib\n", "import probe\n"), ("lib.double", "probe.lib.double")],
        [
            ("from probe import lib\n", "from probe.lib.other import double\n"),
            ("lib.double", "double"),
        ],
        [
            ("from functools import cache\n\n", "\n"),
            (
                "from probe.lib import halve",
                "from functools import cache\nfrom probe.lib import halve",
            ),
        ],
        [("from functools import cache", "import functools"), ("@cache", "@functools.cache")],
        [('"a summary"', '"another"'), ("return 1", "return 2")],
        [("    return part", "    '''Help.'''\n    # so\n    return part")],
    ],
)
def test_how_a_name_is_imported_does_not_matter(tmp_path, pairs):
    assert reasons(tmp_path, edited(FIRST_FILE, *pairs)) == []


HELPER = "probe.experiments.one.first._helper"


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        (FIRST_FILE, "WIDTH = 4", "WIDTH = 5", "probe.experiments.one.first.WIDTH differs"),
        (FIRST_FILE, "@cache\n", "", f"{HELPER} differs"),
        (FIRST_FILE, "size: int = 3", "size: int = 4", "probe.experiments.one.first.Trial differs"),
        (FIRST_FILE, "seed=s)", "size=s)", None),
        (FIRST_FILE, "    return part", "    WIDTH = 4\n    return part", f"{HELPER} differs"),
        (FIRST_FILE, "_helper(x)", "_helper(part)", f"{HELPER} differs"),
        (FIRST_FILE, "halve as part", "double as part", f"{HELPER} differs"),
        (FIRST_FILE, "import cache", "import lru_cache as cache", f"{HELPER} differs"),
        (FIRST_FILE, "SEEDS =", "WIDTH += 1\nSEEDS =", "probe.experiments.one.first.WIDTH differs"),
        (FIRST_FILE, "SEEDS =", "if 1:\n    WIDTH = 5\nSEEDS =", "importing does something new"),
        (COMMON, "SCALE = 2", "SCALE = 3", "probe.experiments.one.common.SCALE differs"),
        ("lib/other.py", "2 * x", "3 * x", "probe.lib.other.double differs"),
        ("lib/__init__.py", "double, halve", "halve, halve as double", "first._run differs"),
        (
            "lib/leaf.py",
            "y = 1",
            "import torch\ntorch.set_default_dtype(torch.half)\ny = 1",
            "importing does something new: torch.set_default_dtype(torch.half)",
        ),
    ],
)
def test_a_change_is_no_move_and_is_named(tmp_path, name, old, new, reason):
    found = reasons(tmp_path, edited(name, (old, new)))
    assert (found == []) if reason is None else any(reason in line for line in found), found


def test_an_effect_that_is_gone_or_comes_in_another_order(tmp_path):
    patch = "import torch\n\ntorch.Tensor.sum = {}\ntorch.Tensor.max = {}\n"
    old = FILES | {"lib/unused.py": patch.format(1, 2)}
    assert reasons(tmp_path, {}, old=old) == []
    (reason, *_) = reasons(tmp_path, {"lib/unused.py": "import torch\n"}, old=old)
    assert reason == "importing no longer does: torch.Tensor.sum = 1"
    lines = patch.format(1, 2).splitlines(keepends=True)
    changes = {"lib/unused.py": "".join([*lines[:2], lines[3], lines[2]])}
    assert reasons(tmp_path, changes, old=old) == [
        "probe.lib.unused does on import what it did, but in another order"
    ]


@pytest.mark.parametrize(
    "bound",
    [
        "if True:\n    x = {}\n",
        "for x in ({},):\n    pass\n",
        "def set():\n    global x\n    x = {}\n",
    ],
)
def test_a_name_of_one_module_is_not_that_of_another(tmp_path, bound):
    """The function moves to a module in which the same name is bound to something else."""
    use = "def double(y):\n    return x * y\n\n\n"
    one, two = (bound.format(number) for number in (2, 3))
    halve = "def halve(y):\n    return y / 2\n\n\n"
    old = FILES | {"lib/other.py": use + halve + one, "lib/unused.py": two}
    changes = {
        "lib/other.py": halve + one,
        "lib/unused.py": use + two,
        "lib/__init__.py": "from probe.lib.unused import double\n"
        "from probe.lib.other import halve\n",
    }
    moved = {"probe.lib.other.double": "probe.lib.unused.double"}
    assert reasons(tmp_path, changes, moved, old=old) == ["probe.lib.unused.double differs"]


@pytest.mark.parametrize("name", ["__file__", "__name__"])
def test_a_definition_that_asks_where_it_stands_cannot_move(tmp_path, name):
    text = f"def double(x):\n    return len({name}) * x\n\n\ndef halve(x):\n    return x / 2\n"
    old = FILES | {"lib/other.py": text}
    changes = {
        "lib/other.py": None,
        "lib/numbers.py": text,
        **edited("lib/__init__.py", ("probe.lib.other", "probe.lib.numbers")),
    }
    moved = {"probe.lib.other": "probe.lib.numbers"}
    assert reasons(tmp_path, changes, moved, old=old) == ["probe.lib.numbers.double differs"]


def test_only_messages_of_errors_may_name_modules(tmp_path):
    text = FILES["lib/other.py"] + "\n\ndef f():\n    {} 'probe.lib.leaf'\n"
    moved = {"probe.lib.leaf": "probe.lib.sheet"}
    for number, (word, why) in enumerate(
        [("raise ValueError,", None), ("return", ["probe.lib.other.f differs"])], start=1
    ):
        word = word.replace("ValueError,", "ValueError from")
        statement = (
            text.format(word)
            if why
            else text.replace("{} 'probe.lib.leaf'", "raise ValueError('probe.lib.leaf')")
        )
        changes = {
            "lib/leaf.py": None,
            "lib/sheet.py": FILES["lib/leaf.py"],
            "lib/__init__.py": FILES["lib/__init__.py"].replace("lib.leaf", "lib.sheet"),
            "lib/other.py": statement.replace("probe.lib.leaf", "probe.lib.sheet"),
        }
        old = FILES | {"lib/other.py": statement}
        assert reasons(tmp_path / str(number), changes, moved, old=old) == (why or [])


def test_two_definitions_cannot_become_one(tmp_path):
    changes = edited(FIRST_FILE, ("lib.double", "lib.halve")) | {
        "lib/other.py": "def halve(x):\n    return x / 2\n",
        "lib/__init__.py": "from probe.lib.other import halve\n",
    }
    moved = {"probe.lib.other.double": "probe.lib.other.halve"}
    assert "probe.lib.other.halve is what several old definitions became" in reasons(
        tmp_path, changes, moved
    )


def test_an_experiment_that_was_not_there(tmp_path):
    changes = edited(FIRST_FILE, ("def _run", "def _walk"), ("_measure, _run", "_measure, _walk"))
    roots = ["probe.experiments.one.first:_walk"]
    assert any(
        "no 'probe.experiments.one.first._walk'" in x
        for x in reasons(tmp_path, changes, roots=roots)
    )


# Maps and the command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mcnn.a\n", ":1: write old.name = new.name, got 'mcnn.a'"),
        ("\n# so\nmcnn.a = mcnn/b\n", ":3: write old.name = new.name"),
        ("mcnn.a = mcnn.b = mcnn.c\n", ":1: write old.name = new.name"),
        ("mcnn.a = mcnn.b\nmcnn.a = mcnn.c\n", ":2: mcnn.a is moved twice"),
        (None, "cannot read the map of moves"),
    ],
)
def test_a_bad_map_is_one_line(tmp_path, text, message):
    file = tmp_path / "moves.map"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        moves.read_map(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_map_is_read(tmp_path):
    file = tmp_path / "moves.map"
    file.write_text("# moves\n\nmcnn.a = mcnn.b.c  # a module\nmcnn.d.f=mcnn.g\n")
    assert moves.read_map(file) == {"mcnn.a": "mcnn.b.c", "mcnn.d.f": "mcnn.g"}


def test_an_unknown_commit_is_one_line(tmp_path, capsys):
    file = tmp_path / "moves.map"
    file.write_text("")
    command = ["verify", "--moved", "no-such-commit", str(file), "--results", str(tmp_path)]
    assert cli.main(command) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("mcnn: error: cannot read commit 'no-such-commit'")
    assert shown.err.count("\n") == 1


# All that the ledger asks of PyTorch: a score of processes start at once.
TORCH = """
from types import SimpleNamespace

__version__, version = "0", SimpleNamespace(cuda=None)
Tensor = dtype = object
cuda = SimpleNamespace(is_available=lambda: False)
get_num_threads, set_num_threads = (lambda: 1), (lambda number: None)


class device:
    def __init__(self, type):
        self.type = type
"""


def test_the_command_proves_and_notes_what_holds(tmp_path, monkeypatch, capsys):
    """In a repository of its own: a small package with the ledger of this one."""
    (tmp_path / "torch.py").write_text(TORCH)
    for folder in ("ledger",):
        subprocess.run(["cp", "-r", ROOT / "mcnn" / folder, tmp_path], check=True)
    package = tmp_path / "mcnn"
    (package / "experiments").mkdir(parents=True)
    (tmp_path / "ledger").rename(package / "ledger")
    for name in ("__init__.py", "__main__.py", "errors.py", "native.py", "stats.py"):
        (package / name).write_text((ROOT / "mcnn" / name).read_text())
    (package / "data.py").write_text("DATASETS = {}\n")
    (package / "experiments/__init__.py").write_text("")
    (package / "two.py").write_text("def two():\n    return 2\n")
    experiment = (
        "from mcnn.ledger.experiment import Experiment, Trial\nfrom mcnn.two import two\n\n\n"
        "def _run(trial, device):\n    return {'two': two()}\n\n\n"
        "def _trials(profile, seeds):\n    return [Trial(seed=s) for s in seeds]\n\n\n"
        "EXPERIMENTS = [Experiment('tiny', 'a line', Trial, _trials, _run,\n"
        "    {'fast': [0], 'full': [0]})]\n"
    )
    (package / "experiments/tiny.py").write_text(experiment)
    (tmp_path / "claims.yml").write_text("[]\n")
    (tmp_path / ".gitignore").write_text("__pycache__\n")

    def git(*arguments):
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def mcnn(*arguments):
        command = [sys.executable, "-m", "mcnn", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("MCNN_RESULTS", raising=False)

    def commit():
        git("add", ".")
        git("commit", "--quiet", "-m", "x")

    git("init", "--quiet")
    commit()
    assert mcnn("run", "tiny", "--profile", "full", "--device", "cpu")[0] == 0
    commit()
    (package / "two.py").rename(package / "pair.py")
    (package / "experiments/tiny.py").write_text(experiment.replace("mcnn.two", "mcnn.pair"))
    (tmp_path / "moves.map").write_text("mcnn.two = mcnn.pair\n")
    assert "1 of   1 recorded, 1 stale" in mcnn("list")[1]
    prove = ("verify", "--moved", "HEAD~1", "moves.map")
    status, text = mcnn(*prove)
    assert (status, "the code of tiny is in no commit" in text) == (2, True), text
    commit()
    status, text = mcnn(*prove)
    assert (status, "1 of 1 experiments are proved" in text) == (0, True), text
    assert "1 of   1 recorded  a line" in mcnn("list")[1]

    status, text = mcnn("verify")
    assert "1 records: 0 made by today's code, 1 rest on notes" in text
    status, text = mcnn("verify", "--notes")
    assert (status, "1 of 1 proofs that code only moved hold" in text) == (0, True), text
    # Somebody changes a number after the proof, and writes a note of their own that none was.
    notes = tmp_path / "results" / "revalidations.jsonl"
    (package / "pair.py").write_text("def two():\n    return 3\n")
    commit()
    assert mcnn(*prove)[0] == 1
    assert "1 stale" in mcnn("list")[1]
    forge = (
        "import json, sys; from mcnn.ledger import notes, provenance, records, registry\n"
        "note = json.loads(open(sys.argv[1]).readline())\n"
        "roots = registry.get('tiny').roots\n"
        "now = provenance.code_state(roots)\n"
        "records.append([records.seal(note | now)], notes.Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", forge, notes], cwd=tmp_path, check=True)
    assert "stale" not in mcnn("list")[1], "its form is as it should be"
    status, text = mcnn("verify", "--notes")
    assert status == 1
    assert "does not hold: mcnn.pair.two differs" in text
    assert "1 of 2 proofs" in text
