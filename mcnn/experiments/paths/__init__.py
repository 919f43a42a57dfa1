"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import accuracy, after, cost, dangling, guarantee, peers, wide

EXPERIMENTS = [
    *guarantee.EXPERIMENTS,
    *accuracy.EXPERIMENTS,
    *after.EXPERIMENTS,
    *cost.EXPERIMENTS,
    *dangling.EXPERIMENTS,
    *peers.EXPERIMENTS,
    *wide.EXPERIMENTS,
]
