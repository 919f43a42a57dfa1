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

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import pooling
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from mcnn.density.counts import cumulated
from mcnn.errors import unknown
from mcnn.sampling import as_seed, fold_in, uniforms

METHODS = ("stratified", "iid")
WEIGHTS = ("counts", "original")
_FLOAT_BITS = 32

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


@dataclass(frozen=True)
class CompressedLayer:
    """What the walks left of one layer.

    Attributes
    ----------
    name
        Of the module in the model.
    units, visited
        Neurons or filters, and those that at least one walk visits.
    weights, distinct
        Weights, and those that at least one walk takes.
    bits
        What an entropy coder comes close to: of the counts, zeros included, or of the mask and 32
        for each weight that is kept; and 32 for the bias and the scale of each visited unit.
    """

    name: str
    units: int
    visited: int
    weights: int
    distinct: int
    bits: float


@dataclass(frozen=True)
class CompressReport:
    """What the walks left of a model; printing it gives a table."""

    paths: int
    layers: tuple[CompressedLayer, ...]

    @property
    def weights(self) -> int:
        """Number of weights of the model."""
        return sum(layer.weights for layer in self.layers)

    @property
    def distinct(self) -> int:
        """Number of weights that at least one walk takes."""
        return sum(layer.distinct for layer in self.layers)

    @property
    def bits(self) -> float:
        """Bits of the compressed model."""
        return sum(layer.bits for layer in self.layers)

    def __str__(self) -> str:
        lines = [f"{'layer':<12}{'units':>7}{'visited':>9}{'weights':>10}{'kept':>8}{'bits':>11}"]
        for x in self.layers:
            lines.append(
                f"{x.name:<12}{x.units:>7}{x.visited:>9}{x.weights:>10}"
                f"{x.distinct / x.weights:>8.1%}{x.bits:>11.0f}"
            )
        lines.append(f"{self.paths} paths, {self.distinct / self.weights:.1%} of the weights")
        return "\n".join(lines)


@torch.no_grad()
def compress(
    model: nn.Sequential,
    paths: int,
    method: str = "stratified",
    weights: str = "counts",
    fold: bool = False,
    seed: int | torch.Generator = 0,
) -> tuple[nn.Sequential, CompressReport]:
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
    CompressReport
        Distinct weights and bits, layer by layer.

    Raises
    ------
    TypeError
        If the model is no stack, holds a module that a walk cannot pass, or ``paths`` is no int.
    ValueError
        For less than one path, an unknown method or kind of weights, a layer with groups or
        parametrised weights, or one whose inputs are not the outputs of the layer before it.

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
    if isinstance(paths, bool) or not isinstance(paths, int):
        raise TypeError(f"paths must be an int, got {type(paths).__name__}")
    if not 1 <= paths < 2**53:
        raise ValueError(f"paths must be at least 1, and less than 2**53, got {paths}")
    for name, value, known in (("method", method, METHODS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise unknown(name, value, known)
    seed = as_seed(seed)
    model = copy.deepcopy(model)
    layers = list(_layers(model).items())
    norms = _norms([layer for _, layer in layers], fold)
    visits = _starts(paths, len(layers[-1][1].weight), method, seed, layers[-1][1].weight.device)
    reports = []
    for number in reversed(range(len(layers))):
        name, layer = layers[number]
        before, after = norms[number]  # [inputs], [rows]
        own_seed = fold_in(seed, number)
        w = layer.weight.flatten(1)  # [rows, inputs]
        counts = _COUNTS[method](w.double() * before, visits, own_seed)  # [rows, inputs]
        if weights == "counts":
            scale = after / visits.clamp(min=1)  # [rows]
            values = w.sign() * (counts * scale[:, None] / before.clamp(min=_TINY))
        else:
            values = w * (counts > 0)
        layer.weight.copy_(values.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.mul_(visits > 0)
        reports.append(_report(name, layer, counts * w.sign().long(), visits, weights))
        if number:
            units = len(layers[number - 1][1].weight)
            visits = counts.sum(0).view(units, -1).sum(1)  # [units of the layer before]
    return model, CompressReport(paths, tuple(reversed(reports)))


_TINY = torch.finfo(torch.float64).tiny


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with weights in order, after checking that walks can go through all."""
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, _ConvTransposeNd):
            if parametrize.is_parametrized(module):
                raise ValueError(f"layer {name!r}: call remove_parametrizations on it first")
            if getattr(module, "groups", 1) != 1:
                raise ValueError(f"layer {name!r}: groups are not supported")
            inputs = module.weight[0].numel()
            if found and inputs % len(next(reversed(found.values())).weight):
                raise ValueError(f"layer {name!r}: its {inputs} inputs are not those before it")
            found[name] = module
        elif not isinstance(module, (nn.Sequential, *_PASSED)):
            hint = "; fuse it into its layer first" if "Norm" in type(module).__name__ else ""
            raise TypeError(f"a walk cannot pass {name!r}, {type(module).__name__}{hint}")
    if not found:
        raise ValueError("the model has no linear or convolutional layer")
    if len({id(layer.weight) for layer in found.values()}) < len(found):
        raise ValueError("two layers share their weights, which walks would count apart")
    return found


def _norms(layers: list[nn.Module], fold: bool) -> list[tuple[Tensor, Tensor]]:
    """Return m of the inputs and of the outputs of each layer, float64 [inputs] and [rows]."""
    found = []
    after = layers[0].weight.new_ones(1, dtype=torch.float64)
    for layer in layers:
        w = layer.weight.flatten(1).double().abs()  # [rows, inputs]
        # All inputs that come from one unit, as pixels do from one filter, have its norm.
        before = after.repeat_interleave(w.shape[1] // len(after))  # [inputs]
        before = before if fold else torch.ones_like(before)
        after = w @ before  # [rows]
        found.append((before, after))
        # Norms are relative: keep them from growing or fading with depth.
        after = after / after.max().clamp(min=_TINY)
    return found


def _starts(paths: int, outputs: int, method: str, seed: int, device: torch.device) -> Tensor:
    """Return how many walks start at each output, int64 [outputs]."""
    if method == "iid":
        start = uniforms(~seed & (2**63 - 1), torch.arange(paths, device=device)) * outputs
        return torch.bincount(start.long(), minlength=outputs)
    each = torch.full((outputs,), paths // outputs, device=device)
    return each + (torch.arange(outputs, device=device) < paths % outputs)


def _stratified(density: Tensor, visits: Tensor, seed: int) -> Tensor:
    """Count jittered samples of each row, visits [rows] of them, without drawing them all."""
    edges = cumulated(density)  # [rows, n]
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
    edges = cumulated(density.reshape(1, -1))[0]  # [rows n]: all rows end to end
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


def _report(
    name: str, layer: nn.Module, counts: Tensor, visits: Tensor, weights: str
) -> CompressedLayer:
    symbols = counts if weights == "counts" else counts != 0
    numbers = torch.unique(symbols, return_counts=True)[1].tolist()
    bits = sum(-n * math.log2(n / counts.numel()) for n in numbers)
    distinct, visited = int(counts.count_nonzero()), int(visits.count_nonzero())
    if weights == "original":
        bits += _FLOAT_BITS * distinct
    per_unit = (layer.bias is not None) + (weights == "counts")
    bits += _FLOAT_BITS * per_unit * visited
    return CompressedLayer(name, len(visits), visited, counts.numel(), distinct, bits)
