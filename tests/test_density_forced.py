"""Limits of ternary weights, and what forces weights to be ternary."""

import torch

from mcnn import density
from mcnn.experiments.density import forced

WEIGHT = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))


def _counts(w, sampled, samples):
    return (sampled * samples / w.abs().sum(1, keepdim=True)).abs()


def test_rows_are_ternary_up_to_their_limit_and_no_further():
    beyond = torch.zeros(len(WEIGHT), dtype=torch.bool)
    limit = forced.limits(WEIGHT)
    for seed in range(200):
        own = _counts(WEIGHT, forced.at_own_limits(WEIGHT, seed), limit[:, None])
        assert own.max() < 1.001
        layer = _counts(WEIGHT, forced.at_limit(WEIGHT, seed), int(limit.min()))
        assert layer.max() < 1.001
        for i, samples in enumerate((limit + 3).tolist()):
            row = WEIGHT[i : i + 1]
            beyond[i] |= (
                density.sample_counts(row, samples, "systematic", seed=seed).abs().max() > 1
            )
    assert beyond.all()


def test_the_scale_is_that_of_the_least_squared_error():
    codes = density.sample_counts(WEIGHT, 32, "systematic").sign()
    best = (forced.rescaled(codes, WEIGHT) - WEIGHT).square().sum(1)
    for factor in (0.99, 1.01):
        other = (factor * forced.rescaled(codes, WEIGHT) - WEIGHT).square().sum(1)
        assert (best < other).all()


def test_many_samples_cut_to_ternary_are_binary():
    counts = density.sample_counts(WEIGHT, 10**6, "systematic")
    cut = forced.rescaled(counts.sign(), WEIGHT)
    binary = WEIGHT.abs().mean(1, keepdim=True) * WEIGHT.sign()
    torch.testing.assert_close(cut, binary)
