"""Makes `pytest --nbval` hold a notebook to all of its outputs.

By itself nbval ignores images, wants numbers to the last digit, and compares nothing in a cell that
was committed without having been executed.
"""

import os
from functools import cached_property
from unittest import mock

import pytest
import torch
from nbval.plugin import IPyNbCell, IPyNbFile
from notebook_compare import OTHER_PROCESSOR, SAME_PROCESSOR, difference

from mcnn.ledger.provenance import device_name


class ComparedCell(IPyNbCell):
    def runtest(self):
        if self.cell.execution_count is None and self.cell.source.strip():
            self.raise_cell_error("Committed without having been executed")
        super().runtest()

    def compare_outputs(self, test, ref, skip_compare=None):
        found = difference(ref, test, self.parent.allowed)
        self.comparison_traceback = [found] if found else []
        return found is None


class ComparedFile(IPyNbFile):
    def setup(self):
        # What is committed was computed on a CPU with one thread.
        with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"):
            super().setup()

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
