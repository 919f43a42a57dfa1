r"""How many samples each layer gets, when it is bits that are limited.

With S samples for a row of n weights, the counts of a layer have some entropy, which grows with S.
A budget of bits can be spent evenly, by one number of samples a weight for all layers, or where it
helps most: :func:`by_sensitivity` measures for each layer how far sampling it alone moves the
output of the network, and takes the numbers of samples that move it least in sum, since errors of
layers that are sampled independently add up in their squares, as long as they are small.

Both look at samples of their own, and not at those that the network gets: a draw that decided how
many samples are taken would not be unbiased.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mcnn import modelwise
from mcnn.density.calibrate import Call, evaluating
from mcnn.density.counts import dequantize, sample_counts
from mcnn.modelwise import Layer, entropy_bits

GRID = tuple(2.0 ** (k / 2) for k in range(-8, 13))  # samples a weight: 1/16 ... 64
_MEASURED = (0.25, 1.0, 4.0, 16.0)  # where outputs are compared; between them by interpolation

Counting = Callable[[Layer, int], Tensor]
"""From a layer and its number of samples a row to counts [rows, n]."""


def samples_of(layer: Layer, fraction: float) -> int:
    """Return the samples for a row of a layer, given those for a weight."""
    return max(1, round(fraction * layer.rows.shape[1]))


def counting(
    method: str, order: str, seed: int, lines: Mapping[str, Tensor] | None = None
) -> Counting:
    """Return how layers are counted: each with its own seed.

    Parameters
    ----------
    method, order, seed
        As in :func:`mcnn.density.sample_counts`.
    lines
        From :func:`mcnn.density.lining.chains`, by name of the layer: weights line up along these,
        and ``order`` is that along the line.
    """

    def count(layer: Layer, samples: int) -> Tensor:
        line, own = None if lines is None else lines[layer.name], layer.seed(seed)
        rows = layer.rows if line is None else layer.rows.gather(1, line)
        counts = sample_counts(rows, samples, method, "row", order, own)
        return counts if line is None else torch.empty_like(counts).scatter_(1, line, counts)

    return count


def evenly(layers: Sequence[Layer], bits: float, count: Counting) -> dict[str, int]:
    """Return samples for rows of each layer, the same for each weight, of at most so many bits.

    Parameters
    ----------
    layers
        Of a model.
    bits
        Entropy of the counts a weight, averaged over all of them.
    count
        From :func:`counting`.

    Raises
    ------
    ValueError
        If even the fewest samples take more bits, or ``bits`` is not positive.
    """
    _check(bits)
    total = sum(layer.rows.numel() for layer in layers)

    def cost(fraction: float) -> float:
        spent = (entropy(count(x, samples_of(x, fraction))) * x.rows.numel() for x in layers)
        return sum(spent) / total

    low, high = GRID[0] / 16, GRID[-1]
    if cost(low) > bits:
        raise ValueError(f"bits={bits} is too little: one sample a row takes {cost(low):.2f}")
    for _ in range(20):  # halve the interval of log samples
        middle = (low * high) ** 0.5
        low, high = (middle, high) if cost(middle) <= bits else (low, middle)
    return {x.name: samples_of(x, low) for x in layers}


def by_sensitivity(
    model: nn.Module, layers: Sequence[Layer], bits: float, count: Counting, calls: Sequence[Call]
) -> dict[str, int]:
    """Return samples for rows of each layer, more where the output of the model asks for it.

    Parameters
    ----------
    model, layers
        The full network, and the layers of it.
    bits, count
        As in :func:`evenly`.
    calls
        From :func:`mcnn.density.calibrate.batches`; the first is used.

    Raises
    ------
    ValueError
        As :func:`evenly`.
    """
    _check(bits)
    weights = {x.name: x.rows.numel() for x in layers}
    total = sum(weights.values())
    costs = {
        x.name: [entropy(count(x, samples_of(x, f))) * weights[x.name] / total for f in GRID]
        for x in layers
    }
    least = sum(min(cost) for cost in costs.values())
    if least > bits:
        raise ValueError(f"bits={bits} is too little: the fewest samples take {least:.2f}")
    moved = _moved(model, layers, count, calls[0])

    def chosen(price: float) -> dict[str, int]:
        """Return the place in the grid of each layer, bits having a price."""
        return {
            name: min(range(len(GRID)), key=lambda k: moved[name][k] + price * costs[name][k])
            for name in costs
        }

    def spent(places: Mapping[str, int]) -> float:
        return sum(costs[name][place] for name, place in places.items())

    low, high = 1e-12, 1e12  # too cheap and too dear, in log steps
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if spent(chosen(middle)) <= bits else (middle, high)
    places = chosen(high)
    return {x.name: samples_of(x, GRID[places[x.name]]) for x in layers}


def _moved(
    model: nn.Module, layers: Sequence[Layer], count: Counting, call: Call
) -> dict[str, list[float]]:
    """Return for each layer and each number of samples the mean square that the output moves."""
    trial, copies = modelwise.copied(model, [layer.name for layer in layers])
    found: dict[str, list[float]] = {}
    with evaluating(trial):
        before = output(call(trial))
        size = before.square().mean().clamp(min=torch.finfo(before.dtype).tiny)
        for layer in tqdm(layers, "sensitivity", disable=None, leave=False):
            own = next(x for x in copies if x.name == layer.name)
            rows = own.rows.clone()
            errors = []
            for fraction in _MEASURED:
                counts = count(layer, samples_of(layer, fraction))
                own.write(dequantize(counts, layer.rows))
                errors.append(float((output(call(trial)) - before).square().mean() / size))
            own.write(rows)
            found[layer.name] = _interpolated(errors)
    return found


def _interpolated(errors: Sequence[float]) -> list[float]:
    """Return errors at all of the grid: straight lines of logarithms, also beyond the ends."""
    x = torch.tensor(_MEASURED, dtype=torch.float64).log2()
    y = torch.tensor(errors, dtype=torch.float64).clamp(min=1e-300).log2()
    y = torch.cummin(y, 0).values  # a lucky draw of few samples must not look good
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    grid = torch.tensor(GRID, dtype=torch.float64).log2()
    piece = torch.searchsorted(x[1:-1].contiguous(), grid)
    return (2 ** (y[piece] + slope[piece] * (grid - x[piece]))).tolist()


def output(out: object) -> Tensor:
    """Return the first tensor of what a model returns.

    Raises
    ------
    TypeError
        If there is none.
    """
    if isinstance(out, Tensor):
        return out
    values = out.values() if isinstance(out, Mapping) else out
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"the model returns {type(out).__name__}, where a tensor was looked for")
    return output(next(iter(values)))


def entropy(counts: Tensor) -> float:
    """Return the entropy of counts in bits."""
    numbers = torch.bincount((counts - counts.min()).flatten())
    return entropy_bits(dict(enumerate(numbers[numbers > 0].tolist())))


def _check(bits: float) -> None:
    if not 0 < bits < float("inf"):
        raise ValueError(f"bits must be positive and finite, got {bits}")
