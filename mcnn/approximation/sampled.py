r"""A hidden layer as a Monte Carlo estimate of an integral over ridge functions.

.. math:: f(x)=c_0+\mathbb E_u\,h(u)\max\{0,a(u)\cdot x+b(u)\}
          \approx c_0+\frac1n\sum_{i=1}^n h(u_i)\max\{0,a(u_i)\cdot x+b(u_i)\}

Whatever the dimension of x, the mean square error of n independent units is a variance over n:
there is no curse of dimension in the rate, and all of it is in the variance.
The sample is taken *behind* the ReLU, so the layer is unbiased; what comes next is not.

Source: slide "Curse of Dimensionality" of Y. Yao's talk: "certain functions f (x) approximated by
ridge sums with no curse of dimensionalty".
"""

import operator

import torch
from torch import nn

from mcnn import sampling
from mcnn.approximation.ridges import RidgeIntegral
from mcnn.errors import UsageError


@torch.no_grad()
def sampled_layer(
    f: RidgeIntegral,
    n: int,
    points: str = "random",
    seed: int | torch.Generator = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Return a network of one hidden layer whose n units are samples of an integral.

    Parameters
    ----------
    f
        The integral: :class:`mcnn.approximation.Bump`, :class:`mcnn.approximation.HiddenLayer`, or
        whatever has their methods, see :class:`mcnn.approximation.ridges.RidgeIntegral`.
    n
        Number of units.
    points
        One of :data:`mcnn.sampling.METHODS`, in as many dimensions as the integral has.
    seed
        Of the points.
    device, dtype
        Of the network.

    Returns
    -------
    torch.nn.Sequential
        A linear layer, a ReLU and a linear layer, ready to be trained on.

    Raises
    ------
    UsageError
        If f is no such integral, there is no unit, or the points do not exist for that number or
        dimension.

    Examples
    --------
    >>> from mcnn.approximation import Bump
    >>> net = sampled_layer(Bump(2), 4096, "sobol", seed=1)
    >>> x = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    >>> bool((net(x) - Bump(2)(x)).abs().max() < 0.05)
    True
    """
    if not all(hasattr(f, name) for name in ("inputs", "coordinates", "units", "constant")):
        raise UsageError(
            f"{type(f).__name__} is no integral over ridge functions: Bump and HiddenLayer are; "
            "of a network, HiddenLayer(first, last) makes one"
        )
    n = operator.index(n)
    if n < 1:
        raise UsageError(f"a layer needs at least 1 unit, got n = {n}")
    try:
        u = sampling.points(n, f.coordinates, points, seed, dtype=torch.float64)
    except ValueError as error:
        raise UsageError(f"no such points: {error}") from None
    weight, bias, height = f.units(u)
    options = {"device": device, "dtype": dtype or torch.get_default_dtype()}
    first = nn.Linear(f.inputs, n, **options)
    last = nn.Linear(n, height.shape[1], **options)
    values = (weight, bias, height.T / n, f.constant())
    for parameter, value in zip([*first.parameters(), *last.parameters()], values, strict=True):
        parameter.copy_(value)
    return nn.Sequential(first, nn.ReLU(), last)
