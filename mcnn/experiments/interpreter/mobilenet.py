"""MobileNetV2: its number of parameters, its linear bottlenecks, and filters of nine weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mcnn import data, density, training
from mcnn.errors import naming_extra
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

BOTTLENECKS = ("linear", "relu6")
FRACTIONS = (0.25, 0.5, 1.0, 2.0)
KINDS = ("depthwise", "pointwise")
# Expansion, channels, blocks and stride; a shorter list of torchvision's, for 32 x 32 pixels.
SETTING = ((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 2), (6, 24, 1, 1))


@dataclass(frozen=True, kw_only=True)
class BottleneckTrial(Trial):
    """What ends a bottleneck, and how long the network is trained."""

    dataset: str = "cifar10"
    bottleneck: str = "linear"
    train: int = 19200
    width: float = 0.5
    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.05


@dataclass(frozen=True, kw_only=True)
class FanInTrial(BottleneckTrial):
    """How many test images the sampled networks are asked about."""

    images: int = 4000


@dataclass(frozen=True, kw_only=True)
class CountTrial(Trial):
    """The network as it is published, for so many classes."""

    classes: int = 1000


def network(trial: BottleneckTrial, classes: int, channels: int) -> nn.Module:
    """Return torchvision's MobileNetV2 with few channels, its bottlenecks linear or with ReLU6."""
    with naming_extra():
        from torchvision.models import MobileNetV2
        from torchvision.models.mobilenetv2 import InvertedResidual

    class Rectified(InvertedResidual):
        """The same, with a rectifier where the narrow layer ends."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.conv.append(nn.ReLU6(inplace=True))

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(trial.seed)
        model = MobileNetV2(
            num_classes=classes,
            width_mult=trial.width,
            inverted_residual_setting=[list(row) for row in SETTING],
            round_nearest=4,
            block=InvertedResidual if trial.bottleneck == "linear" else Rectified,
        )
        first = model.features[0][0]
        if channels != first.in_channels:
            model.features[0][0] = nn.Conv2d(channels, first.out_channels, 3, 2, 1, bias=False)
    return model


def trained(trial: BottleneckTrial, device: torch.device) -> tuple[nn.Module, data.Data]:
    """Return the network after its training, and the data."""
    dataset = data.load(trial.dataset, device=device)
    model = network(trial, len(dataset.classes), dataset.shape[0]).to(device)
    part = dataset.train.part(slice(trial.train))
    training.fit(
        model,
        replace(dataset, train=part),
        epochs=trial.epochs,
        batch_size=trial.batch_size,
        lr=trial.lr,
        scale="standard",
        seed=trial.seed,
    )
    return model, dataset


def run_bottleneck(trial: BottleneckTrial, device: torch.device) -> dict[str, Any]:
    """Return the accuracy on the test images."""
    model, dataset = trained(trial, device)
    found = training.evaluate(model, dataset.test, scale="standard")
    parameters = sum(p.numel() for p in model.parameters())
    return {"accuracy": found.accuracy, "loss": found.loss, "parameters": parameters}


def run_fan_in(trial: FanInTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracies with one kind of convolution sampled, at several samples per weight."""
    model, dataset = trained(trial, device)

    test = dataset.test.part(slice(trial.images))

    def accuracy(of: nn.Module) -> float:
        return training.evaluate(of, test, scale="standard").accuracy

    metrics: dict[str, Any] = {"accuracy": accuracy(model)}
    for kind in KINDS:
        metrics[kind] = []
        for fraction in FRACTIONS:
            sampled, _ = density.quantize(
                model, fraction=fraction, layers=CHOSEN[kind], seed=trial.seed
            )
            metrics[kind].append(accuracy(sampled))
    chosen = {kind: [m for n, m in model.named_modules() if CHOSEN[kind](n, m)] for kind in KINDS}
    return metrics | {
        "fan_in": {kind: [m.weight[0].numel() for m in chosen[kind]] for kind in KINDS},
        "weights": {kind: sum(m.weight.numel() for m in chosen[kind]) for kind in KINDS},
    }


CHOSEN: Mapping[str, Any] = {
    "depthwise": lambda name, module: isinstance(module, nn.Conv2d) and module.groups > 1,
    "pointwise": lambda name, module: (
        isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == (1, 1)
    ),
}


def run_count(trial: CountTrial, device: torch.device) -> dict[str, Any]:
    """Count the parameters of torchvision's network, and those that the paper's table implies."""
    with naming_extra():
        from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        model = mobilenet_v2(num_classes=trial.classes)
    return {"parameters": sum(p.numel() for p in model.parameters()), "table": table(trial.classes)}


def table(classes: int) -> int:
    """Return the parameters that follow from the paper's table of blocks."""
    rows = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))

    def conv(weights: int, outputs: int) -> int:
        return weights + 2 * outputs  # normalisation has a scale and a shift per output

    total = conv(32 * 3 * 9, 32)
    inputs = 32
    for expansion, outputs, blocks in rows:
        for _ in range(blocks):
            wide = expansion * inputs
            total += conv(inputs * wide, wide) if expansion > 1 else 0
            total += conv(9 * wide, wide) + conv(wide * outputs, outputs)
            inputs = outputs
    return total + conv(inputs * 1280, 1280) + (1280 + 1) * classes


_FAST: dict[str, Any] = {"dataset": "digits", "train": 1437}


def bottleneck_trials(profile: str, seeds: Sequence[int]) -> list[BottleneckTrial]:
    """List both ends of a bottleneck for each seed."""
    options = {} if profile == "full" else _FAST
    return [
        BottleneckTrial(seed=seed, bottleneck=name, **options)
        for seed in seeds
        for name in BOTTLENECKS
    ]


def fan_in_trials(profile: str, seeds: Sequence[int]) -> list[FanInTrial]:
    """List the network with linear bottlenecks for each seed."""
    options = {} if profile == "full" else _FAST
    return [FanInTrial(seed=seed, **options) for seed in seeds]


def count_trials(profile: str, seeds: Sequence[int]) -> list[CountTrial]:
    """List the published network; nothing about it is random."""
    return [CountTrial(seed=seed) for seed in seeds]


def measure_bottleneck(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return accuracies, and what linear bottlenecks have more, paired over seeds."""
    by = {(r.config.bottleneck, r.config.seed): r.metrics["accuracy"] for r in records}
    seeds = sorted({seed for _, seed in by})
    found = {"linear minus relu6": [by["linear", s] - by["relu6", s] for s in seeds]}
    return found | {name: [by[name, s] for s in seeds] for name in BOTTLENECKS}


def measure_fan_in(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return how much more accuracy is lost by sampling filters of nine weights."""
    found = {}
    for k, fraction in enumerate(FRACTIONS):
        name = f"lost at {fraction:g} samples per weight"
        found[f"{name}, depthwise minus pointwise"] = [
            r.metrics["pointwise"][k] - r.metrics["depthwise"][k] for r in records
        ]
        for kind in KINDS:
            found[f"{name}, {kind}"] = [r.metrics["accuracy"] - r.metrics[kind][k] for r in records]
    return found


def measure_count(records: Sequence[Record]) -> dict[str, list[int]]:
    """Return the number of parameters, counted and by the paper's table."""
    return {
        "torchvision": [r.metrics["parameters"] for r in records],
        "by the table of blocks": [r.metrics["table"] for r in records],
    }


EXPERIMENTS = [
    Experiment(
        name="interpreter-bottleneck",
        summary="a narrow MobileNetV2 on photographs, its bottlenecks linear or with ReLU6",
        trial=BottleneckTrial,
        trials=bottleneck_trials,
        run=run_bottleneck,
        seeds={"fast": range(1), "full": range(10, 18)},
        measures={"interpreter-bottleneck": measure_bottleneck},
        tolerance=0.05,
    ),
    Experiment(
        name="interpreter-fan-in",
        summary="the same with depthwise or pointwise convolutions sampled",
        trial=FanInTrial,
        trials=fan_in_trials,
        run=run_fan_in,
        seeds={"fast": range(1), "full": range(10, 20)},
        measures={"interpreter-fan-in": measure_fan_in},
        tolerance=0.05,
    ),
    Experiment(
        name="interpreter-parameters",
        summary="the parameters of MobileNetV2, counted",
        trial=CountTrial,
        trials=count_trials,
        run=run_count,
        seeds={"fast": range(1), "full": range(10, 11)},
        measures={"interpreter-parameters": measure_count},
        tolerance=0,
    ),
]
