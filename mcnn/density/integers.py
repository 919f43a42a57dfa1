r"""Layers that multiply integers only: weights *and* inputs as counts, with one scale of each.

A neuron adds up :math:`\sum_jw_ja_j`.
With weights :math:`w_j\approx s\,c_j` and inputs :math:`a_j\approx t\,d_j` for integers
:math:`c_j,d_j`, this is

.. math:: \sum_jw_ja_j\approx st\sum_jc_jd_j .

The sum is one of integers, and the two scales are multiplied to its result once: :math:`s` belongs
to the neuron, :math:`t` to the input.
Where both are sampled as densities, :math:`s=\|w\|_1/S` and :math:`t=\|a\|_1/T`; as the two are
drawn independently, the expectation of the product is the product: each layer is unbiased for the
input it gets. A network is not, since a non-linearity does not commute with expectation.

What is a density: of weights, a row; of inputs, a vector that a linear layer takes, or all channels
and places of an image that a convolution takes, since its sums need one common scale.

Integers are computed in one of two ways, with the same result, bit by bit:

==============  ====================================================================================
``"float"``     as floating point numbers that are whole: float32 while no sum can exceed
                :math:`2^{24}`, else float64; this is fast everywhere
``"integer"``   as int32, in plain matrix products; an error where a sum could exceed
                :math:`2^{31}`
==============  ====================================================================================

Source: G. Mordido, M. Van Keirsbilck, A. Keller: Instant quantization of neural networks using
Monte Carlo methods. arXiv:1905.12253.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import modelwise
from mcnn.checks import check_positive
from mcnn.density.counts import sample_counts
from mcnn.errors import unknown
from mcnn.modelwise import Layer, Layers, Report
from mcnn.sampling import as_seed, fold_in

ENGINES = ("float", "integer")
Rule = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""From rows [rows, n] and a seed to codes, integers [rows, n], and their scales [rows]."""


def sampled(samples: float, method: str = "systematic") -> Rule:
    r"""Return the rule that samples each row as a density.

    Parameters
    ----------
    samples
        For each number of a row, positive: 2 means twice as many samples as numbers.
    method
        As in :func:`mcnn.density.sample_counts`.

    Examples
    --------
    >>> codes, scale = sampled(2)(torch.tensor([[0.5, -0.25, 0.25, 0.0]]), 0)
    >>> codes, scale
    (tensor([[ 4, -2,  2,  0]], dtype=torch.int32), tensor([0.1250]))
    """
    check_positive("samples", samples)

    def rule(rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        count = max(1, round(samples * rows.shape[1]))
        norm = rows.detach().double().abs().sum(1)  # [rows]
        return sample_counts(rows, count, method, seed=seed), (norm / count).to(rows.dtype)

    return rule


class IntegerLayer(nn.Module):
    """A linear or convolutional layer whose weights and inputs are integers times scales.

    Parameters
    ----------
    layer
        An ``nn.Linear`` or ``nn.Conv2d``, the latter with zeros for padding.
    codes, scale
        Integers in place of the weights, [outputs, inputs], and a scale for each output.
    inputs
        What turns inputs into codes and scales.
    seed
        Of the inputs: the same at every call.
    """

    def __init__(
        self, layer: nn.Module, codes: Tensor, scale: Tensor, inputs: Rule, seed: int
    ) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.inputs, self.seed, self.engine = inputs, seed, "float"
        self.register_buffer("codes", codes.view(weight.shape).int())
        self.register_buffer("scale", scale.to(weight.dtype))  # [outputs]
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)
        self.convolution: dict[str, Any] | None = None
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                raise ValueError(
                    "padding must be a number of zeros: other modes have no integer form here"
                )
            names = ("stride", "padding", "dilation", "groups")
            self.convolution = {name: getattr(layer, name) for name in names}
        self._heaviest = int(codes.long().abs().flatten(1).sum(1).max())  # sum of a row

    def forward(self, input: Tensor) -> Tensor:
        """Do what the layer does, with integers."""
        codes, scale = self.coded(input)
        sums = self.sums(codes).to(input.dtype)
        if self.convolution is None:
            out = sums * (scale[..., None] * self.scale)
            return out if self.bias is None else out + self.bias
        out = sums * (scale[:, None] * self.scale)[..., None, None]
        return out if self.bias is None else out + self.bias[:, None, None]

    def coded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of inputs, int32 in the shape of ``x``, and the scale of each."""
        rows = x.flatten(1) if self.convolution is not None else x.reshape(-1, x.shape[-1])
        codes, scale = self.inputs(rows, self.seed)
        codes = codes.view(x.shape)
        return codes, scale if self.convolution is not None else scale.view(x.shape[:-1])

    def sums(self, codes: Tensor) -> Tensor:
        """Return the sums of products of codes: whole numbers of type float or int32."""
        largest = self._heaviest * (int(codes.abs().max()) if codes.numel() else 0)
        if self.engine == "integer":
            if largest >= 2**31:
                raise ValueError(f"sums of up to {largest} do not fit into int32: fewer samples")
            if self.convolution is None:
                return codes @ self.codes.T
            return _convolved(codes, self.codes, **self.convolution)
        dtype = torch.float32 if largest < 2**24 else torch.float64
        x, w = codes.to(dtype), self.codes.to(dtype)
        return F.linear(x, w) if self.convolution is None else F.conv2d(x, w, **self.convolution)

    def extra_repr(self) -> str:
        """Name what is computed."""
        return f"{tuple(self.codes.shape)}, engine={self.engine!r}"


def _convolved(
    x: Tensor,
    w: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Convolve integers: patches of [b, c, h, w] in memory's own strides, times rows of weights."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).contiguous()
    b, c, *sizes = x.shape
    kernel = w.shape[2:]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    out = [(n - span) // s + 1 for n, span, s in zip(sizes, spans, stride, strict=True)]
    along = x.stride()
    steps = [along[0], along[1], *(s * a for s, a in zip(stride, along[2:], strict=True))]
    steps += [d * a for d, a in zip(dilation, along[2:], strict=True)]
    patches = x.as_strided((b, c, *out, *kernel), steps)  # [b, c, h', w', kh, kw]
    patches = patches.unflatten(1, (groups, -1)).movedim(2, 4)  # [b, g, h', w', c/g, kh, kw]
    patches = patches.reshape(b, groups, out[0] * out[1], -1)
    rows = w.reshape(groups, w.shape[0] // groups, -1).transpose(1, 2)  # [g, c/g kh kw, o/g]
    sums = patches @ rows  # [b, g, h' w', o/g]
    # As the other engine lays it out: else a mean over places is added up in another order.
    return sums.transpose(2, 3).reshape(b, w.shape[0], *out).contiguous()


def integer_model(
    model: nn.Module, weights: Rule, inputs: Rule, layers: Layers = None, seed: int = 0
) -> tuple[nn.Module, Report]:
    r"""Replace linear layers and convolutions of a trained network by ones of integers.

    Parameters
    ----------
    model
        Any module with ``nn.Linear`` or ``nn.Conv2d`` inside; not changed.
        Batch normalisation should be folded into the convolutions before, see
        :func:`torch.nn.utils.fusion.fuse_conv_bn_eval`: else it stays one in floating point.
    weights, inputs
        What turns rows into codes and scales: :func:`sampled`, or one of
        :mod:`mcnn.baselines.rounding`.
    layers
        As in :func:`mcnn.modelwise.select`.
    seed
        Of both; each layer derives its own two.

    Returns
    -------
    nn.Module
        A copy of the model, its layers replaced by :class:`IntegerLayer`.
    Report
        Of the codes of the weights.

    Raises
    ------
    ValueError
        For what :func:`mcnn.modelwise.select` refuses, or a layer of another kind.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> small, report = integer_model(net, sampled(2), sampled(2))
    >>> exact = use_engine(small, "integer")(torch.ones(1, 64))
    >>> bool((use_engine(small, "float")(torch.ones(1, 64)) == exact).all())
    True
    """
    seed = as_seed(seed)
    model, selected = modelwise.copied(model, layers)
    reports = []
    replaced: dict[int, nn.Module] = {}
    kinds = {name: type(x) for name, x in model.named_modules(remove_duplicate=False)}
    for layer in selected:
        _check(layer, kinds)
        own = layer.seed(seed)
        codes, scale = weights(layer.rows, fold_in(own, 0))
        biases = 0 if layer.bias is None else layer.bias.numel()
        reports.append(layer.report(codes, floats=len(codes) + biases))
        for place in layer.places(model):
            made = IntegerLayer(place.module, codes, scale, inputs, fold_in(own, 1))
            replaced[id(place.module)] = made
    report = Report.of(model, reports)
    return modelwise.exchanged(model, lambda name, module: replaced.get(id(module))), report


def _check(layer: Layer, kinds: Mapping[str, type]) -> None:
    """Refuse a weight that some other kind of layer holds, too: it would not be replaced."""
    for name in (layer.name, *layer.shared):
        if not issubclass(kinds.get(name, object), nn.Linear | nn.Conv2d):
            also = "" if name == layer.name else f", which shares its weight with {layer.name!r},"
            kind = kinds.get(name, type(layer.module)).__name__
            raise ValueError(
                f"layer {name!r}{also} is of type {kind}: only nn.Linear and nn.Conv2d have a form "
                f"of integers; leave {layer.name!r} out of layers"
            )


def use_engine(model: nn.Module, engine: str) -> nn.Module:
    """Choose how the layers of integers in a model compute; return the model.

    Raises
    ------
    ValueError
        For an unknown engine.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    for module in model.modules():
        if isinstance(module, IntegerLayer):
            module.engine = engine
    return model
