"""Stacks of sparse networks: each trains as alone, and edges change as they should."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import training
from mcnn.data import load
from mcnn.training.sparse_ensemble import (
    Evolution,
    SparseLayer,
    _Stack,
    evaluate_sparse,
    exchanged,
    fit_sparse,
)

DIGITS = load("digits")
WIDTHS = ((64, 40, 30, 10), (64, 20, 50, 10), (64, 40, 40, 10))


def _network(widths: tuple[int, ...], seed: int, share: float = 0.2) -> list[SparseLayer]:
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        mask = torch.rand(outputs, inputs, generator=generator) < share
        ends = mask.nonzero().T.flip(0).contiguous()
        weight = torch.randn(ends.shape[1], generator=generator) / math.sqrt(share * inputs)
        layers.append(SparseLayer(ends, weight, 0.1 * torch.randn(outputs, generator=generator)))
    return layers


def _matrix(layer: SparseLayer, inputs: int) -> Tensor:
    matrix = torch.zeros(len(layer.bias), inputs)
    matrix[layer.ends[1], layer.ends[0]] = layer.weight
    return matrix


def _dense(network: list[SparseLayer]) -> nn.Sequential:
    """Return the network as matrices with zeros, whose gradients are masked."""
    modules: list[nn.Module] = [nn.Flatten()]
    inputs = 64
    for layer in network:
        linear = nn.Linear(inputs, len(layer.bias))
        linear.weight.data = _matrix(layer, inputs)
        linear.bias.data = layer.bias.clone()
        mask = (linear.weight != 0).float()
        linear.weight.register_hook(lambda grad, mask=mask: grad * mask)
        modules += [linear, nn.ReLU()]
        inputs = len(layer.bias)
    return nn.Sequential(*modules[:-1])


def test_each_network_trains_as_it_would_alone() -> None:
    networks = [_network(widths, seed) for seed, widths in enumerate(WIDTHS)]
    lrs = [0.05, 0.2, 0.1]
    few = replace(DIGITS, train=replace(DIGITS.train, images=DIGITS.train.images[:640],
                                        labels=DIGITS.train.labels[:640]))  # fmt: skip
    options = {"epochs": 4, "seed": 3, "batch_size": 128, "scale": "standard"}  # 20 steps
    trained = fit_sparse(networks, few, lrs=lrs, at_once=2, **options)
    for network, before, lr in zip(trained, networks, lrs, strict=True):
        model = _dense(before)
        training.fit(model, few, lr=lr, **options)
        inputs = 64
        for layer, linear in zip(network, list(model)[1::2], strict=True):
            assert torch.allclose(_matrix(layer, inputs), linear.weight, atol=1e-5)
            assert torch.allclose(layer.bias, linear.bias, atol=1e-5)
            inputs = len(layer.bias)
        assert not torch.equal(network[0].weight, before[0].weight)


def test_all_share_the_accuracy_of_their_matrices() -> None:
    networks = [_network(widths, seed) for seed, widths in enumerate(WIDTHS)]
    for network, found in zip(networks, evaluate_sparse(networks, DIGITS.test), strict=True):
        alone = training.evaluate(_dense(network), DIGITS.test)
        assert found.accuracy == pytest.approx(alone.accuracy, abs=0.004)  # a tie
        assert found.loss == pytest.approx(alone.loss, rel=1e-5)


def test_a_network_that_diverges_harms_no_other() -> None:
    calm = _network(WIDTHS[0], 0)
    wild = [layer._replace(weight=layer.weight * 1e30) for layer in _network(WIDTHS[1], 1)]
    alone, _ = fit_sparse([calm, calm], DIGITS, epochs=1, lrs=[0.1, 0.1])
    beside, lost = fit_sparse([calm, wild], DIGITS, epochs=1, lrs=[0.1, 1e6])
    for a, b in zip(alone, beside, strict=True):
        assert torch.allclose(a.weight, b.weight, atol=1e-5)
    assert not lost[-1].bias.isfinite().all()


def test_weak_edges_leave_and_others_come() -> None:
    ends = torch.tensor([[0, 2, 1, 2], [0, 0, 1, 1]])
    weight = torch.tensor([3.0, -0.1, -2.0, 0.2])
    scores = torch.tensor([[9.0, 5.0, 1.0], [4.0, 9.0, 6.0]])  # [outputs, inputs]
    found, origin = exchanged(ends, weight, scores, leaving=2)
    # 2 -> 1 has just left, but no other score is larger; 1 -> 0 is next.
    assert found.tolist() == [[0, 1, 1, 2], [0, 0, 1, 1]]
    assert origin.tolist() == [0, -1, 2, -1]


def test_edges_come_where_the_dense_gradient_is_largest() -> None:
    networks = [_network(widths, seed) for seed, widths in enumerate(WIDTHS)]
    x, y = next(DIGITS.train.batches(64))
    evolution = Evolution(steps=1000, by_gradient=True, interval=1, until=1.0)
    stack = _Stack(networks, [1e-6] * 3, 64)
    stack.train(x, y, 1.0, 0.9, [None, evolution, None], step=1)
    after = stack.networks()

    model = _dense(networks[1])
    linears = list(model)[1::2]
    bare = _dense(networks[1])
    bare.load_state_dict(model.state_dict())
    for linear in list(bare)[1::2]:
        linear.weight._backward_hooks.clear()
    F.cross_entropy(bare(x), y).backward()
    inputs = 64
    for old, new, linear, free in zip(
        networks[1], after[1], linears, list(bare)[1::2], strict=True
    ):
        was, now = _matrix(old, inputs) != 0, torch.zeros(len(old.bias), inputs, dtype=torch.bool)
        now[new.ends[1], new.ends[0]] = True
        edges, leaving = len(old.weight), evolution.leaving(len(old.weight), 1)
        assert leaving > 0
        assert int(now.sum()) == edges
        strong = linear.weight.abs() * was >= old.weight.abs().sort().values[leaving] - 1e-4
        gradient = free.weight.grad.abs() * ~strong
        expected = strong | (gradient >= gradient.flatten().sort().values[-leaving] - 1e-7)
        assert torch.equal(now, expected)
        come = now & ~strong
        assert (_matrix(new, inputs)[come] == 0).all()
        inputs = len(old.bias)
    for r in (0, 2):  # the neighbours keep their edges
        for old, new in zip(networks[r], after[r], strict=True):
            assert torch.equal(old.ends, new.ends)
    assert torch.isfinite(stack.activations(x)[-1]).all()


@pytest.mark.parametrize("by_gradient", [False, True])
def test_edges_change_without_harm(by_gradient: bool) -> None:
    network = _network(WIDTHS[0], 5, share=0.1)
    evolution = Evolution(steps=36, by_gradient=by_gradient, interval=5, seed=1)
    plain, changed = fit_sparse(
        [network, network], DIGITS, epochs=3, lrs=[0.2, 0.2], evolutions=[None, evolution]
    )
    for old, same, new in zip(network, plain, changed, strict=True):
        assert torch.equal(old.ends, same.ends)
        assert new.ends.shape == old.ends.shape
        assert not torch.equal(new.ends, old.ends)
        key = new.ends[1] * 64 + new.ends[0]
        assert (key[1:] > key[:-1]).all()
    without, with_changes = evaluate_sparse([plain, changed], DIGITS.test)
    assert with_changes.accuracy > without.accuracy - 0.05  # nothing is broken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": [0.1]}, "lrs must be 2"),
        ({"lrs": [0.1, -1.0]}, "positive"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"networks": []}, "nothing to train"),
        ({"networks": [_network(WIDTHS[0], 0), _network((64, 10), 0)]}, "as many layers"),
        ({"networks": [_network((64, 9), 0), _network((64, 10), 0)]}, "9 outputs for 10"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    given = {"networks": [_network(WIDTHS[0], 0)] * 2, "lrs": [0.1, 0.1], "epochs": 1} | change
    with pytest.raises(ValueError, match=message):
        fit_sparse(given.pop("networks"), DIGITS, **given)


def test_edges_out_of_order_are_refused() -> None:
    network = _network((64, 10), 0)
    first = network[0]
    turned = [first._replace(ends=first.ends.flip(1))]
    with pytest.raises(ValueError, match="sorted by output"):
        fit_sparse([turned], DIGITS, epochs=1, lrs=[0.1])
