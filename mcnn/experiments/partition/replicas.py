r"""Many small networks trained at once, each with its own way of dropping units.

A small network leaves a processor half idle: much of a step is overhead and memory traffic.
Networks of one shape that see the same images can share a step.
The first convolution becomes one with R times the filters, the second has R groups, and a fully
connected layer is a product of R matrices with R matrices, [R, b, n] times [R, n, m].
Nothing passes from one network to another, so each trains as it would alone, up to rounding.

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
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from mcnn.data import Data, Split
from mcnn.errors import unknown
from mcnn.partition.parts import part_labels
from mcnn.training import nets

KINDS = ("partition", "keep-one", "shared", "dropout")
Arm = tuple[str, int]


class Replicas(nn.Module):
    """Networks of one shape side by side, in place of a loop over them.

    Parameters
    ----------
    models
        R LeNets or multi-layer perceptrons of :mod:`mcnn.training.nets`; their weights are copied.
    mixed
        Whether products are computed in bfloat16, with weights and sums in float32.
    """

    def __init__(self, models: Sequence[nn.Sequential], mixed: bool = False) -> None:
        super().__init__()
        self.replicas, self.mixed = len(models), mixed
        self.convolutions, self.linears = nn.ModuleList(), nn.ModuleList()
        self.paddings: list[Any] = []
        for layers in zip(*models, strict=True):
            if not isinstance(layers[0], nn.Conv2d | nn.Linear):
                continue
            w = [layer.weight.detach() for layer in layers]
            b = [layer.bias.detach() for layer in layers]
            if isinstance(layers[0], nn.Conv2d):
                w = torch.cat(w).contiguous(memory_format=torch.channels_last)
                self.convolutions.append(nn.ParameterList([w, torch.cat(b)]))
                self.paddings.append(layers[0].padding)
            else:  # [R, in, out] and [R, 1, out]
                w = torch.stack(w).mT.contiguous()
                self.linears.append(nn.ParameterList([w, torch.stack(b).unsqueeze(1)]))

    @property
    def widths(self) -> list[int]:
        """Number of units of each layer that has a mask."""
        return [w.shape[2] for w, _ in self.linears][:-1]

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Return the logits, float32 [R, b, classes].

        Parameters
        ----------
        x
            [b, c, h, w]: every network sees the same images; or, for perceptrons, [R, b, n].
        masks
            A factor for every hidden unit, [R, 1 or b, n] for each masked layer; none at a test.
        """
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed):
            return self._logits(x, masks).float()

    def _logits(self, x: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        if self.convolutions:
            x = x.contiguous(memory_format=torch.channels_last)
        groups = 1  # the first convolution sees the same images for all
        for (w, b), padding in zip(self.convolutions, self.paddings, strict=True):
            x = F.conv2d(x, w, b, padding=padding, groups=groups)  # [b, R c, h, w]
            x = F.relu(F.max_pool2d(x, 2))  # in this order a ReLU has a quarter of the work
            groups = self.replicas
        if self.convolutions:
            x = x.reshape(len(x), self.replicas, -1).transpose(0, 1)  # [R, b, n]
        elif x.ndim == 4:
            x = x.flatten(1).expand(self.replicas, -1, -1)  # [R, b, n]
        for i, (w, b) in enumerate(self.linears):
            x = torch.baddbmm(b, x, w)  # [R, b, n]
            if i < len(self.linears) - 1:
                x = F.relu(x)
                x = x if masks is None else x * masks[i]
        return x


class Masks:
    """The factors of hidden units, step after step, for each arm and layer.

    A partition is that of :class:`mcnn.partition.DropoutPartition` with the seed of
    :func:`mask_seed`.
    """

    def __init__(self, arms: Sequence[Arm], widths: Sequence[int], seed: int, device: Any) -> None:
        self.device, self.step = device, 0
        self.layers = [
            [_source(*arm, n, mask_seed(seed, arm, layer)) for arm in arms]
            for layer, n in enumerate(widths)
        ]

    def next(self, batch: int) -> list[Tensor]:
        """Return the factors of the next step, [R, 1 or b, n] for each layer."""
        found = []
        for sources in self.layers:
            each = [source(self.step, batch) for source in sources]  # [1 or b, n]
            rows = max(map(len, each))
            stacked = torch.stack([m.expand(rows, -1) for m in each])
            found.append(stacked.to(self.device))
        self.step += 1
        return found


def mask_seed(seed: int, arm: Arm, layer: int) -> int:
    """Return the seed of an arm's masks: the same whatever other arms there are."""
    kind, parts = arm
    return ((seed * len(KINDS) + KINDS.index(kind)) * 512 + parts) * 16 + layer


def _source(kind: str, parts: int, n: int, seed: int) -> Callable[[int, int], Tensor]:
    """Return what gives the factors of a step for a batch: [1 or b, n]."""
    if kind in ("partition", "keep-one"):
        return _Turns(kind, parts, n, seed)
    if kind not in KINDS:
        raise unknown("kind of mask", kind, KINDS)
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


def fit(
    models: Replicas,
    masks: Masks,
    data: Data,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 128,
    lr: float = 0.01,
    momentum: float = 0.9,
    schedule: str = "constant",
    scale: str = "standard",
    every: int = 1,
) -> dict[str, Any]:
    """Train networks that see the same batches, by SGD with momentum.

    Parameters
    ----------
    models
        Trained in place.
    masks
        One arm for each network.
    data
        On the device of the networks.
    epochs, batch_size, lr, momentum, scale
        As in :func:`mcnn.training.fit`.
    seed
        Of the order of the images.
    schedule
        ``"constant"`` or ``"cosine"``, to zero.
    every
        Epochs between two evaluations; the last epoch is always evaluated.

    Returns
    -------
    dict
        ``"on"``: [epochs][R], the accuracy on training batches as they were trained on, with
        masks; ``"evaluated"``: the epochs, from 1, of the evaluations without masks,
        ``"off"``: [evaluations][R], on the training images, and ``"test"``: on the test images.
    """
    batches = -(-len(data.train) // batch_size)
    descent = optim.SGD(models.parameters(), lr, momentum, fused=True)
    cosine = lr_scheduler.CosineAnnealingLR(descent, epochs * batches)
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, Any] = {"on": [], "evaluated": [], "off": [], "test": []}
    for epoch in tqdm(range(1, epochs + 1), desc="epochs", disable=None, leave=False):
        hits = torch.zeros(models.replicas, dtype=torch.int64, device=data.device)
        for x, y in data.train.batches(batch_size, generator, scale=scale):
            logits = models(x, masks.next(len(y)))  # [R, b, classes]
            descent.zero_grad()
            # A mean over the batch and a sum over the networks: the gradient of each by itself.
            many = y.expand(models.replicas, -1)
            loss = F.cross_entropy(logits.flatten(0, 1), many.flatten(), reduction="sum")
            (loss / len(y)).backward()
            descent.step()
            if schedule == "cosine":
                cosine.step()
            hits += (logits.argmax(2) == many).sum(1)
        rows["on"].append((hits.double() / len(data.train)).tolist())
        if epoch % every == 0 or epoch == epochs:
            rows["evaluated"].append(epoch)
            rows["off"].append(accuracy(models, data.train, scale))
            rows["test"].append(accuracy(models, data.test, scale))
    return rows


@torch.no_grad()
def accuracy(models: Replicas, split: Split, scale: str = "standard") -> list[float]:
    """Return the accuracy of each network without masks, [R]."""
    hits = torch.zeros(models.replicas, dtype=torch.int64, device=split.device)
    for x, y in split.batches(250, scale=scale):
        hits += (models(x).argmax(2) == y).sum(1)
    return (hits.double() / len(split)).tolist()


def train_arms(
    data: Data,
    arms: Sequence[Arm],
    seed: int,
    net: str = "lenet5",
    mixed: bool = False,
    **training: Any,
) -> dict[str, Any]:
    """Train a network for each arm from the same weights, and return what :func:`fit` does, by arm.

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
        See :class:`Replicas`.
    training
        Passed on to :func:`fit`.
    """
    start = nets.build(net, seed=seed, shape=data.shape)
    models = Replicas([start] * len(arms), mixed).to(data.device)
    masks = Masks(arms, models.widths, seed, data.device)
    rows = fit(models, masks, data, seed=seed, **training)
    names = [f"{kind} {parts}" for kind, parts in arms]
    found = {"evaluated": rows["evaluated"]}
    for key in ("on", "off", "test"):
        found[key] = dict(zip(names, map(list, zip(*rows[key], strict=True)), strict=True))
    return found
