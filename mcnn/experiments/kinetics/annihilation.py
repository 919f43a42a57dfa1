"""Particles that vanish in pairs: on a ring, where they have to meet, and well mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn.kinetics import Network, lattice
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in
from mcnn.stats import slope

KINDS = {"A + A": 1, "A + B": 2}


@dataclass(frozen=True, kw_only=True)
class AnnihilationTrial(Trial):
    """One ring for each of A + A and A + B, and a volume in which A + A mixes well."""

    sites: int = 1 << 20
    times: tuple[int, ...] = tuple(2**k for k in range(1, 14))
    late: int = 512  # exponents are those from here on
    volume: int = 1 << 20


def _run(trial: AnnihilationTrial, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kinds in KINDS.items():
        states = lattice(kinds, trial.sites, trial.times, seed=fold_in(trial.seed, kinds))
        found[name] = _decay(trial, [float(s.abs().sum()) / trial.sites for s in states])
    mixed = Network({"A + A -> 0": 0.5}, trial.volume)
    counts = mixed.ssa({"A": trial.volume}, trial.times, seed=fold_in(trial.seed, 0)).flatten()
    found["well mixed"] = _decay(trial, (counts.double() / trial.volume).tolist())
    return found


def _decay(trial: AnnihilationTrial, density: list[float]) -> dict[str, Any]:
    late = [(t, x) for t, x in zip(trial.times, density, strict=True) if t >= trial.late]
    return {"density": density, "slope": slope(*zip(*late, strict=True))}


def _trials(profile: str, seeds: Sequence[int]) -> list[AnnihilationTrial]:
    options: dict[str, Any] = {}
    if profile == "fast":
        times = tuple(2**k for k in range(1, 10))
        options = {"sites": 1 << 14, "times": times, "late": 32, "volume": 1 << 14}
    return [AnnihilationTrial(seed=seed, **options) for seed in seeds]


def _measure(recorded: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"slope, {name}": [r.metrics[name]["slope"] for r in recorded]
        for name in (*KINDS, "well mixed")
    }


EXPERIMENT = Experiment(
    name="kinetics-annihilation",
    summary="decay of A + A and of A + B on a ring of a million sites, and well mixed",
    trial=AnnihilationTrial,
    trials=_trials,
    run=_run,
    seeds={"fast": range(1), "full": range(5)},
    measures={"kinetics-annihilation": _measure, "kinetics-segregation": _measure},
    tolerance=1e-6,
)
