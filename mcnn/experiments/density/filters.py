"""Accuracy of a LeNet whose filters of 3200 inputs are sampled, beside its other layers.

The talk's example of a filter, 128x5x5, is one of 5x5 pixels over 128 feature maps.
So this is the LeNet of Caffe's examples with 128 filters in its first convolution instead of 20.

All readings of one setting share one sampling of all layers, of which each takes its own.
They can be compared pair by pair, and most of what they compute is the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, density, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

GROUPS = ("filters", "fully connected", "all layers")
SINGLE = ("first convolution", "second convolution")
# What they do to the options of the primary reading.
VARIANTS: dict[str, dict[str, Any]] = {
    "jittered": {},
    "one density a layer": {"normalize": "tensor"},
    "systematic": {"method": "systematic"},
    "iid": {"method": "iid"},
}
HALF = 0.5
# What is multiplied is rounded to bfloat16, and sums are float32: several times as fast.
PRECISION = torch.bfloat16
_IMAGES = 50  # at a time: what 128 feature maps make of them stays in the cache of a core

# Images, what each convolution of the full network makes of them, and labels.
Known = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class FiltersTrial(Trial):
    """A network, how it is trained, and the fractions of the fan-in at which it is sampled.

    ``maps`` and ``filters`` are the numbers of filters of the two convolutions; ``validation``
    images of the training set are held out, and training ends with the first epoch after which
    ``stop_at`` of them are right.
    Every variant is sampled at one half of the fan-in; with ``curve``, jittered samples are taken
    at the other fractions instead: of one density a filter or neuron at ``fractions``, of one
    density a layer at ``layer_fractions``.
    """

    dataset: str = "cifar10"
    maps: int = 128
    filters: int = 50
    hidden: int = 500
    epochs: int = 2
    lr: float = 0.02
    batch_size: int = 64
    scale: str = "standard"
    validation: int = 5000
    stop_at: float = 0.69
    curve: bool = False
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
    layer_fractions: tuple[float, ...] = (0.1, 0.3, 0.7, 1.0)
    samplings: int = 10


class _StoppedError(Exception):
    """Leaves the loop of training; no error."""


class _Mixed(nn.Module):
    """A network computed in :data:`PRECISION`, with the channels of a pixel side by side."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, PRECISION):
            return self.model(x.contiguous(memory_format=torch.channels_last)).float()


def lenet(trial: FiltersTrial, shape: Sequence[int], classes: int) -> nn.Sequential:
    """Return first convolution, second convolution and fully connected layers, one after another.

    Pooling before the ReLU computes the same as after it, on a quarter of the numbers.
    Images of fewer than 32x32 pixels are centred in a field of zeros.
    """
    channels, height, _ = shape
    first = nn.Conv2d(channels, trial.maps, 5, padding=(32 - height) // 2)  # 32 -> 28
    second = nn.Conv2d(trial.maps, trial.filters, 5)  # 14 -> 10
    wide, narrow = nn.Linear(25 * trial.filters, trial.hidden), nn.Linear(trial.hidden, classes)
    return nn.Sequential(
        nn.Sequential(first, nn.MaxPool2d(2), nn.ReLU()),
        nn.Sequential(second, nn.MaxPool2d(2), nn.ReLU()),
        nn.Sequential(nn.Flatten(), wide, nn.ReLU(), narrow),
    )


def _run(trial: FiltersTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device, validation=trial.validation)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(trial.seed)
        model = lenet(trial, dataset.shape, len(dataset.classes))
    model = model.to(device, memory_format=torch.channels_last)
    rows = _train(model, dataset, trial)
    model.eval()
    known = list(_features(model, dataset.test, trial.scale))
    metrics: dict[str, Any] = {"training": rows, "dense": _dense(model, known)}
    metrics["sampled"], metrics["hit"] = {}, {}
    for variant, fractions in _work(trial).items():
        points = {f: _sampled(model, known, trial, variant, f) for f in fractions}
        for name, number in (("sampled", 0), ("hit", 1)):
            metrics[name][variant] = {f"{f:.0%}": point[number] for f, point in points.items()}
    return metrics


def _work(trial: FiltersTrial) -> dict[str, tuple[float, ...]]:
    """Return the fractions of each variant."""
    if trial.curve:
        return {"jittered": trial.fractions, "one density a layer": trial.layer_fractions}
    return dict.fromkeys(VARIANTS, (HALF,))


def _train(model: nn.Module, dataset: data.Data, trial: FiltersTrial) -> list[dict[str, float]]:
    """Train until the network is as good as the talk's on the images held out."""
    rows: list[dict[str, float]] = []

    def note(now: nn.Module, row: Mapping[str, float]) -> None:
        seen = training.evaluate(now, dataset.validation, scale=trial.scale)
        rows.append({**row, "validation_accuracy": seen.accuracy, "validation_loss": seen.loss})
        if seen.accuracy >= trial.stop_at:
            raise _StoppedError

    recipe = {name: getattr(trial, name) for name in ("epochs", "lr", "batch_size", "scale")}
    with suppress(_StoppedError):
        training.fit(_Mixed(model), dataset, seed=trial.seed, on_epoch=note, **recipe)
    return rows


@torch.no_grad()
def _features(model: nn.Sequential, split: data.Split, scale: str) -> Iterator[Known]:
    for x, y in split.batches(_IMAGES, scale=scale):
        x = x.to(PRECISION, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, PRECISION):
            first = model[0](x)
            yield x, first, model[1](first), y


def _dense(model: nn.Sequential, known: Sequence[Known]) -> float:
    images = sum(len(y) for *_, y in known)
    return sum(_hits(model[2], second, y) for _, _, second, y in known) / images


def _sampled(
    model: nn.Sequential,
    known: Sequence[Known],
    trial: FiltersTrial,
    variant: str,
    fraction: float,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return accuracies for each group, and the share of each layer's weights that is hit."""
    groups = GROUPS + SINGLE if fraction == HALF else GROUPS
    images = sum(len(y) for *_, y in known)
    accuracies: dict[str, list[float]] = {group: [] for group in groups}
    hit: dict[str, float] = {}
    for number in range(trial.samplings):
        seed = trial.seed * trial.samplings + number
        options = {"method": "jittered", "fraction": fraction, "seed": seed} | VARIANTS[variant]
        sampled, report = density.quantize(model, **options)
        for layer in report.layers:
            share = layer.distinct / layer.weights / trial.samplings
            hit[layer.name] = hit.get(layer.name, 0.0) + share
        right = dict.fromkeys(groups, 0)
        for batch in known:
            for group, count in _readings(model, sampled, batch, single=fraction == HALF):
                right[group] += count
        for group in groups:
            accuracies[group].append(right[group] / images)
    return accuracies, hit


@torch.no_grad()
def _readings(
    model: nn.Sequential, sampled: nn.Sequential, batch: Known, single: bool
) -> Iterator[tuple[str, int]]:
    """Yield each group, and how many images are right when its layers are the sampled ones."""
    x, first, second, y = batch
    with torch.autocast(x.device.type, PRECISION):
        sampled_first = sampled[0](x)
        both = sampled[1](sampled_first)
        yield "filters", _hits(model[2], both, y)
        yield "all layers", _hits(sampled[2], both, y)
        yield "fully connected", _hits(sampled[2], second, y)
        if single:
            yield "first convolution", _hits(model[2], model[1](sampled_first), y)
            yield "second convolution", _hits(model[2], sampled[1](first), y)


@torch.no_grad()
def _hits(head: nn.Module, features: Tensor, y: Tensor) -> int:
    with torch.autocast(features.device.type, PRECISION):
        return int((head(features).argmax(1) == y).sum())


def _trials(profile: str, seeds: Sequence[int]) -> list[FiltersTrial]:
    if profile == "full":  # what the claims are judged by comes first
        return [FiltersTrial(seed=seed, curve=curve) for curve in (False, True) for seed in seeds]
    digits = {"dataset": "digits", "maps": 16, "filters": 16, "hidden": 64, "validation": 287}
    brief = {"epochs": 4, "lr": 0.05, "batch_size": 32, "stop_at": 0.95, "samplings": 2}
    return [FiltersTrial(seed=seed, **digits, **brief) for seed in seeds]


def relative(record: Record, group: str, variant: str) -> float:
    """Return the accuracy left at one half, the mean over the samplings of one training."""
    accuracies = record.metrics["sampled"][variant][f"{HALF:.0%}"][group]
    return sum(accuracies) / len(accuracies) / record.metrics["dense"]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return accuracies relative to the full network at half the fan-in."""
    readings = {
        f"{group}, {variant}": [relative(r, group, variant) for r in records]
        for group in GROUPS + SINGLE
        for variant in VARIANTS
    }
    return readings | {"accuracy of the full network": [r.metrics["dense"] for r in records]}


def _measure_redundant(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return how much more the fully connected layers keep than convolutions, in each training."""
    return {
        f"fully connected less {group}, {variant}": [
            relative(r, "fully connected", variant) - relative(r, group, variant) for r in records
        ]
        for group in ("filters", *SINGLE)
        for variant in VARIANTS
    }


EXPERIMENTS = [
    Experiment(
        name="density-filters",
        summary="accuracy of a LeNet with filters of 3200 inputs, sampled in every reading",
        trial=FiltersTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={
            "density-conv": _measure,
            "density-conv-redundant": _measure_redundant,
            "density-conv-redundant-second": _measure_redundant,
        },
        tolerance=0.02,
    ),
]
