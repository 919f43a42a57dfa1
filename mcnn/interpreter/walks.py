r"""A network's linear system as a sum over active paths, estimated by walking backwards.

An entry of :math:`A(x)` is the sum over all paths from an input to an output, through units that
are active at :math:`x`, of the product of the weights along the path.
A path that starts at a bias instead belongs to :math:`b(x)`.

There are too many paths to add up one by one, and a random walk takes one of them.
From unit :math:`i` it steps to unit :math:`j` of the layer before with probability
:math:`p_{j,i}=|w_{j,i}|\,g_j\,m_j/m_i`, where :math:`g_j` is one for an active unit and zero for
another, and :math:`m_i=\sum_j|w_{j,i}|\,g_j\,m_j`, with the bias as one more unit that ends the
walk.

- *Folded*: :math:`m_j` is the same sum one layer below, and one at the inputs. A path is then
  taken in proportion to the size of its product, and each walk contributes :math:`\pm m_i` of its
  output.
- *Else*: :math:`m_j=1` on the right, the weights of one layer alone, as on the talk's slides. A
  walk carries the product of what it left out.

Either is unbiased: the mean of :math:`n` walks has expectation :math:`A` and :math:`b`, and an
error of :math:`n^{-1/2}`.
"""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError
from mcnn.sampling import as_seed, fold_in, uniforms

_CHUNK = 2**18  # walks at a time


class Layers(NamedTuple):
    """A stack of linear layers with the gates that are open at one input.

    Attributes
    ----------
    weights, biases
        [outputs, inputs] and [outputs] of each layer.
    gates
        [inputs] of each layer: the slope by which each input came out of the gates before it.
        Gates behind the last layer are in its weights and bias.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    gates: list[Tensor]


@torch.no_grad()
def active(model: nn.Sequential, x: Tensor) -> Layers:
    """Return weights, biases and open gates of a stack at an input.

    Parameters
    ----------
    model
        ``nn.Sequential`` of ``nn.Linear`` and ``nn.ReLU``, flattening first if it must.
    x
        One input of the model.

    Raises
    ------
    UsageError
        For any other module; ``linear`` takes those, and walks do not. If a number is NaN or
        infinite.
    """
    if not isinstance(model, nn.Sequential):
        raise UsageError(f"walks go through an nn.Sequential, not through {type(model).__name__}")
    if not all(bool(v.isfinite().all()) for v in (x, *model.parameters())):
        raise UsageError("the input or a parameter of the model is NaN or infinite")
    weights, biases, gates = [], [], []
    z = x.flatten()
    gate = torch.ones_like(z)
    for module in model:
        if isinstance(module, nn.Linear):
            weights.append(module.weight)
            biases.append(z.new_zeros(len(module.weight)) if module.bias is None else module.bias)
            gates.append(gate)
            z = module(z)
            gate = torch.ones_like(z)
        elif isinstance(module, nn.ReLU):
            gate = (z > 0).to(z.dtype)
            z = z * gate
        elif not isinstance(module, nn.Flatten | nn.Identity):
            kind = type(module).__name__
            raise UsageError(f"walks go through Linear, ReLU and Flatten, not through {kind}")
    if not weights:
        raise UsageError("the model has no linear layer to walk through")
    if not bool((gate == 1).all()):
        weights[-1], biases[-1] = weights[-1] * gate[:, None], biases[-1] * gate
    return Layers(weights, biases, gates)


@torch.no_grad()
def walk(
    model: nn.Sequential,
    x: Tensor,
    output: int,
    walks: int,
    fold: bool = True,
    seed: int | torch.Generator = 0,
) -> tuple[Tensor, Tensor]:
    r"""Estimate a row of :math:`A(x)` and its entry of :math:`b(x)` by backward random walks.

    Parameters
    ----------
    model
        A stack of linear layers and ReLUs, see :func:`active`.
    x
        One input.
    output
        Which row.
    walks
        How many, at least one.
    fold
        Whether steps know the layers below, see above.
    seed
        An integer, or a generator, which is advanced by one draw.

    Returns
    -------
    Tensor
        The estimate of the row, float64 [inputs].
    Tensor
        The estimate of the bias, a float64 scalar.

    Raises
    ------
    UsageError
        Of :func:`active`, for an output that there is not, or less than one walk.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> row, bias = walk(model, torch.ones(1, 4), output=1, walks=100)
    >>> row.shape, bias.shape
    (torch.Size([4]), torch.Size([]))
    """
    layers = active(model, x)
    output, walks = _output(layers, output), operator.index(walks)
    if walks < 1:
        raise UsageError(f"walks must be at least 1, got {walks}")
    steps = _steps(layers, fold)
    inputs = layers.weights[0].shape[1]
    ends = torch.zeros(inputs + 1, dtype=torch.float64, device=x.device)  # the last is the bias
    seed = as_seed(seed)
    for start in range(0, walks, _CHUNK):
        number = torch.arange(start, min(start + _CHUNK, walks), device=x.device)
        _walk_chunk(steps, output, number, seed, ends)
    ends /= walks
    return ends[:-1], ends[-1]


def _output(layers: Layers, output: int) -> int:
    outputs = len(layers.weights[-1])
    if not 0 <= output < outputs:
        raise UsageError(f"output must be 0 ... {outputs - 1}, got {output}")
    return operator.index(output)


class _Step(NamedTuple):
    """Where to go from the units of a layer; the last column is the bias.

    ``edges`` holds the ends of the pieces of all units one after the other, those of unit i between
    i and i + 1, so that one search finds the step of any number of walks.
    """

    edges: Tensor  # [outputs * (inputs + 1)]
    carried: Tensor  # [outputs, inputs + 1]: weight over probability, times the gate


def _steps(layers: Layers, fold: bool) -> list[_Step]:
    steps = []
    below = torch.ones(
        layers.weights[0].shape[1], dtype=torch.float64, device=layers.gates[0].device
    )
    for weight, bias, gate in zip(*layers, strict=True):
        full = torch.cat([weight * gate, bias[:, None]], 1).double()  # [outputs, inputs + 1]
        one = torch.ones(1, dtype=torch.float64, device=full.device)
        mass = full.abs() * torch.cat([below, one])
        total = mass.sum(1, keepdim=True)  # [outputs, 1]
        ends = mass.cumsum(1) / total.clamp(min=_TINY)
        number = torch.arange(len(full), device=full.device)[:, None]
        chance = mass / total.clamp(min=_TINY)
        carried = full / chance.clamp(min=_TINY)
        steps.append(_Step((ends + number).flatten(), carried))
        below = total[:, 0] if fold else torch.ones_like(total[:, 0])
    return steps


_TINY = 1e-300  # a unit without a way back, or a way without a chance, contributes nothing


def _walk_chunk(
    steps: Sequence[_Step], output: int, number: Tensor, seed: int, ends: Tensor
) -> None:
    """Walk from an output to the inputs or a bias, and add what was carried where it ends."""
    unit = torch.full_like(number, output)
    carried = torch.ones(len(number), dtype=torch.float64, device=number.device)
    for layer in reversed(range(len(steps))):
        edges, ratio = steps[layer]
        width = ratio.shape[1]
        xi = uniforms(fold_in(seed, layer), number)
        place = torch.searchsorted(edges, unit + xi, right=True) - unit * width
        place = place.clamp(0, width - 1)  # where rounding leaves the piece of the unit
        carried = carried * ratio[unit, place]
        at_bias = place == width - 1
        ends[-1] += carried[at_bias].sum()
        on = ~at_bias
        unit, carried, number = place[on], carried[on], number[on]
    ends.index_add_(0, unit, carried)


@torch.no_grad()
def variance(model: nn.Sequential, x: Tensor, output: int, fold: bool = True) -> float:
    r"""Return the exact variance of one walk: the expected squared distance of its row and bias.

    A walk that ends at input :math:`j` with :math:`c` puts :math:`c` there, so that it is
    :math:`\mathbb{E}[c^2]-\|A_i\|^2-b_i^2`, and :math:`\mathbb{E}[c^2]` is a sum over layers.

    Parameters
    ----------
    model, x, output, fold
        As in :func:`walk`.

    Raises
    ------
    UsageError
        As of :func:`walk`.
    """
    layers = active(model, x)
    output = _output(layers, output)
    second = None  # of what a walk from each unit ends with, squared
    first = None  # [units, inputs + 1]: where it ends, in the mean
    for (_, ratio), weight, bias, gate in zip(_steps(layers, fold), *layers, strict=True):
        full = torch.cat([weight * gate, bias[:, None]], 1).double()
        if first is None:
            first = torch.eye(full.shape[1], dtype=torch.float64, device=full.device)[:-1]
            second = torch.ones(full.shape[1] - 1, dtype=torch.float64, device=full.device)
        ended = torch.zeros_like(first[:1])
        ended[:, -1] = 1  # at the bias
        second = (full * ratio) @ torch.cat([second, torch.ones_like(second[:1])])
        first = full @ torch.cat([first, ended])
    return float(second[output] - first[output].square().sum())
