"""Experiments of the chapter on simulating discrete densities."""

from mcnn.experiments.density import (
    bits,
    conv,
    filters,
    forced,
    instant,
    mnist,
    quantise,
    rms,
    ternary,
    unbiased,
)

EXPERIMENTS = [
    *unbiased.EXPERIMENTS,
    *rms.EXPERIMENTS,
    *mnist.EXPERIMENTS,
    *ternary.EXPERIMENTS,
    *forced.EXPERIMENTS,
    *conv.EXPERIMENTS,
    *filters.EXPERIMENTS,
    *bits.EXPERIMENTS,
    *instant.EXPERIMENTS,
    *quantise.EXPERIMENTS,
]
