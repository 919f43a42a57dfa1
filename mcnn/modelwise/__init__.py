"""What is done to a whole model, layer by layer: which layers, their rows, what became of them.

Several functions take a network and make the weights of its layers small, among them
:func:`mcnn.density.quantize`, :func:`mcnn.density.importance.quantize`,
:func:`mcnn.baselines.rounding.quantize`, :func:`mcnn.linear.sample_linears`,
:func:`mcnn.paths.compress` and :func:`mcnn.paths.sparsify`.
They differ in what they put in place of weights, and share all else:

- :func:`select` finds the layers, refuses those that cannot be written to, and takes weights that
  are tied once; :func:`copied` does so in a copy of the model;
- :mod:`~mcnn.modelwise.kinds` says which parameters of which modules are weights;
- a :class:`Layer` hands out its weights as rows, one for each output, takes rows back, and has a
  seed of its own;
- :func:`exchanged` puts other modules in place of some, wherever they stand;
- :func:`observing` and :func:`run_batches` run a model to look at it, and leave it as it was;
- a :class:`Report` says what the codes cost, and what of the model was left as it was, and why.
"""

from mcnn import lazy_modules
from mcnn.modelwise.kinds import KINDS, Slot
from mcnn.modelwise.layers import (
    Layer,
    Layers,
    check_all_writable,
    check_writable,
    copied,
    deepcopied,
    select,
)
from mcnn.modelwise.observe import Batches, observing, run_batches
from mcnn.modelwise.places import exchanged
from mcnn.modelwise.report import LayerReport, Report, entropy_bits, packed_bits

__all__ = [
    "KINDS",
    "Batches",
    "Layer",
    "LayerReport",
    "Layers",
    "Report",
    "Slot",
    "check_all_writable",
    "check_writable",
    "copied",
    "deepcopied",
    "entropy_bits",
    "exchanged",
    "observing",
    "packed_bits",
    "run_batches",
    "select",
]

__getattr__ = lazy_modules(__name__, __path__)
