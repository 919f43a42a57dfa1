"""Experiments of the chapter on integral equations with a learned kernel, one module each."""

from mcnn.experiments.equations import learn, lotka, rate, ratio

EXPERIMENTS = [m.EXPERIMENT for m in (rate, ratio, learn, lotka)]
