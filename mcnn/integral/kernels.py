r"""Kernels: the weights of a layer whose neurons are too many to be numbered.

A weight matrix has an entry for every pair of neurons.
A kernel :math:`w(x,y)` has a value for every pair of *points*, and a few parameters that decide
them all, so the number of parameters no longer depends on the number of neurons.

===================  ==========================================================================
:class:`Fourier`     cosines in x and y: the integral costs n + m, not n m
:class:`Readout`     cosines in x, and a number for each class
:class:`Perceptron`  any smooth function: a small network that is asked for every pair
===================  ==========================================================================
"""

import math

import torch
from torch import Tensor, nn

from mcnn.checks import as_count


def cosines(x: Tensor, frequencies: int) -> Tensor:
    r"""Return the orthonormal cosines :math:`\prod_i\sqrt{2-[k_i=0]}\cos(\pi k_i x_i)`.

    Parameters
    ----------
    x
        [n, d] points of the unit cube.
    frequencies
        How many, 0 ... frequencies - 1, in each dimension.

    Returns
    -------
    Tensor
        [n, frequencies**d].

    Examples
    --------
    >>> cosines(torch.zeros(1, 2), 2).square()
    tensor([[1.0000, 2.0000, 2.0000, 4.0000]])
    """
    k = torch.arange(frequencies, device=x.device, dtype=x.dtype)
    norm = torch.full_like(k, math.sqrt(2))
    norm[0] = 1
    one = norm * torch.cos(math.pi * k * x.unsqueeze(-1))  # [n, d, frequencies]
    features = one[:, 0]
    for i in range(1, x.shape[1]):
        features = (features.unsqueeze(-1) * one[:, i].unsqueeze(-2)).flatten(1)
    return features


def check(**numbers: int) -> None:
    """Refuse what is no integer, or below one, with its name."""
    for name, value in numbers.items():
        as_count(name, value)


class Kernel(nn.Module):
    """A function w(x, y); subclasses give it, or a quicker way to integrate against it.

    Parameters
    ----------
    inputs
        Dimension of x.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        check(inputs=inputs)
        self.inputs = inputs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return w(x, y) for all pairs: [n, inputs] and [m, outputs] to [n, m]."""
        raise NotImplementedError

    def integrate(self, values: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of values times w(x, y) over x: [b, n] to [b, m]."""
        return values @ self(x, y)


class Fourier(Kernel):
    r"""The kernel :math:`w(x,y)=\sum_{k,l}C_{k,l}\,\varphi_k(x)\,\varphi_l(y)` of cosines.

    The double sum splits: first the coefficients of the integrand, then a matrix, then a series
    in y.
    An integral over n nodes at m places costs n + m products with features instead of n m.

    Parameters
    ----------
    inputs, outputs
        Dimensions of x and y.
    frequencies
        In each dimension.
    generator
        Of the initial weights, on the CPU; they keep the mean square of a signal that passes.

    Raises
    ------
    ValueError
        For a number below one.
    """

    def __init__(
        self, inputs: int, outputs: int, frequencies: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(inputs)
        check(outputs=outputs, frequencies=frequencies)
        self.outputs, self.frequencies = outputs, frequencies
        size = frequencies**inputs, frequencies**outputs
        # Half of a signal passes the ReLU; each place y adds size[1] terms of unit mean square.
        scale = math.sqrt(2 / size[1])
        self.weight = nn.Parameter(torch.randn(size, generator=generator) * scale)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return w(x, y) for all pairs: [n, inputs] and [m, outputs] to [n, m]."""
        return cosines(x, self.frequencies) @ self.weight @ cosines(y, self.frequencies).T

    def integrate(self, values: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of values times w(x, y) over x: [b, n] to [b, m]."""
        if y.dim() != 2 or y.shape[1] != self.outputs:
            raise ValueError(f"y must be places, [m, {self.outputs}], got {list(y.shape)}")
        coefficients = values @ cosines(x, self.frequencies)  # [b, K]
        return coefficients @ self.weight @ cosines(y, self.frequencies).T


class Readout(Kernel):
    """A kernel with a smooth function of x for each class: y numbers the classes.

    Parameters
    ----------
    inputs
        Dimension of x.
    classes
        Number of functions.
    frequencies
        In each dimension of x.
    generator
        Of the initial weights, on the CPU.

    Raises
    ------
    ValueError
        For a number below one.
    """

    def __init__(
        self, inputs: int, classes: int, frequencies: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(inputs)
        check(classes=classes, frequencies=frequencies)
        self.frequencies = frequencies
        weight = torch.randn(frequencies**inputs, classes, generator=generator)
        self.weight = nn.Parameter(weight * math.sqrt(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return w(x, y) for all pairs: [n, inputs] and classes [m] to [n, m]."""
        return cosines(x, self.frequencies) @ self.weight[:, y]

    def integrate(self, values: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of values times w(x, y) over x: [b, n] to [b, m]."""
        return values @ cosines(x, self.frequencies) @ self.weight[:, y]


class Perceptron(Kernel):
    """A kernel that is itself a small network, asked for every pair of points.

    Parameters
    ----------
    inputs, outputs
        Dimensions of x and y.
    hidden
        Units of each of its two hidden layers; their activation is smooth, so the kernel is.

    Raises
    ------
    ValueError
        For a number below one.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 32) -> None:
        super().__init__(inputs)
        check(outputs=outputs, hidden=hidden)
        self.net = nn.Sequential(
            nn.Linear(inputs + outputs, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return w(x, y) for all pairs: [n, inputs] and [m, outputs] to [n, m]."""
        n, m = len(x), len(y)
        pairs = torch.cat(
            [x.unsqueeze(1).expand(n, m, -1), y.unsqueeze(0).expand(n, m, -1)], -1
        )  # [n, m, inputs + outputs]
        return self.net(pairs).squeeze(-1)
