"""What is done to a whole model, layer by layer: which layers, their rows, what became of them.

Five functions take a trained network and make the weights of its layers small:
:func:`mcnn.density.quantize`, :func:`mcnn.density.importance.quantize`,
:func:`mcnn.baselines.rounding.quantize`, :func:`mcnn.linear.sample_linears` and
:func:`mcnn.paths.compress`.
They differ in the codes that they put in place of weights, and share all else:

- :func:`select` finds the layers, refuses those that cannot be written to, and takes weights that
  are tied once; :func:`copied` does so in a copy of the model;
- a :class:`Layer` hands out its weights as rows, one for each output, takes rows back, and has a
  seed of its own;
- a :class:`Report` says what the codes cost, and what of the model was left as it was.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from mcnn.sampling import fold_in

Layers = Iterable[str] | Callable[[str, nn.Module], bool] | None
KINDS = (nn.Linear, _ConvNd)  # _ConvNd includes the transposed ones

_FLOAT_BITS = 32  # of a scale, a bias, or a weight that is kept
_NAMED = 8  # modules that a printed report names before it counts the rest

# A hook that computes the weight leaves these parameters or buffers behind.
_HOOKS = {
    "weight_g": "torch.nn.utils.remove_weight_norm(layer)",
    "weight_mask": 'torch.nn.utils.prune.remove(layer, "weight")',
    "bias_mask": 'torch.nn.utils.prune.remove(layer, "bias")',
    "weight_u": "torch.nn.utils.remove_spectral_norm(layer)",
}


# --- layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer of a model.

    Attributes
    ----------
    name
        Of the module in the model; empty if the model itself is the layer.
    number
        Among the layers that were selected.
    module
        An ``nn.Linear``, ``nn.ConvNd`` or ``nn.ConvTransposeNd``.
    shared
        Other names in the model under which the same weight is used.
    """

    name: str
    number: int
    module: nn.Module
    shared: tuple[str, ...] = ()

    @property
    def rows(self) -> Tensor:
        """The weights that each output adds up: [outputs, inputs], whatever the layer's layout.

        Detached; memory of the weight itself where the layout allows it.
        """
        w = self.module.weight.detach()
        if isinstance(self.module, _ConvTransposeNd):  # [inputs, outputs / groups, kernel...]
            grouped = w.unflatten(0, (self.module.groups, -1)).transpose(1, 2)
            return grouped.reshape(self.module.out_channels, -1)
        return w.flatten(1)

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Replace the values of the weight by rows [outputs, inputs]; the ``Parameter`` stays."""
        weight = self.module.weight
        if isinstance(self.module, _ConvTransposeNd):
            inputs, outputs, *kernel = weight.shape
            shape = (self.module.groups, outputs, inputs // self.module.groups, *kernel)
            rows = rows.reshape(shape).transpose(1, 2)
        weight.copy_(rows.reshape(weight.shape))

    def seed(self, seed: int) -> int:
        """Return this layer's own seed, derived from that of the model."""
        return fold_in(seed, self.number)

    def report(
        self, codes: Tensor, floats: int, samples: int | None = None, visited: int | None = None
    ) -> "LayerReport":
        """Return what became of the layer.

        Parameters
        ----------
        codes
            Integers [outputs, inputs], in place of the weights.
        floats, samples, visited
            As in :class:`LayerReport`; by default all rows count as visited.
        """
        values, numbers = torch.unique(codes, return_counts=True)
        return LayerReport(
            name=self.name,
            rows=codes.shape[0],
            inputs=codes.shape[1],
            visited=codes.shape[0] if visited is None else visited,
            samples=samples,
            histogram=dict(zip(values.tolist(), numbers.tolist(), strict=True)),
            floats=floats,
            bytes_dense=sum(p.numel() * p.element_size() for p in _own(self.module)),
            shared=self.shared,
        )


def select(model: nn.Module, layers: Layers = None) -> list[Layer]:
    """Return the linear and convolutional layers of a model, in its own order.

    Parameters
    ----------
    model
        Any module with ``nn.Linear``, ``nn.ConvNd`` or ``nn.ConvTransposeNd`` inside, or one of
        them itself.
    layers
        Names or patterns (``"fc*"``), or a function of name and module; by default all layers.

    Returns
    -------
    list of Layer
        Layers that share a weight are one, under the first of the chosen names: a sample of a
        sample would add to the error.

    Raises
    ------
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
    """
    modules = list(model.named_modules(remove_duplicate=False))
    chosen = _chosen([(n, m) for n, m in modules if isinstance(m, KINDS)], layers)
    if not chosen:
        raise ValueError("the model has no linear or convolutional layer to sample")
    first: dict[int, tuple[str, nn.Module]] = {}
    for name, module in chosen:
        check_writable(name, module)
        first.setdefault(id(module.weight), (name, module))
    names = _names_of_parameters(modules)
    return [
        Layer(name, number, module, tuple(n for n in names[key] if n != name))
        for number, (key, (name, module)) in enumerate(first.items())
    ]


def copied(model: nn.Module, layers: Layers = None) -> tuple[nn.Module, list[Layer]]:
    """Return a copy of a model, and layers of the copy.

    Parameters
    ----------
    model, layers
        As in :func:`select`.

    Raises
    ------
    ValueError
        As :func:`select`; also if hooks of other layers keep the model from being copied.
    """
    selected = select(model, layers)
    try:
        model = copy.deepcopy(model)
    except RuntimeError:  # what a hook computes cannot be copied, wherever it is
        for name, module in model.named_modules():
            if isinstance(module, KINDS):
                check_writable(name, module)
        raise
    return model, [replace(x, module=model.get_submodule(x.name)) for x in selected]


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
    for own in ("weight", "bias"):
        if own not in module._parameters:
            held = {*module._parameters, *module._buffers}
            calls = [call for left, call in _HOOKS.items() if left in held]
            remedy = f"call {' and '.join(calls)}" if calls else "make it a Parameter of the layer"
            raise ValueError(
                f"layer {name!r}: its {own} is computed by something else before each call, "
                f"which would undo what is written to it: {remedy} first"
            )
    if is_lazy(module.weight):
        raise ValueError(f"layer {name!r} has no shape yet: call the model on an input first")


def _chosen(known: list[tuple[str, nn.Module]], layers: Layers) -> list[tuple[str, nn.Module]]:
    if layers is None:
        return known
    if callable(layers):
        return [(name, module) for name, module in known if layers(name, module)]
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in known):
            names = ", ".join(name for name, _ in known)
            raise ValueError(f"layers: nothing is named {pattern!r}; there are: {names}")
    return [(n, m) for n, m in known if any(fnmatchcase(n, pattern) for pattern in patterns)]


def _names_of_parameters(modules: list[tuple[str, nn.Module]]) -> dict[int, list[str]]:
    """Return the names of all modules that hold a parameter, for the id of each."""
    names: dict[int, list[str]] = {}
    for name, module in modules:
        for parameter in _own(module):
            names.setdefault(id(parameter), []).append(name)
    return names


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module holds itself."""
    return [p for p in module._parameters.values() if p is not None]


# --- what codes cost ------------------------------------------------------------------------------


def packed_bits(histogram: Mapping[int, int]) -> int:
    """Return the bits of one code in the fewest that hold the range of all.

    Parameters
    ----------
    histogram
        How many weights have each code, as in :class:`LayerReport`.

    Examples
    --------
    >>> packed_bits({-1: 10, 0: 80, 1: 10}), packed_bits({-4: 1, 0: 9, 3: 1})
    (2, 3)
    """
    return math.ceil(math.log2(max(histogram) - min(histogram) + 1))


def entropy_bits(histogram: Mapping[int, int]) -> float:
    """Return the Shannon entropy of the codes in bits a weight.

    Examples
    --------
    >>> entropy_bits({-1: 1, 0: 2, 1: 1})
    1.5
    """
    total = sum(histogram.values())
    return max(0.0, -sum(n / total * math.log2(n / total) for n in histogram.values() if n))


# --- reports --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name
        Of the module in the model.
    rows, inputs
        Outputs, and weights of each; a sampled bias is one more input.
    visited
        Rows that still compute something: all, but where walks choose the rows.
    samples
        Drawn for each row; none where weights are rounded, or walks share them out.
    histogram
        How many weights have each integer code: a signed count, a rounded value, or 1 for a weight
        that is kept as it is and 0 for one that is not.
    floats
        Float32 numbers that are stored beside the codes: scales, exact biases, kept weights.
    bytes_dense
        Weights and biases as they were stored.
    shared
        Other names in the model under which the same weight is used.
    """

    name: str
    rows: int
    inputs: int
    visited: int
    samples: int | None
    histogram: dict[int, int]
    floats: int
    bytes_dense: int
    shared: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.inputs

    @property
    def distinct(self) -> int:
        """Number of weights whose code is not zero."""
        return self.weights - self.histogram.get(0, 0)

    @property
    def bits_per_weight(self) -> float:
        """Shannon entropy of the codes in bits: what an entropy coder comes close to."""
        return entropy_bits(self.histogram)

    @property
    def bits(self) -> float:
        """Bits of the layer with codes of that entropy, and of the floats beside them."""
        codes = sum(-n * math.log2(n / self.weights) for n in self.histogram.values())
        return codes + _FLOAT_BITS * self.floats

    @property
    def bytes_packed(self) -> int:
        """Bytes of the layer with codes in the fewest bits that hold their range, and floats."""
        codes = math.ceil(self.weights * packed_bits(self.histogram) / 8)
        return codes + _FLOAT_BITS // 8 * self.floats

    @property
    def ternary(self) -> bool:
        """Whether all codes are -1, 0 or 1."""
        return all(abs(code) <= 1 for code in self.histogram)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a model; printing it gives a table.

    Attributes
    ----------
    layers
        Those that were touched, in the order of the model.
    parameters
        Numbers in all parameters of the model; what is tied counts once.
    covered
        How many of them are in the layers that were touched, their biases included.
    untouched
        Names of modules with parameters of their own that are still as they were.
    paths
        Walks through the model, where there are any.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    covered: int
    untouched: tuple[str, ...]
    paths: int | None = None

    @classmethod
    def of(
        cls, model: nn.Module, layers: Sequence[LayerReport], paths: int | None = None
    ) -> "Report":
        """Return the report of a model, given those of its layers."""
        names = {name for layer in layers for name in (layer.name, *layer.shared)}
        touched = {id(p) for name in names for p in _own(model.get_submodule(name))}
        parameters = list(model.parameters())
        return cls(
            layers=tuple(layers),
            parameters=sum(p.numel() for p in parameters),
            covered=sum(p.numel() for p in parameters if id(p) in touched),
            untouched=tuple(
                name
                for name, module in model.named_modules()
                if any(id(p) not in touched for p in _own(module))
            ),
            paths=paths,
        )

    @property
    def weights(self) -> int:
        """Number of weights in the layers that were touched."""
        return sum(layer.weights for layer in self.layers)

    @property
    def distinct(self) -> int:
        """Number of weights whose code is not zero."""
        return sum(layer.distinct for layer in self.layers)

    @property
    def histogram(self) -> dict[int, int]:
        """How many weights have each code."""
        total = Counter()
        for layer in self.layers:
            total.update(layer.histogram)
        return dict(sorted(total.items()))

    @property
    def bits_per_weight(self) -> float:
        """Entropy of the codes in bits, averaged over the weights."""
        return sum(x.bits_per_weight * x.weights for x in self.layers) / self.weights

    @property
    def bits(self) -> float:
        """Bits of the layers with codes of that entropy, and of the floats beside them."""
        return sum(layer.bits for layer in self.layers)

    @property
    def bytes_dense(self) -> int:
        """Bytes of the layers as they were stored."""
        return sum(layer.bytes_dense for layer in self.layers)

    @property
    def bytes_packed(self) -> int:
        """Bytes of the layers with packed codes."""
        return sum(layer.bytes_packed for layer in self.layers)

    def __str__(self) -> str:
        return "\n".join([*self._table(), *self._summary()])

    def _table(self) -> list[str]:
        left = max(16, *(len(layer.name) + 2 for layer in self.layers))
        columns = [(head, width, show) for head, width, show in _COLUMNS if self._has(head)]
        heads = (f"{head:>{width}}" for head, width, _ in columns)
        lines = [f"{'layer':<{left}}" + "".join(heads)]
        for layer in self.layers:
            cells = (f"{show(layer):>{width}}" for _, width, show in columns)
            lines.append(f"{layer.name:<{left}}" + "".join(cells))
        return lines

    def _has(self, head: str) -> bool:
        """Whether a column says something here."""
        if head in ("rows", "visited"):
            return self.paths is not None
        return head != "samples" or any(layer.samples is not None for layer in self.layers)

    def _summary(self) -> list[str]:
        walks = "" if self.paths is None else f"{self.paths} paths, "
        share = self.distinct / self.weights
        lines = [f"{walks}{share:.1%} of the weights, {self.bits_per_weight:.2f} bits each"]
        share = self.covered / self.parameters
        covered = f"{self.covered} of {self.parameters} parameters are in these layers, {share:.1%}"
        lines.append(covered)
        if self.untouched:
            names = ", ".join(name or "(the model itself)" for name in self.untouched[:_NAMED])
            more = len(self.untouched) - _NAMED
            lines.append(f"not touched: {names}" + f" and {more} more" * (more > 0))
        shared = [f"{x.name} is also {', '.join(x.shared)}" for x in self.layers if x.shared]
        return [*lines, *(f"same weight: {text}" for text in shared)]


_COLUMNS: tuple[tuple[str, int, Callable[[LayerReport], str]], ...] = (
    ("rows", 7, lambda x: f"{x.rows}"),
    ("visited", 9, lambda x: f"{x.visited}"),
    ("weights", 10, lambda x: f"{x.weights}"),
    ("samples", 9, lambda x: "" if x.samples is None else f"{x.samples}"),
    ("hit", 8, lambda x: f"{x.distinct / x.weights:.1%}"),
    ("largest", 9, lambda x: f"{max(map(abs, x.histogram))}"),
    ("bits", 7, lambda x: f"{x.bits_per_weight:.2f}"),
    ("bytes", 11, lambda x: f"{x.bytes_dense}"),
    ("packed", 10, lambda x: f"{x.bytes_packed}"),
)
