r"""Stochastic neurons and conditional computation: units that are off, and cost nothing then.

A stochastic unit is one sample of a sum over two states, k of them one of :math:`2^k`.
If a unit is a *gate*, what it switches off need not be computed: the cost follows the sample.
To learn when to be on, the gate needs the gradient of an expected loss, and there

.. math:: E[L(h)]\ne L(E[h]),

which is why there is more than one estimate of it:

- :mod:`~mcnn.gates.units`: three units with a backward pass, :func:`noisy_rectifier`,
  :func:`smooth_times_stochastic` and :func:`mcnn.randomness.straight_through`;
- :mod:`~mcnn.gates.baselines`: the score function, with a baseline for each unit;
- :mod:`~mcnn.gates.exact`: what they are measured against;
- :mod:`~mcnn.gates.layer`: :class:`GatedLinear`, which computes what is on, and
  :class:`GatedBlock`, which also decides what that is.

Source: Y. Bengio, N. Léonard, A. Courville: Estimating or propagating gradients through stochastic
neurons for conditional computation. arXiv:1308.3432.
"""

from mcnn import lazy_modules
from mcnn.gates.baselines import (
    BASELINES,
    RunningBaseline,
    all_baselines,
    local_expectation,
    local_variance,
    score_function,
    variance,
)
from mcnn.gates.exact import expected_loss, moments, states
from mcnn.gates.layer import GatedBlock, GatedLinear
from mcnn.gates.units import (
    UNITS,
    noisy_rectifier,
    on_probability,
    sample,
    smooth_times_stochastic,
)

__all__ = [
    "BASELINES",
    "UNITS",
    "GatedBlock",
    "GatedLinear",
    "RunningBaseline",
    "all_baselines",
    "expected_loss",
    "local_expectation",
    "local_variance",
    "moments",
    "noisy_rectifier",
    "on_probability",
    "sample",
    "score_function",
    "smooth_times_stochastic",
    "states",
    "variance",
]

__getattr__ = lazy_modules(__name__, __path__)
