"""Approximation with what strangers bring: the middle of the cube, other dimensions, NaN."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from mcnn.approximation import Bump, HiddenLayer, Pieces, TreeNet, sampled_layer
from mcnn.approximation.fitted import fit
from mcnn.approximation.pieces import grid
from mcnn.approximation.targets import Compositional, Waves
from mcnn.errors import UsageError

torch.set_num_threads(1)
F64 = torch.float64


def test_the_middle_of_the_cube_becomes_a_unit_without_height():
    """Plain Sobol' points have it: a frequency of zero, which has no direction."""
    units = Bump(2).units(torch.full((1, 3), 0.5, dtype=F64))
    assert all(bool(part.isfinite().all()) for part in units)
    assert units.height.item() == 0
    x = 0.3 * torch.ones(1, 2, dtype=F64)
    net = sampled_layer(Bump(2), 1 << 14, "sobol-plain", dtype=F64)
    assert abs((net(x) - Bump(2)(x)).item()) < 0.02


@pytest.mark.parametrize("points", ["random", "sobol", "sobol-plain", "lattice"])
def test_numbers_may_be_numpys(points):
    net = sampled_layer(Bump(np.int64(2)), np.int64(8), points, seed=np.int64(1), dtype=F64)
    same = sampled_layer(Bump(2), 8, points, seed=1, dtype=F64)
    assert torch.equal(net[0].weight, same[0].weight)
    sizes = (np.int64(4), np.int64(3), np.int64(2))
    assert torch.equal(
        TreeNet(*sizes, seed=5)(torch.ones(1, 4)), TreeNet(4, 3, seed=5)(torch.ones(1, 4))
    )
    assert Compositional(np.int64(4), 1)(torch.zeros(1, 4)).shape == (1, 1)


def trained_later():
    first, last = nn.Linear(2, 3), nn.Linear(3, 1)
    with torch.no_grad():
        last.weight[0, 0] = 0
        f = HiddenLayer(first, last)
        last.weight[0, 0] = 5
    return sampled_layer(f, 9)


def infinite():
    first = nn.Linear(2, 3)
    with torch.no_grad():
        first.weight[0, 0] = math.inf
    return HiddenLayer(first, nn.Linear(3, 1))


def halves(x):
    return Pieces(torch.tensor([[0.25], [0.75]]), lambda c: c)(x)


def fitted(x):
    f = Compositional(4, 1)
    fit(TreeNet(4, 8), f.stages(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bump(3)(torch.zeros(1, 5)), r"x must be \[batch, 3\]"),
        (lambda: Compositional(8, 1)(torch.zeros(5, 16)), r"x must be \[batch, 8\]"),
        (lambda: Compositional(8, 1)(torch.zeros(5, 4)), r"x must be \[batch, 8\]"),
        (lambda: Waves(2, 1, frequency=0.0), "must be positive"),
        (lambda: sampled_layer(nn.Linear(2, 2), 4), "Linear is no integral"),
        (lambda: HiddenLayer(nn.Conv2d(1, 1, 1), nn.Linear(1, 1)), "not Conv2d"),
        (infinite, "NaN or infinite"),
        (trained_later, "make the HiddenLayer anew"),
        (lambda: halves(torch.tensor([[math.nan]])), "no nearest centre"),
        (lambda: Pieces(torch.tensor([[math.nan]]), lambda c: c), "NaN nor infinite"),
        (lambda: Pieces(torch.tensor([[1]]), lambda c: c), "floating point"),
        (lambda: grid(0, 1), "at least 1"),
        (lambda: fitted(torch.zeros(0, 4)), "need examples"),
        (lambda: fitted(torch.full((9, 4), math.nan)), "finite"),
    ],
)
def test_what_was_silently_wrong_is_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_pieces_are_copied_whatever_their_values_came_from():
    pieces = Pieces(torch.rand(3, 1), torch.rand(3, 1, requires_grad=True))
    x = torch.rand(5, 1)
    assert torch.equal(copy.deepcopy(pieces)(x), pieces(x))
    assert pieces(torch.zeros(0, 1)).shape == (0, 1)
