"""Adding up the squared inputs of each weight while a model runs.

A weight's derivative of the sum of all outputs is the sum of the inputs that it has met.
So for most layers the squared inputs are sent through a copy of the layer, and differentiated: one
rule for every kind of layer, with its strides, groups and padding.
Attention and recurrent layers multiply more than their arguments, and have rules of their own.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mcnn.modelwise import Layer
from mcnn.modelwise.kinds import is_conv1d, is_table
from mcnn.sparse.layer import SparseLayer


class Watch:
    """Hooks on the layers of a model, for as long as the context lasts.

    Parameters
    ----------
    model
        Run it inside of :func:`mcnn.modelwise.observing`.
    layers
        Of the model.

    Attributes
    ----------
    squares
        By the name of the layer, the sum of squared inputs for each weight, in its shape.
    uses
        How many outputs of a row they went to.
    """

    def __init__(self, model: nn.Module, layers: list[Layer]) -> None:
        self.model, self.layers = model, layers
        self.squares: dict[str, Tensor] = {}
        self.uses = {layer.name: 0 for layer in layers}
        self._handles: list[Any] = []

    def __enter__(self) -> "Watch":
        attention = {
            id(module.out_proj): module
            for module in self.model.modules()
            if isinstance(module, nn.MultiheadAttention)
        }
        for layer in self.layers:
            for place in layer.places(self.model):
                module = place.module
                if is_table(module):
                    continue  # rows that are looked up meet no input
                if id(module) in attention:  # its weight is read, it is never called
                    module, rule = attention[id(module)], _out_proj
                elif isinstance(module, nn.MultiheadAttention):
                    rule = _in_proj
                elif isinstance(module, nn.RNNBase):
                    rule = _recurrent
                elif isinstance(module, nn.RNNCellBase):
                    rule = _cell
                else:
                    rule = _plain
                self._register(layer.name, place, module, rule)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _register(self, name: str, place: Layer, module: nn.Module, rule: Any) -> None:
        measure = rule(place, module)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            squares, uses = measure(*args, **kwargs)
            if uses:
                self.squares[name] = self.squares.get(name, 0) + squares
                self.uses[name] += uses

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))


def _wide(x: Tensor) -> Tensor:
    """Return x as it can be squared and added up: half precision numbers overflow, sums drift."""
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


def _probe(module: nn.Module) -> nn.Module:
    """Return a copy of a layer, wide, without the hooks of the layer."""
    probe = copy.deepcopy(module).requires_grad_(False).eval()
    for part in probe.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    dtype = next(probe.parameters()).dtype
    return probe if dtype == torch.float64 else probe.float()


def _plain(place: Layer, module: nn.Module) -> Any:
    sparse = isinstance(module, SparseLayer)
    probe = _probe(module.to_dense() if sparse else module)
    weight = probe.weight.requires_grad_()
    rows = module.out_units if sparse else len(place.rows)
    edges = module.edges if sparse else None
    channels_last = isinstance(module, nn.Linear) or is_conv1d(module) or weight.ndim == 2

    @torch.enable_grad()
    def measure(x: Tensor | None = None, **named: Tensor) -> tuple[Tensor, int]:
        x = next(iter(named.values())) if x is None else x
        out = probe(x.detach().to(weight.dtype).square())
        (grad,) = torch.autograd.grad(out.sum(), weight)
        if edges is not None:
            grad = grad[edges.outputs.long(), edges.inputs.long()]  # [edges, ...]
        uses = out.numel() // (out.shape[-1] if channels_last else rows)
        return grad, uses

    return measure


def _in_proj(place: Layer, module: nn.MultiheadAttention) -> Any:
    inputs = {"q_proj_weight": [0], "k_proj_weight": [1], "v_proj_weight": [2]}
    numbers = inputs.get(place.slot.weight, [0, 1, 2])

    def measure(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        given = [_wide((query, key, value)[i]).flatten(0, -2) for i in numbers]  # [tokens, e]
        means = [x.square().mean(0).expand(module.embed_dim, -1) for x in given]
        tokens = len(given[0])
        return torch.cat(means) * tokens, tokens

    return measure


def _out_proj(place: Layer, module: nn.MultiheadAttention) -> Any:
    probe = _probe(module)  # attention whose last step changes nothing
    probe.out_proj = nn.Linear(module.embed_dim, module.embed_dim, bias=False)
    probe.out_proj.weight.detach().copy_(torch.eye(module.embed_dim))
    probe.to(place.weight.device, next(probe.parameters()).dtype)

    def measure(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Any:
        mixed, _ = probe(_wide(query), _wide(key), _wide(value), *rest, **named)
        mixed = mixed.flatten(0, -2)  # [tokens, e]
        return mixed.square().sum(0).expand(place.weight.shape), len(mixed)

    return measure


def _recurrent(place: Layer, module: nn.RNNBase) -> Any:
    if place.slot.weight.startswith("weight_hr"):
        return lambda *_, **__: (0, 0)  # what it meets stays inside of the layer
    stack = _probe(module)
    directions = 1 + module.bidirectional
    number = next(i for i, names in enumerate(module._all_weights) if place.slot.weight in names)
    level, backward = divmod(number, directions)

    def measure(input: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor, int]:
        lower = _levels(stack, 0, level)
        x, state = _wide_input(input), None if hx is None else _wide_state(hx)
        if lower is not None:
            x, _ = lower(x, _part(state, 0, level * directions))
        if place.slot.weight.startswith("weight_ih"):
            met = _flat(x)  # [steps, inputs]
            return met.square().sum(0).expand(place.weight.shape), len(met)
        this = _levels(stack, level, level + 1)
        first = _part(state, level * directions, (level + 1) * directions)
        y, last = this(x, first)
        size = place.weight.shape[1]
        met = _flat(y)[:, backward * size : (backward + 1) * size]  # [steps, hidden]
        # Steps meet the output of the step before: of the last one nobody does, of a state one.
        squares = met.square().sum(0) - _hidden(last)[backward].square().sum(0)
        if first is not None:
            squares = squares + _hidden(first)[backward].square().sum(0)
        return squares.clamp(min=0).expand(place.weight.shape), len(met)

    return measure


def _levels(stack: nn.RNNBase, first: int, last: int) -> nn.RNNBase | None:
    """Return some of the layers of a recurrent stack."""
    if first == last:
        return None
    directions = 1 + stack.bidirectional
    width = getattr(stack, stack._all_weights[first * directions][0]).shape[1]
    options = {"proj_size": stack.proj_size} if isinstance(stack, nn.LSTM) else {}
    if isinstance(stack, nn.RNN):
        options["nonlinearity"] = stack.nonlinearity
    part = type(stack)(
        width,
        stack.hidden_size,
        last - first,
        stack.bias,
        stack.batch_first,
        bidirectional=stack.bidirectional,
        **options,
    )
    names = stack._all_weights[first * directions : last * directions]
    with torch.no_grad():
        for mine, theirs in zip(part._all_weights, names, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                setattr(part, a, nn.Parameter(getattr(stack, b).detach(), requires_grad=False))
    return part.eval()


def _flat(x: Tensor | PackedSequence) -> Tensor:
    """Return the vectors of all steps, [steps, features]."""
    return x.data if isinstance(x, PackedSequence) else x.flatten(0, -2)


def _wide_input(x: Tensor | PackedSequence) -> Tensor | PackedSequence:
    return x._replace(data=_wide(x.data)) if isinstance(x, PackedSequence) else _wide(x)


def _wide_state(state: Any) -> Any:
    return tuple(map(_wide, state)) if isinstance(state, tuple) else _wide(state)


def _part(state: Any, first: int, last: int) -> Any:
    if isinstance(state, tuple):
        return tuple(s[first:last] for s in state)
    return None if state is None else state[first:last]


def _hidden(state: Any) -> Tensor:
    """Return the hidden states, [directions, sequences, hidden]."""
    h = state[0] if isinstance(state, tuple) else state
    return h.unsqueeze(1) if h.ndim == 2 else h


def _cell(place: Layer, module: nn.RNNCellBase) -> Any:
    def measure(input: Tensor, hx: Any = None) -> tuple[Tensor, int]:
        x = _wide(input).reshape(-1, input.shape[-1])  # [batch, inputs]
        if place.slot.weight == "weight_ih":
            met = x
        elif hx is None:
            met = x.new_zeros(len(x), module.hidden_size)
        else:
            met = _wide(hx[0] if isinstance(hx, tuple) else hx).reshape(len(x), -1)
        return met.square().sum(0).expand(place.weight.shape), len(x)

    return measure
