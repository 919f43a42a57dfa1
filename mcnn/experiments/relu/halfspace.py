"""A residual layer against the closed form of the projection onto a half space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import relu
from mcnn.experiments.relu.operands import DTYPES, SEEDS
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class HalfspaceTrial(Trial):
    """A type and a dimension; half spaces and points in it; cycles through all of them."""

    dtype: str = "float32"
    dimension: int = 2
    planes: int = 20
    points: int = 200
    cycles: int = 40


def _run(trial: HalfspaceTrial, device: torch.device) -> dict[str, Any]:
    dtype = DTYPES[trial.dtype]
    generator = torch.Generator().manual_seed(trial.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    x = 3 * draw(trial.points, trial.dimension)
    normals, offsets = draw(trial.planes, trial.dimension), draw(trial.planes)
    worst = {"closed": 0.0, "twice": 0.0, "expansion": 0.0, "moved_inside": 0}
    for normal, offset in zip(normals, offsets, strict=True):
        for name, value in _check(x, normal, offset).items():
            worst[name] = max(worst[name], value)
    # All offsets positive: the origin is inside all half spaces, so they have a common point.
    layers = [relu.HalfspaceLayer(n, b.abs()) for n, b in zip(normals, offsets, strict=True)]
    return worst | {"outside": _outside(nn.Sequential(*layers), x, trial.cycles)}


def _check(x: Tensor, normal: Tensor, offset: Tensor) -> dict[str, float]:
    """Return the largest errors, relative to the size of a point and of the offset."""
    once = relu.project_halfspace(x, normal, offset)
    twice = relu.project_halfspace(once, normal, offset)
    size = x.double().norm(dim=1) + offset.double().abs()  # [points]
    true, above = _closed_form(x.double(), normal.double(), offset.double())
    # Both ways of telling the sides may differ for a point within rounding of the plane.
    inside = above < -1e-5 * size
    before, after = (torch.pdist(z.double()) for z in (x, once))
    return {
        "closed": float(((once.double() - true).norm(dim=1) / size).max()),
        "twice": float(((twice - once).double().norm(dim=1) / size).max()),
        "expansion": float(((after - before) / size.max()).max().clamp(min=0)),
        "moved_inside": int((once != x)[inside].sum()),
    }


def _closed_form(x: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest point of each, case by case, and the signed distance to the plane."""
    unit = normal / normal.norm()
    above = x @ unit - offset  # [points]
    foot = x - above[:, None] * unit
    return torch.where((above > 0)[:, None], foot, x), above


def _outside(stack: nn.Sequential, x: Tensor, cycles: int) -> list[float]:
    """Return how far the points reach out of the polytope, root mean square, after each cycle."""
    reaches = []
    for _ in range(cycles + 1):
        reach = [x @ (w.normal / w.normal.norm()) - w.offset for w in stack]
        reach = torch.stack(reach).detach().amax(0).clamp(min=0)  # [points]
        reaches.append(float(reach.double().square().mean().sqrt()))
        x = stack(x).detach()
    return reaches


def _trials(profile: str, seeds: Sequence[int]) -> list[HalfspaceTrial]:
    full = profile == "full"
    size = {} if full else {"planes": 8, "points": 50}
    return [
        HalfspaceTrial(seed=seed, dtype=dtype, dimension=dimension, **size)
        for seed in seeds
        for dtype in ("float32", "float64")
        for dimension in ((1, 2, 8, 64, 512) if full else (2, 8))
    ]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return errors in units of the precision of each type, so that one bound fits both."""

    def pick(name: str) -> list[float]:
        return [
            r.metrics[name] / torch.finfo(DTYPES[r.config.dtype]).eps
            for r in records
            if r.config.dtype == "float32" or name != "closed"  # the closed form is in float64
        ]

    return {
        "against the closed form": pick("closed"),
        "projected twice": pick("twice"),
        "growth of a distance": pick("expansion"),
        "coordinates moved of points inside": [r.metrics["moved_inside"] for r in records],
    }


EXPERIMENTS = [
    Experiment(
        name="relu-halfspace",
        summary="residual layers as projections onto half spaces, one and in cycles",
        trial=HalfspaceTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={"relu-halfspace": _measure},
        tolerance=1e-5,
    ),
]
