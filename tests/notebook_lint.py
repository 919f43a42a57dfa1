"""What must hold of a committed notebook, besides that its outputs come out again.

`python tests/notebook_lint.py notebooks/*.ipynb` prints one line for each fault.
"""

import ast
import re
import sys
from itertools import pairwise
from pathlib import Path

import nbformat

LONGEST_CELL = 30  # lines of code; what is longer belongs into the package
MOST_INTERVALS = 3  # in a paragraph; more of them stand in a table
DEFAULTS = {"profile": "fast", "device": "auto"}

_HERE = re.escape(str(Path(__file__).resolve().parents[1]))
_ABSOLUTE_PATH = re.compile(
    rf"{_HERE}|(?<![\w.:/])(?:/(?:home|root|Users|tmp|usr|var|mnt|opt)/|[A-Z]:\\)\w"
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
_PROGRESS = re.compile(r"\d(?:it/s|s/it)|Wall time:")
_ANSWER = re.compile(r"^:{3,}\{admonition\} Answer$", re.MULTILINE)
_UNCHECKED = re.compile(r"nbval[-_](?:ignore|skip|raises)", re.IGNORECASE)


def faults(path: Path) -> list[str]:
    """Return a line for each fault of a notebook."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError) as error:
        return [f"{path}: not a valid notebook: {str(error).splitlines()[0]}"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if not any(cell.outputs for cell in code):
        return [f"{path}: has no outputs: record them with `make notebooks`"]
    found = [*_of_notebook(notebook, code), *_of_page(notebook.cells)]
    if "_" not in path.stem:  # a further page of a chapter has no answer of its own
        found += _of_answer(notebook.cells)
    for number, cell in enumerate(code, 1):
        found += [f"code cell {number} {fault}" for fault in _of_cell(cell, number)]
    return [f"{path}: {line}" for line in found]


def _of_notebook(notebook, code):
    if "papermill" in notebook.metadata:
        yield "carries papermill's metadata"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "is not for the kernel python3"
    if "torch" in "".join(c.source for c in code) and not any(
        "torch.set_num_threads(1)" in cell.source for cell in code
    ):
        yield "does not call torch.set_num_threads(1): its numbers may not repeat"
    parameters = [cell for cell in code if "parameters" in _tags(cell)]
    if len(parameters) != 1:
        yield f"has {len(parameters)} cells tagged `parameters`, not one"
    for cell in parameters:
        values = _assignments(cell.source)
        for name, default in DEFAULTS.items():
            if values.get(name) != default:
                yield f"does not default {name} to {default!r}"


def _of_page(cells):
    """What a reader meets: every figure cited, no toggle that opens on nothing before the next."""
    prose = "\n".join(text for cell in cells for text in (_prose(cell), *_markdown(cell)))
    for cell in cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if name and f"{{numref}}`{name}`" not in prose:
            yield f"shows {name}, which no sentence cites by {{numref}}"
    for one, two in pairwise(cells):
        if _is_toggle(one) and _is_toggle(two) and not one.outputs:
            yield f"has two toggles in a row, the first without output: {one.source[:40]!r}"
    for paragraph in re.split(r"\n\s*\n", prose):
        lines = [x for x in paragraph.splitlines() if not x.lstrip().startswith(("|", ":::"))]
        if (count := "\n".join(lines).count("±")) > MOST_INTERVALS:
            yield f"has {count} intervals in a paragraph: {lines[0][:40]!r}: put them into a table"


def _is_toggle(cell):
    return cell.cell_type == "code" and "hide-input" in _tags(cell)


def _markdown(cell):
    """What a cell puts out as Markdown."""
    for output in cell.get("outputs", []):
        if text := output.get("data", {}).get("text/markdown"):
            yield "".join(text)


def _of_answer(cells):
    """A reader meets the answer before any code, and one answer only."""
    boxes = [n for n, c in enumerate(cells) for _ in _ANSWER.findall(_prose(c))]
    shown = [n for n, c in enumerate(cells) if c.cell_type == "code" and not _hidden(c)]
    if len(boxes) != 1:
        yield f"has {len(boxes)} boxes `:::{{admonition}} Answer`, not one"
    elif shown and boxes[0] > shown[0]:
        yield "shows code before its Answer box: move the box below the title"


def _prose(cell):
    return cell.source if cell.cell_type == "markdown" else ""


def _hidden(cell):
    return any(tag.startswith(("hide-", "remove-")) for tag in _tags(cell))


def _of_cell(cell, number):
    if cell.execution_count is None:
        yield "was not executed"
    elif cell.execution_count != number:
        yield f"was executed as number {cell.execution_count}: run the notebook from top to bottom"
    if "injected-parameters" in _tags(cell):
        yield "was injected by papermill"
    if {"papermill", "execution"} & set(cell.metadata):
        yield "carries timings in its metadata"
    if any(_UNCHECKED.search(text) for text in (*_tags(cell), cell.source)):
        yield "keeps its outputs from being compared"
    lines = sum(1 for line in cell.source.splitlines() if line.strip() and line.strip()[0] != "#")
    if lines > LONGEST_CELL:
        yield f"has {lines} lines of code; move what it does into mcnn (at most {LONGEST_CELL})"
    for output in cell.outputs:
        yield from _of_output(output, cell)


def _of_output(output, cell):
    if output.output_type == "error":
        yield f"stores an error: {output.ename}"
        return
    if output.output_type == "stream":
        if output.name == "stderr":
            yield "writes to stderr: " + output.text.strip().partition("\n")[0]
        texts = [output.text]
    else:
        texts = [t for kind, t in output.data.items() if kind.startswith("text/")]
        if any("widget" in kind for kind in output.data):
            yield "puts out a widget, which needs a running kernel"
        if "image/png" in output.data:
            yield from _of_figure(cell.metadata.get("mystnb", {}))
    for text in texts:
        text = "".join(text)
        if match := _ABSOLUTE_PATH.search(text):
            yield f"puts out a path of this machine: {text[match.start() :].split()[0]}"
        if _ADDRESS.search(text):
            yield "puts out the address of an object, which is another one each time"
        if _PROGRESS.search(text):
            yield "puts out a timing"


def _of_figure(options):
    for key in ("name", "caption"):
        if not options.get("figure", {}).get(key):
            yield f"draws a figure without a {key} (metadata mystnb.figure.{key})"
    if not options.get("image", {}).get("alt"):
        yield "draws a figure without words for those who cannot see it (mystnb.image.alt)"


def _tags(cell):
    return cell.metadata.get("tags", [])


def _assignments(source: str) -> dict[str, object]:
    values = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            values |= {t.id: statement.value.value for t in statement.targets}
    return values


if __name__ == "__main__":
    lines = [line for path in sys.argv[1:] for line in faults(Path(path))]
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(1 if lines else 0)
