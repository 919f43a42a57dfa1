"""Words for intervals: both sides of every bound, and what would decide an open one."""

import re
from math import inf

import numpy as np
import pytest

from mcnn.ledger import tables, verdicts
from mcnn.stats import Interval, interval


@pytest.mark.parametrize("bounds", [(0.0, inf), (-inf, 0.0), (-1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("mean", [0.05, 0.2, -0.05])
@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_number_of_seeds_is_the_least_that_decides(bounds, mean, n):
    spread = np.resize([-1.0, 1.0], n) + np.arange(n) % 3
    values = (spread - spread.mean()) / spread.std(ddof=1) + mean  # standard deviation 1
    estimate = interval(values)
    assert verdicts.of_interval(estimate, bounds) == "open"
    said = verdicts.what_decides(estimate, bounds)
    if abs(mean) < 0.1 / np.sqrt(n):
        assert said == "the mean lies on the bound 0: no number of seeds will decide"
        return
    pattern = r"about ([\d,]+) seeds in place of (\d+) would decide, if mean and spread stay"
    number, before = re.fullmatch(pattern, said).groups()
    number = int(number.replace(",", ""))
    assert int(before) == n < number

    def decided(count):
        half = verdicts._student(count) / np.sqrt(count)
        there = Interval(mean, mean - half, mean + half, count)
        return verdicts.of_interval(there, bounds) != "open"

    assert decided(number)
    rounding = 10 ** max(0, len(str(number)) - 2)
    assert not decided(number - rounding - 1) or number == n + 1


def test_a_single_value_asks_for_another():
    assert verdicts.what_decides(interval([1.0]), (0, inf)).startswith("one value has no spread")


def test_a_mean_on_a_bound_stays_there():
    def said(mean):
        return verdicts.what_decides(Interval(mean, mean - 1, mean + 1, 10), (-9, 0.25))

    error = 1 / verdicts._student(10)
    assert said(0.25 - 0.09 * error).startswith("the mean lies on the bound 0.25:")
    assert said(0.25 + 0.09 * error).startswith("the mean lies on the bound 0.25:")
    assert said(0.25 - 0.11 * error).startswith("about ")


def test_the_worst_of_several():
    order = "contradicted, falls short, stale, not run, open, exceeded, reproduced, reported"
    order = order.split(", ")
    assert set(order) == {*verdicts.VERDICTS, verdicts.REPORTED} == set(tables.SIGNS)
    for k in range(len(order)):
        assert verdicts.worst(reversed(order[k:])) == order[k]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], "no verdict"),
        (["reported"], "no verdict; 1 reported without a verdict"),
        (["exceeded"], "1 exceeded"),
        (["exceeded", "falls short", "falls short", "exceeded"], "2 exceeded, 2 fall short"),
        (["stale", "open", "reproduced", "not run"], "1 reproduced, 1 open, 1 not run, 1 stale"),
    ],
)
def test_a_tally_counts_every_verdict_once(found, text):
    assert verdicts.tally(found) == text
