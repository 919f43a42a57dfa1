"""Sampled densities beside other ways to make trained weights small, at what each costs."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import density
from mcnn.baselines import rounding
from mcnn.data import Split
from mcnn.density import importance
from mcnn.modelwise import LayerReport, entropy_bits, packed_bits

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
    settings: dict[str, list[dict[str, Any]]] = {}
    shapes = [model.get_submodule(name).weight.flatten(1).shape for name in layers]
    for method in ("jittered", "systematic"):
        for about, own in (("", None), (", optimal density", scales)):
            rows = [
                _sampled(model, layers, accuracy, method, fraction, own, samplings)
                for fraction in samples
            ]
            settings[f"sampled, {method}{about}"] = rows
    rules: dict[str, Callable[[Tensor, int, int], tuple[Tensor, Tensor]]] = {
        "nearest": lambda w, seed, bits: rounding.nearest(w, bits),
        "nearest, least squares": lambda w, seed, bits: rounding.nearest(w, bits, clip="mse"),
        "stochastic": lambda w, seed, bits: rounding.stochastic(w, bits, seed),
    }
    for name, rule in rules.items():
        repeats = samplings if name == "stochastic" else 1
        settings[name] = [_rounded(model, layers, accuracy, rule, bits, repeats) for bits in BITS]
    ternary = _rounded(model, layers, accuracy, lambda w, *_: rounding.ternary(w), 2, 1)
    settings["ternary threshold"] = [ternary]
    for each in ("row", "tensor"):
        rows = [_pruned(model, layers, accuracy, kept, each, shapes) for kept in KEPT]
        settings[f"largest, each {each}"] = rows
    return settings


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
            changed, report = density.quantize(model, layers=layers, **options)
        else:
            changed, report = importance.quantize(model, own, **options)
        # One more scale for each input, where inputs have one.
        cost = _cost(report.layers, inputs_too=own is not None)
        rows.append(cost | {"hit": accuracy(changed)})
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
        changed, report = rounding.quantize(model, lambda w, s: rule(w, s, bits), layers, seed)
        rows.append(_cost(report.layers) | {"hit": accuracy(changed)})
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
    mask = entropy_bits({0: weights - alive, 1: alive})
    cost = {"bits": 32 * share + 1, "entropy": 32 * share + mask, "kept": share}
    return _merged([cost | {"hit": accuracy(changed)}], kept)


def _cost(layers: Sequence[LayerReport], inputs_too: bool = False) -> dict[str, float]:
    """Return bits a weight, the scale of each row included, and of each input if there are such."""
    weights = sum(x.weights for x in layers)
    scales = sum(32 * (x.rows + x.inputs * inputs_too) for x in layers)
    packed = sum(packed_bits(x.histogram) * x.weights for x in layers)
    entropy = sum(x.bits_per_weight * x.rows * x.inputs for x in layers)
    zeros = sum(x.weights - x.distinct for x in layers)
    return {
        "bits": (packed + scales) / weights,
        "entropy": (entropy + scales) / weights,
        "kept": 1 - zeros / weights,
    }


def _merged(rows: Sequence[Mapping[str, float]], setting: float) -> dict[str, Any]:
    """Average what random choices cost, and keep each accuracy."""
    mean = {key: sum(r[key] for r in rows) / len(rows) for key in ("bits", "entropy", "kept")}
    return {"setting": setting, **mean, "accuracy": [r["hit"] for r in rows]}
