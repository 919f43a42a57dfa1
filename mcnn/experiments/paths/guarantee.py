"""What every generator of paths guarantees, counted on random networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.generators import METHODS, sample_paths
from mcnn.paths.graph import Graph
from mcnn.paths.sobol import sobol_dimensions, sobol_network
from mcnn.sampling import uniforms

# Layers in which the units take turns.
TURNS = {
    "uniform": (),
    "pixel": (0,),
    "backward": (-1,),
    "bidirectional": (0, -1),
    "permutation": None,  # all of them
    "sobol": None,
    "lattice": None,
}
MASK = "random mask"  # the control: as many edges of each layer at random places


@dataclass(frozen=True, kw_only=True)
class GuaranteeTrial(Trial):
    """A generator, random networks to count on, and one to describe."""

    method: str = "uniform"
    networks: int = 60
    largest: int = 1000
    most_layers: int = 7
    widths: tuple[int, ...] = (784, 300, 300, 10)
    per_input: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 300)
    square: int = 512


def _run(trial: GuaranteeTrial, device: torch.device) -> dict[str, Any]:
    counts = dict.fromkeys(
        ("edges", "edges on no path", "dangling units", "units out of turn", "units left out"), 0
    )
    for number in range(trial.networks):
        widths, paths = _draw(trial, number)
        more = _counted(trial, widths, paths, number)
        counts = {name: counts[name] + more[name] for name in counts}
    return {
        "counts": counts,
        "described": [_described(trial, k * trial.widths[0]) for k in trial.per_input],
        "square": [_spectrum(trial, k) for k in (2, 4, 8, 16, 32)],
        "dimensions": _dimensions(trial),
    }


def _draw(trial: GuaranteeTrial, number: int) -> tuple[list[int], int]:
    """Draw widths and a number of paths, evenly over orders of magnitude."""
    u = uniforms(trial.seed, number * 32 + torch.arange(32)).tolist()
    layers = 2 + int(u[0] * (trial.most_layers - 1))
    widths = [int(trial.largest**v) for v in u[2 : 2 + layers]]
    return widths, int((10 * trial.largest) ** u[1])


def _graph(trial: GuaranteeTrial, widths: Sequence[int], paths: int, seed: int) -> Graph:
    if trial.method != MASK:
        return Graph.of_paths(sample_paths(widths, paths, trial.method, seed), widths)
    uniform = Graph.of_paths(sample_paths(widths, paths, "uniform", seed), widths)
    pairs = zip(uniform.unique, widths, widths[1:], strict=False)
    generator = torch.Generator().manual_seed(seed)
    masks = [_random_mask(edges, n, m, generator) for edges, n, m in pairs]
    return Graph.of_masks(masks)


def _random_mask(edges: int, n: int, m: int, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(n * m, generator=generator).topk(edges).indices
    return torch.zeros(n * m).index_fill_(0, chosen, 1.0).view(m, n)


def _counted(
    trial: GuaranteeTrial, widths: Sequence[int], paths: int, number: int
) -> dict[str, int]:
    seed = trial.seed * trial.networks + number
    graph = _graph(trial, widths, paths, seed)
    out_of_turn = left_out = 0
    if trial.method != MASK:
        sampled = sample_paths(widths, paths, trial.method, seed)
        turns = TURNS[trial.method]
        for layer in range(len(widths)) if turns is None else turns:
            visits = torch.bincount(sampled[layer], minlength=widths[layer])
            low = paths // widths[layer]
            out_of_turn += int(((visits < low) | (visits > low + 1)).sum())
            left_out += int((visits == 0).sum()) if paths >= widths[layer] else 0
    return {
        "edges": sum(graph.unique),
        "edges on no path": sum(graph.useless),
        "dangling units": sum(graph.dangling),
        "units out of turn": out_of_turn,
        "units left out": left_out,
    }


def _described(trial: GuaranteeTrial, paths: int) -> dict[str, Any]:
    graph = _graph(trial, trial.widths, paths, trial.seed)
    fans = [fan.double() for fan in graph.fan_in]
    return {
        "paths": paths,
        "unique": list(graph.unique),
        "coverage": list(graph.coverage),
        "useless": list(graph.useless),
        "dangling": list(graph.dangling),
        "least reach": int(graph.reach.min()),
        "components": graph.components,
        "spread of fan-in": [float(fan.std() / fan.mean()) for fan in fans],
    }


def _spectrum(trial: GuaranteeTrial, k: int) -> dict[str, float]:
    """Describe a square layer with k paths a unit."""
    n = trial.square
    graph = _graph(trial, [n, n], k * n, trial.seed)
    return {
        "k": k,
        "unique": graph.unique[0],
        "spectral gap": graph.spectral_gap[0],
        "effective rank": graph.effective_rank[0],
        "components": graph.components,
    }


def _dimensions(trial: GuaranteeTrial) -> dict[str, Any]:
    """Compare Sobol' dimensions in order with chosen ones; nothing here is random."""
    pairs = [sobol_network([8, 8], 16, (d, d + 1)).edges[0] for d in range(12)]
    chosen = sobol_dimensions([1024] * 4)
    networks = {"in order": range(4), "chosen": chosen}
    return {
        "edges of neighbouring dimensions": pairs,
        "components": {k: sobol_network([10] * 4, 13, d).components for k, d in networks.items()},
        "reached": {k: sobol_network([10] * 4, 13, d).reached[-1] for k, d in networks.items()},
        "chosen": list(chosen),
    }


def _trials(profile: str, seeds: Sequence[int]) -> list[GuaranteeTrial]:
    fast = {"networks": 20, "largest": 100, "widths": (64, 64, 10), "per_input": (1, 4, 16)}
    options = fast | {"square": 64} if profile == "fast" else {}
    methods = (*METHODS, MASK)
    return [GuaranteeTrial(seed=s, method=m, **options) for s in seeds for m in methods]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return counts, summed over generators, and what is only reported, one value a seed."""
    readings: dict[str, list[float]] = {}
    paths = [r for r in records if r.config.method != MASK]
    for seed in sorted({r.config.seed for r in paths}):
        own = [r.metrics["counts"] for r in paths if r.config.seed == seed]
        for name in ("edges on no path", "dangling units", "units out of turn", "units left out"):
            readings.setdefault(name, []).append(sum(counts[name] for counts in own))
    for record in records:
        name, first = record.config.method, record.metrics["described"][0]
        if name == MASK:
            for key in ("edges on no path", "dangling units"):
                readings.setdefault(f"{MASK}: {key}", []).append(record.metrics["counts"][key])
        left = 1 - first["coverage"][0]
        readings.setdefault(f"{name}: inputs left out, one path an input", []).append(left)
    return readings


EXPERIMENTS = [
    Experiment(
        name="paths-guarantee",
        summary="what generators of paths guarantee, on random networks",
        trial=GuaranteeTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(2), "full": range(5)},
        measures={"paths-guarantee": _measure},
        tolerance=1e-6,
    ),
]
