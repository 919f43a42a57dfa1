"""Intervals and slopes: by simulation and by closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcnn.stats import Interval, interval, slope

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (5, 0.95), (5, 0.8), (30, 0.99)])
def test_intervals_cover_the_mean_as_often_as_they_say(n, confidence):
    repetitions, mean = 4000, 3.0
    values = np.random.default_rng(n).normal(mean, 2.0, size=(repetitions, n))
    found = [interval(row, confidence) for row in values]
    covered = sum(i.low <= mean <= i.high for i in found)
    sd = math.sqrt(repetitions * confidence * (1 - confidence))
    assert abs(covered - repetitions * confidence) < 4 * sd


def test_an_interval_by_hand():
    found = interval([1, 2, 3])
    half = 4.302652729911275 / math.sqrt(3)  # Student's t, 2 degrees of freedom, sd 1
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - half)
    assert found.high == pytest.approx(2 + half)


@given(st.lists(finite, min_size=2, max_size=8), finite, st.floats(0.1, 10))
def test_intervals_move_and_scale_with_the_values(values, shift, scale):
    a, b = interval(values), interval([scale * v + shift for v in values])
    size = 1e-9 * (1 + abs(shift) + scale * max(map(abs, values)))
    assert b.low == pytest.approx(scale * a.low + shift, abs=size)
    assert b.high == pytest.approx(scale * a.high + shift, abs=size)


def test_a_single_value_has_no_interval():
    assert interval([4.0]) == Interval(4.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"a list of numbers, got shape \(0,\)"),
        ([[1.0, 2.0]], r"got shape \(1, 2\)"),
        (1.0, r"got shape \(\)"),
        ([1.0, math.nan], "must be finite"),
        ([1.0, math.inf], "must be finite"),
    ],
)
def test_what_has_no_interval_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        interval(values)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Interval(0.97412, 0.97298, 0.97526, 5), "0.9741 ± 0.0011"),
        (Interval(123.4, 100.4, 146.4, 5), "123 ± 23"),
        (Interval(-0.5, -0.75, -0.25, 5), "-0.50 ± 0.25"),
        (Interval(1e-9, 0.5e-9, 1.5e-9, 5), "1e-09 ± 5e-10"),
        (Interval(0.25, 0.25, 0.25, 5), "0.25"),
        (Interval(0.25, -math.inf, math.inf, 1), "0.25 (one value, no interval)"),
    ],
)
def test_two_digits_of_the_half_width_are_shown(estimate, text):
    assert str(estimate) == text


@given(
    st.floats(-3, 3),
    st.floats(1e-3, 1e3),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=9, unique=True),
)
def test_the_slope_of_a_power_law_is_its_exponent(power, factor, x):
    assert slope(x, [factor * v**power for v in x]) == pytest.approx(power, abs=1e-6)


def test_the_slope_is_that_of_least_squares():
    x, y = np.array([1.0, 2, 4, 8]), np.array([1.0, 3, 3, 9])
    u, v = np.log(x), np.log(y)
    by_hand = ((u - u.mean()) * (v - v.mean())).sum() / ((u - u.mean()) ** 2).sum()
    assert slope(x, y) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2, 3], "lists of the same length"),
        ([[1, 2]], [[1, 2]], "lists of the same length"),
        ([0, 1], [1, 2], "positive numbers"),
        ([1, 2], [1, -2], "positive numbers"),
        ([1, 2], [1, math.nan], "positive numbers"),
        ([2, 2], [1, 2], "two different x"),
        ([1], [1], "two different x"),
    ],
)
def test_what_has_no_slope_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        slope(x, y)
