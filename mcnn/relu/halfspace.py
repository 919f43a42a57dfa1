r"""A residual layer as the projection onto a half space.

A plane with unit normal :math:`\hat\omega` and offset :math:`b` leaves two half spaces.
The point of :math:`\{z:\hat\omega\cdot z\le b\}` that is nearest to :math:`x` is

.. math:: x-\hat\omega\operatorname{ReLU}(\hat\omega\cdot x-b),

and this is a residual layer :math:`x+W^2\operatorname{ReLU}(W^1x+b^1)` with
:math:`W^1=\hat\omega^T`, :math:`W^2=-\hat\omega` and :math:`b^1=-b`.

Projections bring no two points further apart, and doing one twice does nothing new.
A stack of such layers projects onto one half space after the other, and a cycle of them, repeated,
leads into the polytope where all meet [1]_.

References
----------
.. [1] S. Agmon: The relaxation method for linear inequalities. Canadian J. Math. 6, 1954.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcnn.relu.check import check_floating


def project_halfspace(x: Tensor, normal: Tensor, offset: Tensor | float = 0.0) -> Tensor:
    r"""Return the nearest points of the half space :math:`\hat\omega\cdot z\le b`.

    Parameters
    ----------
    x
        [..., d], floating point.
    normal
        [d], of any length but zero; :math:`\hat\omega` is ``normal`` divided by its length.
    offset
        :math:`b`, a scalar: distance of the plane from the origin, along the normal.

    Returns
    -------
    Tensor
        [..., d]; a point that was inside keeps its bits.

    Raises
    ------
    TypeError
        If a tensor is not floating point, or types differ.
    ValueError
        If the normal is no vector, has another length than the points, is zero, or it or the
        offset is not finite.

    Notes
    -----
    Source: slide "Residual layers", half spaces.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0]])
    >>> project_halfspace(x, torch.tensor([5.0, 0.0]), 2.0)
    tensor([[ 2.,  1.],
            [-3.,  1.]])
    """
    check_floating(x=x, normal=normal)
    if normal.dim() != 1 or x.dim() == 0 or x.shape[-1] != len(normal):
        raise ValueError(
            f"normal must be a vector as long as the last axis of x: got {tuple(normal.shape)} "
            f"for x of shape {tuple(x.shape)}"
        )
    w1, w2, bias = residual_weights(normal, offset)
    return x + F.linear(torch.relu(F.linear(x, w1, bias)), w2)


def residual_weights(normal: Tensor, offset: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return :math:`W^1` [1, d], :math:`W^2` [d, 1] and :math:`b^1` [1] of the residual layer.

    Raises
    ------
    ValueError
        If the normal is zero, or it or the offset is not finite, or the offset is no scalar; in
        compiled code the numbers are not looked at.
    """
    offset = torch.as_tensor(offset, dtype=normal.dtype, device=normal.device)
    if offset.numel() != 1:
        raise ValueError(f"offset must be a scalar, got shape {tuple(offset.shape)}")
    largest = normal.detach().abs().amax() if normal.numel() else torch.tensor(0.0)
    if not (normal.is_meta or torch.compiler.is_compiling()):  # which branch on no numbers
        if not (largest.isfinite() and offset.isfinite()):
            raise ValueError("normal and offset must be finite")
        if largest == 0:
            raise ValueError("normal must not be zero: it has no direction then")
    scaled = normal / largest  # squares of very large or very small numbers do not fit
    unit = scaled / torch.linalg.vector_norm(scaled)
    return unit.unsqueeze(0), -unit.unsqueeze(1), -offset.reshape(1)


class HalfspaceLayer(nn.Module):
    r"""The residual layer :math:`x+W^2\operatorname{ReLU}(W^1x+b^1)` that is a projection.

    Normal and offset are parameters; the weights are made of them in every pass, so that the layer
    stays a projection while it learns.

    Parameters
    ----------
    normal
        [d], of any length but zero.
    offset
        Distance of the plane from the origin, along the normal.

    Raises
    ------
    TypeError, ValueError
        As :func:`project_halfspace`.

    Examples
    --------
    >>> layer = HalfspaceLayer(torch.tensor([0.0, 2.0]), offset=1.0)
    >>> layer(torch.tensor([4.0, 3.0]))
    tensor([4., 1.], grad_fn=<AddBackward0>)
    """

    def __init__(self, normal: Tensor, offset: Tensor | float = 0.0) -> None:
        super().__init__()
        check_floating(normal=normal)
        if normal.dim() != 1:
            raise ValueError(f"normal must be a vector, got shape {tuple(normal.shape)}")
        residual_weights(normal, offset)
        self.normal = nn.Parameter(normal.detach().clone())
        offset = torch.as_tensor(offset, dtype=normal.dtype, device=normal.device)
        self.offset = nn.Parameter(offset.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Project [..., d]."""
        return project_halfspace(x, self.normal, self.offset)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"{len(self.normal)}"
