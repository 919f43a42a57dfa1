"""Accuracy against the fraction of the fan-in of the fully connected layers that is sampled.

The convolutions stay as they are.
So what they make of the test images is computed once, and only the fully connected layers behind
them are sampled again and again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mcnn import data, density, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import nets

TOPS = {"top-1": 1, "top-5": 5}
TITLES = {
    ("lenet-wide", "mnist"): "LeNet, MNIST",
    ("lenet-wide", "cifar10"): "LeNet, CIFAR-10",
    ("alexnet-cifar", "cifar10"): "AlexNet, CIFAR-10",
    ("alexnet", "ilsvrc12"): "AlexNet, ILSVRC12",
    ("lenet5", "digits"): "LeNet, digits",
}
RECIPE = ("optimizer", "lr", "epochs", "batch_size", "scale")
TENTHS = tuple(i / 10 for i in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class FcTrial(Trial):
    """A network, where its weights come from, and how its fully connected layers are sampled.

    ``weights`` is ``"trained"`` for those trained here by the fields below it, else the name of
    published ones; the seed is then that of the samples alone.
    """

    dataset: str = "cifar10"
    net: str = "lenet-wide"
    weights: str = "trained"
    optimizer: str = "sgd"
    lr: float = 0.05
    epochs: int = 5
    batch_size: int = 128
    scale: str = "standard"
    mixed: bool = True
    methods: tuple[str, ...] = ("jittered", "iid", "systematic")
    fractions: tuple[float, ...] = TENTHS
    samplings: int = 3


class _Mixed(nn.Module):
    """Run a network in bfloat16 where that is accurate enough: twice as fast to train."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x.contiguous(memory_format=torch.channels_last)).float()


def parts(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the convolutions, flattened at the end, and the fully connected layers after them."""
    if isinstance(model, nn.Sequential):
        at = 1 + next(i for i, module in enumerate(model) if isinstance(module, nn.Flatten))
        return model[:at], model[at:]
    return nn.Sequential(model.features, model.avgpool, nn.Flatten()), model.classifier


def _run_fc(trial: FcTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = _model(trial, dataset, device).eval()
    convolutions, head = parts(model)
    features, labels = _features(convolutions, dataset.test, trial.scale)
    metrics: dict[str, Any] = {
        "dense": _accuracies(head, features, labels),
        "sampled": {top: {method: [] for method in trial.methods} for top in TOPS},
        "hit": {method: [] for method in trial.methods},
        "weights": {
            "fully connected": _weights(head, nn.Linear),
            "convolutional": _weights(convolutions, nn.Conv2d),
        },
    }
    work = [(method, fraction) for method in trial.methods for fraction in trial.fractions]
    for method, fraction in tqdm(work, desc="sample", disable=None, leave=False):
        accuracies, hit = [], []
        for i in range(trial.samplings):
            seed = trial.seed * trial.samplings + i
            sampled, report = density.quantize(head, fraction=fraction, method=method, seed=seed)
            accuracies.append(_accuracies(sampled, features, labels))
            hit.append(report.distinct / report.weights)
        for top in TOPS:
            metrics["sampled"][top][method].append([a[top] for a in accuracies])
        metrics["hit"][method].append(sum(hit) / len(hit))
    return metrics


def _model(trial: FcTrial, dataset: data.Data, device: torch.device) -> nn.Module:
    if trial.weights != "trained":
        return nets.build(trial.net, weights=trial.weights).to(device)
    model = nets.build(trial.net, seed=trial.seed, shape=dataset.shape).to(device)
    if trial.mixed:
        model = model.to(memory_format=torch.channels_last)
    trained = _Mixed(model) if trial.mixed else model
    recipe = {name: getattr(trial, name) for name in RECIPE}
    training.fit(trained, dataset, seed=trial.seed, **recipe)
    return model


@torch.no_grad()
def _features(convolutions: nn.Module, split: Any, scale: str) -> tuple[Tensor, Tensor]:
    """Return what the convolutions make of all images [n, features], and the labels [n]."""
    batches = split.batches(500, scale=scale)
    steps = tqdm(batches, desc="features", total=-(-len(split) // 500), disable=None, leave=False)
    outputs = [(convolutions(x), y) for x, y in steps]
    features, labels = zip(*outputs, strict=True)
    return torch.cat(features), torch.cat(labels)


@torch.no_grad()
def _accuracies(head: nn.Module, features: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the fraction of images whose class is the first, or among the first five."""
    hits = dict.fromkeys(TOPS, 0)
    for x, y in zip(features.split(1000), labels.split(1000), strict=True):
        right = head(x).topk(max(TOPS.values()), 1).indices == y.unsqueeze(1)  # [b, 5]
        for name, top in TOPS.items():
            hits[name] += int(right[:, :top].sum())
    return {name: number / len(labels) for name, number in hits.items()}


def _weights(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, kind))


def relative(record: Record, method: str, fraction: float, top: str = "top-1") -> float:
    """Return the accuracy at a fraction, divided by that of the network that was sampled.

    It is the mean over the samplings of one network: one value for each seed.
    """
    values = record.metrics["sampled"][top][method][record.config.fractions.index(fraction)]
    return sum(values) / len(values) / record.metrics["dense"][top]


def _trials(profile: str, seeds: Sequence[int]) -> list[FcTrial]:
    if profile == "fast":
        digits = {"dataset": "digits", "net": "lenet5", "epochs": 12, "mixed": False}
        digits |= {"optimizer": "adam", "lr": 3e-3, "batch_size": 64}
        few = {"fractions": (0.1, 0.2, 0.5, 1.0), "samplings": 2}
        return [FcTrial(seed=seed, **digits, **few) for seed in seeds]
    alexnet = {"net": "alexnet-cifar", "optimizer": "adam", "lr": 5e-4}
    alexnet |= {"epochs": 3, "batch_size": 256, "fractions": (0.1, 0.2, 0.3, 0.5, 1.0)}
    published = {"dataset": "ilsvrc12", "net": "alexnet", "weights": "IMAGENET1K_V1"}
    closer = {"methods": ("jittered",), "samplings": 10}
    return [
        # An epoch of AlexNet takes minutes of a processor, so its seeds are few.
        *(FcTrial(seed=seed, **alexnet, samplings=1) for seed in seeds[:4]),
        *(FcTrial(seed=seed) for seed in seeds[:5]),
        *(FcTrial(seed=seed, dataset="mnist", epochs=3) for seed in seeds[:5]),
        *(FcTrial(seed=seed, **published, samplings=1) for seed in seeds[:5]),
        # Added later, for a closer look at one method.
        *(FcTrial(seed=seed, **closer) for seed in seeds[5:]),
        *(FcTrial(seed=seed, dataset="mnist", epochs=3, **closer) for seed in seeds[5:]),
    ]


def _measure(records: Sequence[Record], tops: Sequence[str]) -> dict[str, list[float]]:
    """Return relative accuracies, and by how much they fall from one fraction to a smaller."""
    readings: dict[str, list[float]] = {}
    for record in records:
        trial = record.config
        for top in tops:
            title = TITLES[trial.net, trial.dataset] + (f", {top}" if len(tops) > 1 else "")
            for method in trial.methods:
                kept = {f: relative(record, method, f, top) for f in trial.fractions}
                values = {f"{fraction:.0%}": value for fraction, value in kept.items()}
                values["100% less 50%"] = kept[1.0] - kept[0.5]
                values["50% less 10%"] = kept[0.5] - kept[0.1]
                for name, value in values.items():
                    readings.setdefault(f"{title}: {method}, {name}", []).append(value)
    return readings


EXPERIMENTS = [
    Experiment(
        name="linear-fc",
        summary="accuracy against the fraction of the fully connected layers sampled",
        trial=FcTrial,
        trials=_trials,
        run=_run_fc,
        seeds={"fast": range(2), "full": range(8)},
        measures={
            "linear-fc": lambda records: _measure(records, ["top-1"]),
            "linear-fc-ilsvrc12": lambda records: _measure(records, ["top-5", "top-1"]),
        },
        tolerance=0.02,
    ),
]
