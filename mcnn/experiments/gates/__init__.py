"""Experiments of the chapter on stochastic neurons and conditional computation."""

from mcnn.experiments.gates import cost, gradient, mnist

EXPERIMENTS = [*gradient.EXPERIMENTS, *mnist.EXPERIMENTS, *cost.EXPERIMENTS]
