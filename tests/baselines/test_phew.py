"""PHEW's walks: whole, biased by the weights, and as many as there is room for."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from mcnn.baselines.phew import _edges_of, phew
from mcnn.paths.graph import Graph


def _net(*widths: int) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(n, m) for n, m in pairwise(widths)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("edges", [40, 200, 900])
def test_walks_are_whole_and_fill_the_budget(edges: int) -> None:
    masks = phew(_net(50, 30, 20, 10), edges, seed=3)
    graph = Graph.of_masks(list(masks.values()))
    assert sum(graph.useless) == 0
    assert edges - 3 < sum(graph.unique) <= edges


def test_walks_begin_at_inputs_and_outputs_in_turn() -> None:
    layers = [layer.weight.detach().abs().double() for layer in _net(12, 9, 6)]
    first, last = _edges_of(layers, 24, seed=5)
    inputs, outputs = first % 12, last // 9
    assert sorted(inputs[0::2].tolist()) == list(range(12))  # forward walks
    assert sorted(outputs[1::2].tolist()) == sorted(list(range(6)) * 2)  # backward walks


def test_walks_follow_the_weights() -> None:
    """One layer: both kinds go from unit to unit in proportion to the magnitudes."""
    layer = torch.tensor([[8.0, 1.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    walks = 40000
    (key,) = _edges_of([layer], walks, seed=2)
    ahead, back = key[0::2], key[1::2]
    # Inputs take turns and go on by the column; outputs take turns and go back by the row.
    columns = layer / layer.sum(0) / 2
    rows = layer / layer.sum(1, keepdim=True) / 3
    for found, expected in ((ahead, columns), (back, rows)):
        share = torch.bincount(found, minlength=6).view(3, 2) / (walks / 2)
        assert torch.allclose(share.double(), expected, atol=0.01)


def test_a_weight_of_zero_is_never_taken() -> None:
    net = _net(20, 20, 20)
    zeros = torch.rand(20, 20) < 0.5
    zeros.fill_diagonal_(False)
    net[0].weight.data[zeros] = 0
    masks = phew(net, 150, seed=1)
    assert not (masks["0"] & zeros).any()


def test_as_many_edges_as_there_are() -> None:
    masks = phew(_net(6, 4, 3), 36, seed=1)
    assert sum(int(mask.sum()) for mask in masks.values()) == 36


def test_the_seed_decides() -> None:
    net = _net(20, 10, 5)
    assert torch.equal(phew(net, 60, seed=1)["0"], phew(net, 60, seed=1)["0"])
    assert not torch.equal(phew(net, 60, seed=1)["0"], phew(net, 60, seed=2)["0"])


def test_what_walks_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="convolutions"):
        phew(nn.Sequential(nn.Conv2d(3, 6, 5), nn.Linear(6, 3)), 10)
    with pytest.raises(ValueError, match="do not fit"):
        phew(nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2)), 10)
    with pytest.raises(ValueError, match="edges must be"):
        phew(_net(4, 3, 2), 1)
    net = _net(4, 3, 2)
    net[1].weight.data.zero_()
    with pytest.raises(ValueError, match="zeros"):
        phew(net, 6)
