r"""Light in a rod: an integral equation of the second kind with a known solution.

A particle of light in the rod :math:`[0,1]` flies an exponential distance, to the left or to the
right, and is then scattered with probability :math:`c` or absorbed; beyond the ends it is lost.
A part of the rod, the lamp, shines.
What arrives at x, along all paths, is the solution of

.. math:: L(x) = E(x) + \int_0^1 k(x,y)\,L(y)\,dy ,\qquad
          k(x,y)=\frac{c}{2\ell}e^{-|x-y|/\ell} ,

a Fredholm equation of the second kind.
Three ways to solve it stand side by side: the closed form, the Neumann series
:math:`E+KE+K^2E+\dots` on a fine grid, and random walks, which are the same series sampled.
:mod:`mcnn.integral.learning` adds the fourth: reinforcement learning.

Source: slides "Integral Equations" and "Structural Equivalence of Integral Equations and
Reinforcement Learning" of A. Keller's talk; the rod is the textbook's one-dimensional transport.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rod:
    """The equation: how far light flies, how much survives a collision, where the lamp is.

    Attributes
    ----------
    albedo
        c, the probability to survive a collision, in (0, 1).
    free_path
        ℓ, the mean distance between collisions; the rod has length 1.
    lamp
        Both ends of the lamp, inside the rod; E is 1 there and 0 elsewhere.
    """

    albedo: float = 0.9
    free_path: float = 0.1
    lamp: tuple[float, float] = (0.75, 0.875)

    def __post_init__(self) -> None:
        if not 0 < self.albedo < 1:
            raise ValueError(f"albedo must be in (0, 1), got {self.albedo}")
        if not self.free_path > 0:
            raise ValueError(f"free_path must be positive, got {self.free_path}")
        low, high = self.lamp
        if not 0 <= low < high <= 1:
            raise ValueError(f"lamp must be an interval inside [0, 1], got {self.lamp}")

    def emission(self, x: Tensor) -> Tensor:
        """Return E(x)."""
        low, high = self.lamp
        return ((x >= low) & (x < high)).to(x.dtype)

    def kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k(x, y)."""
        distance = (x - y).abs() / self.free_path
        return self.albedo / (2 * self.free_path) * torch.exp(-distance)

    def cells(self, x: Tensor, m: int) -> Tensor:
        """Integrate k(x, ·) over each of m equal cells: [...] to [..., m]."""
        edges = torch.linspace(0, 1, m + 1, dtype=x.dtype, device=x.device)
        t = (edges - x.unsqueeze(-1)) / self.free_path
        # Antiderivative of ½ exp(-|t|); expm1 keeps the digits close to x.
        flown = -0.5 * t.sign() * torch.expm1(-t.abs())
        return self.albedo * flown.diff(dim=-1)

    def exact(self, x: Tensor) -> Tensor:
        r"""Return L(x) in closed form.

        Two derivatives turn the equation for :math:`u=L-E` into
        :math:`u''=\kappa^2u-cE/\ell^2` with :math:`\kappa=\sqrt{1-c}/\ell` and
        :math:`u'(0)=u(0)/\ell,\;u'(1)=-u(1)/\ell`, which Green's function solves.
        """
        kappa, path = math.sqrt(1 - self.albedo) / self.free_path, self.free_path
        low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in self.lamp)

        def left(t: Tensor) -> Tensor:  # satisfies the equation at the left end
            return torch.cosh(kappa * t) + torch.sinh(kappa * t) / (kappa * path)

        def integral(t: Tensor) -> Tensor:  # of the above from 0
            s, c = torch.sinh(kappa * t), torch.cosh(kappa * t) - 1
            return s / kappa + c / (kappa**2 * path)

        one = torch.ones((), dtype=x.dtype, device=x.device)
        slope = kappa * torch.sinh(kappa * one) + torch.cosh(kappa * one) / path  # left'(1)
        wronskian = left(one) / path + slope
        below = integral(x.clamp(low, high)) - integral(low)  # of left over the lamp before x
        above = integral(1 - x.clamp(low, high)) - integral(1 - high)  # and of its mirror image
        u = left(1 - x) * below + left(x) * above
        return self.emission(x) + self.albedo / path**2 / wronskian * u


def neumann(rod: Rod, m: int = 1024, tolerance: float = 1e-12) -> Tensor:
    """Sum the Neumann series E + KE + K²E + … on m equal cells.

    Parameters
    ----------
    rod
        The equation.
    m
        Number of cells.
    tolerance
        The series ends where what is left of it must be smaller.

    Returns
    -------
    Tensor
        [m] float64, L at the centres of the cells; the error is of order m**-2 where the ends of
        the lamp are ends of cells.
    """
    x = (torch.arange(m, dtype=torch.float64) + 0.5) / m
    k = rod.cells(x, m)  # [m, m]
    term = rod.emission(x)
    total = term.clone()
    # K shrinks the largest value at least by the albedo.
    for _ in range(math.ceil(math.log(tolerance * (1 - rod.albedo)) / math.log(rod.albedo))):
        term = k @ term
        total += term
    return total


def gather(rod: Rod, solution: Tensor, x: Tensor) -> Tensor:
    """Apply the equation once more: E(x) + ∫ k(x, y) L(y) dy for L constant on cells.

    Parameters
    ----------
    rod
        The equation.
    solution
        [..., m] values of L on m equal cells.
    x
        [n] where to evaluate.

    Returns
    -------
    Tensor
        [..., n], smoother than what was put in.
    """
    m = solution.shape[-1]
    return rod.emission(x) + solution @ rod.cells(x, m).T


def walks(
    rod: Rod, start: float, n: int, generator: torch.Generator, absorb: bool = False
) -> Tensor:
    """Estimate L at one place by random walks that follow the kernel.

    Parameters
    ----------
    rod
        The equation.
    start
        x in [0, 1].
    n
        Number of walks.
    generator
        Of the walks; its device is that of the result.
    absorb
        Whether a walk ends at a collision with probability 1 - albedo, as light does, or goes on
        with its weight multiplied by the albedo.

    Returns
    -------
    Tensor
        [n] float64, independent estimates whose mean is L(start).
    """
    device = generator.device
    x = torch.full((n,), start, dtype=torch.float64, device=device)
    weight = torch.ones_like(x)
    score = rod.emission(x)
    while bool((weight > 1e-12).any()):  # all leave the rod soon
        u = torch.rand(n, 3, dtype=torch.float64, device=device, generator=generator)
        flight = -rod.free_path * torch.log1p(-u[:, 0])
        x = torch.where(u[:, 1] < 0.5, x - flight, x + flight)
        alive = (x >= 0) & (x <= 1)
        if absorb:
            weight = weight * (alive & (u[:, 2] < rod.albedo))
        else:
            weight = weight * alive * rod.albedo
        score += weight * rod.emission(x)
    return score
