"""Experiments of the chapter on random sampling in networks."""

from mcnn.experiments.randomness import (
    binarise,
    dropout,
    features,
    feedback,
    gan,
    initialise,
    order,
)

EXPERIMENTS = [
    *initialise.EXPERIMENTS,
    *order.EXPERIMENTS,
    *dropout.EXPERIMENTS,
    *binarise.EXPERIMENTS,
    *feedback.EXPERIMENTS,
    *gan.EXPERIMENTS,
    *features.EXPERIMENTS,
]
