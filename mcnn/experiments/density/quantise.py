"""Ways to make weights small without training again, at equal entropy, with inputs and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, density, training
from mcnn.baselines import gpfq, rounding
from mcnn.experiments.density import baselines, networks, text
from mcnn.experiments.density.networks import Recipe
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.modelwise import Report

Score = Callable[[nn.Module], float]
Way = Callable[[nn.Module, float, Tensor, int], tuple[nn.Module, Report]]
_BATCH = 250
LEFT = 0.99  # of what the full network is worth


def _sampled(model: nn.Module, k: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    return density.quantize(model, fraction=k, method="systematic", layers=_known, seed=seed)


def _calibrated(model: nn.Module, k: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    options = {"method": "systematic", "layers": _known, "seed": seed}
    return density.quantize(model, fraction=k, calibrate=inputs, **options)


def _budget(model: nn.Module, bits: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    options = {"method": "systematic", "layers": _known, "seed": seed}
    return density.quantize(model, bits=bits, calibrate=inputs, **options)


def _sequential(model: nn.Module, k: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    options = {"layers": _known, "seed": seed, "sequential": True}
    return density.quantize(model, fraction=k, calibrate=inputs, **options)


def _nearest(model: nn.Module, bits: float, *_: Any) -> tuple[nn.Module, Report]:
    rule = lambda w, seed: rounding.nearest(w, int(bits), "mse")  # noqa: E731
    return rounding.quantize(model, rule, _known)


def _known(name: str, module: nn.Module) -> bool:
    """Say which layers take part: linear ones and convolutions, in every way the same."""
    return isinstance(module, nn.Linear | nn.Conv2d)


# What a setting is, and how often it is drawn: samples a weight, or bits of a code or budget.
WAYS: dict[str, tuple[str, Way]] = {
    "sampled": ("samples", _sampled),
    "sampled, calibrated": ("samples", _calibrated),
    "sampled, budget by sensitivity": ("budget", _budget),
    "sampled, sequential": ("samples", _sequential),
    "nearest": ("bits", _nearest),
    "nearest, calibrated": (
        "bits",
        lambda m, b, x, seed: gpfq.quantize(m, int(b), x, _known, feedback=False),
    ),
    "greedy path following": ("bits", lambda m, b, x, seed: gpfq.quantize(m, int(b), x, _known)),
}


@dataclass(frozen=True, kw_only=True)
class QuantiseTrial(Trial):
    """A network, how it was trained, and the settings in which it is quantised.

    ``size`` is the number of test images, or of lines of 64 characters, ``calibration`` that of
    those from the training set that are calibrated on.
    """

    net: str = "resnet"
    dataset: str | None = "cifar10"
    width: int = 16
    epochs: int = 4
    validation: int = 5000
    samples: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    budget: tuple[float, ...] = (1.5, 2.5, 3.5)
    bits: tuple[int, ...] = (2, 3, 4, 5)
    calibration: int = 250
    size: int = 1000


def prepared(trial: QuantiseTrial, device: torch.device) -> tuple[nn.Module, Tensor, Score]:
    """Return the trained network, inputs to calibrate on, and how to score a network."""
    fields = ("net", "width", "epochs", "seed")
    options = {name: getattr(trial, name) for name in fields}
    recipe = Recipe(dataset=trial.dataset or "stdlib", **options)
    if trial.net == "transformer":
        source = text.load(device)
        model = networks.trained(recipe, source)
        characters = source.test[: trial.size * model.context + 1]
        known = source.train[: trial.calibration * model.context].view(-1, model.context)
        return model, known, lambda m: networks.bits_per_character(m, characters, _BATCH)
    loaded = data.load(trial.dataset, device=device, validation=trial.validation)
    test = loaded.test.part(slice(trial.size))

    def score(changed: nn.Module) -> float:
        return training.evaluate(changed, test, scale="standard", batch_size=_BATCH).accuracy

    known = loaded.train.inputs(slice(trial.calibration), scale="standard")
    return networks.trained(recipe, loaded), known, score


def _run(trial: QuantiseTrial, device: torch.device) -> dict[str, Any]:
    model, inputs, score = prepared(trial, device)
    metrics: dict[str, Any] = {"float": score(model)}
    if trial.net == "transformer":
        metrics["fingerprint"] = text.load().fingerprint
    for name, (kind, way) in WAYS.items():
        rows = []
        for setting in getattr(trial, kind):
            changed, report = way(model, setting, inputs, trial.seed)
            cost = baselines._cost(report.layers)
            row = {"setting": setting, "score": score(changed), "kept": cost["kept"]}
            rows.append(row | {"bits": cost["entropy"], "packed": cost["bits"]})
        metrics[name] = rows
    return metrics


# --- what is measured -----------------------------------------------------------------------------


def left(record: Record, row: dict[str, Any]) -> float:
    """Return the share of accuracy that is left, or the bits a character before over after."""
    share = row["score"] / record.metrics["float"]
    return 1 / share if record.config.net == "transformer" else share


def bits_needed(record: Record, name: str, kind: str = "bits") -> float:
    """Return the bits a weight at which a way leaves 99 %, interpolated between its settings.

    The bits of the largest setting, where none leaves as much: then more are needed.
    """
    points = sorted((row[kind], left(record, row)) for row in record.metrics[name])
    for (low, worse), (high, better) in pairwise(points):
        if worse < LEFT <= better:
            return low + (high - low) * (LEFT - worse) / (better - worse)
    return points[0][0] if points[0][1] >= LEFT else points[-1][0]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    differences = {
        f"{other} less {name}": [
            bits_needed(record, other) - bits_needed(record, name) for record in records
        ]
        for name in WAYS
        for other in WAYS
        if name.startswith("sampled") and other != name
    }
    needed = {f"bits, {name}": [bits_needed(r, name) for r in records] for name in WAYS}
    return differences | needed


MLP = {"net": "mlp", "dataset": "mnist", "width": 300, "epochs": 5}
TEXT = {"net": "transformer", "dataset": None, "width": 128, "epochs": 1000, "size": 512}


def _trials(profile: str, seeds: Sequence[int]) -> list[QuantiseTrial]:
    if profile == "full":
        return [QuantiseTrial(seed=seed, **net) for seed in seeds for net in (MLP, {}, TEXT)]
    brief = {"samples": (0.5, 2.0), "budget": (2.0,), "bits": (2, 4), "calibration": 200}
    digits = {"dataset": "digits", "epochs": 3, "validation": 287, "size": 360}
    nets = ({"net": "mlp", "width": 64}, {"width": 4})
    return [QuantiseTrial(seed=seed, **digits, **brief, **net) for seed in seeds for net in nets]


EXPERIMENTS = [
    Experiment(
        name="density-quantise",
        summary="sampling, rounding and path following at equal entropy, with inputs and without",
        trial=QuantiseTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        measures={
            "density-quantise-mlp": _measure,
            "density-quantise-resnet": _measure,
            "density-quantise-text": _measure,
        },
        tolerance=0.02,
    ),
]
