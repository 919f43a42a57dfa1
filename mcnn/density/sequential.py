r"""Sampling weights one after the other, each making up for the error of those before it.

A neuron's weights :math:`w_1,\ldots,w_n` meet inputs: vectors :math:`X_1,\ldots,X_n` over the
calibration data in the full network, :math:`\tilde X_t` in the one that has been sampled up to
here. After :math:`t` of its weights the neuron's error is

.. math:: u_t=u_{t-1}+w_tX_t-q_t\tilde X_t,\qquad u_0=0,

and the next weight is drawn round the one that would undo it best,

.. math:: q_t=\mathcal{Q}\left(w_t+
    \frac{\langle\tilde X_t,\,u_{t-1}+w_t(X_t-\tilde X_t)\rangle}{\|\tilde X_t\|^2+\lambda}\right).

For :math:`\lambda=0` this is the projection of [1]_ and [2]_. One percent of the mean
:math:`\|\tilde X\|^2` keeps an input that is almost always zero from having to make up for all
others.

With :math:`\mathcal{Q}` a random rounding without bias to multiples of :math:`\|w\|_1/S`, this is
stochastic path following [1]_ with the step of a density of :math:`S` samples; with rounding to
nearest it is the greedy one [2]_, see :mod:`mcnn.baselines.gpfq`.

What is unbiased: where :math:`\tilde X=X`, as in the first layer that is sampled,
:math:`\mathbb{E}[u_t]=0`, and so :math:`\mathbb{E}[q_t]=w_t`. In later layers the weights also make
up for what earlier ones did, and :math:`\mathbb{E}[q_t]\ne w_t`.
Greedy rounding is biased everywhere.

The vectors are never kept: the inner products need only the matrices
:math:`\tilde X^\top X` and :math:`\tilde X^\top\tilde X`, which are added up batch by batch.
A row of more than :data:`LONGEST` weights is cut into blocks, each of which makes up for its own
errors only: the matrices of a filter with 65,536 inputs would take 64 GiB.

References
----------
.. [1] J. Zhang, R. Saab: SPFQ: a stochastic algorithm and its error analysis for neural network
   quantization. arXiv:2309.10975.
.. [2] J. Zhang, Y. Zhou, R. Saab: Post-training quantization for neural networks with provable
   guarantees. arXiv:2201.11113.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.density.calibrate import Call, evaluating, seen
from mcnn.modelwise import Layer
from mcnn.sampling import fold_in, uniforms

DAMPING = 0.01  # lambda, in units of the mean squared norm
PATCHES = 8192  # of a batch, at most: more places of an image add little
LONGEST = 2048  # inputs of a block

Rounding = Callable[[Tensor, int], Tensor]
"""From places on a grid of step one, float64 [rows], and the number of the weight to integers."""


class Products(NamedTuple):
    r"""Inner products of the inputs of a layer, for each group of channels.

    Attributes
    ----------
    cross
        :math:`\langle\tilde X_t,X_s\rangle`, float64 [groups, n, n]; of long rows
        [groups · blocks, inputs of a block, inputs of a block].
    own
        :math:`\langle\tilde X_t,\tilde X_s\rangle`, likewise.
    """

    cross: Tensor
    own: Tensor


def products(
    full: nn.Module,
    model: nn.Module,
    pair: tuple[Layer, Layer],
    calls: Sequence[Call],
    seed: int = 0,
) -> Products:
    """Add up the inner products of what a layer takes in two networks.

    Parameters
    ----------
    full, model
        The network as it was, and the one that has been sampled up to this layer.
    pair
        The layer in each of them: ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d``.
    calls
        From :func:`mcnn.density.calibrate.batches`.
    seed
        Of the places in images, of which at most :data:`PATCHES` count in a batch.

    Raises
    ------
    ValueError
        For a layer of another kind, or one that the model never uses.
    """
    cross: Tensor | float = 0.0
    own: Tensor | float = 0.0
    with evaluating(full, model):
        for number, call in enumerate(calls):
            inputs = (seen(full, pair[0].module, call), seen(model, pair[1].module, call))
            for x, x_tilde in zip(*inputs, strict=True):
                rows, rows_tilde = _rows(pair[0].module, x), _rows(pair[1].module, x_tilde)
                if rows.shape[1] > PATCHES:
                    index = torch.arange(PATCHES, device=rows.device)
                    draws = uniforms(fold_in(seed, number), index)
                    chosen = (draws * rows.shape[1]).long()
                    rows, rows_tilde = rows[:, chosen], rows_tilde[:, chosen]
                rows, rows_tilde = _blocks(rows), _blocks(rows_tilde)
                transposed = rows_tilde.transpose(1, 2)
                cross = cross + (transposed @ rows).double()
                own = own + (transposed @ rows_tilde).double()
    if not isinstance(cross, Tensor):
        raise ValueError("the model never uses this layer: leave it out of layers")
    return Products(cross, own)


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the vectors that each row of the weight meets, [groups, m, n]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.padding_mode != "zeros":
        raise ValueError(
            f"sequential sampling knows nn.Linear, nn.Conv1d and nn.Conv2d with zeros for padding, "
            f"and not {type(layer).__name__}: leave it out of layers"
        )
    if isinstance(layer.padding, str):
        raise ValueError('sequential sampling needs padding in numbers, not "same" or "valid"')
    line = isinstance(layer, nn.Conv1d)
    sizes = [layer.kernel_size, layer.dilation, layer.padding, layer.stride]
    if line:  # an image of one row
        x = x.unsqueeze(-2)
        first = (1, 1, 0, 1)
        sizes = [(one, *size) for one, size in zip(first, sizes, strict=True)]
    patches = F.unfold(x, *sizes)  # [b, c kh kw, places]
    grouped = patches.unflatten(1, (layer.groups, -1))  # [b, g, n, places]
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def _blocks(x: Tensor, size: int | None = None) -> Tensor:
    """Cut [groups, m, n] into [groups · blocks, m, size], the last block filled up with zeros."""
    n = x.shape[-1]
    number = math.ceil(n / (size or LONGEST))
    size = size or math.ceil(n / number)
    if number == 1:
        return x
    padded = F.pad(x, (0, number * size - n))
    return padded.unflatten(-1, (number, size)).transpose(1, 2).flatten(0, 1)


def follow(
    rows: Tensor, scale: Tensor, given: Products, rounding: Rounding, damping: float = DAMPING
) -> Tensor:
    r"""Choose the codes of all rows, weight after weight.

    Parameters
    ----------
    rows
        Weights [rows, n]; the rows of a group of channels lie next to each other.
    scale
        [rows], the step of each row; codes of a row with step 0 are 0.
    given
        From :func:`products`.
    rounding
        What is :math:`\mathcal{Q}` in units of the step.
    damping
        :math:`\lambda` in units of the mean :math:`\|\tilde X_t\|^2`.

    Returns
    -------
    Tensor
        int32 [rows, n].

    Notes
    -----
    A weight whose input is always zero can make up for nothing, and is rounded as it is.
    """
    pieces, n, _ = given.own.shape  # groups times blocks
    number = math.ceil(rows.shape[1] / n)  # blocks of a row
    whole = rows.detach().double().view(pieces // number, -1, rows.shape[1])
    w = _blocks(whole, n)  # [pieces, rows / groups, n]
    step = torch.where(scale > 0, scale, 1).double().view(pieces // number, -1)
    step = step.repeat_interleave(number, 0)  # [pieces, rows / groups]
    wanted = w @ given.cross.tril().transpose(1, 2)  # [pieces, rows / groups, n]: weights up to t
    q = torch.zeros_like(w)
    codes = torch.zeros_like(w)
    norms = given.own.diagonal(dim1=1, dim2=2)  # [pieces, n]
    below = (norms + damping * norms.mean(1, keepdim=True)).clamp(min=torch.finfo(w.dtype).tiny)
    for t in range(n):
        done = (q[:, :, :t] @ given.own[:, t, :t, None]).squeeze(-1)  # [pieces, rows / groups]
        error = wanted[:, :, t] - done - w[:, :, t] * norms[:, t, None]
        best = w[:, :, t] + error / below[:, t, None]
        codes[:, :, t] = rounding((best / step).flatten(), t).view(best.shape)
        q[:, :, t] = codes[:, :, t] * step
    if number > 1:
        codes = codes.unflatten(0, (-1, number)).transpose(1, 2).flatten(2)[..., : rows.shape[1]]
    codes = codes.reshape(rows.shape)
    return torch.where(scale[:, None] > 0, codes, 0).int()


def stochastic(seed: int) -> Rounding:
    """Return the rounding up or down whose mean is the place itself."""

    def rounding(places: Tensor, number: int) -> Tensor:
        index = torch.arange(len(places), device=places.device)
        return (places + uniforms(fold_in(seed, number), index).double()).floor()

    return rounding


def sequential_counts(
    rows: Tensor, samples: int, given: Products, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Sample rows of weights one weight after the other, with error feedback.

    Parameters
    ----------
    rows
        Weights [rows, n].
    samples
        S of each row: the step is :math:`\|w\|_1/S`, and S is about the sum of the counts.
    given
        From :func:`products`.
    seed
        Of the rounding.

    Returns
    -------
    counts
        int32 [rows, n].
    scale
        [rows].

    Examples
    --------
    >>> w, x = torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.ones(1, 4, 4, dtype=torch.float64)
    >>> counts, scale = sequential_counts(w, 2, Products(x, x))  # four inputs that are the same
    >>> int(counts.sum()), scale
    (2, tensor([1.]))
    """
    scale = rows.detach().double().abs().sum(1) / samples  # [rows]
    counts = follow(rows, scale, given, stochastic(seed))
    return counts, scale.to(rows.dtype)
