"""Sparse convolutional networks at equal numbers of weights: LeNet-5 on CIFAR-10.

A path takes a channel, or a unit, of each layer; behind the convolutions it takes a place of its
channel, too.
An edge between channels is a whole filter (``uniform``, ``sobol``, ``permutation``), or the path
also takes one weight of each filter (``uniform, single weights``).
The field's networks choose single weights.

Protocol, written before the runs: 20,000 of the training images, the same for all, chosen at random
once, so that three seeds cost minutes; three epochs with batches of 64, standardised images, SGD
with momentum .9 and a rate of .03 that falls along a cosine; all 10,000 test images; 10 % and 5 %
of the weights.
All begin with He's normal weights.
Masks that do not look at these have them scaled to the inputs that each unit really has; with
fewer, five layers let no signal through, and nothing learned on digits.
SNIP, SynFlow and pruning choose from the weights themselves, which therefore stay as they are.
A first recipe, with the rate .05 and scaled weights for all, was given up after seeds 0 to 2, for
dense networks learned nothing; this one was chosen by pilots of seed 1000.
``pruned`` trains twice, dense and then inside the mask of the largest weights.
No claim of the talk is decided by this: accuracy, weights of each layer, and those on no way from
an input to an output are reported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.baselines.evolve import RigL
from mcnn.baselines.masks import Masked, magnitude, weights
from mcnn.experiments.paths.baselines import _random, _snip, _synflow
from mcnn.experiments.paths.common import edges
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.generators import sample_paths
from mcnn.training import nets

Masks = dict[str, Tensor]
SCALE = "standard"
PATHS = {  # name: generator, and whether a path takes single weights of filters
    "uniform": ("uniform", False),
    "sobol": ("sobol", False),
    "permutation": ("permutation", False),
    "uniform, single weights": ("uniform", True),
}
FIELD: dict[str, Callable[..., Masks]] = {
    "random": _random,
    "erk": lambda *arguments: _random(*arguments, erk=True),
    "snip": _snip,
    "synflow": _synflow,
    "rigl": lambda *arguments: _random(*arguments, erk=True),
}


@dataclass(frozen=True, kw_only=True)
class PeersConvTrial(Trial):
    """A sparse LeNet-5 and how its weights are chosen; ``images`` is how many it trains on."""

    dataset: str = "cifar10"
    net: str = "lenet5"
    method: str = "uniform"
    density: float = 0.1
    images: int = 20_000
    epochs: int = 3
    batch: int = 64
    lr: float = 0.03


def _run(trial: PeersConvTrial, device: torch.device) -> dict[str, Any]:
    dataset = _few(data.load(trial.dataset, device=device), trial.images)
    model = network(trial, dataset.shape).to(device)
    if trial.method == "dense":
        return {"accuracy": _fit(model, dataset, trial), "edges": _sizes(model)}
    total = round(trial.density * sum(_sizes(model)))
    result: dict[str, Any] = {}
    masked = None
    if trial.method in PATHS:
        number, masks = paths_for(model, total, trial.method, trial.seed)
        result["paths"] = number
    elif trial.method == "pruned":
        _fit(model, dataset, trial)
        masks = magnitude(model, total)
    else:
        masks = FIELD[trial.method](model, dataset, total, trial)
    masks = {name: mask.to(device) for name, mask in masks.items()}
    if trial.method not in ("pruned", "snip", "synflow"):
        scale_to(model, masks)
    if trial.method == "rigl":
        steps = trial.epochs * math.ceil(len(dataset.train) / trial.batch)
        often = {"steps": steps, "interval": max(1, steps // 14), "seed": trial.seed}
        masked = RigL(model, masks, **often)
    else:
        Masked(model, masks)
    result["accuracy"] = _fit(model, dataset, trial, masked)
    masks = masked.masks if masked else masks
    return result | {"edges": edges(masks), "useless": useless(masks)}


def network(trial: PeersConvTrial, shape: tuple[int, int, int]) -> nn.Module:
    """Return the dense network with He's normal weights and zero biases."""
    model = nets.build(trial.net, seed=trial.seed, shape=shape)
    generator = torch.Generator().manual_seed(trial.seed)
    for layer in (m for m in model if isinstance(m, nn.Linear | nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return model


def scale_to(model: nn.Module, masks: Masks) -> None:
    """Scale He's weights for dense layers to those for the inputs that each unit really has."""
    for name, w in weights(model).items():
        inputs = masks[name].flatten(1).sum(1).clamp(min=1)  # [outputs]
        factor = (w[0].numel() / inputs).sqrt()
        w.data.mul_(factor.view(-1, *[1] * (w.dim() - 1)))


def _few(dataset: data.Data, n: int) -> data.Data:
    """Keep some of the training images, always the same."""
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    return replace(dataset, train=dataset.train.part(order[:n].to(dataset.device)))


def _fit(
    model: nn.Module, dataset: data.Data, trial: PeersConvTrial, masked: Masked | None = None
) -> float:
    options = {"epochs": trial.epochs, "batch_size": trial.batch, "seed": trial.seed}
    on_step = masked.on_step if masked else None
    training.fit(model, dataset, on_step=on_step, lr=trial.lr, scale=SCALE, **options)
    return training.evaluate(model, dataset.test, scale=SCALE).accuracy


def _sizes(model: nn.Module) -> list[int]:
    return [w.numel() for w in weights(model).values()]


def path_masks(
    model: nn.Module, paths: int, method: str, seed: int, single: bool = False
) -> dict[str, Tensor]:
    """Return the weights that paths take through a stack of convolutions and linear layers.

    Parameters
    ----------
    model
        Convolutions, then linear layers, of which the first takes all places of all channels.
    paths, method, seed
        As of :func:`mcnn.paths.sample_paths`.
    single
        Whether a path takes one weight of a filter, not all of it.

    Returns
    -------
    dict of Tensor
        bool, of the shape of the weights, by the name of the layer.
    """
    named = weights(model)
    layers = list(named.values())
    units = [layers[0].shape[1]]  # of the paths in each layer, places of channels included
    units += [b.shape[1] if b.dim() == 2 else len(a) for a, b in pairwise(layers)]
    units += [len(layers[-1])]
    taps = [w[0, 0].numel() for w in layers if single and w.dim() == 4]
    sampled = sample_paths([*units, *taps], paths, method, seed).long()  # [layers + taps, paths]
    taken = iter(sampled[len(units) :])
    masks = {}
    for i, (name, w) in enumerate(named.items()):
        mask = torch.zeros(w.shape, dtype=torch.bool)
        # Of a linear layer the units are features; of a convolution, channels without places.
        places = units[i + 1] // len(w)
        ends = sampled[i + 1] // places, sampled[i]
        if w.dim() == 4 and single:
            mask.flatten(2)[(*ends, next(taken))] = True
        else:
            mask[ends] = True
        masks[name] = mask
    return masks


def paths_for(model: nn.Module, total: int, method: str, seed: int) -> tuple[int, Masks]:
    """Return how many paths take at most so many weights, and the masks of these.

    Parameters
    ----------
    model, seed
        As of :func:`path_masks`.
    total
        Number of weights.
    method
        A key of :data:`PATHS`.
    """
    generator, single = PATHS[method]

    def masks(n: int) -> Masks:
        return path_masks(model, n, generator, seed, single)

    few, many = 1, total
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if sum(edges(masks(middle))) <= total else (few, middle)
    return few, masks(few)


def useless(masks: Masks) -> int:
    """Return how many weights lie on no way from an input to an output.

    Parameters
    ----------
    masks
        Of a stack of layers as in :func:`path_masks`, in their order.
    """
    joined = [mask.flatten(2).any(2) if mask.dim() > 2 else mask.bool() for mask in masks.values()]
    fed = [joined[0].new_ones(joined[0].shape[1])]  # [units]: some input has an effect
    for edge in joined:  # [outputs, inputs]
        fed[-1] = fed[-1].repeat_interleave(edge.shape[1] // len(fed[-1]))  # places of channels
        fed.append((edge & fed[-1]).any(1))
    heard = joined[-1].new_ones(len(joined[-1]))  # [units]: some output hears it
    lost = 0
    for mask, edge, before in reversed(list(zip(masks.values(), joined, fed, strict=False))):
        heard = heard.view(len(edge), -1).any(1)
        used = heard[:, None] & before  # [outputs, inputs]
        lost += int((mask.bool() & ~used.view(*used.shape, *[1] * (mask.dim() - 2))).sum())
        heard = (edge & heard[:, None]).any(0)
    return lost


def _trials(profile: str, seeds: Sequence[int]) -> list[PeersConvTrial]:
    if profile == "fast":
        fast = {"dataset": "digits", "images": 1000, "epochs": 2, "batch": 16}
        methods = ("dense", "uniform", "erk", "rigl")
        return [PeersConvTrial(seed=seed, method=m, **fast) for seed in seeds for m in methods]
    # Seed by seed, so that a run that is stopped has whole comparisons.
    return [
        trial
        for seed in seeds
        for trial in (
            PeersConvTrial(seed=seed, method="dense", density=1.0),
            *(
                PeersConvTrial(seed=seed, method=method, density=density)
                for density in (0.1, 0.05)
                for method in (*PATHS, *FIELD, "pruned")
            ),
        )
    ]


EXPERIMENTS = [
    Experiment(
        name="paths-peers-conv",
        summary="sparse LeNet-5 of paths and of the field at equal numbers of weights",
        trial=PeersConvTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3, 6)},
        tolerance=0.01,
    ),
]
