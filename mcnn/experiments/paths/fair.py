"""Sparse networks compared as the authors of each method would make them.

Every mask begins with weights for its realised fan-in, every method has the learning rate that does
best on images held out of the training set, and all networks of a seed see the same batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data
from mcnn.experiments.paths.fair_networks import (
    CHANGING,
    PATHS,
    SCALE,
    SMALL,
    STATIC,
    masks_from,
    network_of,
)
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.graph import Graph
from mcnn.training.sparse_ensemble import evaluate_sparse, fit_sparse

BATCH = 128
GRID = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
LOWER = (0.0015, 0.003, 0.006, 0.0125)  # for small dense networks, the best of which began at .025
FULL = (784, 300, 300, 10)
SEEDS = {"fast": range(1), "full": range(10)}
CHOOSING = {"fast": range(100, 101), "full": range(100, 102)}  # seeds that no final run has
DENSITIES = (0.01, 0.005, 0.02, 0.05, 0.2)


@dataclass(frozen=True, kw_only=True)
class FairTrial(Trial):
    """Sparse networks of one seed and density, trained side by side.

    Parameters
    ----------
    methods
        Names of :mod:`mcnn.experiments.paths.fair_networks`.
    rates
        The learning rate of each method; to choose, all rates that each method is tried with.
    choose
        Whether networks are judged on the images held out, not on the test set.
    validation
        Number of images held out, never trained on.
    """

    dataset: str = "fashion-mnist"
    density: float = 0.01
    methods: tuple[str, ...] = ("uniform",)
    rates: tuple[float, ...] = (0.1,)
    choose: bool = False
    widths: tuple[int, ...] = FULL
    epochs: int = 20
    validation: int = 5000


def steps_of(dataset: data.Data, epochs: int) -> int:
    """Return the number of training steps."""
    return epochs * math.ceil(len(dataset.train) / BATCH)


def _run(trial: FairTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, validation=trial.validation)
    sizes = (n * m for n, m in zip(trial.widths, trial.widths[1:], strict=False))
    total = round(trial.density * sum(sizes))
    steps = steps_of(dataset, trial.epochs)
    options = (trial.widths, dataset.train, total, trial.seed, steps)
    start = {method: network_of(method, *options) for method in trial.methods}
    if trial.choose:
        wanted = [(method, rate) for method in trial.methods for rate in trial.rates]
    else:
        wanted = list(zip(trial.methods, trial.rates, strict=True))
    accuracy: dict[tuple[str, float], float] = {}
    result: dict[str, Any] = {}
    for layers in sorted({len(net) for net, _ in start.values()}):
        stack = [(m, rate) for m, rate in wanted if len(start[m][0]) == layers]
        trained = fit_sparse(
            [start[m][0] for m, _ in stack],
            dataset,
            epochs=trial.epochs,
            lrs=[rate for _, rate in stack],
            seed=trial.seed,
            batch_size=BATCH,
            scale=SCALE,
            evolutions=[start[m][1] for m, _ in stack],
        )
        scores = evaluate_sparse(
            trained, dataset.validation if trial.choose else dataset.test, SCALE
        )
        for key, score, net in zip(stack, scores, trained, strict=True):
            accuracy[key] = score.accuracy
            graph = Graph.of_masks(masks_from(net, trial.widths[0]))
            result[key[0]] = {
                "edges": list(graph.unique),
                "useless": sum(graph.useless),
                "coverage": list(graph.coverage),
            }
    for method in trial.methods:
        rates = trial.rates if trial.choose else [rate for m, rate in wanted if m == method]
        tried = [accuracy[method, rate] for rate in rates]
        result[method]["accuracy"] = tried if trial.choose else tried[0]
    return {"methods": {method: result[method] for method in trial.methods}}


# --- what is compared -----------------------------------------------------------------------------

_ELSEWHERE = ("uniform", "bidirectional", "permutation", "sobol", "random mask", "erk", "snip")
_ELSEWHERE += ("synflow", "phew", *CHANGING, *SMALL)
_AT_TWENTY_PERCENT = ("uniform", "sobol", "random mask", "erk", "snip", "synflow", "phew", "rigl")
_AT_ONE_PERCENT = (*PATHS, *STATIC, *CHANGING, *SMALL, "uniform, dense fan-in")
_KEPT = tuple(f"{method}, weights kept" for method in ("snip", "synflow", "phew"))


_SHUFFLED = tuple(
    f"{method}, shuffled"
    for method in ("uniform", "pixel", "permutation", "sobol", "snip", "synflow", "phew")
)

_CONTROLS = ("phew, weights kept", *_SHUFFLED)  # the better of PHEW's two ways to begin

# What paths-fair-rate chooses, for each density; a test holds it against the records.
RATES: dict[float, dict[str, float]] = {
    0.01: {
        "uniform": 0.2,
        "pixel": 0.4,
        "bidirectional": 0.2,
        "permutation": 0.4,
        "sobol": 0.2,
        "lattice": 0.4,
        "random mask": 0.2,
        "erk": 0.4,
        "fan-in": 0.4,
        "snip": 0.2,
        "synflow": 0.05,
        "phew": 0.4,
        "set": 0.4,
        "rigl": 0.2,
        "small dense, 1 hidden layer": 0.0125,
        "small dense, 2 hidden layers": 0.025,
        "uniform, dense fan-in": 0.2,
        "snip, weights kept": 0.1,
        "synflow, weights kept": 0.025,
        "phew, weights kept": 0.2,
    },
    0.005: {
        "uniform": 0.2,
        "bidirectional": 0.4,
        "permutation": 0.4,
        "sobol": 0.4,
        "random mask": 0.1,
        "erk": 0.2,
        "snip": 0.1,
        "synflow": 0.05,
        "phew": 0.4,
        "set": 0.4,
        "rigl": 0.2,
        "small dense, 1 hidden layer": 0.025,
        "small dense, 2 hidden layers": 0.025,
        "phew, weights kept": 0.4,
    },
    0.02: {
        "uniform": 0.2,
        "bidirectional": 0.2,
        "permutation": 0.4,
        "sobol": 0.2,
        "random mask": 0.2,
        "erk": 0.4,
        "snip": 0.2,
        "synflow": 0.025,
        "phew": 0.2,
        "set": 0.2,
        "rigl": 0.1,
        "small dense, 1 hidden layer": 0.0125,
        "small dense, 2 hidden layers": 0.0125,
        "phew, weights kept": 0.2,
    },
    0.05: {
        "uniform": 0.2,
        "bidirectional": 0.1,
        "permutation": 0.2,
        "sobol": 0.2,
        "random mask": 0.2,
        "erk": 0.2,
        "snip": 0.2,
        "synflow": 0.1,
        "phew": 0.2,
        "set": 0.2,
        "rigl": 0.2,
        "small dense, 1 hidden layer": 0.025,
        "small dense, 2 hidden layers": 0.025,
        "phew, weights kept": 0.2,
    },
    0.2: {
        "uniform": 0.1,
        "sobol": 0.2,
        "random mask": 0.1,
        "erk": 0.1,
        "snip": 0.1,
        "synflow": 0.05,
        "phew": 0.1,
        "rigl": 0.1,
        "phew, weights kept": 0.1,
    },
}
# The best generator of paths, and the best mask that stays.
BEST: dict[float, tuple[str, str]] = {
    0.01: ("permutation", "phew, weights kept"),
    0.005: ("uniform", "phew, weights kept"),
    0.02: ("permutation", "erk"),
    0.05: ("bidirectional", "erk"),
    0.2: ("uniform", "phew"),
}


def methods_at(density: float) -> tuple[str, ...]:
    """Return the methods that are compared at a density."""
    if density == 0.01:
        return _AT_ONE_PERCENT
    return _ELSEWHERE if density < 0.2 else _AT_TWENTY_PERCENT


def chosen(recorded: Sequence[Record]) -> tuple[dict[str, float], tuple[str, str]]:
    """Return what the records of one density choose: rates, and the best paths and static mask.

    The accuracy on the images held out decides, the mean over the seeds of the choice.
    """
    tries: dict[str, dict[float, list[float]]] = {}
    for record in recorded:
        for method, row in record.metrics["methods"].items():
            for rate, accuracy in zip(record.config.rates, row["accuracy"], strict=True):
                tries.setdefault(method, {}).setdefault(rate, []).append(accuracy)
    means = {m: {r: sum(v) / len(v) for r, v in rates.items()} for m, rates in tries.items()}
    rates = {method: max(each, key=each.__getitem__) for method, each in means.items()}
    kinds = ([m for m in kind if m in means] for kind in (PATHS, (*STATIC, *_KEPT)))
    paths, mask = (max(kind, key=lambda m: means[m][rates[m]]) for kind in kinds)
    return rates, (paths, mask)


_FAST: dict[str, Any] = {
    "dataset": "digits",
    "widths": (64, 64, 64, 10),
    "density": 0.1,
    "epochs": 5,
    "validation": 137,
}


def _rate_trials(profile: str, seeds: Sequence[int]) -> list[FairTrial]:
    if profile == "fast":
        grid = {"methods": _AT_ONE_PERCENT, "rates": (0.05, 0.2), "choose": True}
        return [FairTrial(seed=seed, **_FAST, **grid) for seed in seeds]
    options: dict[str, Any] = {"choose": True, "epochs": 5}
    trials = []
    for density in DENSITIES:
        methods = methods_at(density) + (_KEPT if density == 0.01 else _KEPT[-1:])
        grids = [(methods, GRID), (SMALL, LOWER)]
        trials += [
            FairTrial(seed=seed, density=density, methods=m, rates=grid, **options)
            for m, grid in grids[: 1 + (SMALL[0] in methods)]
            for seed in seeds
        ]
    return trials


def _trials(profile: str, seeds: Sequence[int]) -> list[FairTrial]:
    """List the final trials; controls have the rates of the methods that they are controls of."""
    if profile == "fast":
        methods = (*_AT_ONE_PERCENT, *_CONTROLS)
        final = {"methods": methods, "rates": (0.1,) * len(methods)}
        return [FairTrial(seed=seed, **_FAST, **final) for seed in seeds]
    trials = []
    for density, rates in RATES.items():
        methods = methods_at(density) + (_CONTROLS if density == 0.01 else _CONTROLS[:1])
        each = tuple(rates[m.removesuffix(", shuffled")] for m in methods)
        trials += [
            FairTrial(seed=seed, density=density, methods=methods, rates=each) for seed in seeds
        ]
    return trials


# --- what is measured -----------------------------------------------------------------------------


def _accuracies(recorded: Sequence[Record]) -> dict[str, list[float]]:
    by_seed = sorted(recorded, key=lambda r: r.config.seed)
    methods = by_seed[0].config.methods
    return {m: [r.metrics["methods"][m]["accuracy"] for r in by_seed] for m in methods}


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _measure_fair(recorded: Sequence[Record]) -> dict[str, list[float]]:
    """Return the paths chosen on the images held out minus the mask chosen there, and minus all."""
    accuracy = _accuracies(recorded)
    paths, mask = BEST[recorded[0].config.density]
    readings = {"chosen paths minus chosen mask": _minus(accuracy[paths], accuracy[mask])}
    for method in accuracy:
        if method != paths and "shuffled" not in method:
            readings[f"{paths} minus {method}"] = _minus(accuracy[paths], accuracy[method])
    return readings


def _measure_init(recorded: Sequence[Record]) -> dict[str, list[float]]:
    accuracy = _accuracies(recorded)
    dense = accuracy["uniform, dense fan-in"]
    return {"realised minus dense fan-in": _minus(accuracy["uniform"], dense)}


def _measure_shuffled(recorded: Sequence[Record]) -> dict[str, list[float]]:
    accuracy = _accuracies(recorded)
    bases = [method.removesuffix(", shuffled") for method in _SHUFFLED]
    return {
        f"{base} minus shuffled": _minus(accuracy[base], accuracy[f"{base}, shuffled"])
        for base in bases
    }


# A density without rates has no trials, and its claim is not run.
_CLAIMS = {
    0.005: "paths-fair-half",
    0.01: "paths-fair",
    0.02: "paths-fair-two",
    0.05: "paths-fair-five",
    0.2: "paths-fair-twenty",
}

EXPERIMENTS = [
    Experiment(
        name="paths-fair-rate",
        summary="learning rates of sparse methods, chosen on images held out",
        trial=FairTrial,
        trials=_rate_trials,
        run=_run,
        seeds=CHOOSING,
        tolerance=0.01,
    ),
    Experiment(
        name="paths-fair",
        summary="networks of paths and the field's, each with its own learning rate",
        trial=FairTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={_CLAIMS[density]: _measure_fair for density in RATES}
        | {"paths-fair-init": _measure_init, "paths-fair-shuffled": _measure_shuffled},
        tolerance=0.01,
    ),
]
