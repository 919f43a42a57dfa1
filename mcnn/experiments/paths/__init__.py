"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import accuracy, after, dangling, peers, wide

EXPERIMENTS = [
    *accuracy.EXPERIMENTS,
    *after.EXPERIMENTS,
    *dangling.EXPERIMENTS,
    *peers.EXPERIMENTS,
    *wide.EXPERIMENTS,
]
