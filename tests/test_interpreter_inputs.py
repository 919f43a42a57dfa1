"""The interpreter with what strangers bring: training mode, gates at the end, flat images."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import interpreter
from mcnn.errors import UsageError
from mcnn.interpreter import Prior, gabor

torch.set_num_threads(1)
F64 = torch.float64
X = torch.tensor([[0.3, -1.2, 0.8, 0.5]], dtype=F64)
NORMED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))


def rectified(bias):
    """Two layers whose outputs are rectified, too; the bias opens or closes the gates there."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.ReLU()).double()
    model[2].bias.data[:] = torch.tensor([bias, -bias])
    return model


@pytest.mark.parametrize("fold", [True, False])
def test_a_gate_behind_the_last_layer_closes_its_row(fold):
    model = rectified(9.0)
    system = interpreter.linear(model, X)
    assert model(X)[0, 0] > 0
    assert model(X)[0, 1] == 0
    closed, bias = interpreter.walk(model, X, 1, 1000, fold)
    assert not closed.any()
    assert bias == 0
    assert interpreter.variance(model, X, 1, fold) == 0
    walks = 200_000
    found, bias = interpreter.walk(model, X, 0, walks, fold, seed=3)
    spread = math.sqrt(interpreter.variance(model, X, 0, fold) / walks)
    exact = torch.cat([system.matrix()[0], system.bias.flatten()[:1]])
    error = torch.cat([found, bias.view(1)]) - exact
    assert error.norm() < 4 * spread


SHORTCUTS = {
    "zeros beside": lambda x: torch.cat([x, torch.zeros_like(x)], 1),
    "ones": lambda x: x * torch.ones_like(x[:, :1]) + x.new_full((1,), 2.0),
    "written into zeros": lambda x: x.new_zeros(x.shape).copy_(x[:, :1]),
    "a triangle": lambda x: x.tril() + x.rot90(1, (2, 3)),
    "largest of a map": lambda x: x.amax((2, 3)) - x.amin(1, keepdim=True).mean((2, 3)),
    "largest of all": lambda x: x.max() + x.min().view(1, 1),
    "largest of two": lambda x: torch.max(x, 0.5 * x),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_constants_shapes_and_maxima_are_held(name):
    class Model(nn.Module):
        def forward(self, x):
            return SHORTCUTS[name](x)

    x = torch.randn(1, 2, 5, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    model = Model()
    system = interpreter.linear(model, x)
    assert torch.allclose(system.matvec(x) + system.bias, model(x), atol=1e-12)
    derivative = torch.autograd.functional.jacobian(model, x).reshape(system.shape)
    assert torch.allclose(system.matrix(), derivative, atol=1e-12)


def test_equal_maxima_share_and_the_answer_stays():
    x = torch.tensor([[2.0, 2.0, 1.0]], dtype=F64)

    class Model(nn.Module):
        def forward(self, x):
            return x.amax(1)

    assert interpreter.linear(Model(), x).matrix().tolist() == [[0.5, 0.5, 0.0]]


def test_an_input_needs_no_batch():
    model = rectified(9.0)
    alone, batch = interpreter.linear(model, X[0]), interpreter.linear(model, X)
    assert alone.output.shape == (2,)
    assert torch.allclose(alone.matrix(), batch.matrix(), atol=1e-12)
    assert torch.allclose(alone.matvec(X[0]) + alone.bias, model(X[0]), atol=1e-12)
    assert alone.rmatvec(torch.ones(2)).shape == (4,)


@pytest.mark.parametrize("look", ["linear", "maximise"])
def test_a_model_in_training_mode_is_refused_and_stays_as_it_is(look):
    model = copy.deepcopy(NORMED).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 1, 5, 5)
    call = {
        "linear": lambda: interpreter.linear(model, x),
        "maximise": lambda: interpreter.maximise(model, 0, start=x),
    }[look]
    with pytest.raises(UsageError, match=r"layer '1'.*model\.eval\(\)"):
        call()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_training_mode_is_no_matter_where_nothing_learns_or_draws():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double().train()
    assert interpreter.linear(model, X).shape == (2, 4)
    assert interpreter.maximise(model, np.int64(1), start=X).image.shape == X.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpreter.walk(rectified(1.0), X * math.nan, 0, 9), "NaN or infinite"),
        (lambda: interpreter.walk(nn.Linear(4, 2).double(), X, 0, 9), "nn.Sequential"),
        (lambda: interpreter.variance(rectified(1.0), X, 7), "output must be 0 ... 1"),
        (lambda: interpreter.variance(rectified(1.0), X, -1), "output must be 0 ... 1"),
        (
            lambda: interpreter.maximise(nn.Linear(2, 2), 0, start=torch.zeros(1, 2).long()),
            "floating point",
        ),
        (
            lambda: interpreter.maximise(nn.Linear(2, 2), 0, start=torch.full((1, 2), math.nan)),
            "finite",
        ),
        (lambda: interpreter.linear(nn.Linear(2, 2), [1.0, 2.0]), "must be a tensor"),
        (lambda: interpreter.linear(nn.Linear(2, 2), torch.ones(1, 2)).matrix(rows=0), "rows must"),
        (
            lambda: interpreter.phase_shuffled(torch.ones(1, 4, 4).byte(), torch.Generator()),
            "floating point",
        ),
        (lambda: interpreter.orientation(torch.full((1, 7, 7), 0.3)), "no direction"),
        (lambda: interpreter.orientation(torch.zeros(1, 7, 7)), "no direction"),
        (lambda: interpreter.orientation(torch.full((1, 7, 7), math.nan)), "no direction"),
        (lambda: interpreter.band(torch.zeros(1, 7, 7)), "no band"),
        (lambda: interpreter.band(torch.ones(1, 1, 1)), "no band"),
        (lambda: Prior(norm=math.nan), "norm must"),
    ],
)
def test_what_was_silently_wrong_is_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_single_precision_is_recovered_as_double_is():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    weight = torch.randn(200, 9, 6, generator=generator)
    found = interpreter.recovered(x, weight)
    assert torch.equal(found, interpreter.recovered(x.double(), weight.double()))
    open_rows = (weight.double() @ x.double().unsqueeze(2) > 0).sum((1, 2))
    assert torch.equal(found, open_rows >= 6)


def test_counts_are_whole_numbers_and_may_be_numpys():
    i = np.int64
    assert interpreter.recovery_probability(i(2), i(3)) == 0.5
    assert interpreter.count_recovered(i(2), i(3), i(50)) == interpreter.count_recovered(2, 3, 50)
    assert gabor.dictionary(i(5), i(5))[0].shape[2] == 25
    with pytest.raises(TypeError, match="integer"):
        interpreter.recovery_probability(2.5, 3.7)
