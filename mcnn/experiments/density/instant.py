"""Weights and activations sampled, without training again: integers from input to sums.

Of a residual network on photographs and of a small transformer on source code.
Rounding to nearest takes the same path: the same layers of integers, with another rule for codes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mcnn import data, training
from mcnn.baselines import rounding
from mcnn.baselines.inputs import rounded
from mcnn.density.integers import IntegerLayer, Rule, integer_model, sampled, use_engine
from mcnn.experiments.density import baselines, networks, text
from mcnn.experiments.density.networks import Recipe
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.modelwise import entropy_bits

Score = Callable[[nn.Module], float]
METHODS = ("systematic", "jittered")
CLIPS = {"nearest": "max", "nearest, least squares": "mse"}
BOTH, WEIGHTS = "weights and activations", "weights"
KINDS = ((BOTH, "systematic"), (BOTH, "jittered"), (WEIGHTS, "systematic"))
_BATCH = 250  # images, or lines of text


@dataclass(frozen=True, kw_only=True)
class InstantTrial(Trial):
    """A network, how it was trained, and the settings in which it is quantised.

    Text has no data set: it is the standard library's own.
    ``samples`` are those for each weight, and for each activation; ``bits`` those of codes that are
    rounded; ``size`` is the number of test images, or of lines of 64 characters; ``exact`` that of
    those which both engines compute.
    """

    net: str = "resnet"
    dataset: str | None = "cifar10"
    width: int = 16
    epochs: int = 4
    validation: int = 5000
    samples: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    bits: tuple[int, ...] = (2, 3, 4, 5, 6)
    samplings: int = 2
    size: int = 1000
    exact: int = 50


def prepared(trial: InstantTrial, device: torch.device) -> tuple[nn.Module, Tensor, Score]:
    """Return the trained network, its normalisation folded, inputs to test, and how to score it."""
    fields = ("net", "width", "epochs", "seed")
    options = {name: getattr(trial, name) for name in fields}
    recipe = Recipe(dataset=trial.dataset or "stdlib", **options)
    if trial.net == "transformer":
        source = text.load(device)
        model = networks.trained(recipe, source)
        length = trial.size * model.context
        characters = source.test[: length + 1]
        inputs = characters[:length].view(-1, model.context)
        return model, inputs, lambda m: networks.bits_per_character(m, characters, _BATCH)
    loaded = data.load(trial.dataset, device=device, validation=trial.validation)
    model = folded(networks.trained(recipe, loaded))
    test = loaded.test.part(slice(trial.size))

    def score(changed: nn.Module) -> float:
        return training.evaluate(changed, test, scale="standard", batch_size=_BATCH).accuracy

    return model, test.inputs(scale="standard"), score


def folded(model: nn.Module) -> nn.Module:
    """Fold batch normalisation into the convolution before it, in place."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for number in range(len(module) - 1):
                if isinstance(module[number + 1], nn.BatchNorm2d):
                    module[number] = fuse_conv_bn_eval(module[number], module[number + 1])
                    module[number + 1] = nn.Identity()
    return model


def _run(trial: InstantTrial, device: torch.device) -> dict[str, Any]:
    model, inputs, score = prepared(trial, device)
    metrics: dict[str, Any] = {"float": score(model)}
    if trial.net == "transformer":
        metrics["fingerprint"] = text.load().fingerprint
    metrics[BOTH], metrics[WEIGHTS] = {}, {}
    for method in METHODS:
        name = f"sampled, {method}"
        rules = [(k, sampled(k, method), sampled(k, method)) for k in trial.samples]
        metrics[BOTH][name] = [
            _both(model, inputs, score, *rule, repeats=trial.samplings) for rule in rules
        ]
        if method == "systematic":
            metrics[WEIGHTS][name] = [
                _weights(model, score, k, rule, repeats=trial.samplings) for k, rule, _ in rules
            ]
    for name, clip in CLIPS.items():
        rows = [(b, _nearest(b, clip), rounded(b, clip)) for b in trial.bits]
        metrics[BOTH][name] = [_both(model, inputs, score, *rule, repeats=1) for rule in rows]
        metrics[WEIGHTS][name] = [_weights(model, score, b, rule, repeats=1) for b, rule, _ in rows]
    metrics["outputs that differ"] = _differing(model, inputs[: trial.exact], trial)
    return metrics


def _nearest(bits: int, clip: str) -> Rule:
    return lambda rows, seed: rounding.nearest(rows, bits, clip)


def _both(
    model: nn.Module,
    inputs: Tensor,
    score: Score,
    setting: float,
    weights: Rule,
    activations: Rule,
    repeats: int,
) -> dict[str, Any]:
    """Return the score with weights and activations of integers, and the bits of both."""
    rows = []
    for seed in range(repeats):
        changed, report = integer_model(model, weights, activations, seed=seed)
        cost = baselines._cost(report.layers)
        packed, entropy = activation_bits(changed, inputs[:_BATCH])
        rows.append(
            {
                "score": score(changed),
                "weight bits": cost["entropy"],
                "weight bits, packed": cost["bits"],
                "kept": cost["kept"],
                "activation bits": entropy,
                "activation bits, packed": packed,
            }
        )
    return _merged(rows, setting)


def _weights(
    model: nn.Module, score: Score, setting: float, rule: Rule, repeats: int
) -> dict[str, Any]:
    """Return the score with weights of integers and activations as they are."""
    rows = []
    for seed in range(repeats):
        changed, report = rounding.quantize(model, rule, seed=seed)
        cost = baselines._cost(report.layers)
        row = {"score": score(changed), "weight bits": cost["entropy"], "kept": cost["kept"]}
        rows.append(row | {"weight bits, packed": cost["bits"]})
    return _merged(rows, setting)


def _merged(rows: Sequence[dict[str, float]], setting: float) -> dict[str, Any]:
    """Average the costs, and keep each score."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "score"}
    return {"setting": setting, **mean, "scores": [row["score"] for row in rows]}


@torch.no_grad()
def activation_bits(model: nn.Module, inputs: Tensor) -> tuple[float, float]:
    """Return bits an activation, the scale of each density included.

    Returns
    -------
    packed
        Codes in the fewest bits that hold the range of all codes of a layer.
    entropy
        Codes at the entropy of those of a layer.
    """
    seen: dict[IntegerLayer, tuple[Counter, int]] = {}

    def watch(layer: IntegerLayer, arguments: tuple[Tensor, ...]) -> None:
        codes, scale = layer.coded(arguments[0])
        values, numbers = torch.unique(codes, return_counts=True)
        counter, scales = seen.get(layer, (Counter(), 0))
        counter.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        seen[layer] = counter, scales + scale.numel()

    layers = [m for m in model.modules() if isinstance(m, IntegerLayer)]
    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    model(inputs)
    for handle in handles:
        handle.remove()
    total = sum(sum(counter.values()) for counter, _ in seen.values())
    packed = entropy = 0.0
    for counter, scales in seen.values():
        number = sum(counter.values())
        levels = max(counter) - min(counter) + 1
        packed += number * np.ceil(np.log2(levels)) + 32 * scales
        entropy += number * entropy_bits(counter) + 32 * scales
    return float(packed) / total, entropy / total


@torch.no_grad()
def _differing(model: nn.Module, inputs: Tensor, trial: InstantTrial) -> int:
    """Return how many outputs differ between sums of int32 and of whole floating point numbers."""
    differing = 0
    for k in trial.samples:
        changed, _ = integer_model(model, sampled(k), sampled(k), seed=trial.seed)
        exact = use_engine(changed, "integer")(inputs)
        differing += int((use_engine(changed, "float")(inputs) != exact).sum())
    return differing


# --- what is measured -----------------------------------------------------------------------------


def bits(setting: dict[str, Any]) -> float:
    """Return the mean of the bits a weight and the bits an activation, where both have some."""
    kinds = [setting[kind] for kind in ("weight bits", "activation bits") if kind in setting]
    return sum(kinds) / len(kinds)


def lost(record: Record, setting: dict[str, Any]) -> float:
    """Return the share of accuracy that is lost, or the bits a character that are added, in share.

    Negative where the network became better.
    """
    change = float(np.mean(setting["scores"])) / record.metrics["float"] - 1
    return change if record.config.net == "transformer" else -change


def gain(record: Record, kind: str, rule: str, other: str, setting: float) -> float:
    """Return what a rule loses less than another that is given as many bits.

    What the other one loses is interpolated between its settings, and is that of its first or last
    one beyond them.
    """
    own = next(x for x in record.metrics[kind][rule] if x["setting"] == setting)
    curve = sorted((bits(x), lost(record, x)) for x in record.metrics[kind][other])
    return float(np.interp(bits(own), *zip(*curve, strict=True))) - lost(record, own)


def _measure_lost(records: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"{kind}, {x['setting']:g} samples, {name}": [
            lost(r, r.metrics[kind][f"sampled, {name}"][number]) for r in records
        ]
        for kind, name in KINDS
        for number, x in enumerate(records[0].metrics[kind][f"sampled, {name}"])
    }


def _measure_gain(records: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"{kind}, {setting:g} samples, {name}, against {other}": [
            gain(r, kind, f"sampled, {name}", other, setting) for r in records
        ]
        for kind, name in KINDS
        for other in CLIPS
        for setting in records[0].config.samples
    }


def _measure_exact(records: Sequence[Record]) -> dict[str, list[float]]:
    return {"outputs that differ": [r.metrics["outputs that differ"] for r in records]}


TEXT = {"net": "transformer", "dataset": None, "width": 128, "epochs": 1000, "size": 512}


def _trials(profile: str, seeds: Sequence[int]) -> list[InstantTrial]:
    if profile == "full":
        return [InstantTrial(seed=seed, **net) for seed in seeds for net in ({}, TEXT)]
    brief = {"samples": (1.0, 4.0), "bits": (2, 3, 4), "samplings": 1, "exact": 5}
    digits = {"dataset": "digits", "width": 8, "epochs": 3, "validation": 287, "size": 360}
    return [InstantTrial(seed=seed, **digits, **brief) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="density-instant",
        summary="weights and activations sampled or rounded: integers from input to sums",
        trial=InstantTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        measures={
            "density-instant": _measure_lost,
            "density-instant-text": _measure_lost,
            "density-instant-rounding": _measure_gain,
            "density-instant-rounding-text": _measure_gain,
            "density-instant-exact": _measure_exact,
        },
        tolerance=0.02,
    ),
]
