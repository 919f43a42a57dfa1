r"""Functions to approximate: of the shape of a tree, and the same function turned.

A *constituent* is a smooth function of two variables with values in -1 ... 1, a few cosines along
random directions.
:class:`Compositional` puts them into a tree with two different ones on each level, as the formula
of the slide has them for eight variables; the root has one.

The control is the same function of other coordinates, :math:`f(Rx)` with a random rotation R.
A shallow network cannot tell the two apart if the inputs are normal: rotated weights are weights.
For a tree, each variable is now in every leaf.

Source: slide "Theorem (informal statement)" of Y. Yao's talk.
"""

import math
import operator

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.sampling import as_seed, fold_in, points


class Waves:
    r"""A sum of cosines along random directions, :math:`\sum_kA_k\cos(\omega_k\cdot x+\varphi_k)`.

    Shifted and scaled to mean 0 and variance 1 for normal inputs, for which both have a formula.

    Parameters
    ----------
    inputs
        Dimension of x.
    seed
        Draws directions, lengths, phases and amplitudes.
    terms
        Number of cosines.
    frequency
        The largest length of a frequency; the least is half of it.

    Raises
    ------
    UsageError, ValueError
        For a number below one, or a frequency that is not positive.

    Examples
    --------
    >>> Waves(2, seed=1)(torch.zeros(9, 2)).shape
    torch.Size([9, 1])
    """

    def __init__(
        self,
        inputs: int,
        seed: int | torch.Generator,
        terms: int = 3,
        frequency: float = 1.5,
    ) -> None:
        terms, inputs = operator.index(terms), operator.index(inputs)
        if not (inputs > 0 and 0 < frequency < math.inf):
            raise UsageError(
                f"inputs and frequency must be positive, got {inputs} and {frequency}: a constant "
                "cannot be scaled to variance 1"
            )
        u = points(terms, inputs + 3, seed=as_seed(seed), dtype=torch.float64)
        direction = torch.special.ndtri(u[:, :inputs].clamp(min=2.0**-54))
        length = frequency * (1 + u[:, inputs]) / 2
        self.omega = direction * (length / direction.norm(dim=1)).unsqueeze(1)  # [terms, inputs]
        self.phase = 2 * math.pi * u[:, inputs + 1]
        amplitude = 0.5 + u[:, inputs + 2]
        mean = float(amplitude @ _mean_cosine(self.omega, self.phase))
        # A product of two cosines is half the sum of those of the difference and of the sum.
        square = sum(
            _mean_cosine(
                self.omega.unsqueeze(1) + sign * self.omega,
                self.phase.unsqueeze(1) + sign * self.phase,
            )
            for sign in (-1, 1)
        )
        variance = float(amplitude @ (square / 2) @ amplitude) - mean**2
        self.amplitude = amplitude / math.sqrt(variance)
        self.shift = mean / math.sqrt(variance)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the sum: [batch, inputs] to [batch, 1]."""
        waves = torch.cos(x @ self.omega.T.to(x) + self.phase.to(x))
        return (waves @ self.amplitude.to(x)).unsqueeze(1) - self.shift


def _mean_cosine(omega: Tensor, phase: Tensor) -> Tensor:
    """Return the mean of cos(ω·x + φ) over normal x: [..., inputs] and [...] to [...]."""
    return torch.cos(phase) * torch.exp(-omega.square().sum(-1) / 2)


class Compositional:
    """A random function along a binary tree.

    Parameters
    ----------
    inputs
        d, a power of two from 2 on.
    seed
        Draws the constituents.

    Raises
    ------
    UsageError
        If the inputs are no such power, or of another dimension in a call.

    Examples
    --------
    >>> f = Compositional(8, seed=1)
    >>> [len(level) for level in f.levels], f(torch.zeros(5, 8)).shape
    ([2, 2, 1], torch.Size([5, 1]))
    """

    def __init__(self, inputs: int, seed: int | torch.Generator) -> None:
        inputs = operator.index(inputs)
        if inputs < 2 or inputs & (inputs - 1):
            raise UsageError(f"inputs must be a power of two from 2 on, got {inputs}")
        seed = as_seed(seed)
        self.inputs = inputs
        depth = inputs.bit_length() - 1
        self.levels = [
            [Waves(2, fold_in(fold_in(seed, k), j)) for j in range(2 if k < depth - 1 else 1)]
            for k in range(depth)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values: [batch, inputs] to [batch, 1]."""
        return self.stages(x)[-1]

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return what each level of the tree has, leaves first: [batch, inputs] ... [batch, 1]."""
        if x.dim() != 2 or x.shape[1] != self.inputs:
            raise UsageError(f"x must be [batch, {self.inputs}], got {list(x.shape)}")
        values = [x]
        for level in self.levels:
            pairs = values[-1].unflatten(1, (-1, 2))  # [batch, nodes, 2]
            nodes = range(pairs.shape[1])
            values.append(torch.cat([level[j % len(level)](pairs[:, j]) for j in nodes], 1))
        return values


class Turned:
    """A function of rotated coordinates, f(R x).

    Parameters
    ----------
    f
        With ``inputs``; [batch, inputs] to [batch, outputs].
    seed
        Draws the rotation, uniform among all orthogonal matrices.
    """

    def __init__(self, f: Compositional, seed: int | torch.Generator) -> None:
        self.f, self.inputs = f, f.inputs
        u = points(f.inputs, f.inputs, seed=as_seed(seed), dtype=torch.float64)
        q, r = torch.linalg.qr(torch.special.ndtri(u.clamp(min=2.0**-54)))
        self.rotation = q * r.diagonal().sign()  # else not uniform

    def __call__(self, x: Tensor) -> Tensor:
        """Return f(R x): [batch, inputs] to [batch, outputs]."""
        return self.f(x @ self.rotation.T.to(x))
