r"""The integral in an equation: what the solution is put into, and comes out of.

================================  ==============================================================
:class:`Hammerstein`              :math:`\int w(x,y)\,\varphi(a(x))\,dx`, any kernel and activation
:class:`Urysohn`                  :math:`\int\sum_k\varphi_k(y)\,g_k(x,a(x))\,dx`, g a network
:class:`Attention`                :math:`\int e^{s}v\,dx/\int e^{s}\,dx`, s and v of x and a(x)
================================  ==============================================================

The first two names are those of the theory of nonlinear integral equations.
With limits of Volterra, the attention is what is called causal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError, unknown
from mcnn.integral.kernels import Kernel, cosines

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "identity": lambda a: a,
    "tanh": torch.tanh,
}

Integral = Callable[[Tensor], Tensor]


class Operator(nn.Module):
    """An integral operator; subclasses sample it.

    Parameters
    ----------
    inputs
        Dimension of x and y.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        if inputs < 1:
            raise ValueError(f"inputs must be at least 1, got {inputs}")
        self.inputs = inputs

    def sample(self, x: Tensor, weights: Tensor, y: Tensor) -> Integral:
        """Return the sampled operator, a function of the values at the nodes.

        What does not depend on the values is computed here, once for all repetitions of a solver.

        Parameters
        ----------
        x, y
            [n, inputs] nodes and [m, inputs] places.
        weights
            [n, m], see :func:`mcnn.equations.rule`.

        Returns
        -------
        callable
            From values [b, n, ...] at the nodes to [b, m, ...] at the places.
        """
        raise NotImplementedError


class Hammerstein(Operator):
    r"""A kernel of two points, times an activation of the solution.

    Parameters
    ----------
    kernel
        Of :mod:`mcnn.integral.kernels`, from a cube to itself.
    activation
        A name in :data:`ACTIVATIONS`: ``"relu"`` as the layers of the talk have it, ``"identity"``
        for linear equations.
    bound
        The largest gain :math:`\max_y\int|w(x,y)|\,dx`, below one; a kernel that has more is scaled
        down to it, so that a training never leaves the contractions.

    Raises
    ------
    UsageError
        For what is no kernel, an unknown activation, or a bound that is not between zero and one.
    """

    def __init__(
        self, kernel: Kernel, activation: str = "relu", bound: float | None = None
    ) -> None:
        if not isinstance(kernel, Kernel):
            raise UsageError(f"kernel must be an mcnn.integral.Kernel, got {type(kernel).__name__}")
        super().__init__(kernel.inputs)
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        if bound is not None and not 0 < bound < 1:
            raise UsageError(f"bound must be between 0 and 1, got {bound}")
        self.kernel = kernel
        self.activation = activation
        self.bound = bound

    def matrix(self, x: Tensor, weights: Tensor, y: Tensor) -> Tensor:
        """Return weights times w(x, y), [n, m], scaled down to the bound if there is one."""
        matrix = weights * self.kernel(x, y)
        if self.bound is None:
            return matrix
        gain = matrix.abs().sum(0).max()
        return matrix * (self.bound / gain.clamp(min=self.bound))

    def sample(self, x: Tensor, weights: Tensor, y: Tensor) -> Integral:
        """Return the sampled operator, from [b, n] to [b, m]."""
        matrix, activation = self.matrix(x, weights, y), ACTIVATIONS[self.activation]

        def integral(a: Tensor) -> Tensor:
            if a.shape[1:] != (len(x),):
                raise UsageError(
                    f"a kernel of two points takes functions of one component, [b, {len(x)}], got "
                    f"{list(a.shape)}: of more components Urysohn and Attention are operators"
                )
            return activation(a) @ matrix

        return integral


class Urysohn(Operator):
    r"""A network of x and a(x), and a series of cosines in y.

    Without the series it is the right-hand side of a differential equation: with one cosine, the
    constant, and limits of Volterra, the integral equation is :math:`a'=g(t,a)`.

    Parameters
    ----------
    inputs
        Dimension of x and y.
    channels
        Number of components of a(x).
    hidden
        Units of each of the two hidden layers of g; they are tanh, so that g is bounded.
    frequencies
        Of the cosines in each dimension of y.
    scale
        Of the weights of the last layer at first, relative to PyTorch's.

    Raises
    ------
    ValueError
        For a number below one.
    """

    def __init__(
        self, inputs: int, channels: int, hidden: int = 32, frequencies: int = 4, scale: float = 0.1
    ) -> None:
        super().__init__(inputs)
        _check(channels=channels, hidden=hidden, frequencies=frequencies)
        self.channels, self.frequencies = channels, frequencies
        self.net = nn.Sequential(
            nn.Linear(inputs + channels, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, channels * frequencies**inputs),
        )
        _shrink(self.net[-1], scale)

    @property
    def last(self) -> nn.Module:
        """The layer that g ends with; the operator is proportional to its parameters."""
        return self.net[-1]

    def sample(self, x: Tensor, weights: Tensor, y: Tensor) -> Integral:
        """Return the sampled operator, from [b, n, channels] to [b, m, channels]."""
        series = cosines(y, self.frequencies)  # [m, K]

        def integral(a: Tensor) -> Tensor:
            _check_values(a, len(x), self.channels)
            g = self.net(torch.cat([x.expand(len(a), -1, -1), a], -1))  # [b, n, channels * K]
            summed = (weights.T @ g).unflatten(-1, (self.channels, -1))  # [b, m, channels, K]
            return (summed * series.unsqueeze(1)).sum(-1)

        return integral


class Attention(Operator):
    r"""Softmax attention: the place asks, and the nodes answer with what they hold.

    The scores are :math:`s=q(y)\cdot k(x,a(x))`, and the sum of :math:`e^s v(x,a(x))` over nodes is
    divided by that of :math:`e^s`: importance sampling that normalises itself.

    Parameters
    ----------
    inputs
        Dimension of x and y.
    channels
        Number of components of a(x).
    width
        Of queries and keys.
    hidden
        Units of the hidden layer of the values; they are tanh.
    frequencies
        Of the cosines that x and y are told by, in each dimension.
    scale
        Of the weights of the last layer at first, relative to PyTorch's.

    Raises
    ------
    ValueError
        For a number below one.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        width: int = 8,
        hidden: int = 16,
        frequencies: int = 8,
        scale: float = 0.1,
    ) -> None:
        super().__init__(inputs)
        _check(channels=channels, width=width, hidden=hidden, frequencies=frequencies)
        self.channels, self.frequencies = channels, frequencies
        features = frequencies**inputs
        self.query = nn.Linear(features, width)
        self.key = nn.Linear(features + channels, width)
        self.value = nn.Sequential(
            nn.Linear(features + channels, hidden), nn.Tanh(), nn.Linear(hidden, channels)
        )
        _shrink(self.value[-1], scale)

    @property
    def last(self) -> nn.Module:
        """The layer that v ends with; the operator is proportional to its parameters."""
        return self.value[-1]

    def sample(self, x: Tensor, weights: Tensor, y: Tensor) -> Integral:
        """Return the sampled operator, from [b, n, channels] to [b, m, channels]."""
        told = cosines(x, self.frequencies)  # [n, K]
        query = self.query(cosines(y, self.frequencies))  # [m, width]
        query = query / math.sqrt(query.shape[1])

        def integral(a: Tensor) -> Tensor:
            _check_values(a, len(x), self.channels)
            held = torch.cat([told.expand(len(a), -1, -1), a], -1)  # [b, n, K + channels]
            scores = query @ self.key(held).transpose(1, 2)  # [b, m, n]
            shares = (scores - scores.amax(-1, keepdim=True)).exp() * weights.T
            total = shares.sum(-1, keepdim=True)
            # Before its first node, an integral of Volterra is empty: 0, not 0/0.
            return shares @ self.value(held) / total.clamp(min=torch.finfo(a.dtype).tiny)

        return integral


def _check_values(a: Tensor, n: int, channels: int) -> None:
    if a.shape[1:] != (n, channels):
        raise UsageError(
            f"the operator takes functions of {channels} components, [b, {n}, {channels}], got "
            f"{list(a.shape)}"
        )


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


@torch.no_grad()
def _shrink(layer: nn.Module, scale: float) -> None:
    for p in layer.parameters():
        p.mul_(scale)
