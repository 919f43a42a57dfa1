"""The checks of notebooks bite.

The chapters themselves are executed and compared by `pytest --nbval notebooks`, a part of
`make test`.
"""

import copy
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebook_compare import OTHER_PROCESSOR, SAME_PROCESSOR, difference, text_difference
from notebook_lint import faults
from notebook_plugin import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import run  # noqa: E402

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURE = {"figure": {"name": "fig-x", "caption": "A line."}, "image": {"alt": "a line"}}
CELLS = [
    ("import matplotlib.pyplot as plt", {}),
    ("profile = 'fast'\ndevice = 'auto'", {"tags": ["parameters"]}),
    ("print(f'accuracy {2 / 3:.5f} of {10**6} weights')", {}),
    ("plt.plot([0, 1, 4])\nplt.show()", {"mystnb": FIGURE}),
    ("plt.plot([4, 1, 0])\nplt.show()", {"mystnb": FIGURE}),
    ("{'mean': 0.1234}", {}),
]


@pytest.fixture(scope="session")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """Return a small notebook, executed and normalised as the chapters are."""
    path = tmp_path_factory.mktemp("notebook") / "small.ipynb"
    cells = [
        new_code_cell(source, metadata=metadata, id=f"cell-{number}")
        for number, (source, metadata) in enumerate(CELLS)
    ]
    nbformat.write(new_notebook(cells=cells), path)
    papermill.execute_notebook(str(path), str(path), kernel_name="python3", progress_bar=False)
    notebook = nbformat.read(path, as_version=4)
    run.normalise(notebook)
    return notebook


def untouched(notebook):
    pass


def wrong_digit(notebook):
    output = notebook.cells[2].outputs[0]
    assert "0.66667" in output.text
    output.text = output.text.replace("0.66667", "0.66657")


def swapped_figure(notebook):
    one, two = (cell.outputs[0].data for cell in notebook.cells[3:5])
    one["image/png"], two["image/png"] = two["image/png"], one["image/png"]


def cleared_outputs(notebook):
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None


def cleared_output_of_one_cell(notebook):
    notebook.cells[5].outputs = []


def raising_cell(notebook):
    notebook.cells[2].source += "\nraise RuntimeError('planted')"


def another_processor(notebook):
    """A last bit more on another processor is no fault; another word or a large number is."""
    notebook.metadata.mcnn = {"processor": "another"}
    wrong_digit(notebook)


def without_its_parameters(notebook):
    """It would raise, but for the device that papermill sets."""
    notebook.cells[1].source = "profile = 'fast'\ndevice = 'none'"
    notebook.cells[2].source += "\nassert device == 'cpu'"


# What is planted, and the cells that must fail for it.
PLANTS = {
    another_processor: set(),
    untouched: set(),
    wrong_digit: {2},
    swapped_figure: {3, 4},
    cleared_outputs: {0, 1, 2, 3, 4, 5},
    cleared_output_of_one_cell: {5},
    raising_cell: {2, 3, 4, 5},  # those after it are not executed
    without_its_parameters: set(),
}


@pytest.fixture(scope="session")
def failures(executed, tmp_path_factory) -> dict[str, set[int]]:
    """Run `pytest --nbval` over a copy for each plant; return the cells that failed."""
    folder = tmp_path_factory.mktemp("planted")
    for plant in PLANTS:
        notebook = copy.deepcopy(executed)
        plant(notebook)
        nbformat.write(notebook, folder / f"{plant.__name__}.ipynb")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "notebook_plugin", "-p", "no:cacheprovider"]
    options = ["--nbval", "--nbval-current-env", f"--junitxml={report}", "--rootdir=.", "."]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    ran = subprocess.run([*command, *options], cwd=folder, env=env, capture_output=True, text=True)
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) == len(CELLS) * len(PLANTS), ran.stdout + ran.stderr
    failed = {plant.__name__: set() for plant in PLANTS}
    for case in cases:
        if case.findall("failure") + case.findall("error"):
            stem = case.get("classname").removesuffix(".ipynb")
            failed[stem].add(int(case.get("name").removeprefix("Cell ")))
    return failed


@pytest.mark.parametrize("plant", PLANTS)
def test_nbval_catches(failures, plant):
    assert failures[plant.__name__] == PLANTS[plant]


ANSWER = ":::{admonition} Answer\n:class: tip\n\nIt does.\n:::"


CITED = "{numref}`fig-x` shows a line."


def answered(notebook, places=(0,)):
    """Return a copy of a notebook with a box that answers at each of some places.

    A sentence at its end cites the figure.
    """
    notebook = copy.deepcopy(notebook)
    notebook.cells.append(new_markdown_cell(CITED))
    for place in places:
        notebook.cells.insert(place, new_markdown_cell(ANSWER))
    return notebook


def injected(notebook):
    notebook.cells[2].metadata.tags = ["injected-parameters"]


def stored_error(notebook):
    notebook.cells[2].outputs = [
        nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    ]


def out_of_order(notebook):
    notebook.cells[1].execution_count = 7


def no_parameters(notebook):
    del notebook.cells[1].metadata["tags"]


def full_by_default(notebook):
    notebook.cells[1].source = "profile = 'full'\ndevice = 'auto'"


def papermill_metadata(notebook):
    notebook.cells[0].metadata["papermill"] = {"duration": 1.0}


def absolute_path(notebook):
    notebook.cells[2].outputs[0].text = "saved in /home/somebody/file\n"


def long_cell(notebook):
    notebook.cells[0].source += "\nx = 1" * 40


def not_compared(notebook):
    notebook.cells[2].source = "# NBVAL_IGNORE_OUTPUT\n" + notebook.cells[2].source


def no_caption(notebook):
    del notebook.cells[3].metadata["mystnb"]


def not_cited(notebook):
    notebook.cells[3].metadata["mystnb"] = copy.deepcopy(FIGURE)
    notebook.cells[3].metadata["mystnb"]["figure"]["name"] = "fig-y"


def two_toggles(notebook):
    for cell in notebook.cells[0:2]:
        cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]


def many_intervals(notebook):
    output = nbformat.v4.new_output(
        "display_data", {"text/markdown": "Of 1 ± 1, 2 ± 1, 3 ± 1 and 4 ± 1."}
    )
    notebook.cells[2].outputs.append(output)


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (cleared_outputs, "has no outputs"),
        (injected, "was injected"),
        (stored_error, "stores an error"),
        (out_of_order, "was executed as number 7"),
        (no_parameters, "tagged `parameters`"),
        (full_by_default, "does not default profile"),
        (papermill_metadata, "carries timings"),
        (absolute_path, "path of this machine"),
        (long_cell, "lines of code"),
        (not_compared, "from being compared"),
        (no_caption, "without a caption"),
        (not_cited, "no sentence cites"),
        (two_toggles, "two toggles in a row"),
        (many_intervals, "4 intervals in a paragraph"),
    ],
)
def test_lint_catches(executed, tmp_path, plant, complaint):
    path = tmp_path / "planted.ipynb"
    nbformat.write(answered(executed), path)
    assert faults(path) == []
    notebook = copy.deepcopy(executed)
    plant(notebook)
    nbformat.write(answered(notebook), path)
    assert any(complaint in line for line in faults(path))


def test_intervals_in_a_table_are_not_counted(executed, tmp_path):
    notebook = answered(executed)
    table = ":::{table} Four.\n:name: tab-x\n\n| 1 ± 1 | 2 ± 1 |\n|---|---|\n| 3 ± 1 | 4 ± 1 |\n:::"
    notebook.cells[0].source = notebook.cells[0].source + "\n\n" + table
    nbformat.write(notebook, tmp_path / "table.ipynb")
    assert faults(tmp_path / "table.ipynb") == []


@pytest.mark.parametrize(
    ("places", "complaint"),
    [
        ((), "has 0 boxes"),
        ((0, 0), "has 2 boxes"),
        ((1,), "shows code before its Answer"),
    ],
)
def test_lint_wants_one_answer_before_any_code(executed, tmp_path, places, complaint):
    path = tmp_path / "planted.ipynb"
    nbformat.write(answered(executed, places), path)
    (line,) = faults(path)
    assert complaint in line


def test_code_that_is_hidden_may_precede_the_answer(executed, tmp_path):
    notebook = answered(executed, [1])
    notebook.cells[0].metadata["tags"] = ["hide-input"]
    nbformat.write(notebook, tmp_path / "hidden.ipynb")
    assert faults(tmp_path / "hidden.ipynb") == []


@pytest.mark.parametrize(
    ("stored", "new", "same"),
    [
        ("loss 0.1234567891", "loss 0.1234567899", True),
        ("loss 0.123456", "loss 0.123457", False),
        ("12345678 weights", "12345679 weights", False),
        ("1.5e-3", "0.0015", True),
        ("a  1", "a 1", True),
        ("a 1", "b 1", False),
        ("1 nan", "1 0.5", False),
        ("-1.0", "1.0", False),
        ("x", "x 1", False),
    ],
)
def test_numbers_are_compared_by_value(stored, new, same):
    assert (text_difference(stored, new) is None) == same


@pytest.mark.parametrize(
    ("stored", "new", "same"),
    [
        ("accuracy 0.91", "accuracy 0.88", True),
        ("accuracy 0.91", "accuracy 0.41", False),
        ("accuracy 0.91", "error 0.91", False),
        ("93 weights", "97 weights", True),
        ("93 weights", "930 weights", False),
    ],
)
def test_another_processor_need_only_be_alike(stored, new, same):
    assert (text_difference(stored, new, OTHER_PROCESSOR) is None) == same
    assert text_difference(stored, new) is not None


_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def _is_result(number: str) -> bool:
    return float(number) > SAME_PROCESSOR.absolute or float(number) == 0


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_stored_number_and_figure_of_a_chapter_is_held(path):
    """Change the first number of every output, and swap every figure: each change must show.

    Differences of rounding, below 1e-12, are no results: they may change.
    """
    figures, texts = [], 0
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert difference([output], [copy.deepcopy(output)]) is None
            for kind, text in output.get("data", {"text": output.get("text", "")}).items():
                if kind == "image/png":
                    figures.append(output)
                elif counts := [x.start() for x in _NUMBER.finditer(text) if _is_result(x[0])]:
                    texts += 1
                    changed = copy.deepcopy(output)
                    place = counts[0]
                    digit = str((int(text[place]) + 1) % 10)
                    new = text[:place] + digit + text[place + 1 :]
                    changed.get("data", changed)[kind] = new
                    assert difference([output], [changed]), f"{text!r} against {new!r}"
    assert texts, "no output has a number in it"
    for one, two in pairwise(figures):
        assert difference([one], [two])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_has_the_parameters_that_it_is_executed_with(path):
    """papermill, which executes it for `pytest --nbval`, only warns of one that is not there."""
    run.check_parameters(path.stem, PARAMETERS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no-such-chapter"], "no chapter no-such-chapter"),
        (["--profile", "quick"], "invalid choice: 'quick'"),
        (["--record", "--profile", "full"], "--record takes no parameters"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["-p", "profile", "fats"], "no profile 'fats'; there are: fast, full; did you mean fast?"),
        (["-p", "device", "gpu"], "no device 'gpu'; there are: auto, cpu, cuda"),
        *((["-p", "porfile", "full", p.stem], "no parameter porfile") for p in CHAPTERS),
    ],
)
def test_a_wrong_call_is_one_line(arguments, complaint, capsys):
    assert run.main(arguments) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1
