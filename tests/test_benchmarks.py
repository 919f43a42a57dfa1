"""What the benchmarks say of times, and that the page says it."""

import json

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import measure, page, paths, pooling, sampling, training
from mcnn.errors import DataError, UsageError


def test_exponent_is_that_of_a_power():
    sizes = [10, 100, 1000]
    times = [[3 * n**1.5] * 7 for n in sizes]
    assert measure.exponent(sizes, times) == pytest.approx((1.5, 1.5, 1.5))


def test_arms_meet_where_the_lines_cross():
    sizes = [1, 10, 100]
    ours, baseline = [[n] * 7 for n in sizes], [[20] * 7] * 3
    assert measure.break_even(sizes, ours, baseline) == pytest.approx(20)
    assert measure.break_even(sizes, ours, [[1000] * 7] * 3) is None
    assert measure.break_even(sizes, ours, [[0.5] * 7] * 3) == 1


def test_the_interval_of_a_ratio_pairs_the_rounds():
    ours = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    assert measure.ratio(ours, [3 * t for t in ours]) == (3.0, 3.0, 3.0)


def test_the_interval_of_the_median_covers_it():
    generator = np.random.default_rng(0)
    trials = [measure.middle(generator.exponential(size=measure.ROUNDS)) for _ in range(1000)]
    covered = sum(low <= np.log(2) <= high for _, low, high in trials)
    assert covered >= 950


def test_seconds_are_those_of_the_work():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    found = measure.seconds(
        {n: lambda n=n: count(n) for n in calls}, threads=1, rounds=3, at_least=0
    )
    assert {n: len(t) for n, t in found.items()} == {"a": 3, "b": 3}
    assert min(min(t) for t in found.values()) > 0
    assert min(calls.values()) >= 5


def test_the_dense_peer_of_onednn_is_a_linear_layer():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    w = torch.randn(6, 5, requires_grad=True)
    x = torch.randn(3, 5, requires_grad=True)
    g = torch.randn(3, 6)
    got = torch.autograd.grad(paths._onednn(w)(x), (x, w), g)
    want = torch.autograd.grad(torch.nn.functional.linear(x, w), (x, w), g)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_the_arms_of_a_layer_compute_gradients():
    candidates = paths.layers(16, 4, 2, torch.device("cpu"))
    assert paths.DENSE in candidates
    for work in candidates.values():
        work()


def test_the_arms_of_a_drop_in_layer_compute_gradients():
    race = paths.drop_in(torch.device("cpu"), 16, 4, 20, 13.0)
    assert set(race.goals) < set(race.candidates)
    for work in race.candidates.values():
        work()


def test_the_arms_of_pooling_compute_gradients():
    race = pooling.pooled(torch.device("cpu"), (2, 3, 8, 8), (3, 2, 1))
    assert set(race.goals) < set(race.candidates)
    for work in race.candidates.values():
        work()


def test_a_race_is_recorded_and_read_back(tmp_path, monkeypatch, capsys):
    for name, file in {"RECORDS": "records", "PAGE": "page.md", "PICTURES": "."}.items():
        monkeypatch.setattr(page, name, tmp_path / file)
    (tmp_path / "page.md").write_text(f"before {page._BEGIN} old {page._END} after")
    race = measure.Race("nothing at all", {"ours": int, "peer": float}, {"peer": 2.0})
    curve = measure.Curve("a curve", "n", [1, 2], lambda n: {"ours": int}, exponent=(0, 1))
    monkeypatch.setattr(
        bench, "BENCHMARKS", {"paths-1024": lambda d: race, "paths-width": lambda d: curve}
    )
    assert bench.main(["--device", "cpu"]) == 0
    (record,) = (tmp_path / "records").glob("*.json")
    assert set(json.loads(record.read_text())) == {"paths-1024", "paths-width"}
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "Nothing at all" in text
    assert len(list(tmp_path.glob("bench-*.png"))) == 1
    assert page.update(write=False) == []
    record.write_text(record.read_text()[:-20])
    with pytest.raises(DataError, match="damaged"):
        page.load()


def test_an_unknown_benchmark_is_one_line(capsys):
    assert bench.main(["nonsense"]) == 2
    assert "no benchmark nonsense" in capsys.readouterr().err
    with pytest.raises(UsageError, match="threads"):
        bench.measure_all([], torch.device("cpu"), 0)


def test_the_page_shows_the_records():
    assert page.update(write=False) == [], "out of date: run `python -m benchmarks --page`"


@pytest.mark.parametrize("net", ["mlp", "lenet5"])
def test_an_epoch_can_be_fed_in_either_way(net, monkeypatch):
    monkeypatch.setattr(training, "IMAGES", 64)
    for candidate in training.epoch(torch.device("cpu"), net, 1.0).candidates.values():
        candidate()


@pytest.mark.parametrize("curve", [paths.density, paths.number, paths.width])
def test_curves_of_paths_can_be_measured(curve):
    found = curve(torch.device("cpu"))
    smallest = min(found.sizes)
    for candidate in found.candidates(smallest).values():
        candidate()


@pytest.mark.parametrize(
    ("interval", "verdict"), [((5, 4.1, 6), "✔"), ((5, 3, 6), "≈"), ((3, 2, 3.9), "✘")]
)
def test_a_goal_is_reached_if_the_interval_says_so(interval, verdict):
    rows = page.race_rows(
        {"seconds": {"ours": [1.0] * 9, "peer": [5.0] * 9}, "goals": {"peer": 4.0}}
    )
    assert rows[0][-1] == "✔"
    assert page._met(interval, 4) == verdict
    assert page._met((1, 0.9, 1.04), 0.95, 1.05) == "≈"
    assert page._met((1.2, 1.1, 1.3), 0.95, 1.05) == "✘"


def test_variances_are_set_side_by_side():
    spread = measure.Spread(
        "two methods", {"ours": lambda s: 1.0 + s, "peer": lambda s: 3.0 + 3 * s}
    )
    result = bench.measured(spread, 1)
    assert page.spread_rows(result) == [["ours", "5", "peer", "15", "3.00 (3.00 … 3.00)"]]
    assert "peer 15: 3.00" in page.lines("spread", result)


def test_systematic_samples_alias():
    candidates = sampling.aliasing(torch.device("cpu")).candidates
    assert candidates["systematic"](0) > 500 * candidates["jittered"](0)
