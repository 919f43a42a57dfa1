r"""Units that are off most of the time, and what flows back through them.

All three are driven by the same number :math:`0<\xi<1`.
With the logistic noise :math:`z=\log\frac{1-\xi}{\xi}` the binary unit of
:mod:`mcnn.randomness.binarise` is on where a + z > 0, which has the probability
:math:`p=\sigma(a)`:

=======================  ==========================================  ===========  ==============
unit                     value                                       is on with   its mean
=======================  ==========================================  ===========  ==============
straight-through         :math:`[\xi<p]`                             p            p
noisy rectifier          :math:`\max\{0,a+z\}`                       p            softplus(a)
smooth times stochastic  :math:`\sqrt p\,[\xi<\sqrt p]`              √p           p
=======================  ==========================================  ===========  ==============

The last two have a derivative: zero where the unit is off, so that what it switches off need not be
computed for the backward pass either.
Straight-through [1]_ pretends to have one, and wants it everywhere.

References
----------
.. [1] Y. Bengio, N. Léonard, A. Courville: Estimating or propagating gradients through stochastic
   neurons for conditional computation. arXiv:1308.3432.
"""

import torch
from torch import Tensor

from mcnn.errors import unknown
from mcnn.randomness.binarise import straight_through

UNITS = ("straight-through", "noisy-rectifier", "smooth-times-stochastic")


def noisy_rectifier(a: Tensor, xi: Tensor) -> Tensor:
    r"""Return :math:`\max\{0,a+z\}` with logistic noise z.

    Parameters
    ----------
    a
        [..., k], pre-activations.
    xi
        [..., k] in [0, 1): the noise, of a shape that fits.

    Returns
    -------
    Tensor
        Not negative, differentiable by ``a`` almost everywhere: the mean derivative is the
        derivative of the mean.

    Examples
    --------
    >>> a = torch.zeros(2)
    >>> noisy_rectifier(a, torch.tensor([0.25, 0.75])).tolist()
    [1.0986123085021973, 0.0]
    """
    # The least number that is not 0, for a draw of exactly 0: the noise stays finite.
    # Of types that do not have that number, the noise is computed in a wider one.
    xi = xi.to(torch.promote_types(xi.dtype, torch.float32)).clamp(min=2.0**-53)
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a - torch.logit(xi.to(wide)).to(a.dtype)).clamp(min=0)


def smooth_times_stochastic(a: Tensor, xi: Tensor) -> Tensor:
    r"""Return :math:`\sqrt p\,[\xi<\sqrt p]`, of which only the smooth factor has a derivative.

    The mean is p, and to first order in what follows so is the effect.
    The mean derivative is *half* of the derivative of p, because the coin's share is left out.

    Parameters
    ----------
    a
        [..., k], pre-activations.
    xi
        [..., k] in [0, 1), of a shape that fits.

    Returns
    -------
    Tensor
        0 or √p.

    Examples
    --------
    >>> a = torch.zeros(2, dtype=torch.float64)
    >>> smooth_times_stochastic(a, torch.tensor([0.7, 0.8])).tolist()
    [0.7071067811865475, 0.0]
    """
    root = a.sigmoid().sqrt()
    return root * (xi < root).to(a.dtype)


def sample(a: Tensor, xi: Tensor, unit: str = UNITS[0]) -> Tensor:
    """Return the value of a unit by the name of its kind.

    Parameters
    ----------
    a, xi
        [..., k], as for each of them.
    unit
        One of :data:`UNITS`.

    Raises
    ------
    UsageError
        For an unknown kind.
    """
    if unit == "straight-through":
        return straight_through(a, xi)
    if unit == "noisy-rectifier":
        return noisy_rectifier(a, xi)
    if unit == "smooth-times-stochastic":
        return smooth_times_stochastic(a, xi)
    raise unknown("unit", unit, UNITS)


def on_probability(a: Tensor, unit: str = UNITS[0]) -> Tensor:
    """Return the probability that a unit is on: what a penalty on its use has to look at.

    Parameters
    ----------
    a
        [..., k], pre-activations.
    unit
        One of :data:`UNITS`.

    Raises
    ------
    UsageError
        For an unknown kind.

    Examples
    --------
    >>> a = torch.zeros(1, dtype=torch.float64)
    >>> [round(float(on_probability(a, unit)), 3) for unit in UNITS]
    [0.5, 0.5, 0.707]
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    p = a.sigmoid()
    return p.sqrt() if unit == "smooth-times-stochastic" else p
