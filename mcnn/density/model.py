"""Sampling the weights of a whole network, without training it again."""

import torch
from torch import Tensor, nn

from mcnn import modelwise
from mcnn.checks import as_count, check_positive
from mcnn.density import calibrated
from mcnn.density.counts import dequantize, sample_counts
from mcnn.errors import unknown
from mcnn.modelwise import Batches, Layer, Layers, Report
from mcnn.sampling import as_seed

BIASES = ("exact", "sampled", "none")


@torch.inference_mode(False)  # else the copy could never be trained
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
    *,
    bits: float | None = None,
    calibrate: Batches | None = None,
    sequential: bool = False,
) -> tuple[nn.Module, Report]:
    r"""Replace the weights of linear, convolutional, recurrent and other layers by sampled ones.

    Parameters
    ----------
    model
        Any module with layers of :mod:`mcnn.modelwise.kinds` inside: linear, convolutional,
        recurrent, attention, of paths; not changed.
    samples
        Per neuron or filter, at least 1. Give one of this, ``fraction`` and ``bits``.
    fraction
        Samples as a fraction of the weights that a neuron or filter has.
    method, normalize, order
        As in :func:`mcnn.density.sample_counts`. With ``calibrate`` there is one more order,
        ``"correlated"``: inputs that are alike stand next to each other, which serves systematic
        samples, see :mod:`mcnn.density.lining`.
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
    bits
        Entropy of the counts, in bits a weight, that is not exceeded on average; the numbers of
        samples follow. With ``calibrate`` layers get more, the more they move the output, see
        :mod:`mcnn.density.budget`; ``sequential`` counts may take a little more than the budget.
    calibrate
        Some hundred inputs of the model: a tensor, a tuple of positional or a dict of keyword
        inputs, or batches such as a ``DataLoader``, see :func:`mcnn.modelwise.run_batches`.
        They run through a copy in eval mode. Batch normalisation gets means and variances of the
        sampled network, and the bias of a linear or convolutional layer the mean that the layer
        lost. Nothing else of a model changes.
    sequential
        Sample the weights of a row one after the other, each making up on the calibration inputs
        for the error of those before, see :mod:`mcnn.density.sequential`; ``method`` and ``order``
        have no say then.

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
    What is unbiased: each weight, :math:`\mathbb{E}[\hat w]=w`, whatever the method, the order, and
    whether samples or bits are given, and so what a layer makes of given inputs. A network of
    several layers is not, because of what lies between them.
    What is not: with ``sequential`` all weights but those of the first layer, since they also make
    up for the layers before; with ``calibrate`` corrected biases but those of the first layer, for
    the same reason, and batch normalisation, which is a function of the sampled weights.

    Source: slides "Simulating Discrete Densities".

    Examples
    --------
    >>> small, report = quantize(nn.Linear(100, 10), fraction=0.12)
    >>> report.layers[0].samples, report.distinct <= 120
    (12, True)
    """
    if sum(x is not None for x in (samples, fraction, bits)) != 1:
        raise ValueError("give either samples or fraction or bits, and only one of them")
    for name, value in (("fraction", fraction), ("bits", bits)):
        if value is not None:
            check_positive(name, value)
    if bias not in BIASES:
        raise unknown("bias", bias, BIASES)
    if bits is not None or calibrate is not None or sequential or order == calibrated.CORRELATED:
        if bias != "exact" or normalize != "row":
            raise ValueError(
                'bits, calibrate and sequential need bias="exact" and normalize="row": biases hold '
                "what is corrected, and each row its own step"
            )
        return calibrated.quantize(
            model, samples, fraction, bits, calibrate, sequential, method, layers, order, seed
        )
    seed = as_seed(seed)
    model, selected = modelwise.copied(model, layers)
    reports = []
    for layer in selected:
        layer.check_samplable()
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
        try:
            if fraction is None:
                count = as_count("samples", samples)
            else:
                count = max(1, round(fraction * rows.shape[1]))
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
