"""Which layers of a model are worked on, and their rows."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from mcnn.modelwise import kinds
from mcnn.modelwise.kinds import Slot
from mcnn.modelwise.report import LayerReport, own
from mcnn.sampling import fold_in

Layers = Iterable[str] | Callable[[str, nn.Module], bool] | None

# A hook that computes a parameter leaves another one behind, whose name has this ending.
_HOOKS = {
    "_g": "torch.nn.utils.remove_weight_norm(layer{})",
    "_mask": 'torch.nn.utils.prune.remove(layer, "{}")',
    "_u": "torch.nn.utils.remove_spectral_norm(layer{})",
}


@dataclass(frozen=True)
class Layer:
    """A weight of a model that its outputs add up: most often that of a module of its own.

    Attributes
    ----------
    name
        Of the module in the model, followed by that of the weight if it is not just ``weight``;
        empty if the model itself is the layer.
    number
        Among the layers that were selected.
    module
        An ``nn.Linear``, ``nn.ConvNd``, or any other of :mod:`mcnn.modelwise.kinds`.
    shared
        Other names in the model under which the same weight is used.
    slot
        Which of the module's parameters it is.
    """

    name: str
    number: int
    module: nn.Module
    shared: tuple[str, ...] = ()
    slot: Slot = kinds.OWN

    @property
    def weight(self) -> nn.Parameter:
        """The weight as the module holds it."""
        return self.module._parameters[self.slot.weight]

    @property
    def bias(self) -> Tensor | None:
        """The bias that is added, [outputs]: a parameter, a view of one, or none."""
        bias = None if self.slot.bias is None else self.module._parameters[self.slot.bias]
        if bias is None or self.slot.third is None:
            return bias
        return bias.chunk(3)[self.slot.third]

    @property
    def rows(self) -> Tensor:
        """The weights that each output adds up: [outputs, inputs], whatever the layer's layout.

        Detached; memory of the weight itself where the layout allows it.
        Where outputs have different numbers of inputs, as in layers of paths, short rows end in
        zeros.
        """
        return kinds.get_rows(self.module, self.weight.detach())

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Replace the values of the weight by rows [outputs, inputs]; the ``Parameter`` stays."""
        kinds.set_rows(self.module, self.weight, rows)

    def check_samplable(self) -> None:
        """Refuse a weight without a density.

        Raises
        ------
        ValueError
            If it has no values, or holds NaN or infinity.
        """
        if self.weight.is_meta:
            raise ValueError(f"layer {self.name!r} is on the meta device: load its weights first")
        if self.weight.numel() == 0:
            shape = tuple(self.weight.shape)
            raise ValueError(f"layer {self.name!r}: weight is empty, {shape}: leave it out")
        if not torch.isfinite(self.weight).all():
            raise ValueError(
                f"layer {self.name!r}: weight holds NaN or infinity: a density needs finite weights"
            )

    def places(self, model: nn.Module) -> "list[Layer]":
        """Return the layer as it is at each place of the model that uses its weight, each once.

        Modules of no known kind that hold the weight are left out.
        """
        names = {self.name, *self.shared}
        found: dict[tuple[int, Slot], Layer] = {}
        for name, _, module, slot in kinds.named_slots(model):
            if name in names:
                here = replace(self, name=name, module=module, slot=slot)
                found.setdefault((id(module), slot), here)
        return list(found.values())

    def seed(self, seed: int) -> int:
        """Return this layer's own seed, derived from that of the model."""
        return fold_in(seed, self.number)

    def report(
        self, codes: Tensor, floats: int, samples: int | None = None, visited: int | None = None
    ) -> LayerReport:
        """Return what became of the layer.

        Parameters
        ----------
        codes
            Integers [outputs, inputs], in place of the weights.
        floats, samples, visited
            As in :class:`LayerReport`; by default all rows count as visited.
        """
        values, numbers = torch.unique(codes, return_counts=True)
        histogram = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        if no_weights := kinds.padding(self.module, self.weight):
            histogram[0] -= no_weights
        held = {id(p): p for p in (self.weight, self.bias) if p is not None}
        return LayerReport(
            name=self.name,
            rows=codes.shape[0],
            inputs=codes.shape[1],
            visited=codes.shape[0] if visited is None else visited,
            samples=samples,
            histogram={code: number for code, number in histogram.items() if number},
            floats=floats,
            bytes_dense=sum(p.numel() * p.element_size() for p in held.values()),
            shared=self.shared,
        )


def select(model: nn.Module, layers: Layers = None) -> list[Layer]:
    """Return the layers of a model whose weights are added up, in its own order.

    Parameters
    ----------
    model
        Any module with linear, convolutional, recurrent, attention or path layers inside, see
        :mod:`mcnn.modelwise.kinds`, or one of them itself.
    layers
        Names or patterns (``"fc*"``), or a function of name and module; by default all layers but
        embeddings, which are only taken if their own name is given.
        The name of a module stands for all of its weights.

    Returns
    -------
    list of Layer
        Layers that share a weight are one, under the first of the chosen names: a sample of a
        sample would add to the error.

    Raises
    ------
    TypeError
        If ``model`` is no module, or ``layers`` neither names nor a function.
    ValueError
        If a pattern matches no layer, no layer is left, or the weight of one is not its own to
        write to, see :func:`check_writable`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    >>> [(layer.name, tuple(layer.rows.shape)) for layer in select(model)]
    [('0', (4, 9)), ('3', (2, 36))]
    >>> [layer.name for layer in select(model, lambda name, module: isinstance(module, nn.Linear))]
    ['3']
    >>> [layer.name for layer in select(nn.MultiheadAttention(8, 2))]
    ['in_proj_weight', 'out_proj']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if not (layers is None or callable(layers) or isinstance(layers, Iterable)):
        kind = type(layers).__name__
        raise TypeError(f"layers must be names, patterns or a function, got {kind}")
    known = list(kinds.named_slots(model))
    chosen = _chosen(known, layers)
    if known and not chosen and not (layers is None or callable(layers)):
        names = ", ".join(dict.fromkeys(x[0] for x in known))
        raise ValueError(
            "the model has no linear or convolutional layer to sample among those that layers "
            f"chooses; there are: {names}"
        )
    if not chosen:
        raise ValueError(
            "the model has no linear or convolutional layer to sample, nor a recurrent one, "
            "attention or one of paths"
        )
    first: dict[int, tuple[str, nn.Module, Slot]] = {}
    for name, place, module, slot in chosen:
        check_writable(place, module)
        first.setdefault(id(module._parameters[slot.weight]), (name, module, slot))
    names: dict[int, list[str]] = {}
    for name, _, module, slot in known:
        names.setdefault(id(module._parameters.get(slot.weight)), []).append(name)
    held_elsewhere = _elsewhere(model, first)
    return [
        Layer(
            name,
            number,
            module,
            tuple(n for n in (*names[key], *held_elsewhere.get(key, ())) if n != name),
            slot,
        )
        for number, (key, (name, module, slot)) in enumerate(first.items())
    ]


def _elsewhere(model: nn.Module, wanted: dict[int, object]) -> dict[int, list[str]]:
    """Return the names of modules of no known kind that hold a weight of those, by its id."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not kinds.slots(module):
            for parameter in own(module):
                if id(parameter) in wanted:
                    found.setdefault(id(parameter), []).append(name)
    return found


def copied(model: nn.Module, layers: Layers = None) -> tuple[nn.Module, list[Layer]]:
    """Return a copy of a model, and layers of the copy.

    Parameters
    ----------
    model, layers
        As in :func:`select`.

    Raises
    ------
    ValueError
        As :func:`select`.
    """
    selected = select(model, layers)
    copied_model = deepcopied(model)
    modules = {name: module for name, _, module, _ in kinds.named_slots(copied_model)}
    return copied_model, [replace(x, module=modules[x.name]) for x in selected]


@torch.inference_mode(False)  # else the copy could never be trained
def deepcopied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model, also where hooks have computed tensors that PyTorch refuses.

    Those are the last results of ``weight_norm``, ``spectral_norm`` and ``prune``; the hooks are
    copied, too, and compute them anew before the next call.

    Raises
    ------
    TypeError
        If it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    computed = [
        (module.__dict__, key, value)
        for module in model.modules()
        for key, value in module.__dict__.items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        for place, key, value in computed:
            place[key] = value.detach()
        return copy.deepcopy(model)
    finally:
        for place, key, value in computed:
            place[key] = value


def check_all_writable(model: nn.Module) -> None:
    """Call :func:`check_writable` on all layers of a model."""
    for _, name, module, _ in kinds.named_slots(model):
        check_writable(name, module)


def check_writable(name: str, module: nn.Module) -> None:
    """Refuse a layer whose weight or bias is recomputed: what is written to it would be lost.

    Raises
    ------
    ValueError
        If weight or bias is no ``Parameter`` of the layer, as under ``weight_norm``,
        ``spectral_norm``, ``prune`` and other parametrisations, or has no shape yet; the message
        says how to mend that.
    """
    if parametrize.is_parametrized(module):
        remedy = "torch.nn.utils.parametrize.remove_parametrizations on it"
        raise ValueError(f"layer {name!r} is parametrised: call {remedy} first")
    held = {*module._parameters, *module._buffers}
    for slot in kinds.slots(module):
        for key in filter(None, (slot.weight, slot.bias)):
            if key not in module._parameters:
                raise ValueError(
                    f"layer {name!r}: its {key} is computed by something else before each call, "
                    f"which would undo what is written to it: {_remedy(key, held)} first"
                )
        if is_lazy(module._parameters[slot.weight]):
            raise ValueError(f"layer {name!r} has no shape yet: call the model on an input first")


def _remedy(key: str, held: set[str]) -> str:
    """Return what makes a parameter again of one that hooks compute."""
    calls = []
    for other in ("weight", "bias") if key in ("weight", "bias") else (key,):
        argument = "" if other == "weight" else f', "{other}"'
        for ending, call in _HOOKS.items():
            if f"{other}{ending}" in held:
                calls.append(call.format(other if ending == "_mask" else argument))
    return f"call {' and '.join(calls)}" if calls else "make it a Parameter of the layer"


def _chosen(
    known: list[tuple[str, str, nn.Module, Slot]], layers: Layers
) -> list[tuple[str, str, nn.Module, Slot]]:
    default = [x for x in known if not kinds.is_table(x[2])]
    if layers is None:
        return default
    if callable(layers):
        return [x for x in default if layers(x[0], x[2])]
    patterns = [layers] if isinstance(layers, str) else list(layers)

    def matches(entry: tuple[str, str, nn.Module, Slot], pattern: str) -> bool:
        name, place, module, _ = entry
        if kinds.is_table(module):  # a row of stars does not mean them
            return name == pattern
        return fnmatchcase(name, pattern) or fnmatchcase(place, pattern)

    for pattern in patterns:
        if not any(matches(x, pattern) for x in known):
            names = ", ".join(dict.fromkeys(x[0] for x in known))
            raise ValueError(f"layers: nothing is named {pattern!r}; there are: {names}")
    return [x for x in known if any(matches(x, pattern) for pattern in patterns)]
