"""Numbers of users: integers of NumPy count, bools do not, and who is wrong is told."""

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import paths as paths_of
from mcnn.checks import as_count, check_positive
from mcnn.density import importance, quantize, sample_counts, sampled
from mcnn.integral import Fourier, nodes
from mcnn.integral.randomised import nested_sobol
from mcnn.linear import SampledLinear, sample_linears
from mcnn.partition import DropoutPartition, part_labels
from mcnn.paths import PathLinear
from mcnn.randomness import Dropout, epoch_order, normals, numbers
from mcnn.residual import ResidualODE

WHOLE = (3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3))
NOT_WHOLE = (True, np.bool_(True), torch.tensor(True), 3.0, np.float64(3), torch.tensor(3.0), "3")


def net():
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def weight():
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_become_ints(value):
    assert type(as_count("n", value)) is int
    assert as_count("n", value) == 3


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(TypeError, match=f"n must be an int, got {type(value).__name__}"):
        as_count("n", value)


def test_bounds_are_named():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        as_count("n", np.int64(0))
    assert as_count("n", 0, 0) == 0
    for value in (0.0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="p must be positive and finite"):
            check_positive("p", value)
    for value in (True, "1", None):
        with pytest.raises(TypeError, match="p must be a number"):
            check_positive("p", value)
    check_positive("p", np.float32(0.5))


# Functions of a number of something: all take it from NumPy, and no bool for it.
COUNTED = {
    "sample_counts": lambda n: sample_counts(weight(), n, seed=1),
    "sample_counts of a tensor": lambda n: sample_counts(weight(), n, normalize="tensor", seed=1),
    "quantize": lambda n: quantize(nn.Linear(8, 4), samples=n)[1].bits > 0,
    "quantize, calibrated": lambda n: (
        quantize(nn.Linear(8, 4), samples=n, calibrate=weight())[1].bits > 0
    ),
    "sample_linears": lambda n: sample_linears(net(), samples=n)[1].bits > 0,
    "from_linear": lambda n: SampledLinear.from_linear(nn.Linear(8, 4), n).in_features,
    "random": lambda n: SampledLinear.random(8, 4, n, seed=1).inputs,
    "input_scales": lambda n: len(importance.input_scales(nn.Linear(8, 4), weight(), None, n)),
    "PathLinear": lambda n: PathLinear(n, 4, 8, seed=1).weight,
    "compress": lambda n: paths_of.compress(net(), paths=n)[1].paths,
    "parts": lambda n: DropoutPartition(n, seed=1).parts,
    "part_labels": lambda n: part_labels(n, 2),
    "steps": lambda n: ResidualODE(4, 4, n, seed=1).steps,
    "numbers": lambda n: numbers(n, 2),
    "numbers of a lattice": lambda n: numbers(8, n, "lattice"),
    "normals": lambda n: normals(n, n),
    "epoch_order": lambda n: epoch_order(n),
    "Dropout": lambda n: Dropout(n, seed=1)(torch.ones(2, 4)),
    "nodes": lambda n: nodes(n, 2, "random")[0],
    "nested_sobol": lambda n: nested_sobol(n, 2),
    "Fourier": lambda n: Fourier(1, 1, n, torch.Generator().manual_seed(0)).weight,
}


@pytest.mark.parametrize("function", COUNTED.values(), ids=COUNTED)
def test_numbers_of_numpy_do_what_those_of_python_do(function):
    got, want = function(np.int64(4)), function(4)
    assert torch.equal(torch.as_tensor(got), torch.as_tensor(want))
    for value in (True, np.bool_(True), 4.5):
        with pytest.raises(TypeError, match="must be an int, got"):
            function(value)


def test_rates_are_no_bools():
    for function in (
        lambda: quantize(net(), fraction=True),
        lambda: quantize(net(), bits=True),
        lambda: sampled(True),
        lambda: paths_of.sparsify(net(), density=True),
        lambda: DropoutPartition(p=True),
        lambda: DropoutPartition(p="half"),
        lambda: ResidualODE(4, 4, 2, horizon="long"),
    ):
        with pytest.raises(TypeError, match="must be a number"):
            function()


@pytest.mark.parametrize("batches", [np.ones((2, 16)), [np.ones((2, 16))], "ones"], ids=str)
def test_batches_that_are_no_tensors_are_named(batches):
    for function in (
        lambda: importance.input_scales(net(), batches),
        lambda: quantize(net(), samples=4, calibrate=batches),
    ):
        with pytest.raises(TypeError, match=r"a batch must be a tensor, or hold some, got"):
            function()
