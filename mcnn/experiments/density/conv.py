"""Accuracy of a convolutional network whose layers are sampled, in every reading of the claim."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, density, training
from mcnn.density import folding, importance
from mcnn.experiments.density import baselines
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import nets

GROUPS: dict[str, Callable[[Sequence[str], Sequence[str]], Sequence[str]]] = {
    "FC only": lambda convs, fcs: fcs,
    "first conv only": lambda convs, fcs: convs[:1],
    "second conv only": lambda convs, fcs: convs[1:],
    "conv only": lambda convs, fcs: convs,
    "all": lambda convs, fcs: [*convs, *fcs],
}
# At half the fan-in; what they do to the options of the primary reading.
VARIANTS: dict[str, dict[str, Any]] = {
    "jittered": {},
    "systematic": {"method": "systematic"},
    "iid": {"method": "iid"},
    "jittered, one density a layer": {"normalize": "tensor"},
    "jittered, norms folded": {"scales": "norms"},
    "jittered, optimal density": {"scales": "inputs"},
}


@dataclass(frozen=True, kw_only=True)
class ConvTrial(Trial):
    """A network and how it is trained; which curves are taken; samplings of each point."""

    dataset: str = "cifar10"
    net: str = "lenet-wide"
    epochs: int = 6
    lr: float = 0.02
    scale: str = "standard"
    augment: str | None = None
    stop_at: float | None = 0.69
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    few: tuple[float, ...] = (0.25, 0.5, 1.0)
    samplings: int = 3
    calibration: int = 1000


def _run_conv(trial: ConvTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = nets.build(
        trial.net, seed=trial.seed, shape=dataset.shape, classes=len(dataset.classes)
    )
    # Convolutions of few channels are faster on a CPU when the channels of a pixel are neighbours.
    model = model.to(device, memory_format=torch.channels_last)
    stopped: list[nn.Sequential] = []

    def keep(now: nn.Module, row: Mapping[str, Any]) -> None:
        reached = trial.stop_at is not None and row["test_accuracy"] >= trial.stop_at
        if reached and not stopped:
            stopped.append(copy.deepcopy(now).eval())

    rows = training.fit(
        model,
        dataset,
        epochs=trial.epochs,
        lr=trial.lr,
        scale=trial.scale,
        augment=trial.augment,
        seed=trial.seed,
        evaluate_each=True,
        on_epoch=keep,
    )
    stages = {"end": _sampled(model.eval(), dataset, trial, brief=trial.stop_at is not None)}
    if trial.stop_at is not None:
        stages["stopped"] = _sampled((stopped or [model])[0], dataset, trial, brief=False)
    return {"training": rows, "stages": stages}


def _sampled(
    model: nn.Sequential, dataset: data.Data, trial: ConvTrial, brief: bool
) -> dict[str, Any]:
    """Sample each group of layers; ``brief`` leaves out all but the jittered samples."""
    images = dataset.train.inputs(slice(trial.calibration), trial.scale)
    scales = {
        "norms": folding.input_norms(model),
        "inputs": importance.input_scales(model, images),
    }
    convs = [name for name, m in model.named_children() if isinstance(m, nn.Conv2d)]
    fcs = [name for name, m in model.named_children() if isinstance(m, nn.Linear)]
    dense = training.evaluate(model, dataset.test, scale=trial.scale).accuracy
    half: dict[str, dict[str, list[float]]] = {}
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for group, choose in GROUPS.items():
        layers = choose(convs, fcs)
        accuracy = baselines.accuracy_from(model, int(layers[0]), dataset.test, trial.scale)
        cheap = group == "FC only"  # what comes before need not be computed again

        test = partial(_test, model, layers, accuracy, scales)
        few = brief or group == "first conv only"
        chosen = [name for name in VARIANTS if name == "jittered" or not few]
        number = trial.samplings if cheap else 1
        half[group] = {name: test(name, 0.5, number) for name in chosen}
        if cheap or not brief:
            methods = chosen[:3] if cheap else chosen[:1]
            fractions = trial.fractions if cheap else trial.few
            curves[group] = {
                name: [half[group][name] if f == 0.5 else test(name, f, number) for f in fractions]
                for name in methods
            }
    stage = {"dense": dense, "half": half, "curves": curves}
    if not brief:
        accuracy = baselines.accuracy_from(model, int(fcs[0]), dataset.test, trial.scale)
        stage["peers"] = baselines.compare(model, fcs, accuracy, scales["inputs"], 2)
    return stage


def _test(
    model: nn.Sequential,
    layers: Sequence[str],
    accuracy: baselines.Accuracy,
    scales: Mapping[str, Mapping[str, Tensor]],
    variant: str,
    fraction: float,
    number: int,
) -> list[float]:
    """Sample some layers several times, as a variant says, and test each network."""
    options = {"method": "jittered", "fraction": fraction} | VARIANTS[variant]
    own = scales.get(options.pop("scales", None))
    return [
        accuracy(_quantize(model, layers, own, options | {"seed": seed})) for seed in range(number)
    ]


def _quantize(
    model: nn.Sequential,
    layers: Sequence[str],
    scales: Mapping[str, Tensor] | None,
    options: Mapping[str, Any],
) -> nn.Sequential:
    if scales is None:
        return density.quantize(model, layers=layers, **options)[0]
    return importance.quantize(model, {name: scales[name] for name in layers}, **options)[0]


def _conv_trials(profile: str, seeds: Sequence[int]) -> list[ConvTrial]:
    if profile == "fast":
        fast = {"dataset": "digits", "net": "lenet5", "epochs": 20, "stop_at": None}
        few = {"fractions": (0.1, 0.25, 0.5, 1.0), "few": (0.1, 0.5, 1.0), "samplings": 2}
        return [ConvTrial(seed=seed, calibration=200, **fast, **few) for seed in seeds]
    wide = [ConvTrial(seed=seed) for seed in seeds]
    lenet5 = {"net": "lenet5", "epochs": 12, "augment": "crop-flip", "stop_at": None}
    return [*wide, *(ConvTrial(seed=seed, **lenet5) for seed in seeds[:3])]


def _measure_conv(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return accuracies relative to the full network; the mean over samplings is one value."""
    readings: dict[str, list[float]] = {}
    for record in records:
        for stage, metrics in record.metrics["stages"].items():
            about = stage if record.config.net == "lenet-wide" else record.config.net
            readings.setdefault(f"{about}: accuracy of the full network", []).append(
                metrics["dense"]
            )
            for group, variants in metrics["half"].items():
                for variant, accuracies in variants.items():
                    relative = sum(accuracies) / len(accuracies) / metrics["dense"]
                    readings.setdefault(f"{about}: {group}, {variant}", []).append(relative)
    return readings


EXPERIMENTS = [
    Experiment(
        name="density-conv",
        summary="accuracy with the layers of a convolutional network sampled, every reading",
        trial=ConvTrial,
        trials=_conv_trials,
        run=_run_conv,
        seeds={"fast": range(1), "full": range(5, 10)},
        measures={"density-conv": _measure_conv},
        tolerance=0.02,
    ),
]
