"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import (
    accuracy,
    after,
    cost,
    dangling,
    fair,
    fair_pruned,
    growth,
    guarantee,
    peers,
    peers_conv,
    rate,
    signs,
    wide,
    wrn,
)

EXPERIMENTS = [
    *guarantee.EXPERIMENTS,
    *accuracy.EXPERIMENTS,
    *rate.EXPERIMENTS,
    *after.EXPERIMENTS,
    *cost.EXPERIMENTS,
    *dangling.EXPERIMENTS,
    *peers.EXPERIMENTS,
    *fair.EXPERIMENTS,
    *fair_pruned.EXPERIMENTS,
    *wide.EXPERIMENTS,
    *growth.EXPERIMENTS,
    *signs.EXPERIMENTS,
    *peers_conv.EXPERIMENTS,
    *wrn.EXPERIMENTS,
]
