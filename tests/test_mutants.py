"""The page of changes that no test notices, and the machinery that finds them."""

import json
import sys

import mutants
import pytest
import yaml
from mutants import PARTS, ROOT, Mutant

LINES = json.loads(mutants.RECORD.read_text(encoding="utf-8"))
REASONS = yaml.safe_load(mutants.REASONS.read_text(encoding="utf-8")) or {}


def test_the_page_says_what_the_record_says():
    assert mutants.PAGE.read_text(encoding="utf-8") == mutants.page(LINES, REASONS)


def test_every_reason_is_of_a_change_that_lives():
    lived = {Mutant(**m).name for m in LINES if m["outcome"] == "survived"}
    assert REASONS.keys() <= lived


def test_modules_and_their_tests_are_there():
    for part, modules in PARTS.items():
        for module in modules:
            for file in mutants.files_of_tests(part, module, ROOT):
                assert (ROOT / file).is_file(), file
    assert {m["module"] for m in LINES} <= {
        mutants.file_of(part, module) for part, modules in PARTS.items() for module in modules
    }


def test_a_page_counts_what_lives_and_what_is_the_same():
    def one(outcome, before, first=""):
        named = ("relu", "mcnn/relu/pool.py", "X", 0, 1, before, "b")
        return vars(Mutant(*named, outcome, first or outcome))

    lines = [one("killed", "a", "survived"), one("timed out", "c")]
    lines += [one("survived", "d"), one("survived", "e|")]
    text = mutants.page(lines, {"mcnn/relu/pool.py: d -> b": "equivalent: no difference"})
    assert "2 of 4 small changes of the code fail a test, 50%; of those" in text
    assert "does, 67%." in text
    assert "When they were drawn, 1 did, 25% (95% interval: 1% to 81%)" in text
    assert "| relu | 4 | 2 | 1 | 1 | 1 |" in text
    assert "| relu/pool.py | `d` | `b` | equivalent: no difference |" in text
    assert "| relu/pool.py | `e\\|` | `b` | no test notices |" in text


@pytest.fixture
def answers(tmp_path):
    """What is said of tests of a module, and of a change of it, in a process of their own."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    test = "from sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    (copy / "test_sums.py").write_text(test)
    with mutants._server(sys.executable) as ask:

        def tests(change=lambda text: text, seconds=60):
            source = (copy / "sums.py").read_text()
            (copy / "sums.py").write_text(change(source))
            answer = ask(["test_sums.py"], copy, seconds)
            (copy / "sums.py").write_text(source)
            return answer

        yield tests


def test_a_change_is_noticed_and_so_is_one_that_does_not_end(answers):
    assert answers()[0] == 0
    rc, _, said = answers(lambda text: text.replace("+", "-"))
    assert rc == 1
    assert "FAILED test_sums.py::test_add" in said
    assert (
        answers(lambda text: text.replace("return", "while True: pass\n    return"), 5)[0] is None
    )
    assert answers()[0] == 0, "and nothing of that stays"


def test_hints_are_no_places():
    spans = mutants._annotations("def f(x: int | None = 3) -> int | str:\n    y: a | b = 1 | 2\n")
    assert spans == [((1, 9), (1, 19)), ((1, 28), (1, 37)), ((2, 7), (2, 12))]


def test_what_differs_is_the_lines_that_differ():
    assert mutants._difference("a\nb = 1\nc\n", "a\nb = 2\nc\n") == ("b = 1", "b = 2")
    assert mutants._difference("@x\ndef f(): pass", "def f(): pass") == ("@x", "")
