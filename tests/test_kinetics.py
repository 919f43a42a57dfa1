"""Reaction networks: closed forms, the master equation as an oracle, and C against operators."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import expm_multiply
from scipy.stats import chi2

from mcnn.errors import UsageError
from mcnn.experiments.kinetics import cycles, mixed
from mcnn.kinetics import Network, lattice, leap, native, noise, ssa

ring = importlib.import_module("mcnn.kinetics.lattice")  # the name is also that of the function
DIMER = Network({"0 -> A": 1.0, "A + A -> B": 0.5, "B -> 2 A": 0.2, "B -> 0": 0.3}, volume=3)


def chances(network, start, time, most):
    """The distribution at a time, flat over the states, by SciPy's exponential of the generator."""
    shape = [most[name] + 1 for name in network.species]
    first = np.zeros(shape)
    first[tuple(start)] = 1
    return expm_multiply(network.generator(most).T * time, first.ravel()).reshape(shape)


def p_of(counts, expected):
    few = expected < 5
    seen = np.append(counts[~few], counts[few].sum())
    theory = np.append(expected[~few], expected[few].sum())
    keep = theory > 0
    return chi2.sf(((seen - theory)[keep] ** 2 / theory[keep]).sum(), keep.sum() - 1)


@pytest.mark.parametrize(
    ("network", "start", "most"),
    [
        (DIMER, [2, 1], {"A": 40, "B": 25}),
        (Network({"S + I -> 2 I": 2.0, "I -> R": 1.0}, 6), [5, 1, 0], {"S": 5, "I": 6, "R": 6}),
        (Network({"3 A -> A": 0.4, "0 -> A": 2.0}, 2), [4], {"A": 40}),
    ],
    ids=["dimer", "epidemic", "three at a time"],
)
def test_exact_runs_have_the_distribution_of_the_master_equation(network, start, most):
    runs = 20_000
    counts = network.ssa(start, [1.3], runs, seed=11)[:, 0].numpy()  # [runs, species]
    expected = chances(network, start, 1.3, most) * runs
    seen = np.zeros_like(expected)
    np.add.at(seen, tuple(counts.T), 1)
    assert p_of(seen.ravel(), expected.ravel()) > 1e-3


def test_births_and_deaths_are_poisson_at_every_time():
    metrics = mixed._poisson(mixed.PoissonTrial(runs=20_000, seed=2), torch.device("cpu"))
    assert min(metrics["p"]) > 1e-3
    birth = Network({"0 -> A": 12.0, "A -> 0": 1.0})
    mean = birth.mean_field({}, [0.5, 8.0]).flatten().tolist()
    assert mean == pytest.approx([12 * (1 - math.exp(-t)) for t in (0.5, 8)], rel=1e-8)
    assert mixed.p_value(birth.ssa({}, [1.0], 20_000).flatten().numpy(), 8.0) < 1e-12, "it can fail"


@pytest.mark.skipif(not native.available(), reason="no compiler")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_loop_in_c_is_the_operators_bit_for_bit(threads):
    before, times = torch.get_num_threads(), ssa.checked_times([0.0, 0.4, 0.4, 2.0])
    torch.set_num_threads(threads)
    try:
        start = DIMER.state({"A": 9})
        quick, _ = native.ssa(DIMER, start, times, 60, 5, 10**6)
    finally:
        torch.set_num_threads(before)
    plain, _ = ssa._by_operators(DIMER, start, times, 60, 5, 10**6)
    assert quick.equal(plain)
    state = torch.tensor([0, 3, -140, 1, 0, 65, -1], dtype=torch.int32)  # crowds need more words
    for step in range(9):
        for kinds in (1, 2):
            assert native.hop(state, step, kinds, 7).equal(ring._hop(state, step, kinds, 7))


def test_without_a_compiler_operators_serve(monkeypatch):
    want = DIMER.ssa({"A": 5}, [1.0], 20, seed=1)
    rings = [s.clone() for s in lattice(2, 50, [0, 7], seed=3)]
    monkeypatch.setattr(native, "available", lambda: False)
    assert DIMER.ssa({"A": 5}, [1.0], 20, seed=1).equal(want)
    assert all(a.equal(b) for a, b in zip(lattice(2, 50, [0, 7], seed=3), rings, strict=True))


def test_a_run_does_not_depend_on_those_beside_it():
    assert DIMER.ssa({"A": 5}, [1.0], 9, seed=1)[:4].equal(DIMER.ssa({"A": 5}, [1.0], 4, seed=1))
    assert not DIMER.ssa({"A": 5}, [1.0], 9, seed=2).equal(DIMER.ssa({"A": 5}, [1.0], 9, seed=1))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=2), st.floats(0.5, 50))
def test_propensities_are_rates_of_choosing_particles(x, volume):
    a, b = x
    network = Network({"A + B -> 0": 2.0, "3 A -> B": 0.5, "0 -> B": 1.5}, volume)
    want = [2 * a * b / volume, 0.5 * a * (a - 1) * (a - 2) / volume**2, 1.5 * volume]
    assert network.propensities(torch.tensor(x)).tolist() == pytest.approx(want, abs=1e-9)
    assert torch.allclose(
        network.drift(torch.tensor([2.0, 3.0])), torch.tensor([-24.0, -6.5]).double()
    )


def test_a_rate_keeps_all_of_its_bits():
    assert Network({"A -> 0": 0.1}).propensities(torch.tensor([1])).tolist() == [0.1]


def test_the_mean_field_solves_the_logistic_equation():
    network = Network({"A -> 2 A": 1.0, "2 A -> A": 1.0}, volume=1000)
    times = torch.linspace(0, 5, 7)
    c = network.mean_field({"A": 100}, times).flatten() / 1000
    want = 0.1 * times.exp() / (1 + 0.1 * (times.exp() - 1))
    assert torch.allclose(c, want.double(), rtol=1e-7)
    assert network.mean_field({"A": 3}, [0.0, 0.0]).tolist() == [[3.0], [3.0]]


def test_the_mean_is_off_the_mean_field_by_the_variance_of_a_pair():
    """d E X / dt needs E X (X − 1), not (E X)²: at rest the difference is the variance less E X."""
    chance = chances(Network({"0 -> A": 1.0, "A + A -> 0": 0.5}, 10), [0], 40.0, {"A": 80})
    x = np.arange(81)
    assert chance @ (x * (x - 1)) == pytest.approx(100, rel=1e-9)  # births equal deaths, exactly
    assert chance @ x == pytest.approx(10.125, abs=0.01)  # the linear-noise theory's 1/8


def test_leaps_have_the_mean_of_exact_runs_and_never_go_below_zero():
    start = {"A": 60}
    network = Network({"A -> 0": 1.0, "0 -> A": 0.1})
    exact = network.ssa(start, [1.0, 4.0], 4000, seed=3).double().mean(0)
    steps = network.tau_leap(start, [1.0, 4.0], 0.01, 4000, seed=3).double().mean(0)
    assert torch.allclose(steps, exact, rtol=0.03)
    assert int(network.tau_leap(start, [9.0], 3.0, 2000).min()) >= 0


def test_leaps_come_closer_as_steps_get_shorter():
    network = Network({"A -> 0": 1.0})
    exact = 2000 * math.exp(-1)
    off = [
        float(network.tau_leap({"A": 2000}, [1.0], step, 4000, seed=4).double().mean()) - exact
        for step in (0.5, 0.25, 0.125)
    ]
    # Euler's method for the mean: (1 − h)^(1/h)
    want = [2000 * (1 - h) ** (1 / h) - exact for h in (0.5, 0.25, 0.125)]
    assert off == pytest.approx(want, abs=3)


def test_noise_of_births_and_deaths_is_poisson_and_has_the_spectrum_of_a_relaxation():
    birth = Network({"0 -> A": 3.0, "A -> 0": 2.0})
    c = noise.fixed_point(birth, torch.tensor([1.0]))
    assert c.tolist() == [1.5]
    assert noise.covariance(birth, c).tolist() == [[pytest.approx(1.5)]]
    omega = torch.tensor([0.0, 2.0, 10.0])
    want = 6.0 / (4 + omega.double() ** 2)
    assert torch.allclose(noise.spectrum(birth, c, omega).flatten(), want)


def test_the_spectrum_integrates_to_the_variance_and_runs_follow_it():
    network = cycles.predator_prey(1)
    c = noise.fixed_point(network, torch.tensor([0.8, 1.0]))
    assert c.tolist() == pytest.approx([0.8, 1.0])
    omega = torch.linspace(0, 400, 400_001)
    lines = noise.spectrum(network, c, omega)
    total = torch.trapezoid(lines, omega.double(), dim=0) / math.pi
    assert torch.allclose(total, noise.covariance(network, c).diagonal(), rtol=5e-3)
    metrics = cycles._run(cycles.CyclesTrial(volumes=(200, 400), looks=1024, runs=4), None)
    assert metrics["peak"] == pytest.approx(metrics["peak of theory"], rel=0.15)
    assert metrics["variance over theory"][-1] == pytest.approx(1, abs=0.25)
    assert metrics["mean field"] < 1e-3


@pytest.mark.parametrize("kinds", [1, 2])
def test_particles_vanish_in_pairs_and_kinds_keep_their_difference(kinds):
    states = list(lattice(kinds, 501, range(0, 60, 3), density=0.7, seed=5))
    number = [int(s.abs().sum()) for s in states]
    assert all(a >= b and (a - b) % 2 == 0 for a, b in itertools.pairwise(number))
    if kinds == 2:
        assert len({int(s.sum()) for s in states}) == 1, "the difference of A and B stays"
    else:
        assert all(set(s.tolist()) <= {0, 1} for s in states)


def test_one_kind_thins_out_as_theory_says():
    """The exact density of annihilating walks that fill the line: binomial(2t, t) / 4^t."""
    times = [1, 2, 8, 32]
    want = [math.comb(2 * t, t) / 4**t for t in times]
    found = [float(s.sum()) / (1 << 17) for s in lattice(1, 1 << 17, times, seed=6)]
    assert found == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Network({}), "needs a reaction"),
        (lambda: Network({"A": 1.0}), "is no reaction"),
        (lambda: Network({"A -> B -> C": 1.0}), "is no reaction"),
        (lambda: Network({"A -> 2x A": 1.0}), "cannot read '2x A'"),
        (lambda: Network({"A -> ": 1.0}), "cannot read ''"),
        (lambda: Network({"A -> A": 1.0}), "changes nothing"),
        (lambda: Network({"A -> 0": -1.0}), "at least 0, got -1"),
        (lambda: Network({"A -> 0": math.nan}), "at least 0, got nan"),
        (lambda: Network({"A -> 0": 1.0}, 0), "above 0"),
        (lambda: DIMER.ssa({"C": 1}, [1.0]), "no species 'C'"),
        (lambda: DIMER.ssa([1], [1.0]), r"counts of A, B are wanted, got shape \(1,\)"),
        (lambda: DIMER.ssa([1.5, 0], [1.0]), "must be integers"),
        (lambda: DIMER.ssa([-1, 0], [1.0]), "must be integers"),
        (lambda: DIMER.ssa([math.nan, 0], [1.0]), "must be integers"),
        (lambda: DIMER.ssa([1, 0], []), "list of numbers"),
        (lambda: DIMER.ssa([1, 0], [2.0, 1.0]), "not decrease"),
        (lambda: DIMER.ssa([1, 0], [math.inf]), "finite"),
        (lambda: DIMER.ssa([1, 0], [1.0], runs=0), "runs must be"),
        (
            lambda: Network({"A -> 2 A": 9.0}).ssa([9], [9.0], max_events=99),
            "more than 99 reactions",
        ),
        (lambda: Network({"2 A -> 3 A": 1.0}).mean_field([9], [9.0]), "may run away"),
        (lambda: DIMER.tau_leap([1, 0], [1.0], 0.0), "step must be"),
        (lambda: DIMER.generator({"A": 3}), "largest count of B"),
        (lambda: lattice(3, 9, [1]), "kinds must be"),
        (lambda: lattice(1, 1, [1]), "at least 2 sites"),
        (lambda: lattice(1, 9, [2, 1]), "each larger"),
        (lambda: lattice(1, 9, [0.5]), "whole numbers"),
        (lambda: lattice(1, 9, [1], density=0.0), "density"),
    ],
)
def test_what_cannot_be_done_is_one_line(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_a_network_that_stops_stays_as_it_is():
    assert Network({"A -> 0": 1.0}).ssa({}, [0.0, 5.0]).tolist() == [[[0], [0]]]
    assert leap.simulate(Network({"A -> 0": 1.0}), {}, [5.0], 1.0).tolist() == [[[0]]]
