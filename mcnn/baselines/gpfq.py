r"""Greedy path following: round weights one after the other, each to undo the error so far.

The same path as :mod:`mcnn.density.sequential` follows, with codes of b bits, rounded to nearest
and cut off at the ends. The scale of a row is that of :func:`mcnn.baselines.rounding.nearest`.

Source: J. Zhang, Y. Zhou, R. Saab: Post-training quantization for neural networks with provable
guarantees. arXiv:2201.11113, with one alphabet for each row instead of each layer.
"""

from torch import Tensor, nn
from tqdm import tqdm

from mcnn import modelwise
from mcnn.baselines.rounding import nearest
from mcnn.density.calibrate import batches, correct_bias, reestimate_batch_norm
from mcnn.density.sequential import Products, follow, products
from mcnn.modelwise import Batches, Layers, Report


def greedy(rows: Tensor, bits: int, given: Products, clip: str = "mse") -> tuple[Tensor, Tensor]:
    """Choose the codes of all rows greedily.

    Parameters
    ----------
    rows
        Weights [rows, n].
    bits, clip
        As in :func:`mcnn.baselines.rounding.nearest`, whose scale is used.
    given
        From :func:`mcnn.density.sequential.products`.

    Returns
    -------
    codes
        int32 [rows, n].
    scale
        [rows].
    """
    _, scale = nearest(rows, bits, clip)
    levels = 2 ** (bits - 1) - 1
    codes = follow(rows, scale, given, lambda places, t: places.round().clamp(-levels, levels))
    return codes, scale


def quantize(
    model: nn.Module,
    bits: int,
    calibrate: Batches,
    layers: Layers = None,
    feedback: bool = True,
    clip: str = "mse",
) -> tuple[nn.Module, Report]:
    """Round the weights of a whole model with the help of calibration inputs.

    Batch normalisation and biases are treated as :func:`mcnn.density.quantize` does with
    ``calibrate``.

    Parameters
    ----------
    model
        Any module; not changed.
    bits, clip
        As in :func:`mcnn.baselines.rounding.nearest`.
    calibrate, layers
        As in :func:`mcnn.density.quantize`.
    feedback
        Follow the path; without, each weight is rounded to nearest by itself.

    Examples
    --------
    >>> import torch
    >>> small, report = quantize(nn.Linear(8, 4), 4, torch.randn(100, 8))
    >>> max(report.histogram) <= 7
    True
    """
    full, originals = modelwise.copied(model, layers)
    model, selected = modelwise.copied(model, layers)
    calls = batches(calibrate)
    reports = []
    pairs = zip(originals, selected, strict=True)
    for original, layer in tqdm(pairs, "greedy", total=len(selected), disable=None, leave=False):
        pair = original, layer
        rows, bias = layer.rows, layer.bias
        if feedback:
            reestimate_batch_norm(model, calls)
            codes, scale = greedy(rows, bits, products(full, model, pair, calls), clip)
        else:
            codes, scale = nearest(rows, bits, clip)
        layer.write(codes.to(rows.dtype) * scale[:, None])
        floats = len(rows) + (0 if bias is None else bias.numel())
        reports.append(layer.report(codes, floats=floats))
        correct_bias(full, model, pair, calls)
    reestimate_batch_norm(model, calls)
    return model, Report.of(model, reports)
