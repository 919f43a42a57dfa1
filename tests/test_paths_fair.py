"""The fair comparison: who begins how, who is trained on what, and what was chosen by what."""

import math

import pytest
import torch

from mcnn import data
from mcnn.experiments.paths import fair, fair_pruned
from mcnn.experiments.paths.fair_networks import (
    CHANGING,
    PATHS,
    SMALL,
    STATIC,
    masks_from,
    network_of,
)
from mcnn.ledger import project, records
from mcnn.paths.graph import Graph

WIDTHS = (64, 100, 100, 10)
TOTAL = 850
DIGITS = data.load("digits")


def _network(method, seed=1):
    return network_of(method, WIDTHS, DIGITS.train, TOTAL, seed, steps=500)


@pytest.mark.parametrize("method", [*PATHS, *STATIC, *CHANGING])
def test_masks_have_their_edges(method):
    net, evolution = _network(method)
    edges = sum(len(layer.weight) for layer in net)
    assert TOTAL - 3 < edges <= TOTAL
    assert (evolution is not None) == (method in CHANGING)


@pytest.mark.parametrize("method", [*PATHS, "phew"])
def test_whole_paths_leave_nothing_useless(method):
    net, _ = _network(method)
    assert sum(Graph.of_masks(masks_from(net, WIDTHS[0])).useless) == 0


@pytest.mark.parametrize("method", ["uniform", "erk", "snip", "uniform, shuffled", *SMALL])
def test_units_begin_with_variance_two(method):
    """The mean of the squares of a unit's weights times their number is two, on average."""
    sums = []
    for seed in range(8):
        net, _ = _network(method, seed)
        for ends, weight, bias in net:
            square = torch.zeros(len(bias)).index_add(0, ends[1], weight**2)
            sums.append(square[square > 0])
    squares = torch.cat(sums)
    assert float(squares.mean()) == pytest.approx(
        2, abs=5 * float(squares.std()) / math.sqrt(len(squares))
    )
    assert all(not bias.any() for _, _, bias in net)


def test_weights_by_the_dense_fan_in_are_smaller():
    net, _ = _network("uniform, dense fan-in")
    for (_, weight, _), inputs in zip(net, WIDTHS, strict=False):
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.15)


def test_kept_weights_keep_their_proportions():
    net, _ = _network("snip, weights kept")
    for ends, weight, bias in net:
        square = torch.zeros(len(bias)).index_add(0, ends[1], weight**2)
        assert torch.allclose(square[square > 0], torch.tensor(2.0))


def test_a_shuffled_network_has_as_many_edges_in_each_layer():
    (net, _), (moved, _) = _network("sobol"), _network("sobol, shuffled")
    for layer, other in zip(net, moved, strict=True):
        assert layer.ends.shape == other.ends.shape
        assert not torch.equal(layer.ends, other.ends)


@pytest.mark.parametrize("total", [200, TOTAL, 3000])
def test_small_networks_use_the_weights_they_may(total):
    for method in SMALL:
        net, _ = network_of(method, WIDTHS, DIGITS.train, total, 1, steps=500)
        used = sum(len(layer.weight) for layer in net)
        unit = WIDTHS[0] + WIDTHS[-1]
        assert total - unit < used <= total


def test_choosing_never_looks_at_the_test_set(monkeypatch):
    trial = fair.FairTrial(
        dataset="digits",
        widths=(64, 16, 10),
        density=0.3,
        methods=("uniform", "rigl"),
        rates=(0.05, 0.2),
        choose=True,
        epochs=1,
        validation=137,
    )
    sizes = []
    evaluate = fair.evaluate_sparse

    def spy(nets, split, scale):
        sizes.append(len(split))
        return evaluate(nets, split, scale)

    monkeypatch.setattr(fair, "evaluate_sparse", spy)
    found = fair._run(trial, torch.device("cpu"))["methods"]
    assert sizes == [137]
    assert [len(found[m]["accuracy"]) for m in trial.methods] == [2, 2]


def test_rates_are_those_that_the_records_choose():
    every = records.read("paths-fair-rate", project.results_dir("full"))
    planned = fair._rate_trials("full", fair.CHOOSING["full"])
    for density, rates in fair.RATES.items():
        found = [r for r in every if r.config.density == density]
        assert {r.config for r in found} == {t for t in planned if t.density == density}
        assert (rates, fair.BEST[density]) == fair.chosen(found)
    assert not {r.config.seed for r in every} & set(fair.SEEDS["full"])


def test_rates_of_pruned_networks_are_those_that_the_records_choose():
    if fair_pruned.RATE is None:
        pytest.skip("the rates of pruned networks are not chosen yet")
    found = records.read("paths-fair-pruned-rate", project.results_dir("full"))
    assert fair_pruned.chosen(found) == (fair_pruned.RATE, fair_pruned.AGAIN)
