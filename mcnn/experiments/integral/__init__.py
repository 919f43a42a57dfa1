"""Experiments of the chapter on integral operators, one module each."""

from mcnn.experiments.integral import kink, learning, noise, noise2noise, rate, regroup, resolution

_MODULES = (regroup, rate, kink, resolution, learning, noise, noise2noise)

EXPERIMENTS = [m.EXPERIMENT for m in _MODULES]
