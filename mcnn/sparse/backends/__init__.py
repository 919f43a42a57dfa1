"""Who computes the operators of sparse layers: loops in C, kernels in Triton, PyTorch itself."""
