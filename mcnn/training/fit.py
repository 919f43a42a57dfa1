"""One plain training loop, the same for every chapter.

The network sees the training images in a new order each epoch, a batch at a time.
Each batch gives the gradient of the mean cross entropy, and the optimizer takes a step against it.
What a chapter changes is the network, not the loop; where it has to act between two steps, to mask
weights or to change their number, it is called with a :class:`Step`, which knows the optimizer.

All random numbers come from the seed: the order of the images, their augmentation, and what the
network itself draws, as dropout does.
The loop leaves the global generators as it found them.
On one thread of a CPU the same seed gives the same weights, bit by bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler
from tqdm import tqdm

from mcnn.data import Data, Split
from mcnn.errors import McnnError

T = TypeVar("T")


class DivergenceError(McnnError):
    """The training loss is no finite number any more."""


class Evaluation(NamedTuple):
    """How well a network does on a split."""

    accuracy: float
    loss: float


@dataclass
class Step:
    """A step of a training that has just been taken.

    Attributes
    ----------
    model
        The network, its parameters updated; their gradients are those of the step.
    optimizer
        What updated them.
        Who replaces a parameter of the network replaces it here, too
        (:func:`mcnn.paths.migrate_optimizer_state`), else the new one is not trained.
    scheduler
        Of the learning rate, advanced to the next step.
    number
        Of the step, from zero over all epochs.
    epoch
        From one.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    scheduler: lr_scheduler.LRScheduler
    number: int = 0
    epoch: int = 1


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda p, lr, momentum, decay: optim.SGD(p, lr, momentum, weight_decay=decay),
    "adam": lambda p, lr, momentum, decay: optim.Adam(p, lr, (momentum, 0.999), weight_decay=decay),
}

# The learning rate of every step; "onecycle" leaves the momentum alone, unlike its default.
SCHEDULES: dict[str, Callable[[optim.Optimizer, float, int], lr_scheduler.LRScheduler]] = {
    "constant": lambda o, lr, steps: lr_scheduler.ConstantLR(o, factor=1.0),
    "linear": lambda o, lr, steps: lr_scheduler.LinearLR(o, 1.0, 0.0, steps),
    "cosine": lambda o, lr, steps: lr_scheduler.CosineAnnealingLR(o, steps),
    "onecycle": lambda o, lr, steps: lr_scheduler.OneCycleLR(
        o, lr, total_steps=steps, cycle_momentum=False
    ),
}


def crop_flip(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Shift each image by up to ``pad`` pixels, zeros moving in, and mirror every other one.

    Parameters
    ----------
    x
        float, [b, c, h, w].
    generator
        Of the CPU, so that every device sees the same images.
    pad
        The largest shift.

    Returns
    -------
    Tensor
        The shape of ``x``.
    """
    b, _, h, w = x.shape
    down, right = torch.randint(2 * pad + 1, (2, b, 1), generator=generator).to(x.device)
    mirror = torch.randint(2, (b, 1), generator=generator).bool().to(x.device)
    rows = down + torch.arange(h, device=x.device)  # [b, h]
    columns = right + torch.arange(w, device=x.device)  # [b, w]
    columns = torch.where(mirror, columns.flip(1), columns)
    image = torch.arange(b, device=x.device).view(b, 1, 1)
    padded = F.pad(x, (pad, pad, pad, pad)).movedim(1, -1)  # [b, h + 2 pad, w + 2 pad, c]
    return padded[image, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"crop-flip": crop_flip}


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 128,
    optimizer: str = "sgd",
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    l1: float = 0.0,
    scale: str = "unit",
    augment: str | None = None,
    seed: int = 0,
    order: Callable[[int], Tensor] | None = None,
    evaluate_each: bool = False,
    on_epoch: Callable[[nn.Module, dict[str, Any]], object] | None = None,
    on_step: Callable[[Step], object] | None = None,
    desc: str = "train",
) -> list[dict[str, Any]]:
    """Train a network in place.

    Parameters
    ----------
    model
        Takes images, [b, c, h, w], and returns logits, [b, classes].
    data
        On the device of the model.
    epochs
        How often each image is seen.
    batch_size
        Images a step; the last batch of an epoch may be smaller.
    optimizer
        One of :data:`OPTIMIZERS`.
    lr
        The learning rate: the first of ``"linear"`` and ``"cosine"``, which fall to zero, the
        largest of ``"onecycle"``.
    momentum
        For Adam the decay of its first moment.
    weight_decay
        Factor of half the sum of all squared parameters in the loss.
    schedule
        One of :data:`SCHEDULES`: how the learning rate changes from step to step.
    l1
        Factor of the sum of the absolute weights (not biases) in the loss.
    scale
        ``"unit"`` or ``"standard"``, see :meth:`mcnn.data.Split.inputs`.
    augment
        ``None`` or one of :data:`AUGMENTATIONS`.
    seed
        Of everything random.
    order
        Called with the number of the epoch, from one; returns which images it goes through, one
        after the other, int64 [n], as many as there are.
        Without it they are shuffled by the seed.
    evaluate_each
        Test after every epoch.
    on_epoch
        Called as ``on_epoch(model, row)`` after every epoch, with the row that is returned.
    on_step
        Called after every step with a :class:`Step`, the same object each time.
    desc
        Label of the progress bar.

    Returns
    -------
    list of dict
        A row an epoch: ``epoch`` from one, ``loss`` and ``train_accuracy`` as means over the
        epoch's batches when they were trained on (penalties not included), and with
        ``evaluate_each`` also ``test_loss`` and ``test_accuracy``.

    Raises
    ------
    ValueError
        For an unknown name, a number out of range, no images to train on, or an ``order`` of
        more or fewer images than there are.
    DivergenceError
        If the loss becomes infinite or NaN.
    """
    make_optimizer = choose("optimizer", optimizer, OPTIMIZERS)
    make_schedule = choose("schedule", schedule, SCHEDULES)
    change = None if augment is None else choose("augment", augment, AUGMENTATIONS)
    for parameter, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if value < 1:
            raise ValueError(f"{parameter} must be at least 1, got {value}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    if not 0 <= l1 < math.inf:
        raise ValueError(f"l1 must be finite and not negative, got {l1}")
    if data.train is None or len(data.train) == 0:
        raise ValueError(f"data.train of {data.name} is empty: there is nothing to train on")

    parameters = [p for p in model.parameters() if p.requires_grad]
    total = epochs * math.ceil(len(data.train) / batch_size)
    chosen = make_optimizer(parameters, lr, momentum, weight_decay)
    state = Step(model, chosen, make_schedule(chosen, lr, total))
    generator = torch.Generator().manual_seed(seed)

    rows = []
    bar = tqdm(total=total, desc=desc, disable=None, leave=False)
    with bar, _own_random_numbers(seed, data.device):
        for epoch in range(1, epochs + 1):
            state.epoch = epoch
            model.train()
            # Sums stay on the device: reading one would make a GPU wait in every step.
            loss_sum = torch.zeros((), dtype=torch.float64, device=data.device)
            hits = torch.zeros((), dtype=torch.int64, device=data.device)
            for x, y in _batches(data.train, batch_size, scale, generator, order, epoch):
                if change is not None:
                    x = change(x, generator)
                logits = model(x)  # [b, classes]
                loss = F.cross_entropy(logits, y)
                state.optimizer.zero_grad()
                loss.backward()
                if l1:
                    _add_l1_gradient(state.optimizer, l1)
                state.optimizer.step()
                state.scheduler.step()
                loss_sum += loss.detach() * len(y)
                hits += (logits.argmax(1) == y).sum()
                if on_step is not None:
                    on_step(state)
                state.number += 1
                bar.update()
            n = len(data.train)
            row = {"epoch": epoch, "loss": float(loss_sum) / n, "train_accuracy": int(hits) / n}
            if not math.isfinite(row["loss"]):
                raise DivergenceError(
                    f"the training loss became {row['loss']} in epoch {epoch} with lr={lr}: "
                    "choose a smaller lr"
                )
            if evaluate_each:
                row["test_accuracy"], row["test_loss"] = evaluate(model, data.test, scale=scale)
            rows.append(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}")
            if on_epoch is not None:
                on_epoch(model, row)
    return rows


def _batches(
    split: Split,
    batch_size: int,
    scale: str,
    generator: torch.Generator,
    order: Callable[[int], Tensor] | None,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    if order is None:
        yield from split.batches(batch_size, generator, scale=scale)
        return
    chosen = order(epoch)  # [n]
    if len(chosen) != len(split):
        raise ValueError(
            f"order must be of {len(split)} images, as many as there are, got {len(chosen)}"
        )
    for index in chosen.to(split.device).split(batch_size):
        yield split.inputs(index, scale), split.labels[index]


def choose(parameter: str, name: str, table: Mapping[str, T]) -> T:
    """Return an entry of a table.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.
    """
    if name not in table:
        raise ValueError(f"no {parameter} {name!r}; there are: {', '.join(table)}")
    return table[name]


@torch.no_grad()
def _add_l1_gradient(optimizer: optim.Optimizer, factor: float) -> None:
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if p.ndim > 1 and p.grad is not None:  # weights, not biases
            p.grad.add_(p.sign(), alpha=factor)


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, from which dropout draws, and put them back at the end."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, scale: str = "unit", batch_size: int = 1000, top: int = 1
) -> Evaluation:
    """Test a network on all images of a split; its mode (train or eval) is put back.

    Parameters
    ----------
    model
        Takes images, [b, c, h, w], and returns logits, [b, classes].
    split
        On the device of the model.
    scale
        As in training.
    batch_size
        Images at a time.
    top
        An image counts as right if its class is among the ``top`` largest logits.

    Returns
    -------
    Evaluation
        The fraction that is right, and the mean cross entropy.

    Raises
    ------
    ValueError
        For an empty split or a size below one.
    """
    if len(split) == 0:
        raise ValueError("split is empty: there is nothing to test on")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    training = model.training
    model.eval()
    loss, hits = 0.0, 0
    try:
        for x, y in split.batches(batch_size, scale=scale):
            logits = model(x)  # [b, classes]
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            hits += int((logits.topk(top, 1).indices == y.unsqueeze(1)).sum())
    finally:
        model.train(training)
    return Evaluation(hits / len(split), loss / len(split))
