"""The talk's networks: their sizes in closed form, and weights that depend on the seed alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcnn.errors import DataError, UsageError
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def dense(*widths: int) -> int:
    return sum((a + 1) * b for a, b in pairwise(widths))


def filters(inputs: int, side: int, outputs: int) -> int:
    return (inputs * side * side + 1) * outputs


ALEXNET_CIFAR = (
    filters(3, 3, 64)
    + filters(64, 3, 192)
    + filters(192, 3, 384)
    + filters(384, 3, 256)
    + filters(256, 3, 256)
    + dense(256 * 2 * 2, 4096, 4096, 10)
)

# Network, options, shape of an image, number of parameters.
SIZES = [
    ("mlp", {"widths": (784, 300, 10)}, (1, 28, 28), dense(784, 300, 10)),
    ("mlp", {"widths": (784, 300, 300, 10)}, (1, 28, 28), dense(784, 300, 300, 10)),
    ("mlp", {"widths": (64, 30, 10), "bias": False}, (1, 8, 8), 64 * 30 + 30 * 10),
    ("lenet5", {}, (1, 28, 28), 61_706),  # as counted for the paper's, with full connections
    ("lenet5", {"shape": (1, 8, 8)}, (1, 8, 8), 61_706),
    (
        "lenet5",
        {"shape": (3, 32, 32)},
        (3, 32, 32),
        filters(3, 5, 6) + filters(6, 5, 16) + dense(16 * 5 * 5, 120, 84, 10),
    ),
    (
        "lenet-wide",
        {},
        (1, 28, 28),
        filters(1, 5, 20) + filters(20, 5, 50) + dense(50 * 4 * 4, 500, 10),
    ),
    (
        "lenet-wide",
        {"shape": (3, 32, 32)},
        (3, 32, 32),
        filters(3, 5, 20) + filters(20, 5, 50) + dense(50 * 5 * 5, 500, 10),
    ),
    ("lenet-wide", {"shape": (1, 8, 8)}, (1, 8, 8), 431_080),
    ("alexnet-cifar", {}, (3, 32, 32), ALEXNET_CIFAR),
    ("alexnet", {}, (3, 224, 224), 61_100_840),  # as torchvision documents it
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "options", "shape", "size"), SIZES)
def test_number_of_parameters_and_of_logits(name, options, shape, size, device):
    model = nets.build(name, **options)
    assert parameters(model) == size
    logits = model.to(device).eval()(torch.rand(2, *shape, device=device))
    assert logits.shape == (2, 1000 if name == "alexnet" else 10)


@given(widths=st.lists(st.integers(1, 9), min_size=2, max_size=5), bias=st.booleans())
def test_mlp_is_the_talks_forward_pass(widths, bias):
    model = nets.build("mlp", widths=widths, bias=bias)
    linear = [m for m in model if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linear] + [linear[-1].out_features] == widths
    a = x = torch.randn(3, 1, 1, widths[0], generator=torch.Generator().manual_seed(0))
    a = a.flatten(1)
    for i, layer in enumerate(linear):
        a = a @ layer.weight.T
        if bias:
            a = a + layer.bias
        if i < len(linear) - 1:
            a = a.clamp(min=0)
    torch.testing.assert_close(model(x), a)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("lenet5", {nn.Conv2d: 2, nn.MaxPool2d: 2, nn.ReLU: 4, nn.Linear: 3}),
        ("lenet-wide", {nn.Conv2d: 2, nn.MaxPool2d: 2, nn.ReLU: 3, nn.Linear: 2}),
        ("alexnet-cifar", {nn.Conv2d: 5, nn.MaxPool2d: 3, nn.ReLU: 7, nn.Linear: 3, nn.Dropout: 2}),
    ],
)
def test_every_layer_is_a_module_that_can_be_replaced(name, kinds):
    model = nets.build(name)
    assert {k: sum(isinstance(m, k) for m in model) for k in kinds} == kinds
    assert sum(kinds.values()) + 1 == len(model)  # and one nn.Flatten


def test_lenet5_centres_a_small_image():
    """An image of 28x28 gives the logits of the same image with two pixels of zeros around it."""
    small, large = nets.lenet5((1, 28, 28)), nets.lenet5((1, 32, 32))
    large.load_state_dict(small.state_dict())
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    torch.testing.assert_close(small(x), large(padded))


@pytest.mark.parametrize("name", ["mlp", "lenet5", "alexnet-cifar"])
def test_weights_depend_on_the_seed_alone(name):
    options = {"hidden": 8} if name == "alexnet-cifar" else {}
    state = torch.get_rng_state()
    first = nets.build(name, seed=1, **options).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again = nets.build(name, seed=1, **options).state_dict()
    other = nets.build(name, seed=2, **options).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)


def test_initial_weights_are_uniform_in_one_over_root_n():
    weight = nets.build("mlp", widths=(400, 300, 10))[1].weight.detach()
    assert weight.abs().max() <= 400**-0.5
    # The variance of a uniform number in ±b is b²/3; over 120,000 of them it is off by 0.3 %.
    assert float(weight.var()) == pytest.approx(1 / (3 * 400), rel=0.02)


def test_bad_requests_are_named(monkeypatch):
    with pytest.raises(UsageError, match=r"no network 'lenet'; there are: mlp, lenet5"):
        nets.build("lenet")
    with pytest.raises(ValueError, match="widths"):
        nets.mlp((784,))
    with pytest.raises(ValueError, match="widths"):
        nets.mlp((784, 0, 10))
    for shape in ((1, 28, 30), (1, 64, 64), (1, 27, 27), (1, 0, 0)):
        for lenet in (nets.lenet5, nets.lenet_wide):
            with pytest.raises(ValueError, match="shape must be"):
                lenet(shape)
    with pytest.raises(ValueError, match="multiples of 16"):
        nets.alexnet_cifar((3, 28, 28))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.alexnet", offline)
    with pytest.raises(DataError, match=r"IMAGENET1K_V1.*no network.*TORCH_HOME"):
        nets.build("alexnet", weights="IMAGENET1K_V1")
