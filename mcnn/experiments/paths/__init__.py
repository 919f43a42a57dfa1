"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import after

EXPERIMENTS = [
    *after.EXPERIMENTS,
]
