"""How fast does the error of an integral layer fall with the number of nodes?

A trial is one random integrand with a known integral, smooth or with the kink of a ReLU.
The layer is evaluated at a few y with several randomisations of its nodes, and the error is the
root mean square over both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mcnn.integral.layer import IntegralLayer
from mcnn.integral.ridge import CosineProduct, random_ridge
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import points
from mcnn.stats import slope

METHODS = ("random", "jittered", "sobol", "sobol-plain", "lattice", "lattice-equal", "gauss")
GRIDS = ("jittered", "gauss")  # these need a d-th power
FIXED = ("sobol-plain", "gauss")  # these have nothing to randomise

SIZES = {
    "full": {
        1: tuple(2**k for k in range(4, 14)),
        2: tuple(4**k for k in range(2, 8)),
        8: tuple(2**k for k in range(8, 17)),
    },
    "fast": {
        1: tuple(2**k for k in range(4, 10)),
        2: tuple(4**k for k in range(2, 6)),
        8: tuple(2**k for k in range(8, 14)),
    },
}
_PLACES = 16  # y at which the layer is evaluated


@dataclass(frozen=True, kw_only=True)
class RateTrial(Trial):
    """One random integrand; ``sizes`` are the numbers of nodes, as near as a method has them."""

    dimension: int = 1
    integrand: str = "smooth"
    sizes: tuple[int, ...] = SIZES["full"][1]
    randomisations: int = 16


def run(trial: RateTrial, device: torch.device) -> dict:
    """Return the error of every method at every size, and the slope in a log-log plot."""
    d = trial.dimension
    ridge = random_ridge(d, trial.integrand == "kinked", trial.seed)
    y = points(_PLACES, d, "random", trial.seed + 1000, device, torch.float64)
    exact = ridge.exact(y)
    layer = IntegralLayer(CosineProduct(d), "random", n=1, seed=0, dtype=torch.float64).to(device)
    metrics = {}
    for method in METHODS:
        sizes = _sizes(method, d, trial.sizes)
        errors = []
        for n in sizes:
            seeds = 1 if method in FIXED else trial.randomisations
            squares = 0.0
            for r in range(seeds):
                layer.draw(n, method, trial.seed * 1000 + r)
                estimate = layer(ridge(layer.x).unsqueeze(0), y)[0]
                squares += float(((estimate - exact) / exact).square().mean()) / seeds
            errors.append(squares**0.5)
        metrics[method] = {"n": sizes, "error": errors, "slope": slope(sizes, errors)}
    return metrics


def _sizes(method: str, d: int, wanted: Sequence[int]) -> list[int]:
    """Return the numbers of nodes that a method has: for grids the d-th powers up to the last."""
    if method not in GRIDS:
        return list(wanted)
    low, high = wanted[0], wanted[-1]
    if method == "gauss":  # far fewer do, and more only reach the precision of the numbers
        low, high = 1, min(high, 64 if d == 1 else high)
    sides = [s for s in range(2, high + 1) if low <= s**d <= high]
    powers = [s for s in sides if s & (s - 1) == 0]
    return [s**d for s in (powers if d < 3 else sides)]


def trials(profile: str, seeds: Sequence[int]) -> list[RateTrial]:
    """List integrands in one, two and eight dimensions, smooth and kinked."""
    return [
        RateTrial(dimension=d, integrand=integrand, sizes=sizes, seed=seed)
        for d, sizes in SIZES[profile].items()
        for integrand in ("smooth", "kinked")
        for seed in seeds
    ]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the slopes, one value for each integrand."""
    readings: dict[str, list[float]] = {}
    for r in records:
        for method in METHODS:
            # Gauss rules are exact to rounding after a few nodes if nothing is kinked.
            if method == "gauss" and r.config.integrand == "smooth":
                continue
            name = f"{method}, d={r.config.dimension}, {r.config.integrand}"
            readings.setdefault(name, []).append(r.metrics[method]["slope"])
    return readings


EXPERIMENT = Experiment(
    name="integral-rate",
    summary="error of an integral layer against its number of nodes, for seven kinds of nodes",
    trial=RateTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(3), "full": range(10, 22)},
    measures={"integral-rate": measure},
    tolerance=1e-6,
)
