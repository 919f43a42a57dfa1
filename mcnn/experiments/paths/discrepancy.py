"""Convolutional networks of low-discrepancy paths: what each ingredient costs or gains.

The article (arXiv 2103.03543) makes networks of Sobol' paths, begins with one magnitude for all
weights of a layer, and fixes the sign of a weight by the number of its path.
Here each of the three is exchanged for itself, and random paths and a dense network stand beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mcnn import data, training
from mcnn.data import Split
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.cnn import PathCNN
from mcnn.paths.layers import PathLinear
from mcnn.sampling import fold_in

_BY_PATH: dict[str, Any] = {"init": "constant", "sign": "alternating"}
# Name: generator of paths, options of the layers.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sobol": ("sobol", {}),
    "uniform": ("uniform", {}),
    "permutation": ("permutation", {}),
    "sobol, constant": ("sobol", _BY_PATH),
    "sobol, constant, fixed signs": ("sobol", _BY_PATH | {"fixed_signs": True}),
    "uniform, constant, fixed signs": ("uniform", _BY_PATH | {"fixed_signs": True}),
}
DENSE = "dense"


@dataclass(frozen=True, kw_only=True)
class DiscrepancyTrial(Trial):
    """A network by one of :data:`KINDS`, or :data:`DENSE`, on images drawn by the seed.

    With ``halve``, images have half the pixels a side: means over 2×2.
    """

    dataset: str = "cifar10"
    kind: str = "sobol"
    channels: tuple[int, ...] = (3, 16, 32, 64)
    paths: int = 128
    images: int = 10000
    halve: bool = True
    epochs: int = 3
    batch_size: int = 64
    lr: float = 0.1
    validation: int = 5000


def _run(trial: DiscrepancyTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device, validation=trial.validation)
    generator = torch.Generator().manual_seed(trial.seed)
    few = torch.randperm(len(dataset.train), generator=generator)[: trial.images].to(device)
    train, test = dataset.train.part(few), dataset.test
    if trial.halve:
        train, test = _halved(train), _halved(test)
    net = network(trial, len(dataset.classes)).to(device)
    training.fit(
        net,
        replace(dataset, train=train, test=test),
        epochs=trial.epochs,
        batch_size=trial.batch_size,
        lr=trial.lr,
        scale="standard",
        seed=trial.seed,
    )
    return {
        "accuracy": training.evaluate(net, test, scale="standard").accuracy,
        "weights": weights(net),
    }


def weights(net: nn.Sequential) -> int:
    """Return the number of weights of convolutions and the last layer, biases not counted."""
    return sum(
        m.weight.numel() for m in net if not isinstance(m, nn.BatchNorm2d) and hasattr(m, "weight")
    )


def _halved(split: Split) -> Split:
    images = F.avg_pool2d(split.images.float(), 2).round().to(torch.uint8)
    return replace(split, images=images)


def network(trial: DiscrepancyTrial, classes: int = 10) -> nn.Sequential:
    """Return the network of a trial before it is trained; options hold for its last layer, too."""
    if trial.kind == DENSE:
        return dense(trial.channels, classes, trial.seed)
    method, options = KINDS[trial.kind]
    # Weights by the edges into a unit, but where the magnitude is one for all of a layer.
    options = {"init": "realised"} | options
    net = PathCNN(trial.channels, classes, trial.paths, method, trial.seed, **options)
    last = net[-1]
    seed = fold_in(trial.seed, 1)
    net[-1] = PathLinear(last.in_features, classes, last.paths, seed=seed, **options)
    return net


def dense(channels: Sequence[int], classes: int, seed: int) -> nn.Sequential:
    """Return the network of which :class:`mcnn.paths.PathCNN` has a part, with He's weights."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n, m in pairwise(channels):
        conv = nn.Conv2d(n, m, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        layers += [conv, nn.BatchNorm2d(m), nn.ReLU(), nn.MaxPool2d(2)]
    last = nn.Linear(channels[-1], classes)
    nn.init.kaiming_normal_(last.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def _trials(profile: str, seeds: Sequence[int]) -> list[DiscrepancyTrial]:
    options: dict[str, Any] = {}
    if profile == "fast":
        options = {"dataset": "digits", "channels": (1, 16, 32), "images": 800, "halve": False}
        options |= {"validation": 200, "paths": 64, "epochs": 3}
    # Seed by seed, so that a run that is stopped has whole comparisons.
    return [
        DiscrepancyTrial(seed=seed, kind=kind, **options)
        for seed in seeds
        for kind in (*KINDS, DENSE)
    ]


PAIRS = {
    "sobol minus uniform": ("sobol", "uniform"),
    "permutation minus uniform": ("permutation", "uniform"),
    "constant minus normal": ("sobol, constant", "sobol"),
    "fixed signs minus free": ("sobol, constant, fixed signs", "sobol, constant"),
    "all three minus uniform": ("sobol, constant, fixed signs", "uniform"),
    "sobol minus uniform, constant, fixed signs": (
        "sobol, constant, fixed signs",
        "uniform, constant, fixed signs",
    ),
    "sobol minus dense": ("sobol", DENSE),
}


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    accuracy = {(r.config.kind, r.config.seed): r.metrics["accuracy"] for r in records}
    seeds = sorted({seed for _, seed in accuracy})
    readings = {
        name: [accuracy[a, s] - accuracy[b, s] for s in seeds if {(a, s), (b, s)} <= set(accuracy)]
        for name, (a, b) in PAIRS.items()
    }
    for kind in (*KINDS, DENSE):
        readings[f"{kind}: accuracy"] = [accuracy[kind, s] for s in seeds if (kind, s) in accuracy]
    return readings


EXPERIMENTS = [
    Experiment(
        name="paths-discrepancy",
        summary="convolutional networks of Sobol' paths, one magnitude, signs fixed by path",
        trial=DiscrepancyTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        measures={"paths-discrepancy": _measure},
        tolerance=0.02,
    ),
]
