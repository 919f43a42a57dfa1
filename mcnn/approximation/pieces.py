r"""A sum of constants: one unit answers for each piece of the inputs.

.. math:: F(x)=\sum_{j=1}^N v_j\,\phi_j(x),\qquad
          \phi_j(x)=1\text{ where }w_j\cdot x+b_j\text{ is largest, else }0 .

With weights :math:`w_j=c_j` and biases :math:`b_j=-|c_j|^2/2` the largest unit is that of the
nearest centre :math:`c_j`, and with :math:`v_j=f(c_j)` the sum is piecewise constant and near f.
A unit alone is 1 on a half space and 0 on the other; a competition of them makes cells.
Both terms are large far from the origin: centre the inputs, or take float64 there.
In d dimensions N cells have a diameter of order :math:`N^{-1/d}`, and so is the error of anything
that is constant on them: *there* is the curse of dimension.

Source: slide "Why should neural networks work?" of A. Zelener's talk: "is a piecewise constant
approximation of".
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError

_CHUNK = 1 << 24  # scores at a time, to bound the memory


class Pieces(nn.Module):
    """A piecewise constant function: the value of the nearest centre.

    Parameters
    ----------
    centres
        [N, inputs].
    values
        [N, outputs], or the function to take them from: [N, inputs] to [N, outputs].

    Raises
    ------
    UsageError
        If there is not one value for each centre, or a centre is NaN or infinite; in a call, if an
        input is, which is nearest to none.

    Examples
    --------
    >>> halves = Pieces(torch.tensor([[0.25], [0.75]]), lambda x: x)
    >>> halves(torch.tensor([[0.1], [0.3], [0.9]])).flatten().tolist()
    [0.25, 0.25, 0.75]
    """

    def __init__(self, centres: Tensor, values: Tensor | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if centres.dim() != 2 or len(centres) < 1:
            raise UsageError(f"centres must be [N, inputs], got {list(centres.shape)}")
        if not (centres.is_floating_point() and bool(centres.isfinite().all())):
            raise UsageError("centres must be floating point, and neither NaN nor infinite")
        centres = centres.detach()
        v = values if isinstance(values, Tensor) else values(centres)
        if v.dim() != 2 or len(v) != len(centres):
            raise UsageError(f"values must be [{len(centres)}, outputs], got {list(v.shape)}")
        self.register_buffer("weight", centres.clone())
        self.register_buffer("bias", -centres.square().sum(1) / 2)
        self.register_buffer("values", v.detach().clone())

    def winners(self, x: Tensor) -> Tensor:
        """Return the number of the largest unit for each of [batch, inputs]: int64 [batch]."""
        if not bool(x.isfinite().all()):
            raise UsageError("an input that is NaN or infinite has no nearest centre")
        rows = max(1, _CHUNK // len(self.weight))
        parts = [torch.addmm(self.bias, part, self.weight.T).argmax(1) for part in x.split(rows)]
        return torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value of the nearest centre: [batch, inputs] to [batch, outputs]."""
        return self.values[self.winners(x)]


def grid(side: int, d: int) -> Tensor:
    """Return the centres of side**d equal cells of the unit cube, float64 [side**d, d].

    Raises
    ------
    UsageError
        For a side or a dimension below one.

    Examples
    --------
    >>> grid(2, 1).flatten().tolist()
    [0.25, 0.75]
    """
    if side < 1 or d < 1:
        raise UsageError(f"side and d must be at least 1, got {side} and {d}")
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    return torch.cartesian_prod(*[axis] * d).view(-1, d)
