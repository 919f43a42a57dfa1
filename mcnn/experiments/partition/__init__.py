"""Experiments of the chapter on partitions instead of dropout."""

from mcnn.experiments.partition import curve

EXPERIMENTS = [
    *curve.EXPERIMENTS,
]
