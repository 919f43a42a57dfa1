"""Walks against the sum over all paths, and sampled weights with their own decisions or others."""

from itertools import pairwise, product
from math import prod

import pytest
import torch
from torch import nn

from mcnn import interpreter
from mcnn.errors import UsageError
from mcnn.experiments.interpreter import walks as experiment

torch.set_num_threads(1)


def small(seed=0, widths=(4, 6, 5, 3)):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    return model, torch.randn(1, 1, 2, widths[0] // 2, dtype=torch.float64)


def test_the_row_is_the_sum_over_all_active_paths():
    model, x = small()
    layers = interpreter.active(model, x)
    system = interpreter.linear(model, x)
    for output, start in product(range(3), range(4)):
        total = 0.0
        for way in product(range(6), range(5)):
            units = (start, *way, output)
            total += prod(
                float(w[b, a] * g[a])
                for w, g, (a, b) in zip(layers.weights, layers.gates, pairwise(units), strict=True)
            )
        assert total == pytest.approx(float(system.matrix()[output, start]), abs=1e-12)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_walks_are_unbiased_with_the_variance_that_is_computed(fold, seed):
    model, x = small(seed)
    system = interpreter.linear(model, x)
    output, n, repeats = 1, 64, 800
    exact = torch.cat([system.matrix()[output], system.bias[0, output, None]])
    row, bias = interpreter.walk(model, x, output, n * repeats, fold, seed=seed)
    error = torch.cat([row, bias[None]]) - exact
    variance = interpreter.variance(model, x, output, fold)
    # The squared error has this mean; five times it has a chance of less than 1e-4 even if all of
    # the variance is in one entry.
    assert 0 < float(error.square().sum()) < 15 * variance / (n * repeats)
    errors = []
    for r in range(repeats // 4):
        row, bias = interpreter.walk(model, x, output, n, fold, seed=1000 + r)
        errors.append((torch.cat([row, bias[None]]) - exact).square().sum())
    errors = torch.stack(errors) * n
    spread = float(errors.std() / len(errors) ** 0.5)
    assert abs(float(errors.mean()) - variance) < 4 * spread


def test_folded_walks_all_weigh_the_same():
    model, x = small(4)
    layers = interpreter.active(model, x)
    mass = torch.ones(4, dtype=torch.float64)
    for w, b, g in zip(*layers, strict=True):
        mass = w.abs() @ (g * mass) + b.abs()
    row, bias = interpreter.walk(model, x, 0, 1, seed=5)
    one = torch.cat([row, bias[None]]).abs()
    assert float(one.max()) == pytest.approx(float(mass[0]))
    assert int((one > 0).sum()) == 1


def test_a_network_whose_units_are_dead_is_its_bias():
    model, x = small(0)
    with torch.no_grad():
        model[3].bias.fill_(-1e6)  # nothing comes through the second layer
    for fold in (True, False):
        row, bias = interpreter.walk(model, x, 2, 500, fold)
        assert not row.any()
        assert float(bias) == pytest.approx(float(model[5].bias[2]), rel=0.3)


def test_one_layer_and_no_bias_will_do_and_seeds_repeat():
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    x = torch.ones(1, 3, dtype=torch.float64)
    a, b = (interpreter.walk(model, x, 0, 100, seed=7) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert float(a[1]) == 0
    other = interpreter.walk(model, x, 0, 100, seed=8)
    assert not torch.equal(a[0], other[0])


def test_walks_refuse_what_they_cannot_pass():
    model, x = small()
    for arguments, message in (((3, 10), r"output must be 0 \.\.\. 2"), ((0, 0), "at least 1")):
        with pytest.raises(UsageError, match=message):
            interpreter.walk(model, x, *arguments)
    with pytest.raises(UsageError, match="not through Conv2d"):
        interpreter.walk(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 2, 2), 0, 10)
    with pytest.raises(UsageError, match="no linear layer"):
        interpreter.walk(nn.Sequential(nn.ReLU()), torch.ones(1, 3), 0, 10)


# The experiment's own sampling


def test_sampled_rows_have_the_right_mean():
    weight = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([experiment._sampled(weight, 6, generator) for _ in range(3000)])
    z = (drawn.mean(0) - weight) / (drawn.std(0) / 3000**0.5)
    assert float(z.abs().max()) < 4.5
    sums = drawn.abs().sum(2)
    torch.testing.assert_close(sums, weight.abs().sum(1).expand_as(sums))


def test_with_the_same_weights_held_decisions_change_nothing():
    model, x = small(2)
    linears = [m for m in model if isinstance(m, nn.Linear)]
    weights = [m.weight for m in linears]
    exact, gates = experiment._forward(weights, linears, x)
    torch.testing.assert_close(exact, model(x))
    again, _ = experiment._forward(weights, linears, x, gates)
    assert torch.equal(again, exact)
    closed, _ = experiment._forward(weights, linears, x, [torch.zeros_like(g) for g in gates])
    torch.testing.assert_close(closed[0], linears[-1].bias)
