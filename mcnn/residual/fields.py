"""Right-hand sides: what a residual layer adds, as a function of time and state.

The free choice is f(t, a) = W2(t) max{0, W1(t) a + b(t)}.
The stable ones all come from one energy, ``H(a) = 1/2 |max{0, W a + b}|^2``, whose gradient
W^T max{0, W a + b} is again a layer with ReLU: only W2 is no longer free.

================  =====================================  ======================================
``free``          a' = W2 max{0, W1 a + b}               nothing is promised
``parabolic``     a' = -grad H(a), so W2 = -W1^T         downhill: states approach each other
``hamiltonian``   q' = grad H1(p), p' = -grad H2(q)      round the hill: volume is kept
``second-order``  q'' = -grad H(q)                       the same, with velocities for p
================  =====================================  ======================================

References
----------
.. [1] E. Haber, L. Ruthotto: Stable architectures for deep neural networks.
   Inverse Problems 34, 2018.
.. [2] L. Ruthotto, E. Haber: Deep neural networks motivated by partial differential equations.
   J. Math. Imaging and Vision 62, 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

WEIGHTS = ("layers", "shared", "interpolated")


@dataclass(frozen=True)
class Schedule:
    """How weights depend on time, which is counted in layers.

    Borders between layers are then integers, which floating point holds exactly, and no rounding
    of time can pick the weights of a neighbour.

    Attributes
    ----------
    weights
        One of :data:`WEIGHTS`.
    layers
        How many sets of weights there are, unless they are shared.
    """

    weights: str
    layers: int

    @property
    def knots(self) -> int:
        """Number of sets of weights."""
        return 1 if self.weights == "shared" else self.layers

    @property
    def span(self) -> int:
        """Time at which the last layer ends."""
        return max(1, self.knots - (self.weights == "interpolated"))


class Weight(nn.Module):
    """A tensor that depends on time: constant, constant in each layer, or linear between knots."""

    def __init__(
        self, shape: tuple[int, ...], bound: float, schedule: Schedule, generator: torch.Generator
    ) -> None:
        super().__init__()
        values = (
            torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
            for _ in range(schedule.knots)
        )
        # A list and not one stacked tensor: the gradient of an entry of a stack is as large as
        # the stack, and training time would grow with the square of the depth.
        self.knots = nn.ParameterList(v.to(torch.get_default_dtype()) for v in values)
        self.interpolated = schedule.weights == "interpolated"

    def forward(self, s: float) -> Tensor:
        """Return the tensor at time s; beyond the ends the first or last one holds on."""
        last = len(self.knots) - 1
        if not self.interpolated:
            return self.knots[max(0, min(int(s), last))]
        i = max(0, min(int(s), last - 1))
        return torch.lerp(self.knots[i], self.knots[i + 1], max(0.0, min(s - i, 1.0)))


class Layer(nn.Module):
    """W(t) and b(t): the part of a residual layer under the ReLU, and the gradient of H."""

    def __init__(
        self,
        width: int,
        hidden: int,
        schedule: Schedule,
        bias: bool,
        activation: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.weight = Weight((hidden, width), width**-0.5, schedule, generator)
        self.bias = Weight((hidden,), width**-0.5, schedule, generator) if bias else None
        self.activation = activation

    def forward(self, s: float, a: Tensor) -> Tensor:
        """Return act(W a + b), [..., hidden], of a [..., width]."""
        return self._activate(a, self.weight(s), s)

    def gradient(self, s: float, a: Tensor) -> Tensor:
        """Return W^T act(W a + b), [..., width]: for ReLU the gradient of H."""
        w = self.weight(s)  # [hidden, width]
        return self._activate(a, w, s) @ w

    def _activate(self, a: Tensor, w: Tensor, s: float) -> Tensor:
        return self.activation(linear(a, w, None if self.bias is None else self.bias(s)))


class Free(nn.Module):
    """a' = W2 max{0, W1 a + b}."""

    def __init__(self, width: int, hidden: int, schedule: Schedule, **options: object) -> None:
        super().__init__()
        self.inner = Layer(width, hidden, schedule, **options)
        self.outer = Weight((width, hidden), hidden**-0.5, schedule, options["generator"])

    def forward(self, s: float, a: Tensor) -> Tensor:
        """Return the derivative, [..., width]."""
        return linear(self.inner(s, a), self.outer(s))


class Parabolic(nn.Module):
    """a' = -W^T max{0, W a + b}: a descent, under which two states never move apart."""

    def __init__(self, width: int, hidden: int, schedule: Schedule, **options: object) -> None:
        super().__init__()
        self.layer = Layer(width, hidden, schedule, **options)

    def forward(self, s: float, a: Tensor) -> Tensor:
        """Return the derivative, [..., width]."""
        return -self.layer.gradient(s, a)

    @torch.no_grad()
    def euler_bound(self) -> float:
        """Return ``2 / max |W|^2``: up to this step Euler's method moves no two states apart."""
        # The norm is convex, so that between knots it is no larger than at them.
        norm = max(torch.linalg.matrix_norm(w, 2).item() for w in self.layer.weight.knots)
        return 2 / norm**2 if norm else float("inf")


class Separable(nn.Module):
    """A state of two halves, q and p, the derivative of each a function of the other alone."""

    def drift(self, s: float, p: Tensor) -> Tensor:
        """Return q'."""
        raise NotImplementedError

    def kick(self, s: float, q: Tensor) -> Tensor:
        """Return p'."""
        raise NotImplementedError

    def forward(self, s: float, state: Tensor) -> Tensor:
        """Return the derivative of (q, p), joined along the last axis."""
        q, p = state.chunk(2, -1)
        return torch.cat([self.drift(s, p), self.kick(s, q)], -1)


class Hamiltonian(Separable):
    """q' = A^T max{0, A p + b}, p' = -B^T max{0, B q + c}, where a = (q, p)."""

    def __init__(self, width: int, hidden: int, schedule: Schedule, **options: object) -> None:
        super().__init__()
        if width % 2 or hidden % 2:
            raise ValueError(
                "structure 'hamiltonian' splits the state and the hidden units into halves: "
                f"width and hidden must be even, got {width} and {hidden}"
            )
        self.first = Layer(width // 2, hidden // 2, schedule, **options)
        self.second = Layer(width // 2, hidden // 2, schedule, **options)

    def drift(self, s: float, p: Tensor) -> Tensor:
        """Return q', [..., width / 2]."""
        return self.first.gradient(s, p)

    def kick(self, s: float, q: Tensor) -> Tensor:
        """Return p', [..., width / 2]."""
        return -self.second.gradient(s, q)


class SecondOrder(Separable):
    """q'' = -W^T max{0, W q + b}: the state (q, p) is q with its velocity."""

    def __init__(self, width: int, hidden: int, schedule: Schedule, **options: object) -> None:
        super().__init__()
        self.layer = Layer(width, hidden, schedule, **options)

    def drift(self, s: float, p: Tensor) -> Tensor:
        """Return the velocity, [..., width]."""
        return p

    def kick(self, s: float, q: Tensor) -> Tensor:
        """Return the acceleration, [..., width]."""
        return -self.layer.gradient(s, q)


STRUCTURES: dict[str, type[nn.Module]] = {
    "free": Free,
    "parabolic": Parabolic,
    "hamiltonian": Hamiltonian,
    "second-order": SecondOrder,
}
