r"""Sampling paths: sparse networks that are connected because they are made of paths.

A path takes one unit of every layer, from an input to an output, and is a point of the unit cube
with one dimension a layer.
Sample :math:`n` of them and keep the edges they take:

- every edge lies on a path from an input to an output, so no unit dangles;
- where the units of a layer take turns, all of them are used equally often;
- what is stored and multiplied is bounded by the number of paths times the number of layers.

Nothing of the network is ever dense: neither its graph while it is made (:func:`sample_paths`), nor
its training (:class:`PathMLP`, :class:`PathLinear`, :class:`PathConv2d`, :class:`PathCNN`), whose
sums go through what is fastest on the device (:func:`backend`).
:class:`Graph` counts what a set of paths makes of a network, :func:`sobol_network` says it without
sampling, and :func:`grow` and :func:`regrow` change networks by whole paths.
:func:`sparsify` puts layers of paths into any network.
:func:`compress` goes the other way: it samples paths through a network that has been trained.

Source: slides "Sampling Paths through Networks" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.paths.cnn import PathCNN, PathResidual
from mcnn.paths.compress import compress
from mcnn.paths.conv import PathConv2d
from mcnn.paths.export import TwoFour, export_onnx, to_dense_model, to_gather_model, two_four
from mcnn.paths.generators import METHODS, sample_paths
from mcnn.paths.graph import Graph
from mcnn.paths.growth import grow, regrow, strengths
from mcnn.paths.layers import PathLinear
from mcnn.paths.nets import PathMLP
from mcnn.paths.optimizer_state import migrate_optimizer_state
from mcnn.paths.sobol import SobolNetwork, sobol_dimensions, sobol_network
from mcnn.paths.sparsify import sparsify
from mcnn.sparse.ops import backend
from mcnn.sparse.structure import Edges

__all__ = [
    "METHODS",
    "Edges",
    "Graph",
    "PathCNN",
    "PathConv2d",
    "PathLinear",
    "PathMLP",
    "PathResidual",
    "SobolNetwork",
    "TwoFour",
    "backend",
    "compress",
    "export_onnx",
    "grow",
    "migrate_optimizer_state",
    "regrow",
    "sample_paths",
    "sobol_dimensions",
    "sobol_network",
    "sparsify",
    "strengths",
    "to_dense_model",
    "to_gather_model",
    "two_four",
]

__getattr__ = lazy_modules(__name__, __path__)
