"""What the experiments on sparse training share: masks out of paths, and a network inside masks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, nets, train
from mcnn.paths.generators import sample_paths
from mcnn.paths.peers.masks import Masked, weights

RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "schedule": "cosine"}
BATCH = 128
SEEDS = {"fast": range(1), "full": range(5)}


def network(widths: Sequence[int], seed: int) -> nn.Sequential:
    """Return a fully connected network with He's normal weights for dense layers, zero biases."""
    model = nets.build("mlp", seed=seed, widths=tuple(widths))
    generator = torch.Generator().manual_seed(seed)
    for layer in (m for m in model if isinstance(m, nn.Linear)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return model


def scale_to(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Scale He's weights for dense layers to those for the inputs that each unit really has."""
    for name, weight in weights(model).items():
        inputs = masks[name].sum(1, keepdim=True).clamp(min=1)  # [rows, 1]
        weight.data.mul_((weight.shape[1] / inputs).sqrt())


def path_masks(model: nn.Module, paths: int, method: str, seed: int) -> dict[str, Tensor]:
    """Return the edges of sampled paths as masks, bool, by the name of the layer."""
    found = weights(model)
    widths = [w.shape[1] for w in found.values()] + [len(list(found.values())[-1])]
    units = sample_paths(widths, paths, method=method, seed=seed).long()  # [layers, paths]
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in found.items()}
    for mask, (left, right) in zip(masks.values(), pairwise(units), strict=True):
        mask[right, left] = True
    return masks


def edges(masks: Mapping[str, Tensor]) -> list[int]:
    """Return the number of weights of each layer."""
    return [int(mask.count_nonzero()) for mask in masks.values()]


def fit(
    model: nn.Module,
    found: data.Data,
    masked: Masked | None,
    epochs: int,
    seed: int,
) -> float:
    """Train inside masks that stay, or that change after a step, and return the test accuracy."""
    train.fit(model, found, epochs=epochs, batch_size=BATCH, seed=seed, on_step=masked, **RECIPE)
    return train.evaluate(model, found.test).accuracy
