"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import accuracy, after

EXPERIMENTS = [
    *accuracy.EXPERIMENTS,
    *after.EXPERIMENTS,
]
