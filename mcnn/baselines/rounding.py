r"""Other ways to make weights small without training again, to compare sampling with.

Each turns a row of weights into integer *codes* and one scale, as sampling a density does:

====================  ===================================================================
:func:`nearest`       uniform steps, each weight rounded to the nearest
:func:`stochastic`    uniform steps, rounded up or down at random, without bias
:func:`ternary`       -1, 0, 1 by a threshold of 0.7 mean :math:`|w|` [1]_
:func:`largest`       no codes: the largest weights as they are, the others zero [2]_
====================  ===================================================================

With b bits the uniform codes are :math:`-L,\ldots,L` for :math:`L=2^{b-1}-1`, and the scale of a
row is :math:`\max|w|/L`, or with ``clip="mse"`` the one that leaves the least squared error.

:func:`quantize` does it to a whole model; its report says what the codes cost, as that of sampling
does.

References
----------
.. [1] F. Li, B. Zhang, B. Liu: Ternary weight networks. arXiv:1605.04711, 2016.
.. [2] S. Han, J. Pool, J. Tran, W. Dally: Learning both weights and connections for efficient
   neural networks. NIPS 2015.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcnn import modelwise
from mcnn.errors import unknown
from mcnn.modelwise import Layers, Report
from mcnn.sampling import as_seed, uniforms

CLIPS = ("max", "mse")
_STEPS = 64  # scales that are tried for the least squared error
_THRESHOLD = 0.7  # of the mean magnitude: near the optimum for uniform and for normal weights


def nearest(weight: Tensor, bits: int, clip: str = "max") -> tuple[Tensor, Tensor]:
    r"""Round each weight to the nearest of :math:`2^b-1` equidistant values.

    Parameters
    ----------
    weight
        [rows, ...], floating point.
    bits
        b, at least 2 and at most 16.
    clip
        ``"max"``: no weight is cut off. ``"mse"``: the largest may be, where the squared error of
        the row gains by a finer step; of 64 steps the best is taken.

    Returns
    -------
    codes
        int32, shape of ``weight``.
    scale
        [rows], dtype of ``weight``; 0 for a row of zeros.

    Raises
    ------
    ValueError
        For another number of bits, or an unknown ``clip``.

    Examples
    --------
    >>> codes, scale = nearest(torch.tensor([[0.9, -0.4, 0.1]]), bits=3)
    >>> codes, scale
    (tensor([[ 3, -1,  0]], dtype=torch.int32), tensor([0.3000]))
    """
    if clip not in CLIPS:
        raise unknown("clip", clip, CLIPS)
    w, top = _rows_and_top(weight)
    levels = _levels(bits)
    best = top / levels  # [rows, 1]
    codes = _nearest(w, best, levels)
    if clip == "mse":
        error = (codes * best - w).square().sum(1, keepdim=True)  # [rows, 1]
        for k in range(1, _STEPS):
            scale = best.new_tensor(k / _STEPS) * top / levels
            tried = _nearest(w, scale, levels)
            new = (tried * scale - w).square().sum(1, keepdim=True)
            better = new < error
            best, error = torch.where(better, scale, best), torch.where(better, new, error)
        codes = _nearest(w, best, levels)
    return codes.int().view(weight.shape), best.flatten().to(weight.dtype)


def _nearest(w: Tensor, scale: Tensor, levels: int) -> Tensor:
    return (w / torch.where(scale > 0, scale, 1)).round_().clamp_(-levels, levels)


def stochastic(weight: Tensor, bits: int, seed: int | torch.Generator = 0) -> tuple[Tensor, Tensor]:
    r"""Round up or down at random, so that the expectation is the weight.

    Between two codes the upper one is taken with the probability that the weight's place says:
    :math:`\lfloor w/s+u\rfloor` for :math:`u` uniform in [0, 1) and the scale :math:`s`.

    Parameters
    ----------
    weight
        [rows, ...], floating point.
    bits
        b, at least 2 and at most 16.
    seed
        An integer, or a generator, which is advanced by one draw.
        The same seed gives the same codes on every device.

    Returns
    -------
    codes, scale
        As :func:`nearest`, with ``clip="max"``.

    Raises
    ------
    ValueError
        For another number of bits.

    Examples
    --------
    >>> codes, scale = stochastic(torch.tensor([[3.0, 1.5, 0.0]]), bits=3)
    >>> codes.flatten()[[0, 2]]  # these lie on a code; the one between them is 1 or 2
    tensor([3, 0], dtype=torch.int32)
    """
    w, top = _rows_and_top(weight)
    levels = _levels(bits)
    scale = top / levels  # [rows, 1]
    u = uniforms(as_seed(seed), torch.arange(w.numel(), device=w.device)).view(w.shape)
    places = w / torch.where(scale > 0, scale, 1)  # [rows, n]
    codes = (places + u).floor_().clamp_(-levels, levels)
    return codes.int().view(weight.shape), scale.flatten().to(weight.dtype)


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Keep the signs of weights above a threshold: the rule of ternary weight networks.

    The threshold is :math:`\Delta=0.7\,\overline{|w|}`, the scale the mean magnitude of the weights
    above it, which leaves the least squared error for that choice.

    Parameters
    ----------
    weight
        [rows, ...], floating point.

    Returns
    -------
    codes, scale
        As :func:`nearest`.

    Notes
    -----
    Source: equations 5 and 6 of Li, Zhang and Liu, here with one threshold for each row.

    Examples
    --------
    >>> ternary(torch.tensor([[1.0, -2.0, 0.1, 0.1]]))
    (tensor([[ 1, -1,  0,  0]], dtype=torch.int32), tensor([1.5000]))
    """
    w, _ = _rows_and_top(weight)
    size = w.abs()
    kept = size > _THRESHOLD * size.mean(1, keepdim=True)  # [rows, n]
    scale = (size * kept).sum(1) / kept.sum(1).clamp(min=1)  # [rows]
    return (w.sign() * kept).int().view(weight.shape), scale.to(weight.dtype)


def largest(weight: Tensor, fraction: float, each: str = "row") -> Tensor:
    """Keep the largest weights as they are and set the others to zero.

    Parameters
    ----------
    weight
        [rows, ...], floating point.
    fraction
        What is kept, in (0, 1]; at least one weight is.
    each
        ``"row"``: the same number of each row. ``"tensor"``: the largest of all.

    Returns
    -------
    Tensor
        As ``weight``.

    Raises
    ------
    ValueError
        For a fraction out of range, or another ``each``.

    Examples
    --------
    >>> largest(torch.tensor([[1.0, -2.0], [0.1, 0.2]]), 0.5)
    tensor([[ 0.0000, -2.0000],
            [ 0.0000,  0.2000]])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if each not in ("row", "tensor"):
        raise ValueError(f"each must be 'row' or 'tensor', got {each!r}")
    w = weight.detach().reshape(len(weight) if each == "row" else 1, -1)
    kept = w.abs().topk(max(1, round(fraction * w.shape[1])), dim=1).indices
    return torch.zeros_like(w).scatter_(1, kept, w.gather(1, kept)).view(weight.shape)


def _rows_and_top(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights as [rows, n] and the largest magnitude of each row [rows, 1], float64."""
    w = weight.detach().flatten(1).double()
    return w, w.abs().amax(1, keepdim=True)


def _levels(bits: int) -> int:
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be in 2 ... 16, one bit holds no zero; got {bits}")
    return 2 ** (bits - 1) - 1


def quantize(
    model: nn.Module,
    rule: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    layers: Layers = None,
    seed: int | torch.Generator = 0,
) -> tuple[nn.Module, Report]:
    """Replace the weights of layers by codes times the scale of a row.

    Parameters
    ----------
    model
        Any module; not changed.
    rule
        From rows of weights [rows, n] and a seed to codes and scale.
    layers
        As in :func:`mcnn.modelwise.select`.
    seed
        Each layer gets its own seed from this one.

    Returns
    -------
    nn.Module
        A copy of the model with plain layers; biases are those of the model.
    Report
        Of the codes.

    Raises
    ------
    ValueError
        For what :func:`mcnn.modelwise.select` refuses.

    Examples
    --------
    >>> small, report = quantize(nn.Linear(100, 10), lambda w, seed: nearest(w, bits=4))
    >>> max(report.histogram)
    7
    """
    seed = as_seed(seed)
    model, selected = modelwise.copied(model, layers)
    reports = []
    for layer in selected:
        rows, own_bias = layer.rows, layer.bias
        codes, scale = rule(rows, layer.seed(seed))
        layer.write(codes.to(rows.dtype) * scale[:, None])
        biases = 0 if own_bias is None else own_bias.numel()
        reports.append(layer.report(codes, floats=len(rows) + biases))
    return model, Report.of(model, reports)
