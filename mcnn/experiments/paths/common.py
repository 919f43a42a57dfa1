"""What the experiments on sparse training share: masks out of paths, and a network inside masks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.baselines.masks import Masked, weights
from mcnn.paths.generators import sample_paths
from mcnn.paths.layers import PathLinear
from mcnn.training import nets

RECIPE: dict[str, Any] = {"optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "schedule": "cosine"}
BATCH = 128
_SPARSE = 0.15  # share of the weights up to which going through the edges is faster
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
    layers = weights(model)
    widths = [w.shape[1] for w in layers.values()] + [len(list(layers.values())[-1])]
    units = sample_paths(widths, paths, method=method, seed=seed).long()  # [layers, paths]
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in layers.items()}
    for mask, (left, right) in zip(masks.values(), pairwise(units), strict=True):
        mask[right, left] = True
    return masks


def edges(masks: Mapping[str, Tensor]) -> list[int]:
    """Return the number of weights of each layer."""
    return [int(mask.count_nonzero()) for mask in masks.values()]


def sparse(model: nn.Sequential, masks: Mapping[str, Tensor]) -> nn.Sequential:
    """Return a network of the weights inside the masks alone: the same outputs, in less time."""
    layers: list[nn.Module] = []
    for name, layer in model.named_children():
        if name in masks:
            mask = masks[name].to(layer.weight.device)
            ends = mask.nonzero().T.flip(0)  # [2, edges]: input and output, sorted by output
            shape = layer.in_features, layer.out_features
            kept = PathLinear(*shape, ends, seed=0, kernel="gather", device=layer.weight.device)
            kept.weight.data.copy_(layer.weight.data[mask])
            kept.bias.data.copy_(layer.bias.data)
            layer = kept
        layers.append(layer)
    return nn.Sequential(*layers)


def fit(
    model: nn.Sequential,
    dataset: data.Data,
    masks: Mapping[str, Tensor] | None,
    epochs: int,
    seed: int,
) -> float:
    """Train the weights inside masks, or all without, and return the test accuracy."""
    if masks is not None and sum(edges(masks)) < _SPARSE * _size(model):
        model = sparse(model, masks)
    elif masks is not None:
        Masked(model, masks)
    return fit_masked(model, dataset, None, epochs, seed)


def fit_masked(
    model: nn.Module, dataset: data.Data, masked: Masked | None, epochs: int, seed: int
) -> float:
    """Train, maybe inside masks that change after steps, and return the test accuracy."""
    options = {"epochs": epochs, "batch_size": BATCH, "seed": seed, **RECIPE}
    training.fit(model, dataset, on_step=masked.on_step if masked else None, **options)
    return training.evaluate(model, dataset.test).accuracy


def _size(model: nn.Module) -> int:
    return sum(w.numel() for w in weights(model).values())
