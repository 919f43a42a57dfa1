"""Sampling the fully connected layers of a whole network, to run with what was sampled alone."""

import torch
from torch import nn

from mcnn.density import Report, quantize
from mcnn.density.model import Layers
from mcnn.linear.layer import SampledLinear
from mcnn.sampling import as_seed, fold_in


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
        A copy of the model with a :class:`SampledLinear` in place of each layer.
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
    for number, layer in enumerate(report.layers):
        module = model.get_submodule(layer.name)
        if isinstance(module, nn.Linear):
            own_seed = fold_in(seed, number)  # as quantize does
            sampled = SampledLinear.from_linear(module, layer.samples, seed=own_seed, **options)
            sampled.train(module.training)
            if not layer.name:
                return sampled, report
            result.set_submodule(layer.name, sampled)
    return result, report


def _is_linear(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
