"""Experiments of the chapter on collaborative filtering, one module each."""

from mcnn.experiments.ranking import estimates, models

EXPERIMENTS = [*estimates.EXPERIMENTS, *models.EXPERIMENTS]
