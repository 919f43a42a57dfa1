"""When two runs of a trial agree: exactly, as draws of one distribution, or not."""

import random

import pytest
from fake_experiments import FakeTrial, line

from mcnn.ledger import agreement, records


def record(seed, **metrics):
    return records.Record(line(seed, metrics=metrics), FakeTrial(seed=seed))


def made_by(held, provenance):
    return records.Record(held.line | {"provenance": provenance}, held.config)


def drawn(n, **constant):
    rng = random.Random(1)
    return [
        record(s, curve=[rng.gauss(0.9, 0.01) for _ in range(40)], **constant) for s in range(n)
    ]


def test_what_repeats_repeats():
    held = record(0, total=1.0, words=["a"], flag=True, none=None)
    same = {"total": 1.0 + 1e-7, "words": ["a"], "flag": True, "none": None}
    found = agreement.compare(held, same, 1e-6, [])
    assert (found.word, found.good) == ("repeats", True)
    assert found.difference == pytest.approx(1e-7)


def test_another_draw_of_the_same_distribution_is_consistent():
    many = drawn(10)
    rng = random.Random(2)
    fresh = {"curve": [rng.gauss(0.9, 0.01) for _ in range(40)]}
    found = agreement.compare(many[0], fresh, 1e-6, many)
    assert (found.word, found.good) == ("consistent", True)
    assert "seeds" in str(found)


@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_a_shift_of_the_distribution_is_not(shift):
    many = drawn(10)
    fresh = {"curve": [x + shift for x in many[1].metrics["curve"]]}
    found = agreement.compare(many[0], fresh, 1e-6, many)
    assert (found.word, found.good) == ("DIFFERS", False)


def test_a_single_number_far_out_is_not_lost_among_many():
    many = drawn(10)
    curve = many[0].metrics["curve"]
    fresh = {"curve": [curve[0] + 0.3, *curve[1:]]}
    found = agreement.compare(many[0], fresh, 1e-6, many)
    assert not found.good
    assert "metrics.curve[0]" in str(found)


def test_few_seeds_and_many_numbers_raise_no_false_alarm():
    """Of five seeds and 100 numbers, a bound of 8 would call a third of new draws a change."""
    rng = random.Random(0)
    alarms = 0
    for _ in range(80):
        seeds = [record(s, curve=[rng.gauss(0.9, 0.01) for _ in range(100)]) for s in range(5)]
        fresh = {"curve": [rng.gauss(0.9, 0.01) for _ in range(100)]}
        alarms += not agreement.compare(seeds[0], fresh, 1e-6, seeds).good
    assert alarms <= 4  # about one is expected, and two dozen of a bound of 8


def test_what_does_not_vary_over_seeds_must_repeat():
    many = drawn(10, useless=0)
    fresh = {"curve": many[1].metrics["curve"], "useless": 1}
    found = agreement.compare(many[0], fresh, 1e-6, many)
    assert not found.good
    assert "metrics.useless does not vary" in str(found)


@pytest.mark.parametrize(
    ("seeds", "value", "good"), [(3, 7, True), (10, 7, False), (3, 0, False), (10, 0, False)]
)
def test_a_number_that_is_the_same_for_few_seeds_may_vary_unless_it_is_zero(seeds, value, good):
    many = drawn(seeds, level=value)
    fresh = {"curve": many[1].metrics["curve"], "level": value + 1}
    assert agreement.compare(many[0], fresh, 1e-6, many).good == good


def test_a_single_seed_says_nothing_of_the_spread():
    (only,) = drawn(1)
    fresh = {"curve": [x + 1e-3 for x in only.metrics["curve"]]}
    assert not agreement.compare(only, fresh, 1e-6, [only]).good


@pytest.mark.parametrize(
    "fresh", [{"other": 1.0}, {"total": "1.0"}, {"total": True}, {"total": [1.0]}, {}]
)
def test_metrics_of_another_shape_differ(fresh):
    held = record(0, total=2.0)
    found = agreement.compare(held, fresh, 10.0, [])
    assert not found.good
    assert "no longer the same" in str(found)


def test_seconds_are_the_machines_and_counts_are_exact():
    held = record(0, seconds=[1.0], edges=[100], total=0.5)
    fresh = {"seconds": [7.0], "edges": [100], "total": 0.5}
    assert agreement.compare(held, fresh, 60.0, []).word == "repeats"
    found = agreement.compare(held, fresh | {"edges": [101]}, 60.0, [])
    assert not found.good
    assert "tolerance 0 (at metrics.edges[0])" in str(found)


def test_an_identity_is_compared_on_its_own_scale():
    """An experiment's tolerance of .01 is for its accuracies."""
    many = [record(s, gradient=0.0, accuracy=0.97 + 0.001 * s) for s in range(5)]
    assert agreement.compare(many[0], {"gradient": 1e-16, "accuracy": 0.97}, 0.01, many).good
    found = agreement.compare(many[0], {"gradient": 1e-9, "accuracy": 0.97}, 0.01, many)
    assert not found.good
    assert "metrics.gradient" in str(found)


@pytest.mark.parametrize(("device", "good"), [("another", True), (None, False)])
def test_on_the_same_machine_nothing_is_a_draw(device, good):
    many = drawn(10)
    made = many[0].provenance | ({"device": device} if device else {})
    fresh = {"curve": many[1].metrics["curve"]}
    found = agreement.compare(many[0], fresh, 1e-6, many, made)
    assert found.good == good
    assert ("same code, processor and versions" in str(found)) != good


@pytest.mark.parametrize(("before", "now", "good"), [("2.0", "2.1", True), ("2.0", "2.0", False)])
def test_another_version_of_a_library_may_be_a_draw(before, now, good):
    """A record of before a version was kept counts as made by any."""
    many = drawn(10)
    kept = many[0].provenance | {"numpy": before}
    many[0] = made_by(many[0], kept)
    fresh = {"curve": many[1].metrics["curve"]}
    assert agreement.compare(many[0], fresh, 1e-6, many, kept | {"numpy": now}).good == good
    unsaid = {k: v for k, v in kept.items() if k != "numpy"}
    many[0] = made_by(many[0], unsaid)
    assert not agreement.compare(many[0], fresh, 1e-6, many, kept | {"numpy": now}).good


@pytest.mark.parametrize(
    ("before", "now", "good"), [({}, {"MKL_CBWR": "AVX2"}, True), ({}, {}, False)]
)
def test_another_environment_may_be_a_draw(before, now, good):
    many = drawn(10)
    kept = many[0].provenance
    many[0] = made_by(many[0], kept | {"environment": before})
    fresh = {"curve": many[1].metrics["curve"]}
    made = kept | {"environment": now}
    assert agreement.compare(many[0], fresh, 1e-6, many, made).good == good


@pytest.mark.parametrize(("change", "good"), [(0.004, True), (0.03, False)])
@pytest.mark.parametrize("others", [0, 1])
def test_without_a_spread_the_tolerance_of_the_experiment_decides(change, good, others):
    held = record(0, accuracy=0.97)
    draws = [record(s + 1, accuracy=0.96) for s in range(others)]
    found = agreement.compare(held, {"accuracy": 0.97 + change}, 0.02, draws)
    assert (found.good, "no spread" in str(found)) == (good, True)


def test_without_a_spread_counts_must_repeat():
    assert not agreement.compare(record(0, units=3), {"units": 4}, 2.0, [record(1, units=5)]).good


@pytest.mark.parametrize(
    ("others", "now", "good"),
    [
        ([0.97, 0.97], 0.95, True),
        ([0.97, 0.97], 0.5, False),
        ([0.97, 0.97, 0.97], 0.5, False),
        ([0.969999, 0.97, 0.970001], 0.5, False),
        ([0.93, 0.93], 0.7, True),  # 0.97 itself is as far from these as draws may be
        ([0.93, 0.93], 0.5, False),
        ([0.9, 0.97], 0.5, True),  # of two seeds that differ, little is known
    ],
)
def test_what_a_few_seeds_have_alike_is_not_off_by_any_amount(others, now, good):
    """While the other metrics are as far off as draws are."""
    curves = drawn(len(others) + 2)
    held = record(0, accuracy=0.97, curve=curves[0].metrics["curve"])
    draws = [
        record(s + 1, accuracy=value, curve=curves[s + 1].metrics["curve"])
        for s, value in enumerate(others)
    ]
    fresh = {"accuracy": now, "curve": curves[-1].metrics["curve"]}
    found = agreement.compare(held, fresh, 0.01, draws)
    assert found.good == good
    assert ("metrics.accuracy is off by" in str(found)) != good


@pytest.mark.parametrize(("name", "now"), [("level", 0.5), ("count", 4)])
def test_what_no_other_seed_tells_is_held_to_the_tolerance(name, now):
    """However many tell how other metrics vary."""
    many = drawn(10)
    held = record(20, level=0.9, count=3, curve=many[0].metrics["curve"])
    fresh = {"level": 0.905, "count": 3, "curve": many[9].metrics["curve"]}
    assert agreement.compare(held, fresh, 0.01, many[:9]).good
    found = agreement.compare(held, fresh | {name: now}, 0.01, many[:9])
    assert not found.good
    assert f"metrics.{name} is off by" in str(found)


def test_what_is_off_by_rounding_alone_is_not_far_out():
    """However small its spread is, and far off by chance the rest is not."""
    curves = drawn(10)
    many = [record(s, zero=1e-18 * (s + 1), **curves[s].metrics) for s in range(9)]
    fresh = {"zero": 1e-14} | curves[9].metrics
    assert agreement.compare(many[0], fresh, 1e-6, many).good


@pytest.mark.parametrize("size", [1e200, 10**400])
def test_numbers_larger_than_squares_or_floats_can_be_are_compared(size):
    many = [record(s, total=size + s * (size // 10), level=0.5 + 0.01 * s) for s in range(5)]
    assert agreement.compare(many[0], many[0].metrics, 1e-6, many).good
    assert agreement.compare(many[0], many[1].metrics, 1e-6, many).good == (size < 10**300)
