r"""Neural networks in a nutshell: forward, backward, and the step downhill, written by hand.

A layer computes, from the activations of the one before,

.. math:: a_{l,i}=\max\Bigl\{0,\sum_j w_{l,j,i}\,a_{l-1,j}\Bigr\} .

How much the error of the output changes with an activation is found from the last layer to the
first, along the same edges: what is not active passes nothing on,

.. math:: \delta_{l-1,j}=\sum_{i:\,a_{l,i}>0}\delta_{l,i}\,w_{l,j,i} ,

and each weight into an active unit takes a step of length :math:`\lambda` against it,

.. math:: w'_{l,j,i}=w_{l,j,i}-\lambda\,\delta_{l,i}\,a_{l-1,j}\quad\text{if }a_{l,i}>0 .

That is all there is to it, and :func:`forward`, :func:`backward` and :func:`step` are these three
lines.
Each sum is a matrix product, so a batch of examples goes through at once.

Source: slides "Artificial neural networks in a nutshell" of A. Keller's talk.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mcnn.sampling import as_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def initial_weights(
    widths: Sequence[int],
    seed: int | torch.Generator = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    live_outputs: bool = False,
) -> list[Tensor]:
    """Draw the weights of a fully connected network: normal, with variance 2 / inputs [1]_.

    An output that is active for no example passes no error back and stays so for ever.
    With ``live_outputs`` the weights of the last layer are uniform in [0, 1 / inputs) instead, so
    that every output starts active.

    Parameters
    ----------
    widths
        Units of each layer, the input's first; at least two numbers, each at least 1.
    seed
        An integer, or a generator, which is advanced by one draw.
        The same seed gives the same weights on every device.
    device, dtype
        Of the result.
    live_outputs
        Whether the last layer starts with positive weights.

    Returns
    -------
    list of Tensor
        Weights of layer 1, 2, ...: [units before, units], the transpose of ``nn.Linear``'s.

    Raises
    ------
    ValueError
        For fewer than two widths, or one below one.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun: Delving deep into rectifiers. ICCV 2015.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more positive numbers, got {tuple(widths)}")
    generator = torch.Generator().manual_seed(as_seed(seed))
    weights = [
        torch.randn(n, m, generator=generator, dtype=torch.float64) * (2 / n) ** 0.5
        for n, m in pairwise(widths)
    ]
    if live_outputs:
        n = widths[-2]
        weights[-1] = torch.rand(n, widths[-1], generator=generator, dtype=torch.float64) / n
    return [w.to(device, dtype) for w in weights]


def forward(weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    r"""Compute :math:`a_{l,i}=\max\{0,\sum_j w_{l,j,i}a_{l-1,j}\}` layer by layer.

    Parameters
    ----------
    weights
        Of layer 1, 2, ...: [units before, units].
    x
        [batch, inputs], the activations :math:`a_0`.

    Returns
    -------
    list of Tensor
        :math:`a_0,a_1,\dots`, each [batch, units].

    Raises
    ------
    ValueError
        If the shapes do not follow on from each other.

    Examples
    --------
    >>> forward([torch.tensor([[1.0, -1.0]])], torch.tensor([[3.0]]))
    [tensor([[3.]]), tensor([[3., 0.]])]
    """
    activations = [x]
    for number, w in enumerate(weights, start=1):
        a = activations[-1]
        if w.dim() != 2 or a.dim() != 2 or a.shape[1] != len(w):
            raise ValueError(
                f"weights of layer {number} must be [units before, units]: got {tuple(w.shape)} "
                f"for activations of shape {tuple(a.shape)}"
            )
        activations.append(torch.clamp(a @ w, min=0))
    return activations


def backward(
    weights: Sequence[Tensor], activations: Sequence[Tensor], delta: Tensor
) -> list[Tensor]:
    r"""Pass the error back: :math:`\delta_{l-1,j}=\sum_{a_{l,i}>0}\delta_{l,i}w_{l,j,i}`.

    Parameters
    ----------
    weights
        Of layer 1, 2, ...: [units before, units].
    activations
        From :func:`forward`.
    delta
        [batch, outputs], the derivative of the error by each output; for half the sum of squares
        it is output minus target.

    Returns
    -------
    list of Tensor
        :math:`\delta_0,\delta_1,\dots`, each the shape of its activations.
    """
    deltas = [delta]
    for w, a in zip(reversed(weights), reversed(activations), strict=False):
        deltas.insert(0, (deltas[0] * (a > 0)) @ w.T)
    return deltas


def gradients(activations: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[Tensor]:
    r"""Return :math:`\delta_{l,i}\,a_{l-1,j}` where :math:`a_{l,i}>0`, summed over the batch.

    Parameters
    ----------
    activations, deltas
        From :func:`forward` and :func:`backward`.

    Returns
    -------
    list of Tensor
        Of layer 1, 2, ...: [units before, units], the derivative of the error by each weight.
    """
    layers = zip(pairwise(activations), deltas[1:], strict=True)
    return [before.T @ (delta * (a > 0)) for (before, a), delta in layers]


def step(
    weights: Sequence[Tensor],
    activations: Sequence[Tensor],
    deltas: Sequence[Tensor],
    rate: float,
) -> list[Tensor]:
    r"""Return :math:`w'=w-\lambda\,\delta\,a`, for the mean over the batch.

    Parameters
    ----------
    weights, activations, deltas
        As above.
    rate
        The step length :math:`\lambda`.

    Returns
    -------
    list of Tensor
        New weights; those given are not changed.

    Examples
    --------
    >>> w, a = [torch.tensor([[1.0, -1.0]])], [torch.tensor([[3.0]])]
    >>> a = forward(w, a[0])
    >>> d = backward(w, a, a[-1] - torch.tensor([[1.0, 1.0]]))
    >>> step(w, a, d, rate=0.1)  # the second unit is not active, so its weight stays
    [tensor([[ 0.4000, -1.0000]])]
    """
    gradient_of = gradients(activations, deltas)
    return [w - rate / len(activations[0]) * g for w, g in zip(weights, gradient_of, strict=True)]


def similarity(image: Tensor, filters: Tensor) -> Tensor:
    """Compare every patch of an image with every filter, by inner products: a convolution.

    All patches share the weights of a filter; where the patch looks like the filter, their product
    is large.

    Parameters
    ----------
    image
        [channels, height, width].
    filters
        [filters, channels, rows, columns].

    Returns
    -------
    Tensor
        [filters, height - rows + 1, width - columns + 1].

    Raises
    ------
    ValueError
        If the channels differ or a filter is larger than the image.

    Examples
    --------
    >>> similarity(torch.eye(3)[None], torch.eye(2)[None, None])
    tensor([[[2., 0.],
             [0., 2.]]])
    """
    if image.dim() != 3 or filters.dim() != 4 or len(image) != filters.shape[1]:
        raise ValueError(
            "image must be [channels, height, width] and filters [filters, channels, rows, "
            f"columns], got {tuple(image.shape)} and {tuple(filters.shape)}"
        )
    height, width = (n - k + 1 for n, k in zip(image.shape[1:], filters.shape[2:], strict=True))
    if height < 1 or width < 1:
        raise ValueError(
            f"filters must not be larger than the image: {tuple(filters.shape[2:])} "
            f"against {tuple(image.shape[1:])}"
        )
    patches = F.unfold(image[None], filters.shape[2:])[0]  # [c rows columns, positions]
    return (filters.flatten(1) @ patches).view(-1, height, width)


def draw_network(ax: "Axes", widths: Sequence[int], colour: str = "C0") -> None:
    """Draw a fully connected network from left to right: units as circles, weights as lines.

    Parameters
    ----------
    ax
        Where to draw; its axes are switched off.
    widths
        Units of each layer, the input's first.
    colour
        Of the units.
    """
    tallest = max(widths)
    layers = [[(2.0 * x, (n - 1) / 2 - i) for i in range(n)] for x, n in enumerate(widths)]
    for before, after in pairwise(layers):
        for x, y in before:
            for u, v in after:
                ax.plot([x, u], [y, v], color="#808080", linewidth=0.7, marker="", zorder=1)
    for number, units in enumerate(layers):
        for x, y in units:
            ax.plot(x, y, "o", color=colour, markersize=16, zorder=2)
        label = {0: "input $a_0$", len(layers) - 1: f"output $a_{number}$"}
        text = label.get(number, f"$a_{number}$")
        ax.text(units[0][0], -tallest / 2 - 0.4, text, ha="center", va="center")
    ax.set(xlim=(-0.6, 2 * len(widths) - 1.4), ylim=(-tallest / 2 - 0.8, tallest / 2 + 0.1))
    ax.axis("off")
