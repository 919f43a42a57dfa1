"""Execute chapters of the book: at any profile into `_build/run`, or at `fast` for the record.

`make run` and `make notebooks` call this.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from typing import NoReturn

import nbformat
import papermill
import torch
import yaml
from papermill.exceptions import PapermillExecutionError

from mcnn.errors import McnnError, unknown
from mcnn.ledger import registry, runner
from mcnn.ledger.project import PROFILES
from mcnn.ledger.provenance import device_name

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "run"
UNFINISHED = ROOT / "_build" / "unfinished"
OWN_RESULTS = ROOT / "_build" / "run-results"  # of runs at `full`: kept, so that they go on

_EXAMPLES = """examples:
  run.py                                     every chapter at profile fast
  run.py --profile full --device cuda paths  one chapter on the talk's own data
  run.py -p profile fast density             any parameter of the notebook, as papermill has it
  run.py --record density                    refresh the outputs that are committed
"""


class UsageError(ValueError):
    """What the caller can mend; told in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 1 if a chapter fails, 2 if the call is wrong."""
    parser = _Parser(
        prog="run.py",
        description=__doc__.splitlines()[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebook", nargs="*", help="stems of chapters (default: all)")
    parser.add_argument("--profile", default="fast", choices=PROFILES)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--record", action="store_true", help="write the committed notebooks")
    try:
        args = parser.parse_args(argv)
        stems = choose(args.notebook)
        parameters = {"profile": args.profile, "device": args.device, **dict(args.p)}
        if args.record and parameters != {"profile": "fast", "device": "auto"}:
            raise UsageError("--record takes no parameters: notebooks are recorded as they stand")
        if args.record:
            return _record(stems)
        runner.resolve_device(parameters["device"])
        if parameters["profile"] not in PROFILES:
            raise unknown("profile", parameters["profile"], PROFILES)
        for stem in stems:
            check_parameters(stem, parameters)
        return _run(stems, parameters)
    except (UsageError, McnnError) as error:
        print(f"run: error: {error}", file=sys.stderr)
        return 2


def chapters() -> list[str]:
    """Return the stems of the notebooks in the table of contents, in its order.

    The further pages of a chapter follow it.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [page["file"] for one in listed for page in (one, *one.get("sections", ()))]
    return [Path(file).stem for file in files if file.startswith("notebooks/")]


def choose(names: Iterable[str]) -> list[str]:
    """Return the named chapters, or all, in the book's order."""
    known, names = chapters(), set(names)
    unknown = sorted(names - set(known))
    if unknown:
        raise UsageError(f"no chapter {', '.join(unknown)}; there are: {', '.join(known)}")
    return [stem for stem in known if not names or stem in names]


def check_parameters(stem: str, parameters: dict[str, str]) -> None:
    """Papermill only warns of a parameter that the notebook does not have; this refuses it."""
    known = papermill.inspect_notebook(str(_notebook(stem)))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise UsageError(
            f"{stem} has no parameter {', '.join(unknown)}; it has: {', '.join(known) or 'none'}"
        )


def execute(
    path: Path,
    target: Path,
    parameters: dict[str, str] | None = None,
    timeout: float | None = None,
) -> None:
    """Execute a notebook through papermill and write it, normalised, to a file.

    Where a cell raises, or takes longer than the timeout in seconds, that is raised, and what was
    executed so far stays in :data:`UNFINISHED`.
    """
    UNFINISHED.mkdir(parents=True, exist_ok=True)
    working = UNFINISHED / target.name
    begun = time.monotonic()
    papermill.execute_notebook(
        str(path),
        str(working),
        parameters or {},
        kernel_name="python3",
        cwd=str(path.parent),
        execution_timeout=timeout,
    )
    notebook = nbformat.read(working, as_version=4)
    normalise(notebook)
    notebook.metadata.mcnn |= {  # for the page on the state of the book; no test compares it
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seconds": round(time.monotonic() - begun),
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
    }
    nbformat.write(notebook, working)
    working.replace(target)


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from run to run: timings, paths, versions; say which processor it was."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    # Others round otherwise: the comparison of notebooks allows for that.
    notebook.metadata.mcnn = {"processor": device_name(torch.device("cpu"))}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:  # papermill leaves these
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)


def _merge_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join neighbouring pieces of a stream: where it was cut depends on timing."""
    merged: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def render(executed: Path) -> Path:
    """Render the book with these executed notebooks, the others as committed; return its index."""
    lay_out(executed)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    options = ["--all", "-q", "-W", "-n", "--keep-going"]
    subprocess.run([jupyter_book, "build", ".", *options], cwd=SITE, check=True)
    return SITE / "_build" / "html" / "index.html"


def lay_out(executed: Path) -> None:
    """Make a folder that looks like the checkout, but for these notebooks and this run's records.

    What a run does not change is linked: a page may show or link any file of the checkout.
    """
    rmtree(SITE, ignore_errors=True)
    SITE.mkdir(parents=True)
    own = {"notebooks": executed, "results": os.environ.get("MCNN_RESULTS")}
    for source in ROOT.iterdir():
        if source.name in own:
            copytree(source, SITE / source.name, ignore=ignore_patterns("__pycache__", ".*"))
        elif source.name != "_build" and not source.name.startswith("."):
            (SITE / source.name).symlink_to(source, target_is_directory=source.is_dir())
    for name, folder in own.items():
        if folder:
            copytree(folder, SITE / name, dirs_exist_ok=True)


def _notebook(stem: str) -> Path:
    return ROOT / "notebooks" / f"{stem}.ipynb"


def _own_records(stems: list[str], device: str) -> None:
    """Run at `full` what the chapters show, into records of this run's own, and show those."""
    os.environ["MCNN_RESULTS"] = str(OWN_RESULTS)
    names = [name for name in registry.all_experiments() if name.partition("-")[0] in stems]
    for name in names:
        plan = runner.plan(name, "full")
        without = f", {plan.left_out} without data" if plan.left_out else ""
        print(f"{name}: {len(plan.todo)} trials to run, {plan.done} recorded{without}", flush=True)
        runner.run([plan], runner.resolve_device(device))


def _execute_all(stems: list[str], folder: Path, parameters: dict[str, str]) -> list[str]:
    """Execute the chapters one after the other and return the stems of those that fail."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    for number, stem in enumerate(stems, 1):
        print(f"[{number}/{len(stems)}] {stem}", flush=True)
        try:
            execute(_notebook(stem), folder / f"{stem}.ipynb", parameters)
        except PapermillExecutionError as error:
            failed.append(stem)
            print(f"run: {stem}: {error.ename}: {error.evalue}", file=sys.stderr)
            print(f"run: {stem}: as far as it went: {UNFINISHED / stem}.ipynb", file=sys.stderr)
    return failed


def _run(stems: list[str], parameters: dict[str, str]) -> int:
    if parameters["profile"] == "full":
        _own_records(stems, parameters["device"])
    executed = ROOT / "_build" / "executed"
    rmtree(executed, ignore_errors=True)
    executed.mkdir(parents=True)
    failed = _execute_all(stems, executed, parameters)
    try:
        print(f"The book of this run: {render(executed)}")
    except subprocess.CalledProcessError:
        print(f"run: no book, but the executed notebooks are in {executed}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _record(stems: list[str]) -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is committed was computed on a CPU
    return 1 if _execute_all(stems, ROOT / "notebooks", {}) else 0


if __name__ == "__main__":
    sys.exit(main())
