"""Experiments of the chapter on partitions instead of dropout."""

from mcnn.experiments.partition import (
    again,
    calibration,
    coverage,
    curve,
    each,
    each_training,
    runs,
    table,
    table_each,
    variance,
)

EXPERIMENTS = [
    *coverage.EXPERIMENTS,
    *variance.EXPERIMENTS,
    *each.EXPERIMENTS,
    *table.EXPERIMENTS,
    *table_each.EXPERIMENTS,
    *curve.EXPERIMENTS,
    *runs.EXPERIMENTS,
    *calibration.EXPERIMENTS,
    *again.EXPERIMENTS,
    *each_training.EXPERIMENTS,
]
