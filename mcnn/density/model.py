"""Sampling the weights of a whole network, without training it again."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from mcnn.density.counts import dequantize, sample_counts
from mcnn.errors import unknown
from mcnn.sampling import as_seed, fold_in

BIASES = ("exact", "sampled", "none")
Layers = Iterable[str] | Callable[[str, nn.Module], bool] | None


@dataclass(frozen=True)
class LayerReport:
    """What sampling made of one layer.

    Attributes
    ----------
    name
        Of the module in the model.
    rows, inputs
        Densities, and weights in each; a sampled bias is one more input.
    samples
        Drawn for each row.
    histogram
        How many weights have each signed count.
    bytes_dense
        Weights and biases as they were stored.
    bytes_packed
        Counts in the fewest bits that hold their range, a float32 scale per row, exact biases.
    """

    name: str
    rows: int
    inputs: int
    samples: int
    histogram: dict[int, int]
    bytes_dense: int
    bytes_packed: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.rows * self.inputs

    @property
    def distinct(self) -> int:
        """Number of weights that were hit at least once."""
        return self.weights - self.histogram.get(0, 0)

    @property
    def bits_per_weight(self) -> float:
        """Shannon entropy of the counts in bits: what an entropy coder comes close to."""
        shares = [n / self.weights for n in self.histogram.values()]
        return max(0.0, -sum(p * math.log2(p) for p in shares))

    @property
    def ternary(self) -> bool:
        """Whether all counts are -1, 0 or 1."""
        return all(abs(count) <= 1 for count in self.histogram)


@dataclass(frozen=True)
class Report:
    """What sampling made of a model; printing it gives a table."""

    layers: tuple[LayerReport, ...]

    @property
    def weights(self) -> int:
        """Number of weights in the sampled layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def distinct(self) -> int:
        """Number of weights that were hit at least once."""
        return sum(layer.distinct for layer in self.layers)

    @property
    def histogram(self) -> dict[int, int]:
        """How many weights have each signed count."""
        total = Counter()
        for layer in self.layers:
            total.update(layer.histogram)
        return dict(sorted(total.items()))

    @property
    def bits_per_weight(self) -> float:
        """Entropy of the counts in bits, averaged over the weights."""
        return sum(x.bits_per_weight * x.weights for x in self.layers) / self.weights

    @property
    def bytes_dense(self) -> int:
        """Bytes of the sampled layers as they were stored."""
        return sum(layer.bytes_dense for layer in self.layers)

    @property
    def bytes_packed(self) -> int:
        """Bytes of the sampled layers with packed counts."""
        return sum(layer.bytes_packed for layer in self.layers)

    def __str__(self) -> str:
        head = f"{'layer':<16}{'weights':>10}{'samples':>9}{'hit':>8}{'largest':>9}{'bits':>7}"
        lines = [head + f"{'bytes':>11}{'packed':>10}"]
        for x in self.layers:
            largest = max(map(abs, x.histogram))
            lines.append(
                f"{x.name:<16}{x.weights:>10}{x.samples:>9}{x.distinct / x.weights:>8.1%}"
                f"{largest:>9}{x.bits_per_weight:>7.2f}{x.bytes_dense:>11}{x.bytes_packed:>10}"
            )
        return "\n".join(lines)


def quantize(
    model: nn.Module,
    samples: int | None = None,
    fraction: float | None = None,
    method: str = "jittered",
    layers: Layers = None,
    bias: str = "exact",
    normalize: str = "row",
    order: str = "stored",
    seed: int | torch.Generator = 0,
) -> tuple[nn.Module, Report]:
    """Replace the weights of linear and convolutional layers by sampled ones.

    Parameters
    ----------
    model
        Any module with ``nn.Linear``, ``nn.ConvNd`` or ``nn.ConvTransposeNd`` inside; not changed.
    samples
        Per neuron or filter, at least 1. Give either this or ``fraction``.
    fraction
        Samples as a fraction of the weights that a neuron or filter has.
    method, normalize, order
        As in :func:`mcnn.density.sample_counts`.
    layers
        Names or patterns (``"fc*"``) of the layers to sample, or a function of name and module;
        by default all.
    bias
        ``"exact"``: kept. ``"sampled"``: one more weight of its row, whose input is 1.
        ``"none"``: zero.
    seed
        An integer, or a generator, which is advanced by one draw.

    Returns
    -------
    nn.Module
        A copy of the model with plain layers, whose weights are counts times the scale of a row.
    Report
        Distinct weights, histogram of counts, bits and bytes, layer by layer.

    Raises
    ------
    TypeError, ValueError
        If the arguments contradict each other or the model has nothing to sample; messages of
        :func:`mcnn.density.sample_counts` come with the name of the layer.

    Notes
    -----
    Source: slides "Simulating Discrete Densities".

    Examples
    --------
    >>> small, report = quantize(nn.Linear(100, 10), fraction=0.12)
    >>> report.layers[0].samples, report.distinct <= 120
    (12, True)
    """
    if (samples is None) == (fraction is None):
        raise ValueError("give either samples or fraction, not both and not neither")
    if fraction is not None and not (fraction > 0 and math.isfinite(fraction)):
        raise ValueError(f"fraction must be positive and finite, got {fraction}")
    if bias not in BIASES:
        raise unknown("bias", bias, BIASES)
    seed = as_seed(seed)
    model = copy.deepcopy(model)
    reports = []
    for number, (name, module) in enumerate(_chosen(model, layers)):
        own_seed = fold_in(seed, number)
        rows = _rows(module)  # [rows, inputs]
        sampled_bias = bias == "sampled" and module.bias is not None
        if sampled_bias:
            rows = torch.cat([rows, module.bias.detach()[:, None]], 1)
        count = samples if fraction is None else max(1, round(fraction * rows.shape[1]))
        try:
            counts = sample_counts(rows, count, method, normalize, order, own_seed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {name!r}: {error}") from None
        values = dequantize(counts, rows, normalize)
        reports.append(_report(name, module, counts, count, sampled_bias))
        _store(module, values, bias)
    return model, Report(tuple(reports))


def _chosen(model: nn.Module, layers: Layers) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Linear, _ConvNd)
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    if callable(layers):
        found = [(n, m) for n, m in found if layers(n, m)]
    elif layers is not None:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        for pattern in patterns:
            if not any(fnmatchcase(n, pattern) for n, _ in found):
                known = ", ".join(n for n, _ in found)
                raise ValueError(f"layers: nothing is named {pattern!r}; there are: {known}")
        found = [(n, m) for n, m in found if any(fnmatchcase(n, p) for p in patterns)]
    if not found:
        raise ValueError("the model has no linear or convolutional layer to sample")
    # Tied weights are sampled once, for sampling a sample would add to the error.
    unique = {}
    for name, module in found:
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"layer {name!r} is parametrised: call "
                "torch.nn.utils.parametrize.remove_parametrizations on it first"
            )
        unique.setdefault(id(module.weight), (name, module))
    return list(unique.values())


def _rows(module: nn.Module) -> Tensor:
    """Return the weights as [outputs, inputs], whatever the layout of the layer."""
    w = module.weight.detach()
    if isinstance(module, _ConvTransposeNd):  # [inputs, outputs / groups, kernel...]
        grouped = w.unflatten(0, (module.groups, -1)).transpose(1, 2)
        return grouped.reshape(module.out_channels, -1)
    return w.flatten(1)


def _store(module: nn.Module, rows: Tensor, bias: str) -> None:
    weight, biased = module.weight, module.bias is not None
    values = rows[:, :-1] if bias == "sampled" and biased else rows
    with torch.no_grad():
        if isinstance(module, _ConvTransposeNd):
            inputs, outputs, *kernel = weight.shape
            shape = (module.groups, outputs, inputs // module.groups, *kernel)
            values = values.reshape(shape).transpose(1, 2)
        weight.copy_(values.reshape(weight.shape))
        if biased and bias == "sampled":
            module.bias.copy_(rows[:, -1])
        elif biased and bias == "none":
            module.bias.zero_()


def _report(
    name: str, module: nn.Module, counts: Tensor, samples: int, sampled_bias: bool
) -> LayerReport:
    values, numbers = torch.unique(counts, return_counts=True)
    histogram = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    levels = max(histogram) - min(histogram) + 1
    rows, inputs = counts.shape
    own = [p for p in (module.weight, module.bias) if p is not None]
    exact = 0 if module.bias is None or sampled_bias else 4 * module.bias.numel()
    packed = math.ceil(rows * inputs * math.ceil(math.log2(levels)) / 8) + 4 * rows + exact
    dense = sum(p.numel() * p.element_size() for p in own)
    return LayerReport(name, rows, inputs, samples, histogram, dense, packed)
