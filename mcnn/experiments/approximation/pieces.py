"""Piecewise constant sums: error against the number of pieces, in several dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn.approximation import Pieces
from mcnn.approximation.pieces import grid
from mcnn.approximation.targets import Waves
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in, points
from mcnn.stats import slope

SIDES = {1: (16, 64, 256, 1024), 2: (8, 16, 32, 64), 4: (3, 4, 6, 8), 8: (2, 3, 4)}
CENTRES = ("grid", "random")


@dataclass(frozen=True, kw_only=True)
class PiecesTrial(Trial):
    """One smooth function on the unit cube; ``sides`` are pieces per axis."""

    dimension: int = 2
    sides: tuple[int, ...] = SIDES[2]
    places: int = 2048


def run(trial: PiecesTrial, device: torch.device) -> dict[str, Any]:
    """Return the root mean square error for centres on a grid and for random ones."""
    d = trial.dimension
    f = Waves(d, fold_in(trial.seed, 0), frequency=3.0)
    x = points(trial.places, d, seed=fold_in(trial.seed, 1), dtype=torch.float64, device=device)
    exact, sizes = f(x), [side**d for side in trial.sides]
    metrics: dict[str, Any] = {}
    for name in CENTRES:
        errors = []
        for side, n in zip(trial.sides, sizes, strict=True):
            drawn = points(n, d, seed=fold_in(trial.seed, 2), dtype=torch.float64)
            pieces = Pieces(grid(side, d) if name == "grid" else drawn, f).to(device)
            errors.append(float((pieces(x) - exact).square().mean().sqrt()))
        metrics[name] = {"error": errors, "slope": slope(sizes, errors)}
    return metrics


def trials(profile: str, seeds: Sequence[int]) -> list[PiecesTrial]:
    """List functions of one, two, four and eight variables; eight are for ``full``."""
    chosen = SIDES if profile == "full" else {1: (8, 16, 32), 2: (4, 8, 16)}
    return [
        PiecesTrial(dimension=d, sides=s, seed=seed) for d, s in chosen.items() for seed in seeds
    ]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes times the dimension, which theory has at -1 everywhere."""
    readings: dict[str, list[float]] = {}
    for r in records:
        for name in CENTRES:
            value = r.metrics[name]["slope"] * r.config.dimension
            readings.setdefault(f"{name}, slope times d, d={r.config.dimension}", []).append(value)
    return readings


EXPERIMENT = Experiment(
    name="approximation-pieces",
    summary="error of piecewise constant sums against the number of pieces, in 1 to 8 dimensions",
    trial=PiecesTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(2), "full": range(5)},
    measures={"approximation-pieces": measure},
    tolerance=1e-6,
)
