r"""Initial weights from any source of numbers, through the inverse distribution function.

Learning starts from random weights because equal ones would stay equal: neurons that compute the
same get the same gradient.
He et al. [1]_ draw them normal with variance :math:`2/m` for m inputs, so that ReLUs keep the size
of a signal from layer to layer.

Here the weights of a layer are a point set: each input is a point, each neuron a coordinate.
The m weights of a neuron are then m numbers of one coordinate, and what makes the points decides
how evenly those follow the normal distribution.

References
----------
.. [1] K. He, X. Zhang, S. Ren, J. Sun: Delving deep into rectifiers. ICCV 2015.
"""

import math

import torch
from torch import nn

from mcnn.modelwise import check_writable
from mcnn.randomness.source import normals, substream
from mcnn.seeds import layer_seed


@torch.no_grad()
def initialise_(
    model: nn.Module, source: str = "random", seed: int | torch.Generator | None = None
) -> nn.Module:
    """Draw the weights of all linear layers anew, in place, and set their biases to zero.

    Parameters
    ----------
    model
        Its :class:`torch.nn.Linear` layers are initialised, in the order of its modules; a weight
        that several share is drawn once.
    source
        One of :data:`mcnn.randomness.SOURCES`.
    seed
        An integer, or a generator, which is advanced by one draw; by default from PyTorch's own.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    ValueError
        If there is no linear layer, something else computes the weight of one, or for an unknown
        source.

    Examples
    --------
    >>> layer = initialise_(nn.Linear(784, 64), "sobol", seed=1)
    >>> round(float(layer.weight.var() * 784 / 2), 2)
    1.0
    """
    seed = layer_seed(seed)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError("the model has no linear layer to initialise")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            check_writable(name, layer)
    drawn: set[int] = set()  # a weight that layers share has that of the first
    for number, layer in enumerate(layers):
        if layer.bias is not None:
            layer.bias.zero_()
        if id(layer.weight) in drawn:
            continue
        drawn.add(id(layer.weight))
        n = layer.in_features
        z = normals(n, layer.out_features, source, substream(seed, number))  # [in, out]
        layer.weight.copy_(z.T * math.sqrt(2 / n))
    return model
