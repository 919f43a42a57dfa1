"""Outputs lie in memory as those of the layers that ours take the place of."""

import pytest
import torch
from torch import nn

from mcnn.linear import SampledLinear
from mcnn.partition import DropoutPartition
from mcnn.partition.hashed import HashedPartition
from mcnn.paths import PathConv2d, PathLinear, PathMLP
from mcnn.relu import MaxPool2d
from mcnn.residual import ResidualODE


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


IMAGES = {
    "rows": lambda: torch.randn(2, 16, 6, 5),
    "channels last": lambda: channels_last(2, 16, 6, 5),
    "turned": lambda: torch.randn(2, 16, 5, 6).transpose(2, 3),
}
ROWS = {
    "rows": lambda: torch.randn(7, 16),
    "sequences": lambda: torch.randn(7, 3, 16),
    "turned": lambda: torch.randn(16, 7).T,
    "sequences, turned": lambda: torch.randn(3, 7, 16).transpose(0, 1),
    "every second": lambda: torch.randn(14, 16)[::2],
}
LINEAR = {
    **{k: lambda k=k: PathLinear(16, 8, 32, kernel=k) for k in ("gather", "blocks", "dense")},
    "sampled": lambda: SampledLinear.random(16, 8, 4),
}
DROPOUT = {
    "one": lambda: DropoutPartition(3),
    "keep one": lambda: DropoutPartition(3, "keep-one"),
    "each": lambda: DropoutPartition(3, per_sample=True),
    "channels": lambda: DropoutPartition(3, channels=True),
    "hashed": lambda: HashedPartition(3),
}


def layout(x):
    """The order of the axes in memory, those of one entry left out."""
    return [(n, s) for n, s in zip(x.shape, x.stride(), strict=True) if n > 1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make_input", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
def test_linear_layers_return_rows(make, make_input, training):
    layer, x = make(), make_input()
    with torch.set_grad_enabled(training):
        y = layer(x)
    assert layout(y) == layout(nn.Linear(16, 8)(x))
    assert y.view(len(y), -1).shape[0] == len(x)


def test_networks_return_rows():
    assert PathMLP([16, 8, 4], 32)(torch.randn(7, 16)).is_contiguous()
    for structure in ("free", "second-order"):
        net = ResidualODE(16, 8, 2, structure=structure)
        assert net(torch.randn(7, 3, 16)).is_contiguous()
        assert net.trajectory(torch.randn(7, 3, 16)).is_contiguous()


@pytest.mark.parametrize("make_input", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("kernel", ["gather", "dense"])
def test_convolutions_lie_as_those_of_torch(kernel, make_input):
    x = make_input()
    y = PathConv2d(16, 8, 3, 32, kernel=kernel, padding=1)(x)
    assert layout(y) == layout(nn.Conv2d(16, 8, 3, padding=1)(x))
    assert layout(MaxPool2d(2)(x)) == layout(nn.MaxPool2d(2)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make_input", (IMAGES | ROWS).values(), ids=IMAGES | ROWS)
@pytest.mark.parametrize("make", DROPOUT.values(), ids=DROPOUT)
def test_partitions_keep_the_layout(make, make_input, dtype):
    x, layer = make_input().to(dtype), make()
    plain = x.contiguous()
    for _ in range(2):
        y = layer(x)
        assert layout(y) == layout(nn.Dropout(0.5)(x))
    one, other = make(), make()
    other.load_state_dict(one.state_dict())
    a, b = (t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, plain))
    for _ in range(3):  # the same units, wherever they lie
        ya, yb = one(a), other(b)
        assert torch.equal(ya, yb)
        for u, v in zip(
            torch.autograd.grad(ya.square().sum(), a),
            torch.autograd.grad(yb.square().sum(), b),
            strict=True,
        ):
            assert torch.equal(u, v)
