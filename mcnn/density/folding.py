r"""Moving factors between layers: what leaves a network as it is and changes its densities.

A positive factor passes through ReLU and pooling, :math:`\max\{0,cx\}=c\max\{0,x\}`.
So a neuron's weights and bias can be divided by :math:`c>0`, if the weights that leave the neuron
are multiplied by :math:`c`: the network computes the same.

What this does to the densities:

- of the neuron itself, nothing: :math:`p_j=|w_j|/\|w\|_1` does not see a factor common to a row;
- of the neurons in the next layer, a lot: one *column* of their weights is scaled, and with it the
  probability that this input is selected.

The densities of a trained network are therefore not determined by the function that it computes.
One choice needs no data: :func:`fold_norms` divides every neuron by its own :math:`\|w\|_1`.
Without biases all activations are then at most as large as the largest input, since each neuron
averages, and the weights that leave a neuron carry its scale.
The choice that is best for independent samples makes all inputs alike in
:math:`\mathbb{E}[a_j^2]`; it needs data, see :mod:`mcnn.density.importance`.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mcnn.modelwise import check_all_writable

# f(c x) = c f(x) for c > 0, with each channel (or feature) by itself
_HOMOGENEOUS = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_norms(model: nn.Sequential) -> nn.Sequential:
    r"""Divide each neuron by :math:`\|w\|_1` and multiply what leaves it by the same.

    Parameters
    ----------
    model
        A stack of linear and convolutional layers, with ReLU, leaky ReLU, pooling, flattening and
        dropout between them; not changed.

    Returns
    -------
    nn.Sequential
        A copy that computes the same but for rounding.
        All rows but those of the last layer have :math:`\|w\|_1=1`, or are zero.

    Raises
    ------
    TypeError
        If the model is no ``nn.Sequential``.
    ValueError
        If a module between the layers does not let a factor pass, or a layer shares its weights,
        has groups, or has weights that something else computes.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> same, x = fold_norms(net), torch.ones(1, 4)
    >>> torch.allclose(net(x), same(x), atol=1e-6)
    True
    >>> bool((same[0].weight.abs().sum(1) - 1).abs().max() < 1e-6)
    True
    """
    return _folded(model)[0]


def input_norms(model: nn.Sequential) -> dict[str, Tensor]:
    r"""Return the factors by which :func:`fold_norms` multiplies the weights of each layer.

    Sampling with these as scales in :func:`mcnn.density.importance.quantize` uses the densities of
    the folded network and leaves the network in its own form.

    Parameters
    ----------
    model
        As in :func:`fold_norms`.

    Returns
    -------
    dict of str to Tensor
        For each layer a tensor that broadcasts with its weight: ones for the first.

    Raises
    ------
    TypeError, ValueError
        As :func:`fold_norms`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> input_norms(net)["2"] == net[0].weight.abs().sum()
    tensor([[True]])
    """
    return _folded(model)[1]


@torch.no_grad()
def _folded(model: nn.Sequential) -> tuple[nn.Sequential, dict[str, Tensor]]:
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    check_all_writable(model)  # what hooks compute cannot even be copied
    model = copy.deepcopy(model)
    before, flattened, seen, factors = None, False, set(), {}
    for name, module in _stack(model, ""):
        if isinstance(module, _WEIGHTED):
            if id(module.weight) in seen:
                raise ValueError(f"layer {name!r} shares its weights: no factor is its own")
            seen.add(id(module.weight))
            factors[name] = _wide(module.weight).new_ones([1] * module.weight.dim())
            if before is not None:
                norm = _divide_by_norm(before)  # [rows of the layer before]
                of_inputs = _factors_of_inputs(name, module, before, norm, flattened)  # [inputs]
                factors[name] = of_inputs.view(1, -1, *[1] * (module.weight.dim() - 2))
                _multiply(name, module.weight, factors[name])
            before, flattened = module, False
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            flattened = True
        elif not isinstance(module, _HOMOGENEOUS):
            raise ValueError(f"{name!r} ({type(module).__name__}) may not let a factor pass")
    return model, factors


def _stack(model: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of nested stacks in the order in which they are applied."""
    for name, module in model._modules.items():  # named_children leaves out what occurs again
        if isinstance(module, nn.Sequential):
            yield from _stack(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _divide_by_norm(layer: nn.Module) -> Tensor:
    """Divide weights and bias of each row by the row's norm and return that [rows]."""
    # Rows of half precision have sums beyond its largest number, 65,504.
    norm = _wide(layer.weight).flatten(1).abs().sum(1)  # [rows]
    norm = torch.where(norm > 0, norm, 1)
    layer.weight.copy_(_wide(layer.weight) / norm.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.copy_(_wide(layer.bias) / norm)
    return norm


def _multiply(name: str, weight: Tensor, factor: Tensor) -> None:
    """Multiply a weight in place, or say that it has become too large for its type."""
    product = (_wide(weight) * factor).to(weight.dtype)
    if not torch.isfinite(product).all() and torch.isfinite(weight).all():
        raise ValueError(
            f"layer {name!r}: multiplied by the norms before it, its weights are beyond the "
            f"largest number of {weight.dtype}: fold model.float() instead"
        )
    weight.copy_(product)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _factors_of_inputs(
    name: str, layer: nn.Module, before: nn.Module, norm: Tensor, flattened: bool
) -> Tensor:
    """Return for each input of a layer the norm of the neuron or filter that it comes from."""
    if getattr(layer, "groups", 1) != 1:
        raise ValueError(f"layer {name!r} has groups, which are not folded")
    inputs = layer.weight.shape[1]
    if flattened and not isinstance(before, nn.Linear) and inputs % len(norm) == 0:
        return norm.repeat_interleave(inputs // len(norm))  # a channel is a run of inputs
    if inputs != len(norm) or isinstance(before, nn.Linear) != isinstance(layer, nn.Linear):
        raise ValueError(
            f"the {inputs} inputs of layer {name!r} are not the {len(norm)} outputs of the layer "
            "before it"
        )
    return norm
