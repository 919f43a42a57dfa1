r"""Random Fourier features: a kernel as an integral, estimated by a layer of cosines.

A kernel :math:`k(x-y)` that is positive definite is the Fourier transform of a density
(Bochner's theorem), which for the Gaussian kernel is Gaussian:

.. math:: e^{-\|x-y\|^2/(2\ell^2)}=E\,\cos\bigl(\omega\cdot(x-y)\bigr),
          \qquad \omega\sim N(0,\ell^{-2}I).

Since :math:`\cos(\alpha-\beta)=\cos\alpha\cos\beta+\sin\alpha\sin\beta`, an average over n
frequencies is the scalar product of two vectors of 2n features [1]_: a hidden layer with random
weights that are not trained, after which a linear method does what the kernel method would.

The integral is one over the unit cube, :math:`\omega=\Phi^{-1}(\xi)/\ell`, and :math:`\xi` need not
be random.
Quasi-Monte Carlo feature maps [2]_ take a low-discrepancy point set.

References
----------
.. [1] A. Rahimi, B. Recht: Random features for large-scale kernel machines. NIPS 2007.
.. [2] J. Yang, V. Sindhwani, H. Avron, M. Mahoney: Quasi-Monte Carlo feature maps for
   shift-invariant kernels. ICML 2014.
"""

import torch
from torch import Tensor, nn

from mcnn.randomness.source import normals
from mcnn.seeds import layer_seed


class FourierFeatures(nn.Module):
    """A layer of cosines and sines whose scalar products estimate the Gaussian kernel.

    Parameters
    ----------
    inputs
        Dimension d of what comes in.
    frequencies
        n; there are 2n features.
    lengthscale
        The kernel's, in units of the inputs, positive.
    source
        One of :data:`mcnn.randomness.SOURCES`, or another method of :func:`mcnn.sampling.points`.
    seed
        Randomises the frequencies: an integer, or a generator, which is advanced by one draw; by
        default from PyTorch's own, so that layers made alike differ.
    device, dtype
        Of the frequencies; by default PyTorch's.

    Raises
    ------
    ValueError
        For a length that is not positive, an unknown source, or a number of frequencies that it
        does not have.

    Examples
    --------
    >>> layer = FourierFeatures(2, 64, source="sobol", dtype=torch.float64)
    >>> x = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    >>> round(float((layer(x) * layer(x)).sum()), 12)  # a point is like itself
    1.0
    """

    def __init__(
        self,
        inputs: int,
        frequencies: int,
        lengthscale: float = 1.0,
        source: str = "random",
        seed: int | torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not lengthscale > 0:
            raise ValueError(f"lengthscale must be positive, got {lengthscale}")
        device = torch.get_default_device() if device is None else device
        dtype = torch.get_default_dtype() if dtype is None else dtype
        with torch.device("cpu"):
            omega = normals(frequencies, inputs, source, layer_seed(seed)) / lengthscale  # [n, d]
        self.register_buffer("frequencies", omega.to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to features [..., 2n]."""
        phase = x @ self.frequencies.T  # [..., n]
        return torch.cat([phase.cos(), phase.sin()], -1) / len(self.frequencies) ** 0.5


def gaussian_kernel(x: Tensor, y: Tensor, lengthscale: float = 1.0) -> Tensor:
    """Return the Gaussian kernel between all pairs.

    Parameters
    ----------
    x, y
        [n, d] and [m, d].
    lengthscale
        Where it has fallen to exp(-1/2).

    Returns
    -------
    Tensor
        [n, m].
    """
    squares = (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)
    return (-squares / (2 * lengthscale**2)).exp()
