"""Sampling paths through networks."""

from mcnn.paths.conv import PathConv2d
from mcnn.paths.generators import METHODS, sample_paths
from mcnn.paths.graph import Graph
from mcnn.paths.layers import PathLinear
from mcnn.paths.nets import PathMLP
from mcnn.paths.product import Edges
from mcnn.paths.sobol import sobol_dimensions, sobol_network

__all__ = [
    "METHODS",
    "Edges",
    "Graph",
    "PathConv2d",
    "PathLinear",
    "PathMLP",
    "sample_paths",
    "sobol_dimensions",
    "sobol_network",
]
