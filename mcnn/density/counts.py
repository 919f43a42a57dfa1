r"""Counting how often samples of a discrete density hit each weight.

Why jittered and systematic samples need no search: the number of samples below :math:`c\in[0,1]` is

.. math:: N(c)=\lfloor cS\rfloor+[\,u_{\lfloor cS\rfloor}<cS-\lfloor cS\rfloor\,],

and the count of weight :math:`i` is :math:`N(P_i)-N(P_{i-1})`.

Why the counts sum to S whatever the length of a row: the magnitudes are rounded to integers first,
so that their partial sums are exact, in any order of addition and on every device.

Large tensors on a CPU are counted by a loop in C, :mod:`mcnn.density.native`, where there is a
compiler; what is written here is its plain form, which also serves all other cases.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcnn.checks import as_count
from mcnn.density import native
from mcnn.errors import unknown
from mcnn.sampling import as_seed, hash_bits, points, uniforms

_MANTISSA = 53  # bits of a float64: integers up to 2**53 are exact

# Weights worked on at once: bounds the memory for any number of rows, and on a CPU what is worked
# on stays in the cache of a core.
_BLOCK = {"cpu": 1 << 17, "cuda": 1 << 22}


def sample_counts(
    weight: Tensor,
    samples: int,
    method: str = "jittered",
    normalize: str = "row",
    order: str = "stored",
    seed: int | torch.Generator = 0,
) -> Tensor:
    r"""Sample the weights of each row in proportion to their magnitudes and count the hits.

    Parameters
    ----------
    weight
        [rows, ...], floating point, finite; a row is a neuron (or a filter) with its inputs.
    samples
        S, the number of samples per row, at least 1.
    method
        One of :data:`METHODS`: ``"iid"``, ``"jittered"``, ``"systematic"``,
        ``"van-der-corput"``.
    normalize
        ``"row"``: one density per row. ``"tensor"``: one density for the whole tensor, which gets
        ``samples`` times the number of rows.
    order
        In what order the weights line up on the unit interval: ``"stored"``, ``"sorted"`` (largest
        magnitude first), ``"signed"`` (those from zero on as stored, then the others backwards), or
        ``"shuffled"`` by the seed, each row differently.
    seed
        An integer, or a generator, which is advanced by one draw.
        The same seed gives the same counts on every device.

    Returns
    -------
    Tensor
        int32, shape and device of ``weight``.
        The absolute values of a row sum to ``samples`` (those of the tensor to ``samples`` times
        rows); a row of zeros stays zero.

    Raises
    ------
    TypeError
        If ``weight`` is not a floating point tensor, or ``samples`` not an integer.
    ValueError
        If ``weight`` has no rows or no inputs, or holds NaN or infinity; if ``samples`` is less
        than 1; for an unknown method, normalisation or order.

    Notes
    -----
    Magnitudes are rounded to multiples of :math:`2^{e-53}m`, where :math:`2^e` exceeds the largest
    of the row and the power of two :math:`m` exceeds the number of its inputs: for 784 inputs that
    is finer than float32 for all but the smallest weights.

    Rows of 9216 weights with 1024 jittered samples each take about a quarter of the time of
    ``torch.multinomial`` on one thread, systematic samples about a sixth, where there is a C
    compiler (:func:`mcnn.density.native.available`).
    Without one, on tensors of fewer than a million weights, for float64, or in another order than
    the stored one, they take up to twice as long as ``torch.multinomial``, with the same counts.
    Compiled graphs call this function as it is, as one operator.

    Source: slides "Simulating Discrete Densities".

    Examples
    --------
    >>> w = torch.tensor([[0.5, -0.25, 0.25], [0.0, 0.0, 0.0]])
    >>> sample_counts(w, samples=4, method="systematic")
    tensor([[ 2, -1,  1],
            [ 0,  0,  0]], dtype=torch.int32)
    """
    _check(weight, method, normalize, order)
    samples = as_count("samples", samples)
    if normalize == "tensor":
        samples *= weight.shape[0]
    if samples >= 2**31:
        raise ValueError(f"samples must stay below 2**31 for a density, got {samples}")
    rows = weight.detach().reshape(1 if normalize == "tensor" else weight.shape[0], -1)
    counts = torch.ops.mcnn.sample_counts(rows, samples, method, order, as_seed(seed))
    return counts.view(weight.shape)


# An operator of its own, so that a compiler calls it as it is: a graph of all of its blocks would
# take long to compile, and partial sums are nothing that a compiler makes faster.
torch.library.define(
    "mcnn::sample_counts", "(Tensor rows, int samples, str method, str order, int seed) -> Tensor"
)


@torch.library.impl("mcnn::sample_counts", "CompositeExplicitAutograd")
def _sample_counts(rows: Tensor, samples: int, method: str, order: str, seed: int) -> Tensor:
    if native.supports(rows, method, order):
        return native.signed_counts(rows, samples, method, seed)
    if not torch.isfinite(torch.stack(torch.aminmax(rows))).all():  # NaN goes through
        raise ValueError("weight holds NaN or infinity: a density needs finite weights")
    counts = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
    size = _BLOCK.get(rows.device.type, _BLOCK["cuda"])
    step = max(1, size // max(rows.shape[1], samples if method in _SEARCHED else 1))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        which = torch.arange(start, start + len(block), device=rows.device)
        line_up = ORDERS[order](block, seed, which)
        if line_up is None:
            counts[start : start + step] = _signed_counts(block, samples, method, seed, which)
        else:
            drawn = _signed_counts(block.gather(1, line_up), samples, method, seed, which)
            counts[start : start + step].scatter_(1, line_up, drawn)
    return counts


@torch.library.register_fake("mcnn::sample_counts")
def _(rows: Tensor, *options: Any) -> Tensor:
    return rows.new_empty(rows.shape, dtype=torch.int32)


def dequantize(counts: Tensor, weight: Tensor, normalize: str = "row") -> Tensor:
    r"""Return the weights that counts stand for: :math:`\frac{\|w\|_1}{S}c_i`.

    Parameters
    ----------
    counts
        From :func:`sample_counts`.
    weight
        The weights they were sampled from, same shape.
    normalize
        As in :func:`sample_counts`.

    Returns
    -------
    Tensor
        Shape, dtype and device of ``weight``; its expectation is ``weight``.
    """
    rows = (1 if normalize == "tensor" else len(weight), -1)
    w, c = weight.detach().reshape(rows).double(), counts.reshape(rows).double()
    total = c.abs().sum(1, keepdim=True).clamp(min=1)  # [rows, 1]; 1 where a row is zero
    norm = w.abs().sum(1, keepdim=True)  # [rows, 1]
    return (c * (norm / total)).view(weight.shape).to(weight.dtype)


def _check(weight: Tensor, method: str, normalize: str, order: str) -> None:
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weight must be a floating point tensor, got {kind}")
    if weight.dim() < 2 or weight.numel() == 0:
        shape = tuple(weight.shape)
        raise ValueError(f"weight must be [rows, inputs...] with at least one each, got {shape}")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if normalize not in ("row", "tensor"):
        raise ValueError(f"normalize must be 'row' or 'tensor', got {normalize!r}")
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)


def _signed_counts(w: Tensor, samples: int, method: str, seed: int, which: Tensor) -> Tensor:
    """Count for a block of rows; ``which`` [rows] are their numbers in the whole tensor."""
    edges = _partial_sums(w)  # [rows, n]
    counts = METHODS[method](edges, samples, seed, which)  # [rows, n]
    return torch.where(w < 0, -counts, counts)


def cumulative_mass(w: Tensor) -> Tensor:
    """Return the partial sums of the magnitudes of each row, as exact integers.

    Parameters
    ----------
    w
        [rows, n], floating point and finite.

    Returns
    -------
    Tensor
        [rows, n], int64, never above 2**53; P_i is entry i divided by the last one.
    """
    return _partial_sums(w).long()


def _partial_sums(w: Tensor) -> Tensor:
    """Return :func:`cumulative_mass` as float64, which holds these integers exactly."""
    bits = _MANTISSA - w.shape[1].bit_length()
    top = torch.frexp(w.abs().amax(1, keepdim=True).double()).exponent.long()  # [rows, 1]
    # Scaling by a power of two is exact, so one rounding per weight is all there is.
    shift = bits - top
    if w.dtype == torch.float64:
        # In two steps, for one factor may exceed the largest float64 where the weights are tiny.
        half = shift.div(2, rounding_mode="floor")
        scaled = w * _power_of_two(half) * _power_of_two(shift - half)
    else:
        scaled = w.double() * _power_of_two(shift)
    return scaled.abs_().round_().cumsum(1)  # scaled: [rows, n], at most 2**bits


def _power_of_two(exponent: Tensor) -> Tensor:
    """Build 2.0**exponent from its bits: pow is not exact on every device."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _strata(edges: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return for each edge c the stratum k = floor(c S) that it cuts, and c S - k."""
    total = edges[:, -1:].masked_fill(edges[:, -1:] == 0, -1)  # [rows, 1]; a zero row stays zero
    # Rounding may lift the edges next to the last above S; those at the last are S exactly.
    y = (edges * samples).div_(total).clamp_(max=samples)  # [rows, n]
    y.masked_fill_(edges == total, samples)
    k = y.floor()
    return k, y.sub_(k)


def _jittered(edges: Tensor, samples: int, seed: int, which: Tensor) -> Tensor:
    k, part = _strata(edges, samples)
    if samples < edges.shape[1]:  # fewer strata than edges: each offset is computed once
        strata = torch.arange(samples + 1, device=edges.device)
        u = uniforms(seed, which[:, None] * samples + strata).gather(1, k.long())
    else:
        u = uniforms(seed, which[:, None] * samples + k.long())
    return _between(k.add_(u < part))  # u: [rows, n], the offset in stratum k


def _systematic(edges: Tensor, samples: int, seed: int, which: Tensor) -> Tensor:
    k, part = _strata(edges, samples)
    return _between(k.add_(uniforms(seed, which)[:, None] < part))


def _between(below: Tensor) -> Tensor:
    """Return the samples between edges from those below each edge [rows, n]."""
    below = below.int()
    return torch.diff(below, dim=1, prepend=torch.zeros_like(below[:, :1]))


def _iid(edges: Tensor, samples: int, seed: int, which: Tensor) -> Tensor:
    index = which[:, None] * samples + torch.arange(samples, device=edges.device)
    return _search(edges, uniforms(seed, index))


def _van_der_corput(edges: Tensor, samples: int, seed: int, which: Tensor) -> Tensor:
    # points() rotates by its own seed, which is as good as none: each row rotates by its own.
    x = points(samples, 1, "van-der-corput", dtype=torch.float64).view(1, -1).to(edges.device)
    return _search(edges, (x + uniforms(seed, which)[:, None]) % 1)


def _search(edges: Tensor, xi: Tensor) -> Tensor:
    """Count the samples xi [rows, S] between edges."""
    edges = edges.long()
    total = edges[:, -1:]  # [rows, 1]
    # floor(xi * total) < edge is xi < P_i, now between integers
    targets = (xi * total).long().clamp_(max=(1 << _MANTISSA))
    targets = torch.minimum(targets, (total - 1).clamp(min=0))
    # Few samples in many edges are found faster than the edges in the sorted samples: by 2.5 times
    # for a ninth as many samples as weights; from as many on it makes no difference.
    hit = torch.searchsorted(edges, targets, right=True)  # [rows, S]
    counts = torch.zeros(edges.shape, dtype=torch.int32, device=edges.device)
    one = torch.ones((), dtype=torch.int32, device=edges.device).expand(hit.shape)
    counts.scatter_add_(1, hit.clamp_(max=edges.shape[1] - 1), one)  # a row of zeros has no edge
    return torch.where(total > 0, counts, 0)


def _sorted(w: Tensor, seed: int, which: Tensor) -> Tensor:
    return w.abs().argsort(dim=1, descending=True, stable=True)


def _shuffled(w: Tensor, seed: int, which: Tensor) -> Tensor:
    index = which[:, None] * w.shape[1] + torch.arange(w.shape[1], device=w.device)
    return hash_bits(~seed, index).argsort(dim=1, stable=True)  # another stream than the samples'


def _by_sign(w: Tensor, seed: int, which: Tensor) -> Tensor:
    """Put signs together: what a count takes from its neighbour then goes to an equal sign."""
    n = w.shape[1]
    place = torch.arange(n, device=w.device)
    return torch.where(w < 0, 2 * n - place, place).argsort(dim=1, stable=True)


METHODS: dict[str, Callable[[Tensor, int, int, Tensor], Tensor]] = {
    "iid": _iid,
    "jittered": _jittered,
    "systematic": _systematic,
    "van-der-corput": _van_der_corput,
}
_SEARCHED = ("iid", "van-der-corput")  # these hold all samples of a row at once

ORDERS: dict[str, Callable[[Tensor, int, Tensor], Tensor | None]] = {
    "stored": lambda w, seed, which: None,
    "sorted": _sorted,
    "signed": _by_sign,
    "shuffled": _shuffled,
}
