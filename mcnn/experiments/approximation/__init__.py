"""Experiments of the chapter on approximation, one module each."""

from mcnn.experiments.approximation import built, pieces, sampled, trees

EXPERIMENTS = [*sampled.EXPERIMENTS, pieces.EXPERIMENT, *built.EXPERIMENTS, trees.EXPERIMENT]
