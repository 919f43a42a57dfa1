"""Experiments of the chapter on reaction networks, one module each."""

from mcnn.experiments.kinetics import annihilation, cycles, mixed

EXPERIMENTS = [*mixed.EXPERIMENTS, annihilation.EXPERIMENT, cycles.EXPERIMENT]
