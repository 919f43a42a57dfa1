r"""Repeat until nothing changes, and the gradient of what comes out.

The solution of :math:`a=T(a)` is the limit of :math:`a\leftarrow(1-r)\,T(a)+r\,a` with the damping
r, if T brings functions closer together.
Its gradient can be had in two ways.
*Unrolled*, autograd keeps all repetitions and runs through them backwards.
*Implicit*, only the solution is kept: the derivative of both sides of :math:`a=T(a,\theta)` gives
:math:`da/d\theta=(1-\partial T/\partial a)^{-1}\,\partial T/\partial\theta`.
The inverse is again a fixed point, :math:`\lambda=g+(\partial T/\partial a)^T\lambda`, which the
same solver finds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mcnn.errors import McnnError, UsageError, unknown

GRADIENTS = ("implicit", "unrolled")

Step = Callable[[Tensor], Tensor]

_LOOK_BACK = 10  # repetitions over which growth is measured


class ContractionError(McnnError, ArithmeticError):
    """The repetitions of a solver do not come to rest."""


def fixed_point(
    step: Step, start: Tensor, *, tol: float, steps: int, damping: float = 0.0
) -> tuple[Tensor, int]:
    """Repeat ``a = (1 - damping) step(a) + damping a`` until ``step`` changes nothing.

    Parameters
    ----------
    step
        From tensors of the shape of ``start`` to such.
    start
        Any shape.
    tol
        The largest change by ``step`` that is taken for none, relative to the largest entry.
    steps
        How many repetitions are allowed.
    damping
        In [0, 1): how much of the last answer is kept.

    Returns
    -------
    solution : Tensor
        The shape of ``start``.
    taken : int
        Number of repetitions.

    Raises
    ------
    ContractionError
        If the changes are still too large after the last repetition, or are no numbers any more.
    UsageError
        For numbers out of range, a start that is NaN or infinite, or a step that returns another
        shape.

    Examples
    --------
    >>> a, taken = fixed_point(lambda a: 1 + a / 2, torch.zeros(1), tol=1e-6, steps=50)
    >>> round(a.item(), 4), taken
    (2.0, 19)
    """
    if not 0 < tol < math.inf or not 0 <= damping < 1 or steps < 0:
        raise UsageError(
            "tol must be positive and finite, damping in [0, 1) and steps at least 0, got "
            f"{tol}, {damping} and {steps}"
        )
    a, changes = start, []
    for taken in range(steps + 1):
        new = step(a)
        if new.shape != a.shape:
            raise UsageError(f"step makes {list(new.shape)} of {list(a.shape)}: shapes must agree")
        change, size = (_largest(v.detach()) for v in (new - a, new))
        changes.append(change)
        if not math.isfinite(change):
            if not bool(start.isfinite().all()):
                raise UsageError(
                    "the solver starts with NaN or infinity: look at the source or, in a backward "
                    "pass, at the gradient of the loss"
                )
            break
        if change <= tol * size:
            return new, taken
        a = torch.lerp(new, a, damping) if damping else new
    raise ContractionError(_diagnosis(changes, tol, damping))


def _largest(v: Tensor) -> float:
    return float(torch.linalg.vector_norm(v, math.inf)) if v.numel() else 0.0


def _diagnosis(changes: list[float], tol: float, damping: float) -> str:
    if not math.isfinite(changes[0]):
        return (
            "the first repetition of the solver makes NaN or infinity of finite numbers: the "
            "equation is no contraction, or a parameter of the kernel is not finite"
        )
    finite = [c for c in changes if c < float("inf")]
    back = min(_LOOK_BACK, len(finite) - 1)
    growth = (finite[-1] / finite[-1 - back]) ** (1 / back) if back > 0 else float("nan")
    slow = len(finite) == len(changes) and growth < 1
    last = f"the {len(changes)}th repetition of the solver still changes the answer by "
    cause = f"{changes[-1]:.2g}, {growth:.3g} times as much as the one before"
    if slow:
        return f"{last}{cause}: allow more than {len(changes) - 1} steps, or a tol above {tol:g}"
    return (
        f"{last}{cause}: the equation is no contraction. Make the kernel smaller, its gain below "
        f"1, or raise damping, now {damping:g}"
    )


def solve(
    step: Step,
    start: Tensor,
    *,
    tol: float,
    steps: int,
    damping: float = 0.0,
    gradient: str = "implicit",
) -> tuple[Tensor, int]:
    """Return the fixed point of ``step`` with a gradient for all that ``step`` depends on.

    Parameters
    ----------
    step, start, tol, steps, damping
        As :func:`fixed_point` has them; the adjoint equation is solved with the same.
    gradient
        ``"implicit"``: from the solution alone, so that memory does not grow with the
        repetitions; ``"unrolled"``: through all of them.

    Returns
    -------
    solution : Tensor
        The shape of ``start``.
    taken : int
        Number of repetitions.

    Raises
    ------
    ContractionError
        From here, or from the backward pass.
    UsageError
        For an unknown gradient; from a backward pass that is to be differentiated itself.
    """
    if gradient not in GRADIENTS:
        raise unknown("gradient", gradient, GRADIENTS)

    def rest(step: Step, start: Tensor) -> tuple[Tensor, int]:
        return fixed_point(step, start, tol=tol, steps=steps, damping=damping)

    if gradient == "unrolled":
        return rest(step, start)
    with torch.no_grad():
        solution, taken = rest(step, start)
    out = step(solution)  # once more, with a graph: the solution itself counts as a constant
    if out.requires_grad:
        state = solution.detach().requires_grad_()
        again = step(state)

        def adjoint(given: Tensor | None) -> Tensor | None:
            if given is None:  # nothing depends on the solution
                return None
            if torch.is_grad_enabled():  # as in a backward pass with create_graph=True
                raise UsageError(
                    "implicit gradients have no derivative of their own: for second derivatives "
                    'choose gradient="unrolled"'
                )

            def back(v: Tensor) -> Tensor:
                (turned,) = torch.autograd.grad(again, state, v, retain_graph=True)
                return given + turned

            return rest(back, given)[0]

        out.register_hook(adjoint)
    return out, taken
