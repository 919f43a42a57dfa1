r"""The variance that sampling a density has, without sampling.

A neuron with weights :math:`w` and inputs :math:`a` is estimated from :math:`S` samples by
:math:`\frac{\|w\|_1}{S}\sum_k f(\xi_k)`, where :math:`f` is the step function that is
:math:`\operatorname{sign}(w_i)a_i` for :math:`P_{i-1}\le\xi<P_i`.
Each way of choosing the :math:`\xi_k` has its own variance, and all of them come out of the steps:

- *iid*: :math:`\frac{\|w\|_1^2}{S}\operatorname{Var}f(\xi)`;
- *jittered*: the offsets are independent, so the variances of :math:`f` inside the S strata add up;
- *systematic*: one offset :math:`u` moves all samples, so the estimate is a step function of
  :math:`u`, which jumps where a sample crosses an edge :math:`P_i`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mcnn.density.counts import cumulative_mass


def variance(weight: Tensor, inputs: Tensor, samples: int, method: str) -> Tensor:
    r"""Return the variance of sampled pre-activations, exactly.

    Parameters
    ----------
    weight
        [rows, n], no row all zero.
    inputs
        [rows, n], what each neuron sees.
    samples
        S, per row.
    method
        ``"iid"``, ``"jittered"`` or ``"systematic"``.

    Returns
    -------
    Tensor
        [rows], float64.

    Raises
    ------
    ValueError
        For a method whose variance is not known here, or shapes that differ.

    Examples
    --------
    >>> w, a = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    >>> variance(w, a, 4, "iid").item()  # (2 / 4)**2 * 4 * 1/4
    0.25
    >>> variance(w, a, 4, "jittered").item()  # no stratum holds both
    0.0
    """
    if method not in VARIANCES:
        raise ValueError(f"no variance for {method!r}; there are: {', '.join(VARIANCES)}")
    if weight.shape != inputs.shape or weight.dim() != 2:
        raise ValueError(
            f"weight and inputs must both be [rows, n], got {tuple(weight.shape)} and "
            f"{tuple(inputs.shape)}"
        )
    w = weight.detach().double()
    f = inputs.double() * w.sign()  # [rows, n]
    edges = cumulative_mass(w)
    edges = edges.double() / edges[:, -1:]  # [rows, n], P_i
    norm = w.abs().sum(1)  # [rows]
    return VARIANCES[method](f, edges, samples) * (norm / samples) ** 2


def _iid(f: Tensor, edges: Tensor, samples: int) -> Tensor:
    p = torch.diff(pad(edges, (1, 0)), dim=1)  # [rows, n]
    return samples * ((p * f**2).sum(1) - (p * f).sum(1) ** 2)


def _jittered(f: Tensor, edges: Tensor, samples: int) -> Tensor:
    borders = torch.arange(samples + 1, device=f.device, dtype=f.dtype) / samples
    borders = borders.expand(len(f), -1).contiguous()  # [rows, S + 1]
    mean = samples * torch.diff(_integral(f, edges, borders), dim=1)  # [rows, S]: E f in stratum k
    square = samples * torch.diff(_integral(f**2, edges, borders), dim=1)
    return (square - mean**2).clamp(min=0).sum(1)


def _integral(f: Tensor, edges: Tensor, x: Tensor) -> Tensor:
    """Integrate the step function from 0 to each x [rows, m]."""
    left = pad(edges, (1, 0))[:, :-1]  # [rows, n]: P_{i-1}
    before = pad(((edges - left) * f).cumsum(1), (1, 0))[:, :-1]  # [rows, n]
    i = torch.searchsorted(edges, x).clamp(max=edges.shape[1] - 1)  # [rows, m]
    return before.gather(1, i) + (x - left.gather(1, i)) * f.gather(1, i)


def _systematic(f: Tensor, edges: Tensor, samples: int) -> Tensor:
    part = edges[:, :-1] * samples % 1  # [rows, n - 1]: offsets below this put a sample before P_i
    jump = f[:, :-1] - f[:, 1:]  # what that sample adds there, against behind P_i
    part, order = part.sort(1, descending=True)
    level = pad(jump.gather(1, order).cumsum(1), (1, 0))  # [rows, n]: the estimate but a constant
    ends = pad(part, (0, 1))  # level j holds for offsets between ends[j] and the one before
    length = torch.cat([torch.ones_like(ends[:, :1]), part], 1) - ends  # [rows, n]
    mean = (length * level).sum(1)
    return (length * (level - mean[:, None]) ** 2).sum(1)


VARIANCES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "iid": _iid,
    "jittered": _jittered,
    "systematic": _systematic,
}
