"""Training by logistic loss, with a few items that were not chosen beside each that was."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.errors import UsageError
from mcnn.ranking.interactions import Interactions
from mcnn.ranking.negatives import not_known


@dataclass(frozen=True)
class Recipe:
    """How a model learns.

    Attributes
    ----------
    lr
        Of Adam.
    decay
        Decoupled weight decay of all parameters.
    """

    lr: float = 1e-3
    decay: float = 0.0


def epochs(
    models: Sequence[tuple[nn.Module, Recipe]],
    data: Interactions,
    *,
    number: int = 20,
    negatives: int = 4,
    batch_size: int = 256,
    generator: torch.Generator,
) -> Iterator[int]:
    """Train models on the same batches, and hand back after each epoch, from 1 on.

    Parameters
    ----------
    models
        What is trained, each with its recipe; losses are apart, the examples are the same.
    data
        What is learned from.
    number
        Epochs.
    negatives
        Items that were not chosen for each that was, drawn anew in each epoch.
    batch_size
        Pairs of both kinds.
    generator
        Source of the random numbers, on the CPU.

    Raises
    ------
    UsageError
        If there is no model, a number is too small, or a user may learn from every item, so that
        none is left to draw.

    Notes
    -----
    Source: He et al., Neural collaborative filtering, whose choices are the defaults.
    """
    if not models:
        raise UsageError("there is no model to train")
    number, negatives, batch_size = map(operator.index, (number, negatives, batch_size))
    if min(number, negatives) < 0 or batch_size < 1:
        raise UsageError(
            "number and negatives must be at least 0 and batch_size at least 1, got "
            f"{number}, {negatives} and {batch_size}"
        )
    known = data.known
    if negatives and bool(known.all(1).any()):
        raise UsageError("a user has chosen every item: there is none left that was not chosen")
    return _epochs(models, data, known, number, negatives, batch_size, generator)


def _epochs(
    models: Sequence[tuple[nn.Module, Recipe]],
    data: Interactions,
    known: Tensor,
    number: int,
    negatives: int,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[int]:
    device = next(models[0][0].parameters()).device
    optimizers = [
        torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.decay, fused=True)
        for model, recipe in models
    ]
    others = data.user.repeat(negatives)
    user = torch.cat([data.user, others])
    label = torch.cat([torch.ones(len(data.user)), torch.zeros(len(others))])
    for epoch in range(1, number + 1):
        item = torch.cat([data.item, not_known(known, others, generator)])
        order = torch.randperm(len(user), generator=generator)
        epoch_of = [x[order].to(device).split(batch_size) for x in (user, item, label)]
        for u, i, y in zip(*epoch_of, strict=True):
            for (model, _), optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(model(u, i), y).backward()
                optimizer.step()
        yield epoch
