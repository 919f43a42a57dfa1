"""Experiments of the chapter on rectifiers."""

from mcnn.experiments.relu import halfspace, identities, maxima, pooling, threshold

EXPERIMENTS = [
    *identities.EXPERIMENTS,
    *maxima.EXPERIMENTS,
    *pooling.EXPERIMENTS,
    *halfspace.EXPERIMENTS,
    *threshold.EXPERIMENTS,
]
