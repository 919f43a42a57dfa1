"""Experiments of the chapter on partitions instead of dropout."""

from mcnn.experiments.partition import again, calibration, coverage, curve, runs, table, variance

EXPERIMENTS = [
    *coverage.EXPERIMENTS,
    *variance.EXPERIMENTS,
    *table.EXPERIMENTS,
    *curve.EXPERIMENTS,
    *runs.EXPERIMENTS,
    *calibration.EXPERIMENTS,
    *again.EXPERIMENTS,
]
