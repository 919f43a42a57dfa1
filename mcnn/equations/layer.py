"""A layer that is an integral equation: a kernel, a rule and a solver."""

import operator

import torch
from torch import Tensor, nn

from mcnn.equations.operators import Hammerstein, Operator
from mcnn.equations.rules import LIMITS, POINTS, between, rule
from mcnn.equations.solver import GRADIENTS, solve
from mcnn.errors import UsageError, unknown
from mcnn.integral.kernels import Kernel
from mcnn.integral.nodes import place
from mcnn.seeds import layer_seed


class NeuralIntegralEquation(nn.Module):
    """The solution of a(y) = f(y) + ∫ G(x, y, a(x)) dx at n nodes, G to be learned.

    ``tol``, ``damping``, ``steps`` and ``gradient`` are attributes that may be changed at any time.

    Parameters
    ----------
    kernel
        An :class:`mcnn.equations.Operator`, or an :class:`mcnn.integral.Kernel` w(x, y), which is
        taken as :class:`mcnn.equations.Hammerstein` takes it, times max{0, a(x)}.
    limits
        ``"fredholm"``: the integral is over the whole cube; ``"volterra"``: up to y in the first
        coordinate, which is then time.
    points
        Kind of nodes, see :func:`mcnn.equations.rule`.
    n
        Number of nodes.
    seed
        Of the nodes; by default from PyTorch's generator.
    tol
        The change by one more repetition that is taken for none, relative to the largest value.
    damping
        In [0, 1): how much of the last answer each repetition keeps.
    steps
        How many repetitions are allowed.
    gradient
        ``"implicit"``: from the solution alone, by an adjoint equation, so that memory does not
        grow with the repetitions; ``"unrolled"``: through all of them.
    dtype, device
        Of the nodes; by default those of the parameters of the kernel, else PyTorch's.

    Attributes
    ----------
    x : Tensor
        [n, d] nodes.
    taken : int
        Repetitions of the last solution.

    Raises
    ------
    UsageError, ValueError
        For unknown names, numbers out of range, or sources that are not at the nodes.
    ContractionError
        In the forward or the backward pass, if the repetitions do not come to rest.

    Notes
    -----
    Only the parameters of the kernel are in the ``state_dict``: nodes may be drawn anew at any
    time, see :meth:`draw`.

    Source: Zappala et al., Neural integral equations, 2022; implicit gradients as in Bai et al.,
    Deep equilibrium models, NeurIPS 2019.

    Examples
    --------
    A kernel of mass ½ doubles a constant.

    >>> class Half(Kernel):
    ...     def forward(self, x, y):
    ...         return torch.full((len(x), len(y)), 0.5)
    >>> layer = NeuralIntegralEquation(Half(1), n=8, tol=1e-6)
    >>> layer(torch.ones(1, 8)).round(decimals=4).unique()
    tensor([2.])

    Up to y instead of over everything, the same equation is a' = a/2.

    >>> layer = NeuralIntegralEquation(Half(1), "volterra", "trapezoid", n=101, tol=1e-6)
    >>> round(layer(torch.ones(1, 101))[0, -1].item(), 3)  # the root of e
    1.649
    """

    x: Tensor
    weights: Tensor

    def __init__(
        self,
        kernel: Kernel | Operator,
        limits: str = "fredholm",
        points: str = "jittered",
        n: int = 64,
        seed: int | torch.Generator | None = None,
        *,
        tol: float = 1e-5,
        damping: float = 0.0,
        steps: int = 200,
        gradient: str = "implicit",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for kind, name, known in (
            ("limits", limits, LIMITS),
            ("points", points, POINTS),
            ("gradient", gradient, GRADIENTS),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        steps = operator.index(steps)
        if not 0 < tol < float("inf") or not 0 <= damping < 1 or steps < 1:
            raise UsageError(
                "tol must be positive and finite, damping in [0, 1) and steps at least 1, "
                f"got {tol}, {damping} and {steps}"
            )
        if not isinstance(kernel, Kernel | Operator):
            raise UsageError(
                "kernel must be an mcnn.integral.Kernel or an mcnn.equations.Operator, got "
                f"{type(kernel).__name__}"
            )
        self.operator = Hammerstein(kernel) if isinstance(kernel, Kernel) else kernel
        self.limits, self.tol, self.damping = limits, tol, damping
        self.steps, self.gradient, self.taken = steps, gradient, 0
        device, dtype = place(self.operator, device=device, dtype=dtype)
        empty = torch.empty(0, self.operator.inputs, device=device, dtype=dtype)
        self.register_buffer("x", empty, persistent=False)
        self.register_buffer("weights", empty, persistent=False)
        self.draw(n, points, seed)

    def draw(self, n: int, points: str, seed: int | torch.Generator | None = None) -> None:
        """Replace the nodes, on the same device and in the same precision."""
        n, d, seed = operator.index(n), self.operator.inputs, layer_seed(seed)
        with torch.device("cpu"):
            found = rule(n, d, points, self.limits, seed, self.x.dtype, self.x.device)
        self.x, self.weights = found

    def forward(self, source: Tensor) -> Tensor:
        """Return a at the nodes: from f at the nodes, [b, n] or [b, n, c], to the same.

        A kernel of two points takes the former, the other operators the latter.
        """
        n = len(self.x)
        if source.ndim < 2 or source.shape[1] != n:
            raise UsageError(
                f"source must hold functions at the layer's {n} nodes, [b, {n}, ...], got "
                f"{list(source.shape)}: evaluate them at layer.x"
            )
        if source.dtype != self.x.dtype and not torch.is_autocast_enabled(source.device.type):
            raise UsageError(
                f"source is {source.dtype}, the layer's nodes {self.x.dtype}: convert one of them"
            )
        integral = self.operator.sample(self.x, self.weights, self.x)
        a, self.taken = solve(
            lambda a: source + integral(a),
            source,
            tol=self.tol,
            steps=self.steps,
            damping=self.damping,
            gradient=self.gradient,
        )
        return a

    def extend(self, a: Tensor, source: Tensor, y: Tensor) -> Tensor:
        """Return the solution elsewhere, by the equation itself: Nyström's interpolation.

        Parameters
        ----------
        a
            [b, n, ...] solution at the nodes.
        source
            [b, m, ...] f at the places.
        y
            [m, d] places.

        Returns
        -------
        Tensor
            [b, m, ...].

        Raises
        ------
        UsageError
            For limits of Volterra, whose weights belong to the nodes, or other shapes.
        """
        if self.limits != "fredholm":
            raise UsageError("only with limits 'fredholm' can a solution be evaluated elsewhere")
        if y.ndim != 2 or y.shape[1] != self.operator.inputs:
            raise UsageError(f"y must be [m, {self.operator.inputs}], got {list(y.shape)}")
        if source.shape != (len(a), len(y), *a.shape[2:]):
            raise UsageError(
                f"source must be {[len(a), len(y), *a.shape[2:]]}, as a and y have it, got "
                f"{list(source.shape)}"
            )
        weights = between(self.x, self.weights[:, 0], y, self.limits)
        return source + self.operator.sample(self.x, weights, y)(a)

    @torch.no_grad()
    def gain(self) -> float:
        """Return q, by which a repetition without damping shrinks the error at least.

        Raises
        ------
        UsageError
            For an operator other than :class:`mcnn.equations.Hammerstein`, which has no such bound.
        """
        if not isinstance(self.operator, Hammerstein):
            raise UsageError("only a kernel of two points has a gain; look at the steps taken")
        return float(self.operator.matrix(self.x, self.weights, self.x).abs().sum(0).max())

    def extra_repr(self) -> str:
        """Describe the options in ``repr``."""
        return f"n={len(self.x)}, limits={self.limits!r}, gradient={self.gradient!r}"
