"""Second runs, with fresh seeds and more of them, of readings that a first run left open.

The claims pool them with the first.
"""

from collections.abc import Sequence
from dataclasses import replace

from mcnn.experiments.partition import curve, runs, variance
from mcnn.experiments.partition.curve import CurveTrial
from mcnn.experiments.partition.runs import RunsTrial
from mcnn.experiments.partition.variance import VarianceTrial


def _variance_trials(profile: str, seeds: Sequence[int]) -> list[VarianceTrial]:
    first = variance.EXPERIMENTS[0].trials(profile, seeds)
    return [replace(trial, parts=(2,)) for trial in first]


def _curve_trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    first = curve.EXPERIMENTS[0].trials(profile, seeds)
    return [replace(trial, arms=(("partition", 3), ("shared", 3))) for trial in first]


def _runs_trials(profile: str, seeds: Sequence[int]) -> list[RunsTrial]:
    first = runs.EXPERIMENTS[0].trials(profile, seeds)
    return [replace(trial, arms=(("partition", 3), ("shared", 3))) for trial in first]


EXPERIMENTS = [
    replace(
        variance.EXPERIMENTS[0],
        name="partition-variance-two",
        summary="covariance of the gradient averaged over two masks, with more seeds",
        trials=_variance_trials,
        seeds={"fast": range(1), "full": range(10, 30)},
    ),
    replace(
        curve.EXPERIMENTS[0],
        name="partition-curve-three",
        summary="training curves over 140 epochs, three partitions, with fresh seeds",
        trials=_curve_trials,
        seeds={"fast": range(1), "full": range(10, 15)},
    ),
    replace(
        runs.EXPERIMENTS[0],
        name="partition-runs-three",
        summary="600 more runs of a small network, three partitions, and how much they scatter",
        trials=_runs_trials,
        seeds={"fast": range(1), "full": range(70, 90)},
    ),
]
