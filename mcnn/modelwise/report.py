"""What codes cost, and what became of a model and its layers."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from mcnn.modelwise.kinds import named_slots, why_not

_FLOAT_BITS = 32  # of a scale, a bias, or a weight that is kept
_NAMED = 8  # modules that a printed report names before it counts the rest


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


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name
        Of the module in the model, with that of the weight if it is not just ``weight``.
    rows, inputs
        Outputs, and weights of each, or of the longest; a sampled bias is one more input.
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
        """Number of weights: rows times inputs, or fewer where rows are of different lengths."""
        return sum(self.histogram.values())

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
    reasons
        For the names of :attr:`untouched`, why.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    covered: int
    untouched: tuple[str, ...]
    paths: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[LayerReport],
        paths: int | None = None,
        reasons: Mapping[str, str] | None = None,
    ) -> "Report":
        """Return the report of a model, given those of its layers.

        Parameters
        ----------
        model
            As it was given to the function, or a copy with the same parameters.
        layers, paths
            See above.
        reasons
            Why modules are as they were, where the function knows better than their kind says.
        """
        names = {name for layer in layers for name in (layer.name, *layer.shared)}
        touched = {id(p) for p in _parameters(model, names)}
        parameters = list(model.parameters())
        left = {
            name: module
            for name, module in model.named_modules()
            if any(id(p) not in touched for p in own(module))
        }
        known = reasons or {}
        return cls(
            layers=tuple(layers),
            parameters=sum(p.numel() for p in parameters),
            covered=sum(p.numel() for p in parameters if id(p) in touched),
            untouched=tuple(left),
            paths=paths,
            reasons={name: known.get(name) or why_not(name, m) for name, m in left.items()},
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
        by_reason: dict[str, list[str]] = {}
        for name in self.untouched:
            by_reason.setdefault(self.reasons.get(name, ""), []).append(name)
        for reason, names in by_reason.items():
            shown = ", ".join(name or "(the model itself)" for name in names[:_NAMED])
            more = len(names) - _NAMED
            line = f"not touched: {shown}" + f" and {more} more" * (more > 0)
            lines.append(line + f" ({reason})" * bool(reason))
        shared = [f"{x.name} is also {', '.join(x.shared)}" for x in self.layers if x.shared]
        return [*lines, *(f"same weight: {text}" for text in shared)]


def own(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module holds itself."""
    return [p for p in module._parameters.values() if p is not None]


def _parameters(model: nn.Module, names: set[str]) -> list[nn.Parameter]:
    """Return the weights and biases of layers by their names."""
    found = []
    for name, _, module, slot in named_slots(model):
        if name in names:
            held = (module._parameters.get(x) for x in (slot.weight, slot.bias) if x)
            found += [p for p in held if p is not None]
    return found


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
