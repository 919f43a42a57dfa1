"""Experiments of the chapter on rectifiers."""

from mcnn.experiments.relu import halfspace, identities, maxima, pooling

EXPERIMENTS = [
    *identities.EXPERIMENTS,
    *maxima.EXPERIMENTS,
    *pooling.EXPERIMENTS,
    *halfspace.EXPERIMENTS,
]
