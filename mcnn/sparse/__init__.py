"""Sparse layers: their structure, the operators that multiply them, and who computes those.

==============================  =================================================================
:mod:`mcnn.sparse.structure`    edges, sorted both ways, and the complete blocks they may fall into
:mod:`mcnn.sparse.backends`     loops in C, kernels in Triton, PyTorch's operators
:mod:`mcnn.sparse.ops`          the operators registered with PyTorch, which choose among those
:mod:`mcnn.sparse.autograd`     products with derivatives
:mod:`mcnn.sparse.layer`        the interface of sparse layers
==============================  =================================================================

Each imports only from those above it.
"""

from mcnn import lazy_modules

__getattr__ = lazy_modules(__name__, __path__)
