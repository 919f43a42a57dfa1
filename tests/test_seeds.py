"""Seeds of layers: without one PyTorch's generator gives it, with an integer it is exact."""

import pytest
import torch
from torch import nn

from mcnn.integral import IntegralLayer, IntegralNet, RecurrentLayer
from mcnn.integral.kernels import Fourier
from mcnn.linear import SampledLinear
from mcnn.partition import DropoutPartition, replace_dropout
from mcnn.partition.hashed import HashedPartition
from mcnn.paths import PathCNN, PathConv2d, PathLinear, PathMLP, PathResidual
from mcnn.randomness import DropConnect, Dropout, FeedbackMLP, FourierFeatures
from mcnn.residual import ResidualODE

PINNED = {
    "paths": [[1, 7, 2, 4, 0, 6], [6, 3, 0, 5, 2, 7]],
    "weight": [-0.0091794, -0.0312927, 0.5057803],
    "knot": [-0.005294, 0.3793229, -0.5819808, -0.5203875],
    "lfsr": [0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0],
    "hash": [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
}


def numbers(layer):
    """All that was drawn for a layer."""
    found = [*layer.parameters(), *layer.buffers()]
    drops = isinstance(layer, DropoutPartition | HashedPartition | Dropout)
    if drops or type(layer) is nn.Sequential:
        found += [layer(torch.ones(3, 40)), layer(torch.ones(3, 40))]
    if isinstance(layer, IntegralNet):  # what is drawn next
        layer.draw(64, "random")
        found += [layer.layers[0].x]
    return torch.cat([t.detach().double().flatten() for t in found])


def kernel():
    return Fourier(1, 1, 2, torch.Generator().manual_seed(0))


LAYERS = {
    "PathLinear": lambda **seed: PathLinear(16, 16, 64, **seed),
    "PathConv2d": lambda **seed: PathConv2d(16, 16, 3, 64, **seed),
    "PathMLP": lambda **seed: PathMLP([16, 16, 4], 64, **seed),
    "PathResidual": lambda **seed: PathResidual(16, 16, 64, **seed),
    "PathCNN": lambda **seed: PathCNN([3, 8], 4, 32, **seed),
    "DropoutPartition": lambda **seed: DropoutPartition(3, **seed),
    "DropoutPartition, counter": lambda **seed: DropoutPartition(3, source="counter", **seed),
    "HashedPartition": lambda **seed: HashedPartition(3, **seed),
    "ResidualODE": lambda **seed: ResidualODE(4, 8, **seed),
    "IntegralLayer": lambda **seed: IntegralLayer(kernel(), n=64, **seed),
    "IntegralNet": lambda **seed: IntegralNet(
        [IntegralLayer(kernel(), seed=0), IntegralLayer(kernel(), seed=0)], 2, n=64, **seed
    ),
    "RecurrentLayer": lambda **seed: RecurrentLayer(kernel(), n=64, **seed),
    "Dropout": lambda **seed: Dropout(40, **seed),
    "FourierFeatures": lambda **seed: FourierFeatures(4, 8, **seed),
    "replace_dropout": lambda **seed: replace_dropout(
        nn.Sequential(nn.Dropout(), nn.Dropout(1 / 3)), **seed
    ),
    "SampledLinear.random": lambda **seed: SampledLinear.random(16, 16, 4, **seed),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@every_layer
def test_layers_made_alike_differ_and_the_global_generator_governs_them(make):
    torch.manual_seed(5)
    first, second = numbers(make()), numbers(make())
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    again = numbers(make()), numbers(make())
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    torch.manual_seed(6)
    assert not torch.equal(first, numbers(make()))
    assert not torch.equal(numbers(make()), numbers(make(seed=None)))


@every_layer
def test_an_integer_is_exact_and_leaves_the_global_generator_alone(make):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = numbers(make(seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first, numbers(make(seed=3)))
    assert not torch.equal(first, numbers(make(seed=4)))
    with pytest.raises(TypeError, match="seed must be"):
        make(seed="3")


@every_layer
def test_a_generator_is_advanced(make):
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(numbers(make(seed=generator)), numbers(make(seed=generator)))


def test_numbers_of_integers_are_those_of_records():
    """Pinned: what records were made with."""
    layer = PathLinear(8, 8, 16, seed=0)
    assert layer.paths[:, :6].tolist() == PINNED["paths"]
    torch.testing.assert_close(layer.weight[:3].detach(), torch.tensor(PINNED["weight"]))
    ode = ResidualODE(2, 2, 1, seed=0)
    knot = ode.field.inner.weight.knots[0].detach().flatten()
    torch.testing.assert_close(knot, torch.tensor(PINNED["knot"]))
    assert DropoutPartition(3, seed=0)(torch.ones(1, 12)).eq(0).int()[0].tolist() == PINNED["lfsr"]
    assert HashedPartition(3, seed=0)(torch.ones(1, 12)).eq(0).int()[0].tolist() == PINNED["hash"]


def test_a_plain_network_is_seeded_as_a_whole():
    def net():
        torch.manual_seed(9)
        return nn.Sequential(nn.Linear(8, 16), PathLinear(16, 16, 64), DropoutPartition(2))

    a, b = net(), net()
    x = torch.ones(2, 8)
    assert torch.equal(a(x), b(x))


def test_layers_whose_weights_are_pytorchs_draw_the_rest_alike():
    drawn = {
        "masks": lambda **seed: DropConnect(16, 8, **seed).coins(16, nn.Identity()),
        "feedback": lambda **seed: FeedbackMLP((4, 8, 3), **seed).feedback0,
    }
    for make in drawn.values():
        assert not torch.equal(make(), make())
        assert torch.equal(make(seed=3), make(seed=3))


def test_dropouts_that_are_replaced_have_masks_of_their_own():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    for options in ({}, {"seed": 4}, {"seed": torch.Generator().manual_seed(1)}):
        first, second = replace_dropout(model, **options)
        x = torch.ones(1, 64)
        assert not torch.equal(first(x), second(x))
