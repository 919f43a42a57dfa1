"""Kinds of low-discrepancy networks differ in what they are named for, and in nothing else."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from mcnn.experiments.paths.discrepancy import KINDS, DiscrepancyTrial, network, weights
from mcnn.paths.base import PathLayer


def _layers(kind):
    net = network(DiscrepancyTrial(kind=kind, seed=3))
    return [m for m in net if isinstance(m, PathLayer)]


@pytest.mark.parametrize("kind", KINDS)
def test_options_hold_in_every_layer(kind):
    layers = _layers(kind)
    assert len(layers) == 4
    for layer, plain in zip(layers, _layers(KINDS[kind][0]), strict=True):
        assert torch.equal(layer.paths, plain.paths)
        magnitudes = layer.weights().abs().unique()
        assert (len(magnitudes) == 1) == ("constant" in kind)
        assert (layer.signs is not None) == ("fixed signs" in kind)
        if "constant" in kind:
            first = {}  # edge: number of its first path
            for number, edge in enumerate(layer.edge_of_path().tolist()):
                first.setdefault(edge, number)
            signs = layer.weights().flatten(1) if layer.filter_size else layer.weights()[:, None]
            for edge, number in first.items():
                assert (signs[edge].sign() == (1 if number % 2 == 0 else -1)).all()


def test_paths_of_all_layers_are_joined():
    layers = _layers("sobol")
    for before, behind in pairwise(layers):
        assert torch.equal(before.paths[1], behind.paths[0])


def test_the_dense_network_has_all_weights():
    trial = DiscrepancyTrial(kind="dense")
    net = network(trial)
    assert weights(net) == 9 * (3 * 16 + 16 * 32 + 32 * 64) + 64 * 10
    shapes = [type(m) for m in net if not isinstance(m, nn.Conv2d | nn.Linear)]
    sparse = network(DiscrepancyTrial(kind="sobol"))
    assert shapes == [type(m) for m in sparse if not isinstance(m, PathLayer)]
