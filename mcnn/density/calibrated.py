"""Sampling a whole network with a budget of bits, or with inputs at hand to calibrate on.

:func:`mcnn.density.quantize` comes here if it is given ``bits`` or ``calibrate``.
"""

import torch
from torch import nn
from tqdm import tqdm

from mcnn import modelwise
from mcnn.checks import as_count
from mcnn.density import budget
from mcnn.density.calibrate import batches, correct_bias, reestimate_batch_norm
from mcnn.density.counts import dequantize
from mcnn.density.lining import chains
from mcnn.density.sequential import products, sequential_counts
from mcnn.modelwise import Batches, Layers, Report
from mcnn.sampling import as_seed, fold_in

CORRELATED = "correlated"  # the order that needs inputs


def quantize(
    model: nn.Module,
    samples: int | None,
    fraction: float | None,
    bits: float | None,
    calibrate: Batches | None,
    sequential: bool,
    method: str,
    layers: Layers,
    order: str,
    seed: int | torch.Generator,
) -> tuple[nn.Module, Report]:
    """Sample the layers of a copy one after the other; see :func:`mcnn.density.quantize`.

    After each layer its bias is corrected, where it has one; batch normalisation is measured anew
    at the end, and before each layer that follows inputs.
    """
    if sequential and calibrate is None:
        raise ValueError("sequential sampling follows inputs: give some with calibrate=...")
    if samples is not None:
        samples = as_count("samples", samples)
    seed = as_seed(seed)
    full, originals = modelwise.copied(model, layers)
    model, selected = modelwise.copied(model, layers)
    for layer in selected:
        layer.check_samplable()
    calls = None if calibrate is None else batches(calibrate)
    lines = None
    if order == CORRELATED and not sequential:
        if calibrate is None:
            raise ValueError(f"order={order!r} follows inputs: give some with calibrate=...")
        order, lines = "signed", chains(full, originals, calls, seed)
    count = budget.counting(method, order, seed, lines)
    if bits is not None:
        trial = budget.counting(method, order, fold_in(~seed, 0), lines)
        if calls is None:
            each = budget.evenly(selected, bits, trial)
        else:
            each = budget.by_sensitivity(full, originals, bits, trial, calls)
    elif samples is not None:
        each = dict.fromkeys((x.name for x in selected), samples)
    else:
        each = {x.name: budget.samples_of(x, fraction) for x in selected}
    reports = []
    pairs = zip(originals, selected, strict=True)
    bar = tqdm(pairs, "quantize", total=len(selected), disable=None, leave=False)
    for original, layer in bar:
        pair = original, layer
        rows, bias = layer.rows, layer.bias
        try:
            if sequential:
                reestimate_batch_norm(model, calls)
                own = layer.seed(seed)
                given = products(full, model, pair, calls, fold_in(own, 1))
                counts, scale = sequential_counts(rows, each[layer.name], given, own)
                values = (counts * scale[:, None].double()).to(rows.dtype)
            else:
                counts = count(layer, each[layer.name])
                values = dequantize(counts, rows)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {layer.name!r}: {error}") from None
        layer.write(values)
        floats = len(rows) + (0 if bias is None else bias.numel())
        reports.append(layer.report(counts, floats=floats, samples=each[layer.name]))
        if calls is not None:
            correct_bias(full, model, pair, calls)
    if calls is not None:
        reestimate_batch_norm(model, calls)
    return model, Report.of(model, reports)
