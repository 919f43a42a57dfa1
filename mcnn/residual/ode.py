"""The residual network as a module: a right-hand side, and the solver that runs through it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcnn.checks import as_count, check_positive
from mcnn.errors import UsageError, unknown
from mcnn.residual.fields import STRUCTURES, WEIGHTS, Parabolic, Schedule, SecondOrder, Separable
from mcnn.residual.solvers import ADAPTIVE, SOLVERS, solve
from mcnn.seeds import layer_seed
from mcnn.sparse.autograd import is_transformed


class ResidualODE(nn.Module):
    """Residual layers as a differential equation, a' = W2(t) max{0, W1(t) a + b(t)}.

    With Euler's method and one step per layer it is a residual network.
    ``solver``, ``steps``, ``tolerance`` and ``adjoint`` are attributes that may be changed at any
    time, before, during and after training.

    Parameters
    ----------
    width
        Number of neurons n of a layer, the last axis of the input.
    hidden
        Number of neurons under the ReLU.
    steps
        Of a solver with a fixed step; an adaptive one chooses its own.
    solver
        One of :data:`mcnn.residual.SOLVERS`; ``"verlet"`` needs the structure ``"hamiltonian"``
        or ``"second-order"``.
    weights
        ``"layers"``: constant in each of ``layers`` intervals; ``"shared"``: constant;
        ``"interpolated"``: linear between ``layers`` knots, the first and last at the ends.
    structure
        ``"free"``, ``"parabolic"``, ``"hamiltonian"`` or ``"second-order"``, see
        :mod:`mcnn.residual.fields`.
        The second-order equation starts from rest, and its velocities are dropped in the end.
    horizon
        The time T in which the state passes all layers.
    adjoint
        Whether gradients come from the adjoint equation, solved backwards, instead of from the
        steps taken: memory is then independent of the number of steps, and the gradient is that of
        the steps only up to the error of the solver.
    layers
        How many sets of weights; by default as many as ``steps``.
    bias
        Whether there is an offset b(t) under the ReLU.
    activation
        Elementwise function instead of the ReLU.
    tolerance
        Error per step, relative and absolute, of an adaptive solver.
    seed
        Of the initial weights: an integer, or a generator, which is advanced by one draw; by
        default from PyTorch's own, so that layers made alike differ.
    device, dtype
        Of the parameters, whose values depend on neither; by default PyTorch's.

    Raises
    ------
    ValueError
        For a size below one, an unknown name, or parts that do not fit together.
    UsageError
        When exported with an adaptive solver, whose steps depend on the data; when ``torch.func``
        or forward mode meets one, or adjoint gradients; and when adjoint gradients are to be
        differentiated again.

    Notes
    -----
    Source: slide "Residual layers as differential equations"; adjoint gradients: Chen et al.,
    Neural ordinary differential equations, NeurIPS 2018.

    Examples
    --------
    >>> net = ResidualODE(width=4, hidden=8, steps=8)
    >>> a = torch.ones(3, 4)
    >>> before = net(a)
    >>> net.solver, net.steps = "rk4", 32
    >>> net(a).shape, bool((net(a) - before).abs().max() < 0.1)
    (torch.Size([3, 4]), True)
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        steps: int = 8,
        solver: str = "euler",
        weights: str = "layers",
        structure: str = "free",
        horizon: float = 1.0,
        adjoint: bool = False,
        *,
        layers: int | None = None,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        tolerance: float = 1e-6,
        seed: int | torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_choice("weights", weights, WEIGHTS)
        _check_choice("structure", structure, tuple(STRUCTURES))
        layers = steps if layers is None else layers
        sizes = {"width": width, "hidden": hidden, "layers": layers}
        width, hidden, layers = (as_count(name, value) for name, value in sizes.items())
        if weights == "interpolated" and layers < 2:
            raise ValueError(f"weights 'interpolated' needs layers of at least 2, got {layers}")
        check_positive("horizon", horizon)
        self.width = width
        self.schedule = Schedule(weights, layers)
        self.horizon = horizon
        device = torch.get_default_device() if device is None else device
        with torch.device("cpu"):
            generator = torch.Generator().manual_seed(layer_seed(seed))
            self.field = STRUCTURES[structure](
                width, hidden, self.schedule, bias=bias, activation=activation, generator=generator
            )
        self.field.to(device, dtype)
        self.steps = steps
        self.solver = solver
        self.tolerance = tolerance
        self.adjoint = adjoint

    @property
    def solver(self) -> str:
        """Name of the solver."""
        return self._solver

    @solver.setter
    def solver(self, name: str) -> None:
        _check_choice("solver", name, SOLVERS)
        if name == "verlet" and not isinstance(self.field, Separable):
            raise ValueError(
                "solver 'verlet' needs a state of two halves: "
                "structure 'hamiltonian' or 'second-order'"
            )
        self._solver = name

    @property
    def steps(self) -> int:
        """Number of steps of a solver with a fixed step."""
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._steps = as_count("steps", steps)

    @property
    def tolerance(self) -> float:
        """Error per step that an adaptive solver allows itself."""
        return self._tolerance

    @tolerance.setter
    def tolerance(self, tolerance: float) -> None:
        check_positive("tolerance", tolerance)
        self._tolerance = tolerance

    def forward(self, a: Tensor) -> Tensor:
        """Return the state at the horizon, [..., width], of the state a [..., width] at time 0."""
        return self.flow(self.start(a))[..., : self.width].contiguous()

    def trajectory(self, a: Tensor) -> Tensor:
        """Return the states at 0, h, 2h, ..., T = ``steps`` h: [steps + 1, ..., width]."""
        return self._solve(self.start(a), dense=True)[..., : self.width].contiguous()

    def start(self, a: Tensor) -> Tensor:
        """Return the full state of an input: for the second-order equation, with velocity 0."""
        _check_state("the input", a, self.width)
        if isinstance(self.field, SecondOrder):
            return torch.cat([a, torch.zeros_like(a)], -1)
        return a

    def flow(self, state: Tensor, reverse: bool = False) -> Tensor:
        """Carry a full state from time 0 to T, or back.

        Parameters
        ----------
        state
            As :meth:`start` makes it: [..., width], or [..., 2 width] with velocities.
        reverse
            Carry a state at T back to 0.
            ``"verlet"`` undoes its own steps up to rounding, the others up to their error.

        Returns
        -------
        Tensor
            The shape of ``state``.

        Raises
        ------
        ValueError
            If the state has another width, or an adaptive solver is given NaN or infinity.
        """
        second_order = isinstance(self.field, SecondOrder)
        _check_state("the full state", state, self.width * (2 if second_order else 1))
        return self._solve(state, reverse=reverse)

    def _solve(self, state: Tensor, reverse: bool = False, dense: bool = False) -> Tensor:
        if self.solver in ADAPTIVE and torch.compiler.is_exporting():
            raise UsageError(
                f"the solver {self.solver} cannot be exported, for its steps depend on the data: "
                "export with one of a fixed step, such as 'rk4'"
            )
        if (self.solver in ADAPTIVE or self.adjoint) and is_transformed():
            raise UsageError(
                "torch.func cannot look into adaptive steps and adjoint gradients: set "
                "adjoint=False and a solver of a fixed step, such as 'rk4'"
            )
        has_numbers = not state.is_meta
        if self.solver in ADAPTIVE and has_numbers and not torch.isfinite(state).all():
            raise ValueError(f"the input holds NaN or infinity, and {self.solver} needs numbers")
        if self.adjoint and self.solver == "verlet":
            raise ValueError("adjoint=True is for Runge-Kutta solvers, not for 'verlet'")
        span = self.schedule.span
        return solve(
            self.field,
            state,
            self.solver,
            self.steps,
            span,
            self.horizon / span,
            reverse=reverse,
            dense=dense,
            tolerance=self.tolerance,
            adjoint=tuple(self.parameters()) if self.adjoint else None,
        )

    def euler_bound(self) -> float:
        """Return the largest step h with which Euler's method is sure to be stable.

        Up to ``h = 2 / max |W(t)|^2``, no step of the parabolic equation moves two states apart.
        Without biases 0 is a fixed point, so that no state grows either.

        Raises
        ------
        ValueError
            For another structure than ``"parabolic"``.
        """
        if not isinstance(self.field, Parabolic):
            raise ValueError("only the structure 'parabolic' has such a bound")
        return self.field.euler_bound()

    def extra_repr(self) -> str:
        """Describe the options in ``repr``."""
        return (
            f"width={self.width}, steps={self.steps}, solver={self.solver!r}, "
            f"weights={self.schedule.weights!r}, layers={self.schedule.knots}, "
            f"horizon={self.horizon}"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise unknown(name, value, choices)


def _check_state(name: str, a: Tensor, width: int) -> None:
    if a.ndim == 0 or a.shape[-1] != width:
        raise ValueError(f"{name} must be [..., {width}], got {list(a.shape)}")
    if not a.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {a.dtype}; call .float() on it")
