"""Who computes the operators of sparse layers: loops in C, kernels in Triton, PyTorch itself."""

from mcnn import lazy_modules

__getattr__ = lazy_modules(__name__, __path__)
