r"""A family of integrals with known values in any dimension, with a kink or without.

.. math:: a(y)=\int_{[0,1]^d}\prod_{i=1}^d\left(1+\tfrac12\cos\pi(x_i-y_i)\right)
          \max\{0,\;g\cdot x+c\}\,dx

is what an integral layer computes from a linear function :math:`g\cdot x+c`.
Where that plane crosses zero inside the cube, the ReLU puts a kink into the integrand, at an
angle to all axes, and where it stays positive the integrand is smooth.
Nothing else differs, so the two show what a kink costs.

The exact value: :math:`\max\{0,s\}=\frac12(s+|s|)`, and :math:`|s|` on an interval is a triangle
wave, whose Fourier series turns the integral over the cube into products of d integrals over
:math:`[0,1]`, each elementary.
The terms fall like :math:`k^{-2-d}`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mcnn.integral.kernels import Kernel
from mcnn.sampling import uniforms

_TERMS = {1: 1 << 15, 2: 1 << 12, 3: 1 << 10}  # by dimension; what is left out is below 1e-10
_CHUNK = 128  # values of y at a time, to bound the memory


class CosineProduct(Kernel):
    """The kernel ∏ (1 + ½ cos π(x_i − y_i)), which has no parameters.

    Parameters
    ----------
    inputs
        Dimension of x and of y.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return w(x, y) for all pairs: [n, d] and [m, d] to [n, m]."""
        w = torch.ones(len(x), len(y), dtype=x.dtype, device=x.device)
        for i in range(self.inputs):
            # The cosine of a difference: 2 (n + m) cosines and sines instead of n m.
            a, b = math.pi * x[:, i], math.pi * y[:, i]
            near = torch.outer(a.cos(), b.cos()).addr_(a.sin(), b.sin())
            w.mul_(near.mul_(0.5).add_(1))
        return w


@dataclass(frozen=True, eq=False)
class Ridge:
    """A linear function g·x + c on the unit cube, before its ReLU.

    Attributes
    ----------
    gradient
        [d] float64.
    offset
        c.
    """

    gradient: Tensor
    offset: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return g·x + c at points [n, d], as [n]."""
        return x @ self.gradient.to(x) + self.offset

    def exact(self, y: Tensor) -> Tensor:
        """Return the integral of the kernel times max{0, g·x + c} at y.

        Parameters
        ----------
        y
            [m, d] float64.

        Returns
        -------
        Tensor
            [m] float64, to about 1e-10.
        """
        return torch.cat([self._exact(part) for part in y.split(_CHUNK)])

    def _exact(self, y: Tensor) -> Tensor:
        g, c = self.gradient.to(y), self.offset
        # No |s| on the cube is larger than this bound.
        bound = abs(c + float(g.sum()) / 2) + float(g.abs().sum()) / 2
        terms = _TERMS[min(len(g), 3)]
        k = torch.arange(1, 2 * terms, 2, dtype=torch.float64, device=y.device)
        omega = k * math.pi / bound
        waves = torch.exp(1j * omega * c).expand(len(y), -1).clone()  # [m, terms]
        for i in range(len(g)):
            waves *= _wave(omega * g[i], y[:, i])
        mass, mean = self._moments(y)
        triangle = bound / 2 * mass - 4 * bound / math.pi**2 * (waves.real / k**2).sum(1)
        return (mean + triangle) / 2

    def _moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate the kernel alone, and times g·x + c: [m] each."""
        cos, sin = torch.cos(math.pi * y), torch.sin(math.pi * y)
        zeroth = 1 + sin / math.pi  # ∫ 1 + ½ cos π(x − y) dx
        first = 0.5 + 0.5 * (sin / math.pi - 2 * cos / math.pi**2)  # ∫ x (...) dx
        mass = zeroth.prod(1)
        mean = mass * ((first / zeroth) @ self.gradient.to(y) + self.offset)
        return mass, mean


def _wave(theta: Tensor, y: Tensor) -> Tensor:
    """Return ∫ (1 + ½ cos π(x − y)) exp(iθx) dx over [0, 1]: θ [k] and y [m] to [m, k]."""
    turn = torch.exp(1j * math.pi * y).unsqueeze(1)
    shifted = turn.conj() * _psi(theta + math.pi) + turn * _psi(theta - math.pi)
    return _psi(theta) + shifted / 4


def _psi(theta: Tensor) -> Tensor:
    """Return ∫ exp(iθx) dx over [0, 1], written so that θ = 0 does no harm."""
    return torch.exp(0.5j * theta) * torch.sinc(theta / (2 * math.pi))


def random_ridge(d: int, kinked: bool, seed: int) -> Ridge:
    """Draw a ridge whose gradient has components of either sign, 0.5 to 1.5 in size.

    Parameters
    ----------
    d
        Dimension.
    kinked
        Whether the plane g·x + c = 0 goes through the cube, close to its centre, or passes the
        cube by.
    seed
        Draws g and c.

    Returns
    -------
    Ridge
        Of float64.
    """
    u = uniforms(seed, torch.arange(2 * d + 1))
    g = (0.5 + u[:d]) * torch.where(u[d:-1] < 0.5, -1.0, 1.0)
    reach = float(g.abs().sum()) / 2  # of g·x around the centre of the cube
    centre = (0.4 * float(u[-1]) - 0.2 if kinked else 1.1) * reach
    return Ridge(g, centre - float(g.sum()) / 2)
