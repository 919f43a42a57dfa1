"""A network of depthwise convolutions, in which many rows have but nine weights.

A convolution of each channel by itself, and one of one pixel that mixes channels, take turns.
It is trained here on small images, and kept as those of :mod:`mcnn.experiments.density.networks`.

Source: A. G. Howard et al.: MobileNets: Efficient convolutional neural networks for mobile vision
applications. arXiv:1704.04861; here with four such pairs.
"""

import hashlib
import inspect
import json
import sys
from dataclasses import asdict

import torch
from torch import nn

from mcnn import data, training
from mcnn.data.cache import cache_path
from mcnn.experiments.density import networks
from mcnn.experiments.density.networks import Recipe

_PAIRS = ((1, 2, 1), (2, 4, 2), (4, 8, 1), (8, 8, 1))  # widths in and out, and the stride


def mobile(channels: int, classes: int, width: int) -> nn.Sequential:
    """Return the network; the first convolution has ``width`` filters and a stride of two."""
    layers = [*_normed(nn.Conv2d(channels, width, 3, 2, 1, bias=False))]
    for inputs, outputs, stride in _PAIRS:
        inputs, outputs = inputs * width, outputs * width
        layers += [
            *_normed(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)),
            *_normed(nn.Conv2d(inputs, outputs, 1, bias=False)),
        ]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pooled, nn.Linear(outputs, classes))


def _normed(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]


def trained(recipe: Recipe, source: data.Data) -> nn.Module:
    """Return the network of a recipe, trained, in eval mode, from the cache if it is there."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = mobile(source.shape[0], len(source.classes), recipe.width)
    model = model.to(source.train.images.device)
    code = [inspect.getsource(sys.modules[m]) for m in (__name__, training.fit.__module__)]
    made_by = [asdict(recipe), source.fingerprint, torch.__version__, *code]
    mark = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    file = cache_path() / "networks" / f"{recipe.net}-{recipe.seed}-{mark}.pt"
    state = networks._load(file)
    if state is None:
        training.fit(
            model,
            source,
            epochs=recipe.epochs,
            augment="crop-flip" if recipe.dataset == "cifar10" else None,
            lr=0.2,
            schedule="onecycle",
            weight_decay=5e-4,
            scale="standard",
            seed=recipe.seed,
            desc=f"{recipe.net} {recipe.seed}",
        )
        networks._save(file, model.state_dict())
    else:
        model.load_state_dict(state)
    return model.eval()
