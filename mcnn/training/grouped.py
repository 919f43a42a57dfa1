r"""Many LeNets or perceptrons trained at once, with a factor for every hidden unit of each.

The second engine for many networks, beside :mod:`mcnn.training.ensemble`, which takes any network.
This one is written out for two shapes, and masks hidden units from outside of the networks.
The first convolution becomes one with R times the filters, the second has R groups, and a fully
connected layer is a product of R matrices with R matrices, [R, b, n] times [R, n, m].
Nothing passes from one network to another, so each trains as it would alone, up to rounding.

That is why it is here: on a core of an AMD EPYC a step of eight LeNet-5 takes 0.41 of the time of
``torch.func.vmap``, and 0.25 of it in bfloat16, from which vmap gains nothing; one of thirty
perceptrons 784/64/64/10 takes 0.8.
Sums in another order make other bits, and after an epoch the weights of those perceptrons differ by
up to 1e-3: experiments recorded with one engine are repeated with it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from tqdm import tqdm

from mcnn.data import Data, Split
from mcnn.data.split import batch_indices
from mcnn.training.fit import SCHEDULES, DivergenceError, choose


class Grouped(nn.Module):
    """Networks of one shape side by side, in place of a loop over them.

    Parameters
    ----------
    models
        R LeNets or multi-layer perceptrons of :mod:`mcnn.training.nets`; their weights are copied.
    mixed
        Whether products are computed in bfloat16, with weights and sums in float32.

    Attributes
    ----------
    count
        R.
    """

    def __init__(self, models: Sequence[nn.Sequential], mixed: bool = False) -> None:
        super().__init__()
        self.count, self.mixed = len(models), mixed
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
            groups = self.count
        if self.convolutions:
            x = x.reshape(len(x), self.count, -1).transpose(0, 1)  # [R, b, n]
        elif x.ndim == 4:
            x = x.flatten(1).expand(self.count, -1, -1)  # [R, b, n]
        for i, (w, b) in enumerate(self.linears):
            x = torch.baddbmm(b, x, w)  # [R, b, n]
            if i < len(self.linears) - 1:
                x = F.relu(x)
                x = x if masks is None else x * masks[i]
        return x


def fit(
    models: Grouped,
    data: Data,
    masks: Callable[[int], Sequence[Tensor]],
    *,
    epochs: int,
    seeds: int | Sequence[int],
    batch_size: int = 128,
    lr: float = 0.01,
    momentum: float = 0.9,
    schedule: str = "constant",
    scale: str = "standard",
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
) -> list[dict[str, Any]]:
    """Train networks side by side, in place, by SGD with momentum.

    Parameters
    ----------
    models
        On the device of the data.
    data
        What all are trained on.
    masks
        Called before each step with its number of images b; returns the factors of
        :meth:`Grouped.forward`.
    epochs, batch_size, lr, momentum, schedule, scale
        As in :func:`mcnn.training.fit`.
    seeds
        Of the order of the images: one for all, which then see the same batches, or R of them, for
        perceptrons.
    on_epoch
        Called after every epoch with the row that is returned.

    Returns
    -------
    list of dict
        A row an epoch: ``epoch`` from one, and ``train_accuracy``, [R], on the batches as they were
        trained on, with masks.

    Raises
    ------
    ValueError
        For an unknown schedule, a number out of range, or seeds of another number of networks.
    DivergenceError
        If the loss becomes infinite or NaN.
    """
    make_schedule = choose("schedule", schedule, SCHEDULES)
    shared = isinstance(seeds, int)
    if not shared and len(seeds) != models.count:
        raise ValueError(f"seeds must be {models.count}, one a network, got {len(seeds)}")
    if not shared and models.convolutions:
        raise ValueError("seeds must be one for all networks with convolutions: they share images")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n, train = len(data.train), data.train
    # The fused step goes over the weights once: they are most of what a step moves.
    optimizer = optim.SGD(models.parameters(), lr, momentum, fused=True)
    scheduler = make_schedule(optimizer, lr, epochs * math.ceil(n / batch_size))
    generators = [torch.Generator().manual_seed(s) for s in ([seeds] if shared else seeds)]
    rows = []
    for epoch in tqdm(range(1, epochs + 1), desc="epochs", disable=None, leave=False):
        hits = torch.zeros(models.count, dtype=torch.int64, device=data.device)
        loss_sum = torch.zeros((), dtype=torch.float64, device=data.device)
        orders = (batch_indices(n, batch_size, g, False, data.device) for g in generators)
        for batches in zip(*orders, strict=True):
            index = batches[0] if shared else torch.stack(batches)  # [b] or [R, b]
            x = train.inputs(index.flatten(), scale)
            x = x if shared else x.flatten(1).unflatten(0, index.shape)  # [R, b, n]
            y = train.labels[index].expand(models.count, -1)  # [R, b]
            logits = models(x, masks(y.shape[1]))  # [R, b, classes]
            optimizer.zero_grad()
            # A mean over the batch and a sum over the networks: the gradient of each by itself.
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
            (loss / y.shape[1]).backward()
            optimizer.step()
            scheduler.step()
            loss_sum += loss.detach()
            hits += (logits.argmax(2) == y).sum(1)
        if not math.isfinite(float(loss_sum)):
            raise DivergenceError(
                f"the training loss of a network became {float(loss_sum)} in epoch {epoch} with "
                f"lr={lr}: choose a smaller lr"
            )
        rows.append({"epoch": epoch, "train_accuracy": (hits.double() / n).tolist()})
        if on_epoch is not None:
            on_epoch(rows[-1])
    return rows


@torch.no_grad()
def accuracy(
    models: Grouped, split: Split, scale: str = "standard", batch_size: int = 250
) -> list[float]:
    """Return the accuracy of each network without masks, [R]."""
    hits = torch.zeros(models.count, dtype=torch.int64, device=split.device)
    for x, y in split.batches(batch_size, scale=scale):
        hits += (models(x).argmax(2) == y).sum(1)
    return (hits.double() / len(split)).tolist()
