"""How fast does the error of an equation's solution fall with the number of nodes?

The kernel is known, and so is the solution.
Of ``"smooth"`` and ``"kinked"`` equations the solution is a plane, in one, two and four dimensions,
and the source is what makes it one: f = a − ∫ w max{0, a}, whose integral is known in closed form.
In ``"kinked"`` ones the plane crosses zero inside the cube.
The ``"rod"`` is the transport of light, with a lamp at a random place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcnn.equations import Hammerstein, NeuralIntegralEquation
from mcnn.integral.kernels import Kernel
from mcnn.integral.nodes import nodes
from mcnn.integral.ridge import CosineProduct, random_ridge
from mcnn.integral.transport import Rod
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in, uniforms
from mcnn.stats import slope

METHODS = ("random", "jittered", "sobol")
KINDS = ((1, "smooth"), (2, "smooth"), (4, "smooth"), (2, "kinked"), (1, "rod"))
_GAIN = 0.5  # of the kernels of planes


@dataclass(frozen=True, kw_only=True)
class RateTrial(Trial):
    """One equation, and numbers of nodes; of jittered ones those that fill a grid."""

    dimension: int = 1
    kind: str = "smooth"
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    randomisations: int = 12


class _Light(Kernel):
    def __init__(self, rod: Rod) -> None:
        super().__init__(1)
        self.rod = rod

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.rod.kernel(x, y.T)


class _Scaled(CosineProduct):
    """The kernel of planes, scaled to a gain; the largest mass is at the centre."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)
        self.scale = _GAIN / (1 + 1 / math.pi) ** inputs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * super().forward(x, y)


class _Plane:
    """An equation whose solution is a plane, made by its source.

    The kernel is a sum of 3^d products, so the integral, as a function of y, is a sum of as many
    functions: their coefficients follow from its values at a few places.
    """

    activation = "relu"

    def __init__(self, d: int, kinked: bool, seed: int) -> None:
        self.kernel = _Scaled(d)
        self.ridge = random_ridge(d, kinked, seed)
        places, _ = nodes(4**d, d, "gauss", dtype=torch.float64)
        exact = self.ridge.exact(places).unsqueeze(1)
        self.coefficients = torch.linalg.lstsq(_products(places), exact).solution[:, 0]

    def exact(self, x: Tensor) -> Tensor:
        return self.ridge(x)

    def source(self, x: Tensor) -> Tensor:
        return self.ridge(x) - self.kernel.scale * (_products(x) @ self.coefficients)


def _products(y: Tensor) -> Tensor:
    """Return all products over the dimensions of 1, cos πy and sin πy: [n, d] to [n, 3^d]."""
    found = torch.ones(len(y), 1, dtype=y.dtype)
    for t in math.pi * y.T:
        one = torch.stack([torch.ones_like(t), t.cos(), t.sin()], 1)  # [n, 3]
        found = (found.unsqueeze(2) * one.unsqueeze(1)).flatten(1)
    return found


class _Lamp:
    """Light in a rod; both ends of its lamp are random.

    The kernel is nowhere above one, so that no sample of it is, on average: every sampled equation
    is a contraction, which a peaked kernel does not promise.
    """

    activation = "identity"

    def __init__(self, seed: int) -> None:
        low, width = uniforms(seed, torch.arange(2)).tolist()
        lamp = (0.1 + 0.5 * low, 0.2 + 0.5 * low + 0.2 * width)
        self.rod = Rod(albedo=0.6, free_path=0.3, lamp=lamp)
        self.kernel = _Light(self.rod)

    def exact(self, x: Tensor) -> Tensor:
        return self.rod.exact(x[:, 0])

    def source(self, x: Tensor) -> Tensor:
        return self.rod.emission(x[:, 0])


def run(trial: RateTrial, device: torch.device) -> dict:
    """Return the error at the nodes, of every kind of them and at every size, and its slope."""
    d = trial.dimension
    equation = (
        _Lamp(trial.seed) if trial.kind == "rod" else _Plane(d, trial.kind == "kinked", trial.seed)
    )
    operator = Hammerstein(equation.kernel, equation.activation)
    layer = NeuralIntegralEquation(
        operator, n=1, seed=0, tol=1e-10, dtype=torch.float64, device=device
    )
    metrics = {}
    for method in METHODS:
        sizes = [n for n in trial.sizes if method != "jittered" or round(n ** (1 / d)) ** d == n]
        if len(sizes) < 2:  # too few grids for a slope
            continue
        errors = []
        for n in sizes:
            squares = 0.0
            for r in range(trial.randomisations):
                layer.draw(n, method, fold_in(trial.seed, r))
                exact = equation.exact(layer.x)
                found = layer(equation.source(layer.x).unsqueeze(0))[0]
                square = (found - exact).square().mean() / exact.square().mean()
                squares += float(square) / trial.randomisations
            errors.append(squares**0.5)
        metrics[method] = {"n": sizes, "error": errors, "slope": slope(sizes, errors)}
    return metrics


def trials(profile: str, seeds: Sequence[int]) -> list[RateTrial]:
    """List smooth and kinked equations in up to four dimensions, and light."""
    small = {} if profile == "full" else {"sizes": (16, 64, 256), "randomisations": 4}
    return [
        RateTrial(dimension=d, kind=kind, seed=seed, **small) for d, kind in KINDS for seed in seeds
    ]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the slopes, one value for each equation."""
    readings: dict[str, list[float]] = {}
    for r in records:
        for method, row in r.metrics.items():
            name = f"{method}, d={r.config.dimension}, {r.config.kind}"
            readings.setdefault(name, []).append(row["slope"])
    return readings


EXPERIMENT = Experiment(
    name="equations-rate",
    summary="error of the solution of a known equation against its number of nodes",
    trial=RateTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(2), "full": range(24)},
    measures={"equations-rate": measure},
    tolerance=1e-6,
)
