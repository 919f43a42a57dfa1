"""Experiments of the chapter on integral operators, one module each."""

from mcnn.experiments.integral import kink, learning, noise, rate, regroup, resolution

EXPERIMENTS = [m.EXPERIMENT for m in (regroup, rate, kink, resolution, learning, noise)]
