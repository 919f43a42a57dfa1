r"""What is left of the noise in a large volume: the linear-noise approximation.

Near a fixed point of the mean field a fluctuation :math:`\xi=\sqrt V\,(X/V-c)` is pulled back by
the Jacobian J and pushed by white noise of covariance D, the reactions' changes weighted by their
rates.
Then its stationary covariance C solves :math:`JC+CJ^\top+D=0`, and its spectrum is

.. math:: S(\omega)=(J+i\omega)^{-1}\,D\,(J^\top-i\omega)^{-1} .

A spiral that the mean field damps is a resonance here: noise keeps it going.

Source: N. G. van Kampen, Stochastic Processes in Physics and Chemistry, chapter X; A. J. McKane,
T. J. Newman, Predator-prey cycles from resonant amplification of demographic stochasticity,
Phys. Rev. Lett. 94, 2005.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcnn.errors import UsageError

if TYPE_CHECKING:
    from mcnn.kinetics.network import Network

_REST = 1e-3  # of what flows in and out: a fixed point may be given to a few digits


def fixed_point(network: "Network", guess: Tensor) -> Tensor:
    """Return concentrations float64 [species] at which the mean field rests, by Newton's method.

    Raises
    ------
    UsageError
        If none is found from the guess, [species], or one with concentrations below 0.
    """
    guess = torch.as_tensor(guess)
    c = guess.double().clone()
    for _ in range(100):
        slope = torch.autograd.functional.jacobian(network.drift, c)
        try:
            move = torch.linalg.solve(slope, network.drift(c))
        except torch.linalg.LinAlgError:
            break
        c = c - move
        if bool(move.abs().max() <= 1e-13 * c.abs().max().clamp(min=1e-300)):
            if bool(c.min() < -1e-9 * c.abs().max()):
                raise UsageError(
                    f"from {guess.tolist()} Newton's method finds concentrations below 0, "
                    f"{c.tolist()}: guess nearer to the fixed point"
                )
            return c
    raise UsageError(
        f"no fixed point of {network} is found from {guess.tolist()}: guess nearer to it; where a "
        "quantity is conserved there are many, and none by itself"
    )


def linear(network: "Network", c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Jacobian J and the noise D at concentrations c, float64 [species, species]."""
    slope = torch.autograd.functional.jacobian(network.drift, c)
    terms = torch.pow(c.double(), network.reactants.double()).prod(-1)  # [reactions]
    changes = network.changes.double()
    return slope, changes.T @ torch.diag(network.rates * terms) @ changes


def covariance(network: "Network", c: Tensor) -> Tensor:
    """Return the covariance of counts over the volume, float64 [species, species], at rest at c.

    Raises
    ------
    UsageError
        If the mean field does not rest at c, or it is not stable, so that the noise grows.

    Examples
    --------
    >>> from mcnn.kinetics import Network
    >>> birth = Network({"0 -> A": 3.0, "A -> 0": 1.0})
    >>> covariance(birth, torch.tensor([3.0])).tolist()
    [[3.0]]
    """
    from scipy.linalg import solve_continuous_lyapunov

    slope, noise = _at_rest(network, c)
    return torch.from_numpy(solve_continuous_lyapunov(slope.numpy(), -noise.numpy()))


def spectrum(network: "Network", c: Tensor, omega: Tensor) -> Tensor:
    """Return the power of each species at angular frequencies omega [n], float64 [n, species].

    Raises
    ------
    UsageError
        As of :func:`covariance`, or if the frequencies are no list.
    """
    if omega.dim() != 1:
        raise UsageError(f"omega must be [n], got {list(omega.shape)}")
    slope, noise = (m.to(torch.complex128) for m in _at_rest(network, c))
    eye = torch.eye(len(slope), dtype=torch.complex128)
    response = torch.linalg.inv(slope + 1j * omega.double()[:, None, None] * eye)
    return (response @ noise @ response.mH).diagonal(dim1=1, dim2=2).real


def _at_rest(network: "Network", c: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`linear` does, at a stable fixed point only."""
    slope, noise = linear(network, c)
    terms = torch.pow(c.double(), network.reactants.double()).prod(-1)  # [reactions]
    flow = network.changes.double().abs().T @ (network.rates * terms)  # [species]
    rests = bool((network.drift(c).abs() <= _REST * flow).all())
    if not rests or not bool((torch.linalg.eigvals(slope).real < 0).all()):
        raise UsageError(f"{c.tolist()} is no stable fixed point of {network}")
    return slope, noise
