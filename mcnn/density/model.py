"""Sampling the weights of a whole network, without training it again."""

import math

import torch
from torch import Tensor, nn

from mcnn import modelwise
from mcnn.density.counts import dequantize, sample_counts
from mcnn.errors import unknown
from mcnn.modelwise import Layer, Layers, Report
from mcnn.sampling import as_seed

BIASES = ("exact", "sampled", "none")


def quantize(
    model: nn.Module,
    samples: int | None = None,
    fraction: float | None = None,
    method: str = "jittered",
    layers: Layers = None,
    bias: str = "exact",
    normalize: str = "row",
    order: str = "stored",
    seed: int | torch.Generator = 0,
) -> tuple[nn.Module, Report]:
    """Replace the weights of linear, convolutional, recurrent and other layers by sampled ones.

    Parameters
    ----------
    model
        Any module with layers of :mod:`mcnn.modelwise.kinds` inside: linear, convolutional,
        recurrent, attention, of paths; not changed.
    samples
        Per neuron or filter, at least 1. Give either this or ``fraction``.
    fraction
        Samples as a fraction of the weights that a neuron or filter has.
    method, normalize, order
        As in :func:`mcnn.density.sample_counts`.
    layers
        Names or patterns (``"fc*"``) of the layers to sample, or a function of name and module, as
        in :func:`mcnn.modelwise.select`; by default all.
        An embedding is sampled only where its own name is given, or where it shares its weight
        with a layer that is sampled.
    bias
        ``"exact"``: kept. ``"sampled"``: one more weight of its row, whose input is 1.
        ``"none"``: zero.
    seed
        An integer, or a generator, which is advanced by one draw.

    Returns
    -------
    nn.Module
        A copy of the model with plain layers, whose weights are counts times the scale of a row.
    Report
        Distinct weights, histogram of counts, bits and bytes, layer by layer, and what of the model
        was not touched.

    Raises
    ------
    TypeError, ValueError
        If the arguments contradict each other, the model has nothing to sample, or something else
        computes the weights of a layer; messages of :func:`mcnn.density.sample_counts` come with
        the name of the layer.

    Notes
    -----
    Source: slides "Simulating Discrete Densities".

    Examples
    --------
    >>> small, report = quantize(nn.Linear(100, 10), fraction=0.12)
    >>> report.layers[0].samples, report.distinct <= 120
    (12, True)
    """
    if (samples is None) == (fraction is None):
        raise ValueError("give either samples or fraction, not both and not neither")
    if fraction is not None and not (fraction > 0 and math.isfinite(fraction)):
        raise ValueError(f"fraction must be positive and finite, got {fraction}")
    if bias not in BIASES:
        raise unknown("bias", bias, BIASES)
    seed = as_seed(seed)
    model, selected = modelwise.copied(model, layers)
    reports = []
    for layer in selected:
        rows, own_bias = layer.rows, layer.bias  # [rows, inputs], [rows]
        biases = _biases(model, layer)
        if bias == "sampled" and len(biases) > 1:
            raise ValueError(
                f"layer {layer.name!r} shares its weight with {layer.shared[0]!r}, but not its "
                "bias: only one bias can be sampled with a weight"
            )
        sampled_bias = bias == "sampled" and own_bias is not None
        if sampled_bias:
            rows = torch.cat([rows, own_bias.detach()[:, None]], 1)
        count = samples if fraction is None else max(1, round(fraction * rows.shape[1]))
        try:
            counts = sample_counts(rows, count, method, normalize, order, layer.seed(seed))
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {layer.name!r}: {error}") from None
        exact = 0 if own_bias is None or sampled_bias else own_bias.numel()
        reports.append(layer.report(counts, floats=len(rows) + exact, samples=count))
        values = dequantize(counts, rows, normalize)
        layer.write(values[:, :-1] if sampled_bias else values)
        with torch.no_grad():
            if sampled_bias:
                own_bias.copy_(values[:, -1])
            elif bias == "none":
                for each in biases:
                    each.zero_()
    return model, Report.of(model, reports)


def _biases(model: nn.Module, layer: Layer) -> list[Tensor]:
    """Return the biases of all modules that use the weight of a layer."""
    biases = (place.bias for place in layer.places(model))
    return list({(id(b), b.data_ptr()): b for b in biases if b is not None}.values())
