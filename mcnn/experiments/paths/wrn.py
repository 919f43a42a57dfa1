"""A sparse WRN-22-2 on CIFAR-10, the network that sparse training is often compared on.

The wide residual network [1]_ has a 3×3 convolution, three groups of residual blocks with 32, 64
and 128 channels, the first block of the second and the third group with a stride of two, and a
linear layer behind the mean over the image.
Normalisation and ReLU come before each convolution; where the channels change, a 1×1 convolution
goes around the block.
A fifth of the weights is there, as in the comparison of RigL's authors [2]_.

- ``static``: a random mask of one density in every layer; ``rigl``: masks by Erdős and Rényi with
  kernel, exchanged every 100 steps;
- ``uniform``, ``permutation``, ``sobol``: paths take one channel of each layer, an edge is a whole
  filter, and the ways around blocks follow the paths, too;
- ``dense``: all weights.

The recipe is near the paper's: 250 epochs of SGD with momentum, batches of 128, weight decay 5e-4,
shifts and mirrors; but the learning rate falls as a cosine and not in steps.

It takes a GPU; no record is needed for any claim.

References
----------
.. [1] S. Zagoruyko, N. Komodakis: Wide residual networks. BMVC 2016.
.. [2] U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen: Rigging the lottery: making all tickets
   winners. ICML 2020.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.baselines.evolve import RigL
from mcnn.baselines.masks import Masked, weights
from mcnn.experiments.paths.baselines import _random
from mcnn.experiments.paths.common import edges
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.generators import sample_paths


class Block(nn.Module):
    """A residual block: normalisation, ReLU and 3×3 convolution, twice.

    Parameters
    ----------
    inputs, outputs
        Channels.
    stride
        Of the first convolution and of the way around.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.around = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, outputs, h / stride, w / stride] of [batch, inputs, h, w]."""
        a = self.first(x).relu()
        y = self.conv2(self.second(self.conv1(a)).relu())
        return y + (x if self.around is None else self.around(a))


class WideResNet(nn.Sequential):
    """A wide residual network for small images.

    Parameters
    ----------
    depth
        Layers with weights on the longest way: 4 more than a multiple of 6.
    width
        Factor of the channels.
    inputs
        Channels of an image.
    classes
        Number of logits.
    seed
        Of the initial weights, He's by the fan-out, as the paper's.

    Raises
    ------
    ValueError
        For a depth that is no such number.

    Examples
    --------
    >>> WideResNet(10, 1)(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, depth: int = 22, width: int = 2, inputs: int = 3, classes: int = 10, seed: int = 0
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 10, 16, 22, ..., got {depth}")
        before = 16
        layers: list[nn.Module] = [nn.Conv2d(inputs, before, 3, padding=1, bias=False)]
        for group in range(3):
            channels = 16 * width * 2**group
            for block in range((depth - 4) // 6):
                layers.append(Block(before, channels, 2 if group and not block else 1))
                before = channels
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(before, classes))
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        nn.init.normal_(self[-1].weight, std=before**-0.5, generator=generator)
        nn.init.zeros_(self[-1].bias)


def path_masks(model: WideResNet, paths: int, method: str, seed: int) -> dict[str, Tensor]:
    """Return the weights that paths take, bool, by the name of the layer.

    Parameters
    ----------
    model
        Whose channels are the units.
    paths, method, seed
        As of :func:`mcnn.paths.sample_paths`.
    """
    layers = weights(model)
    straight = {name: w for name, w in layers.items() if not name.endswith("around")}
    units = [next(iter(straight.values())).shape[1], *(len(w) for w in straight.values())]
    sampled = sample_paths(units, paths, method, seed).long()  # [layers, paths]
    layer = {name: i for i, name in enumerate(straight)}
    masks = {}
    for name, w in layers.items():
        if name in layer:
            start, end = layer[name], layer[name] + 1
        else:  # from the input of the block to its output
            block = name.removesuffix("around")
            start, end = layer[f"{block}conv1"], layer[f"{block}conv2"] + 1
        masks[name] = torch.zeros(w.shape, dtype=torch.bool)
        masks[name][sampled[end], sampled[start]] = True
    return masks


@dataclass(frozen=True, kw_only=True)
class WrnTrial(Trial):
    """A sparse wide residual network and how its weights are chosen."""

    dataset: str = "cifar10"
    method: str = "uniform"
    density: float = 0.2
    depth: int = 22
    width: int = 2
    epochs: int = 250
    lr: float = 0.1
    augment: bool = True


def _run(trial: WrnTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = WideResNet(trial.depth, trial.width, dataset.shape[0], seed=trial.seed).to(device)
    masks = _masks(trial, model)
    masked: Masked | None = None
    if trial.method == "rigl":
        steps = trial.epochs * math.ceil(len(dataset.train) / 128)
        masked = RigL(model, masks, steps=steps, interval=min(100, steps // 4), seed=trial.seed)
    elif masks:
        masked = Masked(model, masks)
    training.fit(
        model,
        dataset,
        epochs=trial.epochs,
        lr=trial.lr,
        weight_decay=5e-4,
        augment="crop-flip" if trial.augment else None,
        scale="standard",
        seed=trial.seed,
        on_step=masked.on_step if masked else None,
    )
    size = sum(w.numel() for w in weights(model).values())
    return {
        "accuracy": training.evaluate(model, dataset.test, scale="standard").accuracy,
        "weights": size,
        "edges": sum(edges(masked.masks)) if masked else size,
    }


def _masks(trial: WrnTrial, model: WideResNet) -> dict[str, Tensor]:
    if trial.method == "dense":
        return {}
    total = round(trial.density * sum(w.numel() for w in weights(model).values()))
    device = next(model.parameters()).device
    if trial.method in ("static", "rigl"):
        masks = _random(model, None, total, trial, erk=trial.method == "rigl")
        return {name: mask.to(device) for name, mask in masks.items()}
    few, many = 1, total
    while many - few > 1:
        middle = (few + many) // 2
        size = sum(edges(path_masks(model, middle, trial.method, trial.seed)))
        few, many = (middle, many) if size <= total else (few, middle)
    masks = path_masks(model, few, trial.method, trial.seed)
    return {name: mask.to(device) for name, mask in masks.items()}


def _trials(profile: str, seeds: Sequence[int]) -> list[WrnTrial]:
    methods = ("uniform", "permutation", "sobol", "static", "rigl", "dense")
    fast: dict[str, Any] = {}
    if profile == "fast":
        fast = {"dataset": "digits", "depth": 10, "width": 1, "epochs": 1, "augment": False}
        methods = ("uniform", "rigl")
    return [WrnTrial(seed=seed, method=method, **fast) for method in methods for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="paths-wrn",
        summary="a sparse WRN-22-2 on CIFAR-10 of paths, at random, and by RigL; for a GPU",
        trial=WrnTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        tolerance=0.01,
    ),
]
