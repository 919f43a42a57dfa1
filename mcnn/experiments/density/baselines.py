"""Sampled densities beside other ways to make trained weights small, at what each costs."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import density
from mcnn.baselines import rounding
from mcnn.data import Split
from mcnn.density import importance

Accuracy = Callable[[nn.Sequential], float]

# Samples per weight, bits of a code, and fractions of weights that are kept.
SAMPLES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
BITS = (2, 3, 4, 5, 6)
KEPT = (0.03125, 0.0625, 0.125, 0.25, 0.5)


@torch.no_grad()
def accuracy_from(model: nn.Sequential, start: int, split: Split, scale: str = "unit") -> Accuracy:
    """Return how to test networks that differ from a model only from module ``start`` on."""
    batches = [(model[:start](x), y) for x, y in split.batches(1000, scale=scale)]

    @torch.no_grad()
    def accuracy(changed: nn.Sequential) -> float:
        hits = sum(int((changed[start:](x).argmax(1) == y).sum()) for x, y in batches)
        return hits / len(split)

    return accuracy


def compare(
    model: nn.Sequential,
    layers: Sequence[str],
    accuracy: Accuracy,
    scales: Mapping[str, Tensor],
    samplings: int,
    samples: Sequence[float] = SAMPLES,
) -> dict[str, list[dict[str, Any]]]:
    """Make the weights of some layers small in every way.

    Returns for each way a list of settings, with the bits a weight (fixed length and entropy, the
    scale of each row included), the fraction of weights that are not zero, and accuracies.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    shapes = [model.get_submodule(name).weight.flatten(1).shape for name in layers]
    for method in ("jittered", "systematic"):
        for about, own in (("", None), (", optimal density", scales)):
            rows = [
                _sampled(model, layers, accuracy, method, fraction, own, samplings)
                for fraction in samples
            ]
            found[f"sampled, {method}{about}"] = rows
    rules: dict[str, Callable[[Tensor, int, int], tuple[Tensor, Tensor]]] = {
        "nearest": lambda w, seed, bits: rounding.nearest(w, bits),
        "nearest, least squares": lambda w, seed, bits: rounding.nearest(w, bits, clip="mse"),
        "stochastic": lambda w, seed, bits: rounding.stochastic(w, bits, seed),
    }
    for name, rule in rules.items():
        repeats = samplings if name == "stochastic" else 1
        found[name] = [_rounded(model, layers, accuracy, rule, bits, repeats) for bits in BITS]
    ternary = _rounded(model, layers, accuracy, lambda w, *_: rounding.ternary(w), 2, 1)
    found["ternary threshold"] = [ternary]
    for each in ("row", "tensor"):
        rows = [_pruned(model, layers, accuracy, kept, each, shapes) for kept in KEPT]
        found[f"largest, each {each}"] = rows
    return found


def _sampled(
    model: nn.Sequential,
    layers: Sequence[str],
    accuracy: Accuracy,
    method: str,
    fraction: float,
    scales: Mapping[str, Tensor] | None,
    samplings: int,
) -> dict[str, Any]:
    own = None if scales is None else {name: scales[name] for name in layers}
    rows = []
    for seed in range(samplings):
        options = {"fraction": fraction, "method": method, "seed": seed}
        if own is None:
            changed, summary = density.quantize(model, layers=layers, **options)
        else:
            changed, summary = importance.quantize(model, own, **options)
        histograms = [(layer.histogram, layer.rows, layer.inputs) for layer in summary.layers]
        # One more scale for each input, where inputs have one.
        rows.append(_cost(histograms, inputs_too=own is not None) | {"hit": accuracy(changed)})
    return _merged(rows, fraction)


def _rounded(
    model: nn.Sequential,
    layers: Sequence[str],
    accuracy: Accuracy,
    rule: Callable[[Tensor, int, int], tuple[Tensor, Tensor]],
    bits: int,
    repeats: int,
) -> dict[str, Any]:
    rows = []
    for seed in range(repeats):
        changed, codes = rounding.quantize(model, lambda w, s: rule(w, s, bits), layers, seed)
        histograms = [(dict(Counter(c.flatten().tolist())), *c.shape) for c in codes.values()]
        rows.append(_cost(histograms) | {"hit": accuracy(changed)})
    return _merged(rows, bits)


def _pruned(
    model: nn.Sequential,
    layers: Sequence[str],
    accuracy: Accuracy,
    kept: float,
    each: str,
    shapes: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """Keep float32 weights, and one bit each to say which, coded by its entropy or not."""
    changed = copy.deepcopy(model)
    for name in layers:
        weight = changed.get_submodule(name).weight.data
        weight.copy_(rounding.largest(weight, kept, each))
    alive = sum(int(changed.get_submodule(name).weight.count_nonzero()) for name in layers)
    weights = sum(math.prod(shape) for shape in shapes)
    share = alive / weights
    mask = rounding.entropy_bits({0: weights - alive, 1: alive})
    cost = {"bits": 32 * share + 1, "entropy": 32 * share + mask, "kept": share}
    return _merged([cost | {"hit": accuracy(changed)}], kept)


def _cost(
    histograms: Sequence[tuple[Mapping[int, int], int, int]], inputs_too: bool = False
) -> dict[str, float]:
    """Return bits a weight over layers of (histogram of codes, rows, inputs)."""
    weights = sum(rows * inputs for _, rows, inputs in histograms)
    scales = sum(32 * (rows + inputs * inputs_too) for _, rows, inputs in histograms)
    packed = sum(rounding.packed_bits(h) * rows * inputs for h, rows, inputs in histograms)
    entropy = sum(rounding.entropy_bits(h) * rows * inputs for h, rows, inputs in histograms)
    zeros = sum(h.get(0, 0) for h, _, _ in histograms)
    return {
        "bits": (packed + scales) / weights,
        "entropy": (entropy + scales) / weights,
        "kept": 1 - zeros / weights,
    }


def _merged(rows: Sequence[Mapping[str, float]], setting: float) -> dict[str, Any]:
    """Average what random choices cost, and keep each accuracy."""
    mean = {key: sum(r[key] for r in rows) / len(rows) for key in ("bits", "entropy", "kept")}
    return {"setting": setting, **mean, "accuracy": [r["hit"] for r in rows]}
