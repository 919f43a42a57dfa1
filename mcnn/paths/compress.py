r"""Compressing a trained network by walking backwards through it.

A walk starts at an output and steps from a unit to one of its inputs, until it arrives at the
input of the network.
Weights that many walks take matter; weights that none takes leave the network.

**Where to step.**
From unit :math:`i` of layer :math:`l` a walk steps to unit :math:`j` of the layer before with
probability

.. math:: p_{j,i}=\frac{|w_{l,j,i}|\,m_{l-1,j}}{m_{l,i}},\qquad
          m_{l,i}=\sum_j|w_{l,j,i}|\,m_{l-1,j} .

With :math:`m_{l-1,j}=1` on the right this is in proportion to the weights, the talk's choice.
With the norms *folded* forward, :math:`m_{0,j}=1` and then layer by layer, the probability of a
whole path is in proportion to the product of the weights along it, and a neuron divided by its norm
:math:`m_{l,i}` is a mean over walks: a positive factor, which ReLU lets through.

**What to put in place of the weights.**
Let :math:`v_i` walks visit unit :math:`i` and :math:`c_{j,i}` of them step to :math:`j`, counted
with the sign of the weight.
Then

.. math:: \hat w_{l,j,i}=\frac{m_{l,i}}{m_{l-1,j}}\,\frac{c_{j,i}}{v_i}

has expectation :math:`w_{l,j,i}`, whatever the visits, as long as there are any.
A unit without visits has no walk to any unit above it, so nothing that is kept depends on it.
Hence layers without ReLU in between compute an unbiased estimate of the whole network: take the
expectation from the input side, layer by layer, each time given the counts above.
With ReLUs each layer is unbiased given its inputs, the network as a whole is not.

Walks may be independent (``iid``), or ``stratified``: outputs share them evenly, and the
:math:`v_i` walks that leave a unit take one jittered sample each of its density.
The latter needs no walk at all, only counts, for any number of paths.

Source: slides "Sampling Paths through Networks" of A. Keller's talk.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules import pooling
from torch.nn.modules.conv import _ConvTransposeNd

from mcnn import modelwise
from mcnn.checks import as_count
from mcnn.density.counts import cumulative_mass
from mcnn.errors import unknown
from mcnn.modelwise import Layer, LayerReport, Report
from mcnn.sampling import as_seed, uniforms

METHODS = ("stratified", "iid")
WEIGHTS = ("counts", "original")

# What lies between the layers keeps units apart and is zero at zero, so a walk goes through.
_PASSED = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Flatten,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
)


@torch.no_grad()
def compress(
    model: nn.Sequential,
    paths: int,
    method: str = "stratified",
    weights: str = "counts",
    fold: bool = False,
    seed: int | torch.Generator = 0,
) -> tuple[nn.Sequential, Report]:
    r"""Keep the weights that backward random walks take, without training again.

    Parameters
    ----------
    model
        A stack of linear and convolutional layers with ReLUs, pooling, flattening and dropout
        between them; not changed.
        The units of a convolution are its filters, and a walk takes one weight of a filter.
    paths
        Number of walks from the outputs to the inputs.
    method
        ``"stratified"`` or ``"iid"``.
    weights
        ``"counts"``: signed counts with the scales that make them unbiased.
        ``"original"``: the weights themselves, where a walk came along.
    fold
        Whether the norms are folded forward, so that whole paths are taken in proportion to the
        product of their weights; else a unit looks at the weights of its own inputs only.
    seed
        An integer, or a generator, which is advanced by one draw.

    Returns
    -------
    nn.Sequential
        A copy of the model; weights that no walk takes are zero.
        Biases stay, except for units that no walk visits.
    Report
        Distinct weights, units that are visited, and bits, layer by layer; a scale and a bias are
        stored for visited units only.

    Raises
    ------
    TypeError
        If the model is no stack, holds a module that a walk cannot pass, or ``paths`` is no int.
    ValueError
        For less than one path, an unknown method or kind of weights, a layer with groups, shared
        weights, weights that are not finite or that something else computes, or a layer whose
        inputs are not the outputs of the layer before it.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    >>> small, report = compress(model, paths=1000)
    >>> report.paths, report.distinct <= 2000
    (1000, True)
    """
    paths = as_count("paths", paths, 0)
    if not 1 <= paths < 2**53:
        raise ValueError(f"paths must be at least 1, and less than 2**53, got {paths}")
    for name, value, known in (("method", method, METHODS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise unknown(name, value, known)
    seed = as_seed(seed)
    model, layers = _copied(model)
    norms = _norms(layers, fold)
    last = layers[-1].rows
    visits = _starts(paths, len(last), method, seed, last.device)
    reports = []
    for number, layer in reversed(list(enumerate(layers))):
        before, after = norms[number]  # [inputs], [rows]
        w = layer.rows  # [rows, inputs]
        counts = _COUNTS[method](w.double() * before, visits, layer.seed(seed))  # [rows, inputs]
        reports.append(_report(layer, counts, visits, weights))
        if weights == "counts":
            scale = after / visits.clamp(min=1)  # [rows]
            layer.write(w.sign() * (counts * scale[:, None] / before.clamp(min=_TINY)))
        else:
            layer.write(w * (counts > 0))
        if layer.bias is not None:
            layer.bias.mul_(visits > 0)
        if number:
            units = len(layers[number - 1].rows)
            visits = counts.sum(0).view(units, -1).sum(1)  # [units of the layer before]
    return model, Report.of(model, reports[::-1], paths)


_TINY = torch.finfo(torch.float64).tiny


def _copied(model: nn.Module) -> tuple[nn.Module, list[Layer]]:
    """Copy the model and return its layers in order, if walks can go through all of it."""
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    model, layers = modelwise.copied(model)
    for name, module in model.named_modules():
        walkable = isinstance(module, (nn.Sequential, *modelwise.KINDS, *_PASSED))
        if not walkable or isinstance(module, _ConvTransposeNd):
            hint = "; fuse it into its layer first" if "Norm" in type(module).__name__ else ""
            raise TypeError(f"a walk cannot pass {name!r}, {type(module).__name__}{hint}")
    units = 1  # any number of inputs is a multiple
    for layer in layers:
        if layer.shared:
            raise ValueError(
                f"layers {layer.name!r} and {layer.shared[0]!r} share their weights, which walks "
                "would count apart"
            )
        layer.check_samplable()
        if getattr(layer.module, "groups", 1) != 1:
            raise ValueError(f"layer {layer.name!r}: groups are not supported")
        rows, inputs = layer.rows.shape
        if inputs % units:
            raise ValueError(f"layer {layer.name!r}: its {inputs} inputs are not those before it")
        units = rows
    return model, layers


def _norms(layers: list[Layer], fold: bool) -> list[tuple[Tensor, Tensor]]:
    """Return m of the inputs and of the outputs of each layer, float64 [inputs] and [rows]."""
    norms = []
    after = layers[0].rows.new_ones(1, dtype=torch.float64)
    for layer in layers:
        w = layer.rows.double().abs()  # [rows, inputs]
        # All inputs that come from one unit, as pixels do from one filter, have its norm.
        before = after.repeat_interleave(w.shape[1] // len(after))  # [inputs]
        before = before if fold else torch.ones_like(before)
        after = w @ before  # [rows]
        norms.append((before, after))
        # Norms are relative: keep them from growing or fading with depth.
        after = after / after.max().clamp(min=_TINY)
    return norms


def _starts(paths: int, outputs: int, method: str, seed: int, device: torch.device) -> Tensor:
    """Return how many walks start at each output, int64 [outputs]."""
    if method == "iid":
        start = uniforms(~seed & (2**63 - 1), torch.arange(paths, device=device)) * outputs
        return torch.bincount(start.long(), minlength=outputs)
    each = torch.full((outputs,), paths // outputs, device=device)
    return each + (torch.arange(outputs, device=device) < paths % outputs)


def _stratified(density: Tensor, visits: Tensor, seed: int) -> Tensor:
    """Count jittered samples of each row, visits [rows] of them, without drawing them all."""
    edges = cumulative_mass(density)  # [rows, n]
    total = edges[:, -1:]  # [rows, 1]
    samples = torch.where(total > 0, visits[:, None], 0)  # [rows, 1]
    y = edges.double() * samples / total.clamp(min=1)  # [rows, n]
    y = torch.where(edges == total, samples, torch.minimum(y, samples.double()))
    k = y.long()  # the stratum that the edge cuts
    first = (visits.cumsum(0) - visits)[:, None]  # [rows, 1]: rows draw from streams of their own
    below = k + (uniforms(seed, first + k) < y - k)  # [rows, n]: samples below each edge
    return torch.diff(below, dim=1, prepend=torch.zeros_like(below[:, :1]))


def _iid(density: Tensor, visits: Tensor, seed: int) -> Tensor:
    """Count independent samples of each row, visits [rows] of them."""
    n = density.shape[1]
    edges = cumulative_mass(density.reshape(1, -1))[0]  # [rows n]: all rows end to end
    ends = edges[n - 1 :: n]  # [rows]
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])  # [rows]
    row = torch.repeat_interleave(torch.where(ends > starts, visits, 0))  # [walks]
    xi = uniforms(seed, torch.arange(len(row), device=row.device))
    total = (ends - starts)[row]
    target = starts[row] + torch.minimum((xi * total).long(), total - 1)
    taken = torch.searchsorted(edges, target, right=True)  # [walks]
    return torch.bincount(taken, minlength=len(edges)).view(density.shape)


_COUNTS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "stratified": _stratified,
    "iid": _iid,
}


def _report(layer: Layer, counts: Tensor, visits: Tensor, weights: str) -> LayerReport:
    visited = int(visits.count_nonzero())
    has_bias = layer.bias is not None
    if weights == "counts":
        signed = counts * layer.rows.sign().long()
        return layer.report(signed, floats=visited * (1 + has_bias), visited=visited)
    kept = (counts != 0).int()  # a mask, and the weights as they are
    return layer.report(kept, floats=int(kept.sum()) + visited * has_bias, visited=visited)
