"""Experiments of the chapter on sampling paths through networks."""

from mcnn.experiments.paths import (
    accuracy,
    after,
    baselines,
    baselines_conv,
    chain,
    cost,
    dangling,
    fair,
    fair_pruned,
    growth,
    guarantee,
    rate,
    regular,
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
    *baselines.EXPERIMENTS,
    *fair.EXPERIMENTS,
    *fair_pruned.EXPERIMENTS,
    *wide.EXPERIMENTS,
    *growth.EXPERIMENTS,
    *signs.EXPERIMENTS,
    *baselines_conv.EXPERIMENTS,
    *regular.EXPERIMENTS,
    *wrn.EXPERIMENTS,
]
