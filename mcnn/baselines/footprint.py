r"""What a sparse network takes, in closed form: operations for each example, and bytes to store it.

A weight multiplies and adds once in a linear layer, and once for each place of the output in a
convolution, so a network whose weights are in its convolutions does more with as many of them.

A weight that is there must also be found.
How many bytes that takes depends on how the places were chosen:

============  ====================================================================================
``dense``     nothing: all weights are there
``csr``       compressed rows: the input of each weight, and where each row begins
``slices``    compressed rows of whole filters, from channel to channel
``fan-in``    the input of each weight: rows are equally long, up to one
``paths``     a unit of each layer for each path: neighbouring layers share the units between them
``seed``      nothing but a seed, from which the places can be drawn again
============  ====================================================================================

Weights take four bytes, and a number that says which of n takes the fewest of 1, 2, 4 or 8 bytes.
Biases and normalisation are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from mcnn.baselines.masks import weights

STORAGES = ("dense", "csr", "slices", "fan-in", "paths", "seed")
_WEIGHT = 4  # bytes
_SEED = 8


class LayerShape(NamedTuple):
    """A linear layer or a convolution.

    Parameters
    ----------
    inputs, outputs
        Units, that is features or channels.
    taps
        Weights from a unit to a unit: 1, or those of a filter.
    places
        Where the output of a unit is computed: 1, or height times width.
    """

    inputs: int
    outputs: int
    taps: int = 1
    places: int = 1

    @property
    def size(self) -> int:
        """Number of weights, if all are there."""
        return self.inputs * self.outputs * self.taps


@dataclass(frozen=True)
class Footprint:
    """What a network takes.

    Attributes
    ----------
    operations
        Multiplications and additions of the weights for one example, forward.
    weight_bytes, index_bytes
        To store the weights, and where they are.
    """

    operations: int
    weight_bytes: int
    index_bytes: int

    @property
    def bytes(self) -> int:
        """All bytes that are stored."""
        return self.weight_bytes + self.index_bytes


def layer_shapes(model: nn.Module, shape: tuple[int, ...]) -> dict[str, LayerShape]:
    """Return the shapes of linear and convolutional layers, by name.

    Parameters
    ----------
    model
        Not changed; run once on zeros.
    shape
        Of one input, without the batch.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten(), nn.Linear(96, 10))
    >>> for shape in layer_shapes(net, (3, 8, 8)).values():
    ...     print(tuple(shape))
    (3, 6, 25, 16)
    (96, 10, 1, 1)
    """
    shapes: dict[str, LayerShape] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, _: object, y: torch.Tensor) -> None:
            outputs, inputs, *kernel = module.weight.shape
            places = y[0, 0].numel() if kernel else 1
            shapes[name] = LayerShape(inputs, outputs, torch.Size(kernel).numel(), places)

        return hook

    names = weights(model)
    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if name in names
    ]
    first = next(iter(names.values()))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(first.new_zeros(1, *shape))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return shapes


def footprint(
    layers: Sequence[LayerShape], edges: Sequence[int], storage: str, paths: int = 0
) -> Footprint:
    """Return what a network takes.

    Parameters
    ----------
    layers
        From :func:`layer_shapes`.
    edges
        Weights of each layer that are there.
    storage
        How their places are stored, see above.
    paths
        For ``"paths"``: how many.

    Raises
    ------
    ValueError
        For an unknown storage, numbers of weights that do not fit, or paths where there are none.

    Examples
    --------
    >>> footprint([LayerShape(784, 300), LayerShape(300, 10)], [5000, 500], "csr")
    Footprint(operations=11000, weight_bytes=22000, index_bytes=11624)
    """
    if storage not in STORAGES:
        raise ValueError(f"storage must be one of {', '.join(STORAGES)}, got {storage!r}")
    if len(layers) != len(edges) or any(
        not 0 <= n <= layer.size for layer, n in zip(layers, edges, strict=False)
    ):
        raise ValueError(f"{list(edges)} weights do not fit layers of {[x.size for x in layers]}")
    if (storage == "paths") != (paths > 0):
        raise ValueError(f"a number of paths belongs to storage='paths', got {storage!r}, {paths}")
    index = _SEED if storage == "seed" else 0
    for i, (layer, n) in enumerate(zip(layers, edges, strict=True)):
        if storage == "csr":
            index += n * _bytes(layer.inputs * layer.taps) + (layer.outputs + 1) * _bytes(n + 1)
        elif storage == "slices":
            filters = -(-n // layer.taps)
            index += filters * _bytes(layer.inputs) + (layer.outputs + 1) * _bytes(filters + 1)
        elif storage == "fan-in":
            index += n * _bytes(layer.inputs * layer.taps)
        elif storage == "paths":
            # Behind a convolution the next layer's input says the channel and the place in it.
            index += paths * (_bytes(layer.inputs) + (i == len(layers) - 1) * _bytes(layer.outputs))
    operations = sum(2 * n * layer.places for layer, n in zip(layers, edges, strict=True))
    return Footprint(operations, _WEIGHT * sum(edges), index)


def _bytes(n: int) -> int:
    """Return the bytes of a number below n."""
    return next(size for size in (1, 2, 4, 8) if n <= 256**size)
