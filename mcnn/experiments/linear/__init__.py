"""Experiments of the chapter on networks linear in time and space."""

from mcnn.experiments.linear import cost, fc, width

EXPERIMENTS = [*cost.EXPERIMENTS, *fc.EXPERIMENTS, *width.EXPERIMENTS]
