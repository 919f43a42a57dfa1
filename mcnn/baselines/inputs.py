r"""Round the inputs of a layer to integers as they come: what sampling them is compared with.

A row of inputs becomes codes times one scale.
Where no input is negative, as after a ReLU, the codes are :math:`0,\ldots,2^b-1`, else
:math:`-L,\ldots,L` for :math:`L=2^{b-1}-1`.
"""

import torch
from torch import Tensor

from mcnn.density.integers import Rule
from mcnn.errors import unknown

CLIPS = ("max", "mse")
_STEPS = 16  # scales that are tried for the least squared error


def rounded(bits: int, clip: str = "max") -> Rule:
    """Return the rule that rounds each input to the nearest of equidistant values.

    Parameters
    ----------
    bits
        b, at least 2 and at most 16.
    clip
        ``"max"``: no input is cut off. ``"mse"``: the largest may be, where the squared error of
        the row gains by a finer step; of 16 steps the best is taken, for each row as it comes.

    Raises
    ------
    ValueError
        For another number of bits, or an unknown ``clip``.

    Examples
    --------
    >>> rounded(2)(torch.tensor([[0.0, 0.5, 1.5], [-1.0, 0.2, 0.9]]), 0)[0]
    tensor([[ 0,  1,  3],
            [-1,  0,  1]], dtype=torch.int32)
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be in 2 ... 16, got {bits}")
    if clip not in CLIPS:
        raise unknown("clip", clip, CLIPS)

    def rule(rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        signed = rows.amin(1, keepdim=True) < 0  # [rows, 1]
        high = torch.where(signed, 2 ** (bits - 1) - 1, 2**bits - 1).to(rows.dtype)
        low = torch.where(signed, -high, 0)
        top = rows.abs().amax(1, keepdim=True)
        best = top / high  # [rows, 1]
        if clip == "mse":
            least = torch.full_like(best, torch.inf)
            for k in range(_STEPS, 0, -1):
                scale = top / high * (k / _STEPS)
                codes = _codes(rows, scale, low, high)
                error = (codes.mul_(scale).sub_(rows)).square_().sum(1, keepdim=True)
                best = torch.where(error < least, scale, best)
                least = torch.minimum(error, least)
        return _codes(rows, best, low, high).int(), best.flatten()

    return rule


def _codes(rows: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    codes = (rows / torch.where(scale > 0, scale, 1)).round_()
    return torch.minimum(torch.maximum(codes, low), high)
