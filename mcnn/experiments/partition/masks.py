"""Ways to drop units, and networks trained at once, each with its own.

The networks of a trial begin with the same weights and see the same batches.
What differs is the *arm*, a kind of mask and a number :math:`P`:

=============  ==================================================================================
``partition``  one of P parts is dropped a step, each once in P steps; kept units times P/(P-1)
``keep-one``   one of P parts is kept a step, each once in P steps; kept units times P
``shared``     every unit is dropped with probability 1/P, one mask for all examples of a batch
``dropout``    every unit is dropped with probability 1/P, for each example anew: ``nn.Dropout``
=============  ==================================================================================

The masks act on the outputs of the hidden fully connected layers, after their ReLU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mcnn.data import Data
from mcnn.partition.parts import part_labels
from mcnn.training import grouped, nets

KINDS = ("partition", "keep-one", "shared", "dropout")
Arm = tuple[str, int]


class Masks:
    """The factors of hidden units, step after step: masks of :func:`mcnn.training.grouped.fit`.

    A partition is that of :class:`mcnn.partition.DropoutPartition` with the seed of
    :func:`mask_seed`.

    Parameters
    ----------
    networks
        For each of R networks its arm and the seed of its masks.
    widths
        Of the layers with masks.
    device
        Where the factors go.
    """

    def __init__(
        self, networks: Sequence[tuple[Arm, int]], widths: Sequence[int], device: torch.device | str
    ) -> None:
        self.device, self.step = device, 0
        self.layers = [
            [_source(*arm, n, mask_seed(seed, arm, layer)) for arm, seed in networks]
            for layer, n in enumerate(widths)
        ]

    def __call__(self, batch: int) -> list[Tensor]:
        """Return the factors of the next step, [R, 1 or b, n] for each layer."""
        drawn = []
        for sources in self.layers:
            each = [source(self.step, batch) for source in sources]  # [1 or b, n]
            rows = max(map(len, each))
            stacked = torch.stack([m.expand(rows, -1) for m in each])
            drawn.append(stacked.to(self.device))
        self.step += 1
        return drawn


def mask_seed(seed: int, arm: Arm, layer: int) -> int:
    """Return the seed of an arm's masks: the same whatever other arms there are."""
    kind, parts = arm
    return ((seed * len(KINDS) + KINDS.index(kind)) * 512 + parts) * 16 + layer


def _source(kind: str, parts: int, n: int, seed: int) -> Callable[[int, int], Tensor]:
    """Return what gives the factors of a step for a batch: [1 or b, n]."""
    if kind in ("partition", "keep-one"):
        return _Turns(kind, parts, n, seed)
    if kind not in KINDS:
        raise ValueError(f"no kind of mask {kind!r}; there are: {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(seed)
    keep = 1 - 1 / parts

    def draw(step: int, batch: int) -> Tensor:
        rows = 1 if kind == "shared" else batch
        return torch.empty(rows, n).bernoulli_(keep, generator=generator).div_(keep)

    return draw


class _Turns:
    """The turns of a partition, with the labels of many cycles drawn together."""

    CYCLES = 64

    def __init__(self, kind: str, parts: int, n: int, seed: int) -> None:
        self.kind, self.parts, self.n, self.seed = kind, parts, n, seed

    def __call__(self, step: int, batch: int) -> Tensor:
        cycle, turn = divmod(step, self.parts)
        block, place = divmod(cycle, self.CYCLES)
        if turn == place == 0:
            many = self.CYCLES * self.n
            labels = part_labels(many, self.parts, seed=self.seed, start=block * many)
            self.labels = labels.view(self.CYCLES, self.n)
        chosen = self.labels[place : place + 1] == turn  # [1, n]
        if self.kind == "keep-one":
            return chosen * float(self.parts)
        return ~chosen * (self.parts / (self.parts - 1))


def train_arms(
    data: Data,
    arms: Sequence[Arm],
    seed: int,
    net: str = "lenet5",
    mixed: bool = False,
    every: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Train a network for each arm from the same weights, and return its accuracies.

    Parameters
    ----------
    data
        What to train on.
    arms
        Kind of mask and number of parts, one for each network.
    seed
        Of the initial weights, the order of the images, and the masks.
    net
        Name in :data:`mcnn.training.nets.NETS`.
    mixed
        See :class:`mcnn.training.grouped.Grouped`.
    every
        Epochs between two evaluations; the last epoch is always evaluated.
    options
        Passed on to :func:`mcnn.training.grouped.fit`.

    Returns
    -------
    dict
        ``"evaluated"``: the epochs, from 1, of the evaluations without masks.
        By arm, ``"on"``: [epochs], the accuracy on training batches as they were trained on, with
        masks; ``"off"``: [evaluations], on the training images, and ``"test"``: on the test images.
    """
    start = nets.build(net, seed=seed, shape=data.shape)
    models = grouped.Grouped([start] * len(arms), mixed).to(data.device)
    masks = Masks([(arm, seed) for arm in arms], models.widths, data.device)
    evaluated: list[int] = []
    rows: dict[str, list[list[float]]] = {"on": [], "off": [], "test": []}

    def on_epoch(row: dict[str, Any]) -> None:
        rows["on"].append(row["train_accuracy"])
        if row["epoch"] % every == 0 or row["epoch"] == options["epochs"]:
            evaluated.append(row["epoch"])
            rows["off"].append(grouped.accuracy(models, data.train))
            rows["test"].append(grouped.accuracy(models, data.test))

    grouped.fit(models, data, masks, seeds=seed, on_epoch=on_epoch, **options)
    names = [f"{kind} {parts}" for kind, parts in arms]
    metrics: dict[str, Any] = {"evaluated": evaluated}
    for key, accuracies in rows.items():
        by_arm = map(list, zip(*accuracies, strict=True))
        metrics[key] = dict(zip(names, by_arm, strict=True))
    return metrics
