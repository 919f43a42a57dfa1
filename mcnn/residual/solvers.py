"""Solvers of a' = f(t, a): Runge-Kutta methods, and the leapfrog.

========================================  =====================================================
``euler`` ``midpoint`` ``heun2``          explicit Runge-Kutta methods with a fixed step,
``heun3`` ``rk4``                         of order 1, 2, 2, 3, 4
``bosh3`` ``dopri5`` ``dopri8``           adaptive: the step follows an estimate of the error
``verlet``                                leapfrog (Stoermer-Verlet), order 2, for states of two
                                          halves; keeps volume and can be run backwards
========================================  =====================================================

Adaptive methods, and adjoint gradients, are torchdiffeq's.
A fixed step is a loop of a few lines, in which nothing depends on the data: compilers unroll it,
it is exported, and transformations (``torch.func``) pass through it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError
from mcnn.residual.fields import Separable

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
    "bosh3": 3,
    "dopri5": 5,
    "dopri8": 8,
    "verlet": 2,
}
ADAPTIVE = ("bosh3", "dopri5", "dopri8")
SOLVERS = tuple(ORDERS)

# Of methods with a fixed step: for each stage behind the first, when it is in the step, and how the
# slopes before it are weighed; then the weights of the step itself. ``rk4`` is the 3/8 rule.
_TABLEAUS: dict[str, tuple[tuple[tuple[float, tuple[float, ...]], ...], tuple[float, ...]]] = {
    "euler": ((), (1,)),
    "midpoint": (((1 / 2, (1 / 2,)),), (0, 1)),
    "heun2": (((1, (1,)),), (1 / 2, 1 / 2)),
    "heun3": (((1 / 3, (1 / 3,)), (2 / 3, (0, 2 / 3))), (1 / 4, 0, 3 / 4)),
    "rk4": (
        ((1 / 3, (1 / 3,)), (2 / 3, (-1 / 3, 1)), (1, (1, -1, 1))),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}

Derivative = Callable[[Tensor, Tensor], Tensor]

_MAX_STEPS = 100_000  # of an adaptive solver, which would else go on for ever where f is stiff
_MAX_STAGES = 14  # of a step
_MAX_REPEATS = 1_000  # calls at almost one time: the step has become too small to be one


def solve(
    field: nn.Module,
    a: Tensor,
    solver: str,
    steps: int,
    span: int,
    scale: float,
    *,
    reverse: bool = False,
    dense: bool = False,
    tolerance: float = 1e-6,
    adjoint: Sequence[Tensor] | None = None,
) -> Tensor:
    """Follow a state through all layers.

    Parameters
    ----------
    field
        ``(s, a) -> derivative``, time s in layers.
    a
        [..., width] state at the start (at the end, in reverse).
    solver, steps
        One of :data:`SOLVERS`; an adaptive one chooses its steps by itself.
    span
        Number of layers.
    scale
        Duration of a layer: the derivative with respect to s is ``scale * field(s, a)``.
    reverse
        Go from the end to the start.
    dense
        Return the state after each step, not only the last one.
    tolerance
        Relative and absolute error that an adaptive solver allows itself, per step.
    adjoint
        Parameters of the field, if their gradient is to come from the adjoint equation.

    Returns
    -------
    Tensor
        [..., width], or [steps + 1, ..., width] if ``dense``.

    Raises
    ------
    ArithmeticError
        If an adaptive solver gets stuck.
    UsageError
        In the backward pass, if adjoint gradients are to be differentiated again.
    """
    if solver == "verlet":
        return _verlet(field, a, steps, span, scale, reverse, dense)
    if a.is_meta:
        adjoint = None  # there are shapes only
    if solver in ADAPTIVE and (a.numel() == 0 or a.is_meta):
        solver = "euler"  # nothing has no error to follow
    # What is exported is the way forwards, which does not depend on how gradients are to come.
    if solver not in ADAPTIVE and (adjoint is None or torch.compiler.is_exporting()):
        return _fixed(field, a, solver, steps, span, scale, reverse, dense)

    if torch.compiler.is_compiling():
        torch._dynamo.graph_break(
            msg=f"the steps of {solver} depend on the data: compile without fullgraph"
            if solver in ADAPTIVE
            else "adjoint gradients are not traced: compile without fullgraph, or adjoint=False"
        )
    from torchdiffeq import odeint, odeint_adjoint  # brings SciPy: a third of PyTorch's time

    def derivative(s: Tensor, a: Tensor) -> Tensor:
        return scale * field(float(s.detach()), a)

    ends = (span, 0) if reverse else (0, span)
    # Time is counted in layers, and half precision does not count far.
    dtype = torch.promote_types(a.dtype, torch.float32)
    s = torch.tensor(ends, dtype=dtype, device=a.device)
    if dense:
        s = _grid(s, steps)
    call, extra = odeint, {}
    if adjoint is not None:
        call, extra = odeint_adjoint, {"adjoint_params": tuple(adjoint)}
    if solver in ADAPTIVE:
        derivative = _counted(derivative, solver)
        borders = torch.arange(1, span, dtype=s.dtype, device=s.device)
        # Steps end at the borders of layers, where the derivative may jump, and at the end,
        # beyond which there are no weights.
        options = {"jump_t": borders, "step_t": s[-1:], "max_num_steps": _MAX_STEPS}
        if adjoint is not None:  # the way back is another equation, with a first step of its own
            extra["adjoint_options"] = options.copy()
        # Left to itself, the solver computes it from the state, and the gradient would follow.
        options["first_step"] = _first_step(derivative, s, a, ORDERS[solver], tolerance)
    else:
        # perturb: the ends of a step are looked up inside it, on their own side of a jump.
        options = {"grid_constructor": lambda func, a, s: _grid(s, steps), "perturb": True}
        if dense:  # the way back goes from one state to the one before
            one = {"grid_constructor": lambda func, a, s: _grid(s, 1)}
            extra["adjoint_options"] = options | one
    try:
        states = call(
            derivative,
            a,
            s,
            method=solver,
            options=options,
            rtol=tolerance,
            atol=tolerance,
            **extra,
        )
    except AssertionError as error:  # how torchdiffeq reports that it got stuck
        raise _stuck(solver, str(error).splitlines()[0][:80]) from None
    if adjoint is not None and states.requires_grad:
        states.register_hook(_refuse_second)
    return states if dense else states[-1]


def _refuse_second(_: Tensor) -> None:
    """Stop a backward pass that is to be differentiated, for the adjoint's would be constants."""
    if torch.is_grad_enabled():  # as create_graph has it
        raise UsageError(
            "adjoint gradients cannot be differentiated again (create_graph=True): set "
            "adjoint=False, whose gradients can"
        )


def _stuck(solver: str, why: str) -> ArithmeticError:
    return ArithmeticError(
        f"{solver} got stuck ({why}): the solution grows beyond all bounds or changes too fast; "
        "take a shorter horizon, a larger tolerance, float64 or a solver with a fixed step"
    )


def _counted(derivative: Derivative, solver: str) -> Derivative:
    """Let a derivative raise if the solver calls it for ever.

    The solver's own guards are assertions, which ``python -O`` leaves out.
    """
    calls = repeats = 0
    last = float("inf")

    def counted(s: Tensor, a: Tensor) -> Tensor:
        nonlocal calls, repeats, last
        now = float(s.detach())
        calls, repeats = calls + 1, repeats + 1
        if not abs(now - last) <= 1e-12 * max(1.0, abs(now)):
            repeats, last = 0, now
        if repeats > _MAX_REPEATS or calls > _MAX_STEPS * _MAX_STAGES:
            raise _stuck(solver, f"at time {now:g} after {calls} calls")
        return derivative(s, a)

    return counted


@torch.no_grad()
def _first_step(
    derivative: Derivative, s: Tensor, a: Tensor, order: int, tolerance: float
) -> float:
    """Return a first step by the slope and its change: Hairer et al., section II.4."""

    def norm(x: Tensor) -> float:
        return float((x / scale).abs().square().mean().sqrt())

    start, end = float(s[0]), float(s[-1])
    wide = torch.promote_types(a.dtype, torch.float32)
    state, slope = a.to(wide), derivative(s[0], a).to(wide)
    scale = tolerance * (1 + state.abs())
    size, change = norm(state), norm(slope)
    step = 1e-6 if size < 1e-5 or change < 1e-5 else 0.01 * size / change
    step = min(step, abs(end - start))
    signed = step if end > start else -step
    there = derivative(s[0] + signed, (state + signed * slope).to(a.dtype)).to(wide)
    most = max(change, norm(there - slope) / step)
    if most <= 1e-15:
        return min(max(1e-6, 1e-3 * step), abs(end - start))
    first = min(100 * step, (0.01 / most) ** (1 / order), abs(end - start))
    return first if first > 0 else step  # where the slope is no number, the solver will say so


def _grid(s: Tensor, steps: int) -> Tensor:
    """Divide the time from s[0] to s[-1]; multiplied first, so that whole numbers are exact."""
    k = torch.arange(steps + 1, dtype=s.dtype, device=s.device)
    return s[0] + (s[-1] - s[0]) * k / steps


def _fixed(
    field: nn.Module,
    a: Tensor,
    solver: str,
    steps: int,
    span: int,
    scale: float,
    reverse: bool,
    dense: bool,
) -> Tensor:
    """Take steps of one length, by the tableau of an explicit Runge-Kutta method.

    The ends of a step are looked up inside it, on their own side of a jump.
    """
    stages, weights = _TABLEAUS[solver]
    start, way = (span, -span) if reverse else (0, span)
    h = scale * way / steps
    states = [a]
    for k in range(steps):
        # Multiplied first, so that borders between layers are exact.
        s0, s1 = start + way * k / steps, start + way * (k + 1) / steps
        slopes = [field(math.nextafter(s0, s1), a)]
        for c, row in stages:
            s = math.nextafter(s1, s0) if c == 1 else s0 + c * (s1 - s0)
            slopes.append(field(s, torch.add(a, _weighted(row, slopes), alpha=h)))
        a = torch.add(a, _weighted(weights, slopes), alpha=h)
        if dense:
            states.append(a)
    return torch.stack(states) if dense else a


def _weighted(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    terms = [(w, f) for w, f in zip(weights, slopes, strict=True) if w != 0]
    (w, total), *rest = terms
    total = total if w == 1 else w * total
    for w, f in rest:
        total = torch.add(total, f, alpha=w)
    return total


def _verlet(
    field: Separable,
    state: Tensor,
    steps: int,
    span: int,
    scale: float,
    reverse: bool,
    dense: bool,
) -> Tensor:
    """Shear in turn p by half a step, q by a step, p by half a step.

    A shear keeps volume and is undone by subtracting what was added.
    The weights are those of the middle of the step, so that the way back meets the same ones.
    """
    h = scale * span / steps * (-1 if reverse else 1)
    q, p = state.chunk(2, -1)
    states = [state]
    for k in range(steps):
        middle = (steps - k - 0.5 if reverse else k + 0.5) * span / steps
        p = p + h / 2 * field.kick(middle, q)
        q = q + h * field.drift(middle, p)
        p = p + h / 2 * field.kick(middle, q)
        if dense:
            states.append(torch.cat([q, p], -1))
    return torch.stack(states) if dense else torch.cat([q, p], -1)
