"""Experiments of the chapter on networks linear in time and space."""

from mcnn.experiments.linear import fc

EXPERIMENTS = [*fc.EXPERIMENTS]
