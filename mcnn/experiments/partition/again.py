"""Second runs, with fresh seeds and more of them, of readings that a first run left open."""

from collections.abc import Sequence
from dataclasses import replace

from mcnn.experiments.partition import curve, variance
from mcnn.experiments.partition.curve import CurveTrial
from mcnn.experiments.partition.variance import VarianceTrial
from mcnn.ledger.records import Record


def _variance_trials(profile: str, seeds: Sequence[int]) -> list[VarianceTrial]:
    first = variance.EXPERIMENTS[0].trials(profile, seeds)
    return [replace(trial, parts=(2,)) for trial in first]


def _curve_trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    first = curve.EXPERIMENTS[0].trials(profile, seeds)
    return [replace(trial, arms=(("partition", 3), ("shared", 3))) for trial in first]


def _measure_curve(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return partition minus dropout with shared masks, averaged over epochs, one value a seed."""
    about = {"on": "masks on", "off": "masks off", "test": "test"}
    readings: dict[str, list[float]] = {}
    for key, name in about.items():
        for record in records:
            ours, theirs = (record.metrics[key][f"{kind} 3"] for kind in ("partition", "shared"))
            difference = sum(ours) / len(ours) - sum(theirs) / len(theirs)
            readings.setdefault(f"P = 3, {name}", []).append(difference)
    return readings


EXPERIMENTS = [
    replace(
        variance.EXPERIMENTS[0],
        name="partition-variance-two",
        summary="covariance of the gradient averaged over two masks, with more seeds",
        trials=_variance_trials,
        seeds={"fast": range(1), "full": range(10, 30)},
        measures={"partition-variance-two": variance.EXPERIMENTS[0].measures["partition-variance"]},
    ),
    replace(
        curve.EXPERIMENTS[0],
        name="partition-curve-three",
        summary="training curves over 140 epochs, three partitions, with fresh seeds",
        trials=_curve_trials,
        seeds={"fast": range(1), "full": range(10, 15)},
        measures={"partition-curve-three": _measure_curve},
    ),
]
