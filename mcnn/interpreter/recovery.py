r"""Does :math:`\operatorname{ReLU}(Bx)` still know :math:`x`?

A row of :math:`B` that is open tells one number, :math:`b\cdot x`.
A row that is closed tells on which side of a plane :math:`x` lies, and nearby inputs lie there,
too. So the :math:`n` numbers of :math:`x` follow if :math:`n` independent rows are open, and else
they do not. A row whose law is symmetric is open with probability ½ whatever :math:`x` is; of
:math:`m` independent rows of continuous law

.. math:: P=\Pr\bigl\{\operatorname{Bin}(m,\tfrac12)\ge n\bigr\},

which is what a ReLU leaves of a bottleneck of :math:`n` channels that was widened to :math:`m`.
Without the ReLU it is one as soon as :math:`m\ge n`.

The question is that of "MobileNetV2: Inverted Residuals and Linear Bottlenecks" [1]_.

References
----------
.. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen: MobileNetV2: Inverted residuals and
   linear bottlenecks. CVPR 2018, arXiv:1801.04381.
"""

import operator

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.sampling import as_seed

_CLOSE = 1e-6  # of the input's length: what counts as found again, in float64


def recovery_probability(n: int, m: int) -> float:
    """Return the probability that a random ReLU layer of m units determines its n inputs.

    Parameters
    ----------
    n, m
        Inputs and units, at least one.

    Raises
    ------
    UsageError
        For smaller numbers.

    Examples
    --------
    >>> recovery_probability(2, 3)
    0.5
    """
    n, m = _check(n, m)
    if m < n:
        return 0.0
    from scipy.special import bdtrc

    return float(bdtrc(n - 1, m, 0.5))


def recovered(x: Tensor, weight: Tensor) -> Tensor:
    r"""Find out whether each input follows from :math:`\operatorname{ReLU}(Bx)`, by doing it.

    The least squares solution of the open rows that is shortest is compared with the input.

    Parameters
    ----------
    x
        [k, n], not zero; it is computed in float64.
    weight
        :math:`B`, [k, m, n], one for each input.

    Returns
    -------
    Tensor
        bool, [k].
    """
    x, weight = x.double(), weight.double()
    y = torch.relu(weight @ x.unsqueeze(2))  # [k, m, 1]
    seen = weight * (y > 0)
    found = torch.linalg.pinv(seen, rtol=1e-12) @ y  # [k, n, 1]
    return (found.squeeze(2) - x).norm(dim=1) < _CLOSE * x.norm(dim=1)


def count_recovered(n: int, m: int, draws: int, seed: int | torch.Generator = 0) -> int:
    """Draw normal inputs and weights, and count the inputs that the layer determines.

    Parameters
    ----------
    n, m
        Inputs and units of the layer.
    draws
        How many layers, each with an input of its own.
    seed
        An integer, or a generator, which is advanced by one draw.

    Raises
    ------
    UsageError
        For numbers below one.

    Examples
    --------
    >>> 400 < count_recovered(2, 3, draws=1000) < 600
    True
    """
    n, m = _check(n, m)
    draws = operator.index(draws)
    if draws < 1:
        raise UsageError(f"draws must be at least 1, got {draws}")
    generator = torch.Generator().manual_seed(as_seed(seed))
    total = 0
    for start in range(0, draws, 2000):
        k = min(2000, draws - start)
        x = torch.randn(k, n, generator=generator, dtype=torch.float64)
        weight = torch.randn(k, m, n, generator=generator, dtype=torch.float64)
        total += int(recovered(x, weight).sum())
    return total


def _check(n: int, m: int) -> tuple[int, int]:
    n, m = operator.index(n), operator.index(m)
    if n < 1 or m < 1:
        raise UsageError(f"inputs and units must be at least 1, got {n} and {m}")
    return n, m
