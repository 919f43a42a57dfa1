"""Work, memory and time of a training step against the number of paths, and against the depth."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.nets import PathMLP
from mcnn.profiling import Work
from mcnn.sampling import uniforms
from mcnn.stats import slope

# How the networks of a sweep are made: an edge for each path, or one for all that share it.
VARIANTS: dict[str, dict[str, Any]] = {
    "an edge a path": {"method": "permutation", "duplicates": "keep", "kernel": "gather"},
    "shared edges": {"method": "permutation", "kernel": "gather"},
    "blocks": {"method": "sobol", "kernel": "blocks"},
}


@dataclass(frozen=True, kw_only=True)
class CostTrial(Trial):
    """Paths a unit and numbers of layers to go through, and what they are measured on."""

    variant: str = "an edge a path"
    width: int = 2048
    batch: int = 64
    paths: tuple[int, ...] = (32, 64, 128, 256, 512)
    layers: tuple[int, ...] = (4, 8, 16, 32)
    repeats: int = 5


def _run(trial: CostTrial, device: torch.device) -> dict[str, Any]:
    points = [(3, k) for k in trial.paths] + [(n, trial.paths[0]) for n in trial.layers]
    costs = [_step(trial, layers, k, device) for layers, k in points]
    cut = len(trial.paths)
    return {
        sweep: {key: [row[key] for row in rows] for key in rows[0]}
        for sweep, rows in (("paths", costs[:cut]), ("layers", costs[cut:]))
    }


def _step(trial: CostTrial, layers: int, k: int, device: torch.device) -> dict[str, float]:
    """Measure a training step of a network with k paths a unit."""
    widths = [trial.width] * (layers + 1)
    options = VARIANTS[trial.variant]
    net = PathMLP(widths, k * trial.width, seed=trial.seed, device=device, **options)
    numbers = torch.arange(trial.batch * trial.width, device=device)
    x = uniforms(trial.seed, numbers).float().view(trial.batch, trial.width)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, foreach=False)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), x).backward()
        optimizer.step()

    step()  # makes what is made once
    with Work() as work:
        step()
    times = [_seconds(step, device) for _ in range(trial.repeats)]
    held = {id(t): t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers())}
    return {
        "operations": work.operations,
        "bytes moved": work.bytes,
        "bytes held": sum(held.values()),
        "edges": sum(len(layer.weight) for layer in net.layers),
        "seconds": sorted(times)[len(times) // 2],
    }


def _seconds(step: Any, device: torch.device) -> float:
    """Time a step: of this process, so that others on the machine do not count."""
    clock = time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _trials(profile: str, seeds: Sequence[int]) -> list[CostTrial]:
    fast = {"width": 256, "batch": 32, "paths": (16, 32, 64), "layers": (2, 4, 8), "repeats": 3}
    options = fast if profile == "fast" else {}
    return [CostTrial(seed=s, variant=v, **options) for s in seeds for v in VARIANTS]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the powers with which each cost grows, one value a seed."""
    readings: dict[str, list[float]] = {}
    for record in records:
        trial = record.config
        for sweep, x in (("paths", trial.paths), ("layers", trial.layers)):
            for key in ("operations", "bytes moved", "bytes held", "seconds"):
                name = f"{trial.variant}: {key} against {sweep}"
                values = readings.setdefault(name, [])
                values.append(slope(x, record.metrics[sweep][key]))
    return readings


EXPERIMENTS = [
    Experiment(
        name="paths-cost",
        summary="work, memory and time of a training step against paths and depth",
        trial=CostTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(2), "full": range(5)},
        measures={"paths-cost": _measure},
        tolerance=60.0,  # a minute more or less; operations and bytes are large and whole
    ),
]
