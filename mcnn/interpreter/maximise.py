r"""What a unit responds to most: the input that a search finds, if unlikely inputs cost something.

.. math:: x^*=\arg\min_x R(x)-\langle\Phi(x),e_i\rangle

:math:`\Phi` is a network or the first layers of one, :math:`e_i` chooses a unit, and :math:`R` is a
prior on images.
For a unit of the first layer, a filter :math:`w` before its gate, and
:math:`R(x)=\frac\lambda2\|x\|^2` the answer is known: :math:`x^*=w/\lambda`.

Source: slide "Activation maximization" of Y. Yao's "On mathematical theories of deep learning".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mcnn.errors import McnnError, UsageError

_SHARP = 1e-3  # below this a difference of pixels counts as smooth


class MaximiseError(McnnError):
    """The search found no finite input: the prior does not hold it."""


@dataclass(frozen=True)
class Prior:
    r"""A simple natural image prior: small numbers, and few edges.

    .. math:: R(x)=\frac a2\|x\|^2+v\sum\bigl(\sqrt{|\nabla x|^2+\epsilon^2}-\epsilon\bigr)

    Attributes
    ----------
    norm, variation
        a and v, how much either counts, not negative; ``norm`` positive, else a network that grows
        without end has no maximiser.

    Raises
    ------
    UsageError
        For other numbers.

    Examples
    --------
    >>> float(Prior(norm=2.0)(torch.ones(1, 1, 3, 3)))
    9.0
    """

    norm: float = 1.0
    variation: float = 0.0

    def __post_init__(self) -> None:
        if not (self.norm > 0 and self.variation >= 0):
            raise UsageError(
                f"norm must be positive and variation not negative, got {self.norm} and "
                f"{self.variation}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return R(x) of [..., height, width], a scalar."""
        cost = 0.5 * self.norm * x.square().sum()
        if self.variation:
            down, right = x.diff(dim=-2)[..., :, :-1], x.diff(dim=-1)[..., :-1, :]
            edges = (down.square() + right.square() + _SHARP**2).sqrt() - _SHARP
            cost = cost + self.variation * edges.sum()
        return cost


class Maximiser(NamedTuple):
    r"""What was found.

    Attributes
    ----------
    image
        In the shape of the start.
    activation
        Of the unit.
    objective
        :math:`R(x)-\langle\Phi(x),e_i\rangle`, as small as the search got it.
    """

    image: Tensor
    activation: float
    objective: float


def maximise(
    model: nn.Module | Callable[[Tensor], Tensor],
    unit: int,
    prior: Callable[[Tensor], Tensor] | None = None,
    *,
    start: Tensor,
    steps: int = 100,
) -> Maximiser:
    r"""Search the input to which a unit responds most, less what the prior says against it.

    Parameters
    ----------
    model
        :math:`\Phi`: a network in evaluation mode, or the part of one up to the layer of the unit,
        before its gate: behind a closed gate there is no gradient to follow.
    unit
        Its place among the outputs, counted flat.
    prior
        :math:`R`, from an input to a scalar; by default ``Prior()``.
    start
        Where the search begins, in the shape that the model takes. Of several maxima it finds one
        near by.
    steps
        Of the quasi-Newton method (L-BFGS), at most; it stops where nothing changes any more.

    Returns
    -------
    Maximiser
        Image, activation and objective.

    Raises
    ------
    UsageError
        If there is no such unit, no step is allowed, the start is no tensor of finite numbers, or a
        module is in training mode that changes or draws something there.
    MaximiseError
        If the search runs away.

    Notes
    -----
    Source: Yao, "On mathematical theories of deep learning", activation maximisation.

    Examples
    --------
    >>> layer = nn.Conv2d(1, 4, 5)
    >>> found = maximise(layer, unit=2, prior=Prior(norm=0.5), start=torch.zeros(1, 1, 5, 5))
    >>> bool(torch.allclose(found.image, 2 * layer.weight[2:3], atol=1e-4))
    True
    """
    prior = Prior() if prior is None else prior
    if isinstance(model, nn.Module):
        _check_mode(model)
    if not start.is_floating_point() or not bool(start.isfinite().all()):
        raise UsageError(f"start must be floating point and finite, got {start.dtype}")
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}")
    with torch.no_grad():
        units = model(start).numel()
    if not 0 <= unit < units:
        raise UsageError(f"unit must be 0 ... {units - 1}, got {unit}")
    x = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS(
        [x], max_iter=steps, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-9, tolerance_change=1e-12,
    )  # fmt: skip

    def objective() -> Tensor:
        return prior(x) - model(x).flatten()[unit]

    def closure() -> Tensor:
        cost = objective()
        (x.grad,) = torch.autograd.grad(cost, x)  # the parameters of the model get none
        return cost

    search.step(closure)
    with torch.no_grad():
        activation = float(model(x).flatten()[unit])
        cost = float(objective())
    if not (torch.isfinite(x).all() and abs(cost) < float("inf")):
        raise MaximiseError("the search ran away: give a prior with a larger norm")
    return Maximiser(x.detach(), activation, cost)


def _check_mode(model: nn.Module) -> None:
    """Refuse what a search would change, or what answers by chance."""
    for name, module in model.named_modules():
        learns = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        draws = isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU)
        if module.training and (learns or draws):
            kind = type(module).__name__
            where = f" in layer {name!r}" if name else ""
            raise UsageError(f"{kind}{where} is in training mode: call model.eval() first")
