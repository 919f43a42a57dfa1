"""Kinetics with what strangers bring: NumPy's numbers, other shapes, points not at rest."""

import math

import numpy as np
import pytest
import torch

from mcnn.errors import UsageError
from mcnn.kinetics import Network, lattice, noise

torch.set_num_threads(1)
BIRTH = Network({"0 -> A": 3.0, "A -> 0": 1.0})
PAIRS = Network({"0 -> A": 1.0, "2 A -> 0": 0.5})  # at rest at 1, and at -1
GROWTH = Network({"A -> 2 A": 1.0, "2 A -> A": 1.0})  # at rest at 0, unstable, and at 1


def test_numbers_may_be_numpys():
    i = np.int64
    found = BIRTH.ssa({"A": i(3)}, np.array([0.0, 1.0]), i(2), i(1), i(1000))
    assert torch.equal(found, BIRTH.ssa({"A": 3}, [0.0, 1.0], 2, 1))
    assert BIRTH.tau_leap({"A": i(3)}, [1.0], i(1), runs=i(2), seed=i(1)).shape == (2, 1, 1)
    states = [
        list(lattice(1, 50, times, seed=1))
        for times in ([0, 3], np.array([0, 3]), torch.arange(0, 4, 3))
    ]
    assert all(
        torch.equal(a, b) for other in states[1:] for a, b in zip(states[0], other, strict=True)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Network(["A -> 0"]), "needs a reaction"),
        (lambda: Network({"A -> 0": "fast"}), "number of at least 0"),
        (lambda: Network({"A -> 0": 1.0}, volume="large"), "volume"),
        (lambda: Network({"0 A -> B": 1.0}), "cannot read '0 A'"),
        (lambda: Network({f"{10**20} A -> 0": 1.0}), "cannot read"),
        (lambda: BIRTH.ssa([True], [1.0]), "must be integers"),
        (lambda: BIRTH.ssa({"A": "many"}, [1.0]), "must be integers"),
        (lambda: BIRTH.propensities(torch.tensor([1, 2])), "last axis must be A"),
        (lambda: PAIRS.propensities(torch.tensor([-1])), "at least 0"),
        (lambda: BIRTH.drift(torch.tensor([1.0, 2.0])), "last axis must be A"),
        (lambda: BIRTH.generator({"A": 2, "B": 3}), "no species 'B'; there are: A"),
        (lambda: BIRTH.generator({"A": -1}), "at least 0"),
        (lambda: noise.fixed_point(PAIRS, torch.tensor([-1.0])), "below 0"),
        (lambda: noise.fixed_point(PAIRS, torch.ones(2)), "last axis must be A"),
        (
            lambda: noise.fixed_point(Network({"A -> B": 1.0, "B -> A": 1.0}), torch.ones(2)),
            "conserved",
        ),
        (lambda: noise.covariance(PAIRS, torch.tensor([5.0])), "no stable fixed point"),
        (lambda: noise.spectrum(PAIRS, torch.tensor([5.0]), torch.ones(1)), "no stable fixed"),
        (lambda: noise.spectrum(GROWTH, torch.zeros(1), torch.ones(1)), "no stable fixed"),
        (lambda: noise.spectrum(BIRTH, torch.tensor([3.0]), torch.tensor(1.0)), r"omega must"),
        (lambda: lattice(1, 9, [math.nan]), "whole numbers"),
        (lambda: lattice(1, 9, [math.inf]), "whole numbers"),
        (lambda: lattice(1, 9, torch.tensor([0, 0])), "each larger"),
    ],
)
def test_what_was_silently_wrong_is_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_fixed_point_may_be_given_to_a_few_digits():
    exact = noise.covariance(GROWTH, torch.tensor([1.0]))
    assert exact.item() == pytest.approx(1.0)  # noise 2, pulled back by 1
    assert noise.covariance(GROWTH, torch.tensor([1.0004])).item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("volume", [1.0, 1e3, 1e6, 1e9, 1e12])
def test_one_particle_in_a_large_volume_follows_its_mean_field(volume):
    decay = Network({"A -> 0": 1.0}, volume=volume).mean_field({"A": 1}, [0.0, 1.0, 3.0])
    assert np.allclose(decay[:, 0], np.exp([0.0, -1.0, -3.0]), rtol=3e-8)
    logistic = Network({"A -> 2 A": 1.0, "2 A -> A": 1.0}, volume=volume)  # c' = c - c^2
    found = logistic.mean_field({"A": 1}, [5.0]).item() / volume
    growth = math.exp(5) / volume
    assert found == pytest.approx(growth / (1 - 1 / volume + growth), rel=3e-8)
