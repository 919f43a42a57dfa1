"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import (
    accuracy,
    after,
    chain,
    cost,
    dangling,
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
    *chain.EXPERIMENTS,
    *cost.EXPERIMENTS,
    *dangling.EXPERIMENTS,
    *peers.EXPERIMENTS,
    *wide.EXPERIMENTS,
    *growth.EXPERIMENTS,
    *signs.EXPERIMENTS,
    *peers_conv.EXPERIMENTS,
    *wrn.EXPERIMENTS,
]
