"""Makes `pytest --nbval` hold a notebook to all of its outputs, in one execution by papermill.

By itself nbval executes a notebook in a kernel of its own, ignores images, wants numbers to the
last digit, and compares nothing in a cell that was committed without having been executed.
Here papermill executes it, with its parameters set, just as `make run` does, and nbval is given
what came out of each cell.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from unittest import mock

import nbformat
import papermill
import pytest
import torch
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell, IPyNbFile
from notebook_compare import OTHER_PROCESSOR, SAME_PROCESSOR, difference
from papermill.exceptions import PapermillExecutionError

from mcnn.ledger.provenance import device_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import run

# What is committed was computed with these, or with `auto` where there was no GPU.
PARAMETERS = {"profile": "fast", "device": "cpu"}


class Executed:
    """Takes the place of nbval's kernel: a cell puts out what it did when papermill executed it.

    nbval asks for the messages of a cell, and decides as ever.
    """

    def __init__(self, cells: list[NotebookNode]) -> None:
        self.cells = cells
        self.number = 0  # of the cell that is asked for
        self._messages: Iterator[dict] = iter(())

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        cell = self.cells[self.number]
        assert cell.source == source
        outputs = [(output.output_type, output) for output in cell.outputs]
        told = [*outputs, ("status", {"execution_state": "idle"})]
        header = {"msg_id": cell.id}
        self._messages = iter(
            [{"msg_type": kind, "content": what, "parent_header": header} for kind, what in told]
        )
        return cell.id

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        return next(self._messages)

    def is_alive(self) -> bool:
        return True

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """It is there."""

    await_idle = await_reply

    def stop(self) -> None:
        """There is no process to end."""


class ComparedCell(IPyNbCell):
    def runtest(self):
        if self.cell.execution_count is None and self.cell.source.strip():
            self.raise_cell_error("Committed without having been executed")
        kernel = self.parent.kernel
        kernel.number = self.cell_num
        if kernel.cells[self.cell_num].execution_count is None and self.cell.source.strip():
            self.raise_cell_error("Not reached: a cell above it raised")
        super().runtest()

    def compare_outputs(self, test, ref, skip_compare=None):
        found = difference(ref, test, self.parent.allowed)
        self.comparison_traceback = [found] if found else []
        return found is None


class ComparedFile(IPyNbFile):
    def setup(self):
        known = papermill.inspect_notebook(str(self.path))
        parameters = {name: value for name, value in PARAMETERS.items() if name in known}
        # What is committed was computed on a CPU with one thread.
        cpu = mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
        run.UNFINISHED.mkdir(parents=True, exist_ok=True)
        with cpu, tempfile.TemporaryDirectory(dir=run.UNFINISHED) as folder:
            target = Path(folder) / self.path.name
            try:
                run.execute(self.path, target, parameters, self.config.option.nbval_cell_timeout)
            except PapermillExecutionError:  # the cell that raised fails, and those after it
                target = run.UNFINISHED / target.name
            executed = nbformat.read(target, as_version=4).cells
        code = [cell for cell in executed if cell.cell_type == "code"]
        injected = [c for c in code if "injected-parameters" in c.metadata.get("tags", ())]
        assert len(injected) == bool(parameters)
        self.kernel = Executed([cell for cell in code if cell not in injected])

    @cached_property
    def allowed(self):
        """What may differ: more on another kind of processor than the notebook was recorded on."""
        recorded = self.nb.metadata.get("mcnn", {}).get("processor")
        here = recorded in (None, device_name(torch.device("cpu")))
        return SAME_PROCESSOR if here else OTHER_PROCESSOR

    def collect(self):
        for item in super().collect():
            cell = {"cell_num": item.cell_num, "cell": item.cell, "options": item.options}
            yield ComparedCell.from_parent(self, name=item.name, **cell)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collected = yield
    return [
        ComparedFile.from_parent(parent, path=file_path) if isinstance(file, IPyNbFile) else file
        for file in collected
    ]
