"""A network of photographs: what its biases decide, and what its first layer seeks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, interpreter, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

_SIDE = 7  # of the filters of the first layer
PRIOR = {"norm": 1.0, "variation": 0.02}


@dataclass(frozen=True, kw_only=True)
class CifarTrial(Trial):
    """How long the network is trained, and how many test images are looked at."""

    dataset: str = "cifar10"
    train: int = 25000
    width: int = 24
    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.05
    images: int = 500


def network(channels: int, width: int, classes: int, seed: int) -> nn.Sequential:
    """Return three normalised convolutions, the first with large filters, and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs, side = channels, _SIDE
        for outputs in (width, 2 * width, 4 * width):
            layers += [
                nn.Conv2d(inputs, outputs, side, stride=2, padding=side // 2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs, side = outputs, 3
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)
        )


def run(trial: CifarTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracy with and without biases, their share of margins, and fits of maximisers."""
    dataset = data.load(trial.dataset, device=device)
    part = dataset.train.part(slice(trial.train))
    model = network(dataset.shape[0], trial.width, len(dataset.classes), trial.seed).to(device)
    metrics: dict[str, Any] = {"gabor": {"as initialised": _fits(model)}}
    training.fit(
        model,
        replace(dataset, train=part),
        epochs=trial.epochs,
        batch_size=trial.batch_size,
        lr=trial.lr,
        scale="standard",
        augment="crop-flip" if trial.dataset == "cifar10" else None,
        seed=trial.seed,
    )
    metrics["accuracy"] = training.evaluate(model, dataset.test, scale="standard").accuracy
    metrics["gabor"]["trained"] = _fits(model)
    chosen = dataset.test.part(slice(trial.images))
    x = chosen.inputs(scale="standard").double()
    return metrics | _bias(model.double().eval(), x, chosen.labels)


@torch.no_grad()
def _bias(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Split answers into A x and b; return shares of margins, and how often a part is right."""
    system = interpreter.linear(model, x)
    whole, bias = system.output, system.bias  # [images, classes]
    first, second = whole.topk(2).indices.T  # [images]
    number = torch.arange(len(x), device=x.device)
    margin = whole[number, first] - whole[number, second]
    by_bias = bias[number, first] - bias[number, second]

    def right(answers: Tensor) -> float:
        return float((answers.argmax(1) == labels).double().mean())

    return {
        "share": float(by_bias.sum() / margin.sum()),
        "share_of_images": float((by_bias > margin / 2).double().mean()),
        "right": {"whole": right(whole), "A x": right(whole - bias), "b": right(bias)},
        "margins": [[float(m), float(b)] for m, b in zip(margin[:100], by_bias[:100], strict=True)],
    }


def maximisers(model: nn.Sequential) -> Tensor:
    """Return what each filter of the first layer seeks, in its first principal colour.

    Returns
    -------
    Tensor
        float64 [filters, side, side], each of length one.
    """
    first = model[0]
    alone = nn.Conv2d(first.in_channels, first.out_channels, first.kernel_size).double()
    with torch.no_grad():  # of one place, and all filters of one length: directions are compared
        alone.weight.copy_(first.weight / first.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        alone.bias.zero_()
    start = torch.zeros(1, first.in_channels, *first.kernel_size, dtype=torch.float64)
    prior = interpreter.Prior(**PRIOR)
    found = []
    for unit in range(first.out_channels):
        image = interpreter.maximise(alone, unit, prior, start=start, steps=50).image[0]
        _, _, right = torch.linalg.svd(image.flatten(1), full_matrices=False)
        found.append(right[0].view(image.shape[1:]))
    return torch.stack(found)


def _fits(model: nn.Sequential) -> list[float]:
    return interpreter.gabor_fit(maximisers(model)).explained.tolist()


def trials(profile: str, seeds: Sequence[int]) -> list[CifarTrial]:
    """List a trial for each seed."""
    fast = {"dataset": "digits", "train": 1437, "width": 8, "epochs": 3, "images": 100}
    return [CifarTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure_bias(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the share of biases in winning margins, and accuracies of the parts."""
    found = {
        "share of the winning margin that is bias": [r.metrics["share"] for r in records],
        "accuracy": [r.metrics["right"]["whole"] for r in records],
        "accuracy of A x alone": [r.metrics["right"]["A x"] for r in records],
        "accuracy of b alone": [r.metrics["right"]["b"] for r in records],
    }
    chance = 1 / 10
    relied = [
        (r.metrics["right"]["whole"] - r.metrics["right"]["A x"])
        / (r.metrics["right"]["whole"] - chance)
        for r in records
    ]
    return found | {
        "share of images whose margin is more than half bias": [
            r.metrics["share_of_images"] for r in records
        ],
        "accuracy above chance that is lost without b": relied,
    }


def measure_gabor(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return how much of a maximiser one Gabor function explains, in the mean over filters."""

    def mean(r: Record, when: str) -> float:
        return sum(r.metrics["gabor"][when]) / len(r.metrics["gabor"][when])

    trained = [mean(r, "trained") for r in records]
    before = [mean(r, "as initialised") for r in records]
    return {
        "trained minus random": [a - b for a, b in zip(trained, before, strict=True)],
        "trained": trained,
        "random": before,
    }


EXPERIMENTS = [
    Experiment(
        name="interpreter-cifar",
        summary="a network of photographs: its biases, and the maximisers of its first layer",
        trial=CifarTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(10, 15)},
        measures={"interpreter-bias": measure_bias, "interpreter-gabor": measure_gabor},
        tolerance=0.1,
    ),
]
