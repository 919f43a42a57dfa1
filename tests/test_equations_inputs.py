"""Equations with what strangers bring: functions of other shapes, NaN, other kinds of kernels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import equations
from mcnn.equations import Attention, Hammerstein, NeuralIntegralEquation, Urysohn, fixed_point
from mcnn.errors import UsageError
from mcnn.integral import Kernel

torch.set_num_threads(1)


class Half(Kernel):
    def forward(self, x, y):
        return torch.full((len(x), len(y)), 0.5, dtype=x.dtype)


def layer(operator=None, **options):
    return NeuralIntegralEquation(operator or Half(1), **({"n": 8, "seed": 0} | options))


def halved(a):
    return 1 + a / 2


def repeat(step=halved, start=None, **options):
    start = torch.zeros(3) if start is None else start
    return fixed_point(step, start, **({"tol": 1e-6, "steps": 50} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # As many components as nodes: a product of matrices would fit.
        (lambda: layer()(torch.rand(2, 8, 8)), r"of one component, \[b, 8\]"),
        (lambda: layer()(torch.rand(2, 8, 3)), r"of one component, \[b, 8\]"),
        (lambda: layer(Urysohn(1, 2))(torch.rand(3, 8)), r"\[b, 8, 2\]"),
        (lambda: layer(Urysohn(1, 2))(torch.rand(3, 8, 3)), r"\[b, 8, 2\]"),
        (lambda: layer(Attention(1, 2))(torch.rand(3, 8)), r"\[b, 8, 2\]"),
        (lambda: layer()(torch.full((1, 8), math.nan)), "look at the source"),
        (lambda: layer()(torch.full((1, 8), math.inf)), "look at the source"),
        (lambda: layer()(torch.ones(1, 8).double()), "float64, the layer's nodes torch.float32"),
        (lambda: layer()(torch.ones(1, 8).long()), "int64"),
        (lambda: layer(nn.Linear(1, 1)), "got Linear"),
        (lambda: Hammerstein(nn.Linear(1, 1)), "got Linear"),
        (lambda: layer(tol=math.inf), "finite"),
        (lambda: layer().extend(torch.ones(1, 8), torch.ones(1, 3), torch.rand(3)), "y must be"),
        (lambda: layer().extend(torch.ones(1, 8), torch.ones(1, 3), torch.rand(3, 2)), "y must be"),
        (lambda: layer().extend(torch.ones(1, 8), torch.ones(1, 1), torch.rand(3, 1)), "source"),
        (lambda: layer().extend(torch.ones(1, 7), torch.ones(1, 3), torch.rand(3, 1)), "one comp"),
        (lambda: repeat(damping=1.0), "damping in"),
        (lambda: repeat(tol=-1.0), "tol must"),
        (lambda: repeat(steps=-1), "steps at least"),
        (lambda: repeat(lambda a: halved(a).mean()), r"makes \[\] of \[3\]"),
        (
            lambda: equations.self_normalised(
                torch.zeros(1, 2), torch.ones(2, 1), torch.tensor([1.0, -1.0])
            ),
            "negative",
        ),
        (
            lambda: equations.self_normalised(torch.zeros(1, 2), torch.ones(2, 1), torch.zeros(2)),
            "one must be positive",
        ),
        (
            lambda: equations.self_normalised(torch.zeros(1, 2), torch.ones(2, 1), torch.ones(1)),
            r"weights must be \[2\]",
        ),
    ],
)
def test_what_was_silently_wrong_is_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_parameter_that_is_not_a_number_is_not_called_a_contraction():
    class Broken(Half):
        def forward(self, x, y):
            return super().forward(x, y) * math.nan

    with pytest.raises(equations.ContractionError, match="parameter of the kernel is not finite"):
        layer(Broken(1))(torch.ones(1, 8))


def test_a_gradient_that_is_not_a_number_is_named():
    source = torch.ones(1, 8, requires_grad=True)
    with pytest.raises(UsageError, match="gradient of the loss"):
        layer()(source).backward(torch.full((1, 8), math.nan))


@pytest.mark.parametrize("points", ["random", "sobol", "gauss", "trapezoid"])
def test_numbers_may_be_numpys(points):
    found = layer(n=np.int64(8), points=points, seed=np.int64(3), steps=np.int64(99))
    assert torch.equal(found.x, layer(points=points, seed=3).x)
    with pytest.raises(TypeError, match="integer"):
        layer(n=8.0)


def test_unseeded_layers_are_independent_and_seeds_repeat():
    assert not torch.equal(layer(seed=None).x, layer(seed=None).x)
    assert torch.equal(layer(seed=1).x, layer(seed=1).x)
