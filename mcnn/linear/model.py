"""Sampling the fully connected layers of a whole network, to run with what was sampled alone."""

import torch
from torch import nn

from mcnn import modelwise
from mcnn.density import quantize
from mcnn.linear.layer import SampledLinear
from mcnn.modelwise import Layers, Report
from mcnn.sampling import as_seed


@torch.inference_mode(False)  # else the result could never be trained
def sample_linears(
    model: nn.Module,
    samples: int | None = None,
    fraction: float | None = None,
    method: str = "jittered",
    layers: Layers = None,
    order: str = "stored",
    seed: int | torch.Generator = 0,
) -> tuple[nn.Module, Report]:
    """Replace fully connected layers by layers that keep and multiply only sampled weights.

    Parameters
    ----------
    model
        Any module with ``nn.Linear`` inside; not changed.
    samples, fraction, method, order, seed
        As in :func:`mcnn.density.quantize`: the same seed samples the same network.
    layers
        As there; by default all that are ``nn.Linear``.
        Convolutions that are named are sampled too, and stay as they are stored.

    Returns
    -------
    nn.Module
        A copy of the model with a :class:`SampledLinear` in place of each layer, and of each
        further one that shares its weight.
    Report
        Of :func:`mcnn.density.quantize`.

    Raises
    ------
    TypeError, ValueError
        Those of :func:`mcnn.density.quantize`.

    Notes
    -----
    Source: slides "Neural Networks linear in Time and Space".

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
    >>> small, report = sample_linears(model, samples=94)
    >>> small[0].n_weights <= 300 * 94, isinstance(model[0], nn.Linear)
    (True, True)
    """
    seed = as_seed(seed)
    chosen = _is_linear if layers is None else layers
    options = {"method": method, "order": order}
    result, report = quantize(model, samples, fraction, layers=chosen, seed=seed, **options)
    names = {summary.name for summary in report.layers}
    selected = modelwise.select(model, lambda name, module: name in names)
    compact: dict[int, SampledLinear] = {}  # by the id of the layer in the result
    for layer, summary in zip(selected, report.layers, strict=True):
        places = zip(layer.places(model), layer.places(result), strict=True)
        for old, new in places:
            if isinstance(old.module, nn.Linear):
                compact[id(new.module)] = SampledLinear.from_linear(
                    old.module, summary.samples, seed=layer.seed(seed), **options
                ).train(old.module.training)
    return modelwise.exchanged(result, lambda name, module: compact.get(id(module))), report


def _is_linear(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
