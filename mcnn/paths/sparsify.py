r"""Layers of paths in place of those of any network, in one call.

A layer between :math:`n` inputs and :math:`m` outputs gets a share of its :math:`nm` weights, but
at least :math:`\max\{n,m\}` paths: with the generators that cover all units, no unit is then left
without an edge.

Source: slides "Sampling Paths through Networks" of A. Keller's talk.
"""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from mcnn import modelwise
from mcnn.modelwise import Layer, LayerReport, Layers, Report
from mcnn.paths.conv import PathConv2d
from mcnn.paths.layers import PathLinear
from mcnn.seeds import layer_seed

_TRIES = 6  # numbers of paths, until so much of the edges is there
_ENOUGH = 0.99


@torch.inference_mode(False)  # else the result could never be trained
def sparsify(
    model: nn.Module,
    density: float | Mapping[str, float],
    method: str = "sobol",
    layers: Layers = None,
    init: str = "dense",
    seed: int | torch.Generator | None = None,
    **options: Any,
) -> tuple[nn.Module, Report]:
    r"""Replace linear layers and convolutions by layers of paths, to be trained from scratch.

    Parameters
    ----------
    model
        Any module with ``nn.Linear`` or ``nn.Conv2d`` inside; not changed.
    density
        Edges as a fraction of the weights of a layer (of the pairs of channels in a convolution),
        in (0, 1]; or a fraction for the name of each layer.
        Each unit is on a path at least, see above, which small layers notice.
        Paths that meet on an edge share it, so more are taken until the edges are there, but for
        one percent; near a fraction of 1 more may be missing, and the report says how many are
        there.
    method
        One of :data:`mcnn.paths.METHODS`.
    layers
        Names or patterns (``"fc*"``) of the layers to replace, or a function of name and module, as
        in :func:`mcnn.modelwise.select`; by default all that can be.
        First and last layers are often small: leave them out, and they stay dense.
    init
        Of the new weights: ``"dense"`` or ``"realised"``, the standard deviation by the inputs of
        the dense layer or by the edges that there are, or ``"constant"``; see
        :class:`mcnn.paths.PathLinear`.
        The claim ``paths-fair-init`` of the ledger compares the first two.
    seed
        Of paths and weights, an integer or a generator, which is advanced by one draw; by default
        from PyTorch's own. Each layer has a seed of its own.
    options
        Passed on to the layers.

    Returns
    -------
    nn.Module
        A copy of the model with :class:`mcnn.paths.PathLinear` and
        :class:`mcnn.paths.PathConv2d` layers, one for each module, at all places where it stands;
        their weights are new, biases are zero, and what was frozen is.
    Report
        Edges of each layer, and what was not replaced, and why.

    Raises
    ------
    TypeError
        If a density is no number.
    ValueError
        If a density is out of range, no layer can be replaced, or a layer that is named in
        ``layers`` or ``density`` cannot be.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> sparse, report = sparsify(model, density=0.1, layers="0")
    >>> sparse[0].n_weights == report.distinct, 0.09 < report.distinct / 64**2 < 0.11
    (True, True)
    """
    by_name = density if isinstance(density, Mapping) else None
    for value in by_name.values() if by_name is not None else (density,):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"density must be a number, or one for each name, got {value!r}")
        if not 0 < value <= 1:
            raise ValueError(f"density must be in (0, 1], got {value}")
    if layers is None and by_name is not None:
        layers = list(by_name)
    seed = layer_seed(seed)
    modelwise.check_all_writable(model)
    attention = {
        id(m.out_proj): "attention multiplies by its matrix itself"
        for m in model.modules()
        if isinstance(m, nn.MultiheadAttention)
    }
    copy, selected = modelwise.copied(model, layers)
    originals = modelwise.select(model, layers)
    new: dict[int, nn.Module] = {}
    reports, reasons = [], {}
    for layer, original in zip(selected, originals, strict=True):
        why = attention.get(id(original.module)) or _why_not(layer, model)
        if why:
            if layers is not None and not callable(layers):
                raise ValueError(f"layer {layer.name!r} cannot be one of paths: {why}")
            reasons[_place(model, original)] = why
            continue
        share = density if by_name is None else _share(by_name, layer)
        made = _made(layer.module, share, method, layer.seed(seed), {"init": init} | options)
        new[id(layer.module)] = made.train(layer.module.training)
        reports.append(_report(layer, made))
    if not reports:
        listed = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise ValueError(f"the model has no layer that could be one of paths ({listed})")
    report = Report.of(model, reports, reasons=reasons)
    return modelwise.exchanged(copy, lambda name, module: new.get(id(module))), report


def _place(model: nn.Module, layer: Layer) -> str:
    return next(name for name, module in model.named_modules() if module is layer.module)


def _share(by_name: Mapping[str, float], layer: Layer) -> float:
    for name in (layer.name, *layer.shared):
        if name in by_name:
            return by_name[name]
    raise ValueError(f"density: {layer.name!r} is chosen by layers, but has no density")


def _why_not(layer: Layer, model: nn.Module) -> str | None:
    """Return why a layer cannot be replaced, or none."""
    module = layer.module
    if type(module) is nn.Conv2d:
        if module.groups != 1:
            return "a convolution with groups, whose channels are few already"
    elif not isinstance(module, nn.Linear):
        return f"{type(module).__name__} has no form of paths"
    if len(layer.places(model)) > 1 or _held_by_others(layer, model):
        return f"it shares its weight with {', '.join(layer.shared)}"
    return None


def _held_by_others(layer: Layer, model: nn.Module) -> bool:
    modules = {id(model.get_submodule(x)) for x in (layer.name, *layer.shared)}
    return len(modules) > 1


def _made(
    module: nn.Module, share: float, method: str, seed: int, options: dict[str, Any]
) -> PathLinear | PathConv2d:
    outputs, inputs = module.weight.shape[:2]
    wanted = count = min(max(round(share * inputs * outputs), inputs, outputs), inputs * outputs)
    options = {
        "bias": module.bias is not None,
        "device": module.weight.device,
        "dtype": module.weight.dtype,
    } | options
    for _ in range(_TRIES):
        if isinstance(module, nn.Linear):
            made = PathLinear(inputs, outputs, count, method, seed, **options)
        else:
            names = ("stride", "padding", "dilation", "padding_mode")
            sizes = {name: getattr(module, name) for name in names}
            k = module.kernel_size
            made = PathConv2d(inputs, outputs, k, count, method, seed, **options | sizes)
        if made.n_weights >= _ENOUGH * wanted:
            break
        count = round(count * wanted / made.n_weights)  # too few still, for more of them meet
    made.weight.requires_grad_(module.weight.requires_grad)  # what was frozen stays so
    if made.bias is not None and module.bias is not None:
        made.bias.requires_grad_(module.bias.requires_grad)
    return made


def _report(layer: Layer, made: PathLinear | PathConv2d) -> LayerReport:
    edges = made.weight.numel()
    total = layer.weight.numel()
    bias = 0 if made.bias is None else made.bias.numel()
    return LayerReport(
        name=layer.name,
        rows=made.out_units,
        inputs=total // made.out_units,
        visited=made.out_units,
        samples=None,
        histogram={code: n for code, n in ((0, total - edges), (1, edges)) if n > 0},
        floats=edges + bias,
        bytes_dense=sum(p.numel() * p.element_size() for p in layer.module.parameters()),
        shared=layer.shared,
    )
