"""Networks trained side by side with masks from outside: each as it would be alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mcnn import data, training
from mcnn.training import grouped, nets
from mcnn.training.grouped import Grouped


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    return replace(found, train=found.train.part(slice(90)), test=found.test.part(slice(90)))


def ones(models):
    return lambda b: [torch.ones(models.count, 1, n) for n in models.widths]


def test_gradients_are_those_of_the_networks():
    models = [nets.build("lenet5", seed=s, shape=(3, 32, 32)) for s in range(3)]
    both = Grouped(models).double()
    x, y = normal(4, 3, 32, 32).double(), torch.tensor([1, 0, 7, 3])
    logits = both(x)
    nn.functional.cross_entropy(logits.flatten(0, 1), y.repeat(3), reduction="sum").backward()
    for r, model in enumerate(models):
        out = model.double()(x)
        torch.testing.assert_close(logits[r], out.float())
        nn.functional.cross_entropy(out, y, reduction="sum").backward()
        for i, name in enumerate(("0", "3")):
            grad = both.convolutions[i][0].grad.chunk(3)[r]
            torch.testing.assert_close(grad, model.get_parameter(f"{name}.weight").grad)
        for i, name in enumerate(("7", "9", "11")):
            grad = both.linears[i][0].grad[r].T
            torch.testing.assert_close(grad, model.get_parameter(f"{name}.weight").grad)


def test_perceptrons_may_see_different_images():
    models = [nets.build("mlp", seed=s, widths=(9, 7, 5, 3)) for s in range(2)]
    both = Grouped(models)
    assert both.widths == [7, 5]
    x = normal(2, 4, 9)
    torch.testing.assert_close(both(x), torch.stack([m(a) for m, a in zip(models, x, strict=True)]))


def test_mixed_precision_is_near():
    models = [nets.build("lenet5", seed=s, shape=(1, 8, 8)) for s in range(2)]
    x = normal(4, 1, 8, 8)
    mixed = Grouped(models, mixed=True)(x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, Grouped(models)(x), atol=0.01, rtol=0.05)


@pytest.mark.parametrize("seeds", [3, [3, 4]])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_each_is_trained_as_it_is_alone(digits, schedule, seeds):
    alone = [nets.build("mlp", seed=s, widths=(64, 12, 9, 10)) for s in range(2)]
    both, seen = Grouped(alone), []
    options = {"epochs": 2, "batch_size": 40, "lr": 0.1, "schedule": schedule, "scale": "standard"}
    rows = grouped.fit(both, digits, ones(both), seeds=seeds, on_epoch=seen.append, **options)
    assert seen == rows
    tested = grouped.accuracy(both, digits.test, batch_size=32)
    for r, model in enumerate(alone):
        seed = seeds if isinstance(seeds, int) else seeds[r]
        expected = training.fit(model, digits, seed=seed, **options)
        assert [row["train_accuracy"][r] for row in rows] == pytest.approx(
            [row["train_accuracy"] for row in expected]
        )
        layers = [m for m in model if isinstance(m, nn.Linear)]
        for layer, (w, b) in zip(layers, both.linears, strict=True):
            torch.testing.assert_close(w[r].T, layer.weight, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(b[r, 0], layer.bias, atol=1e-4, rtol=1e-4)
        accuracy = training.evaluate(model, digits.test, scale="standard").accuracy
        assert tested[r] == pytest.approx(accuracy)


def test_what_cannot_be_is_refused(digits):
    perceptrons = Grouped([nets.build("mlp", seed=s, widths=(64, 12, 10)) for s in range(2)])
    lenets = Grouped([nets.build("lenet5", seed=s, shape=(1, 8, 8)) for s in range(2)])
    for models, options, message in (
        (perceptrons, {"seeds": [1]}, "seeds must be 2"),
        (lenets, {"seeds": [1, 2]}, "one for all networks with convolutions"),
        (perceptrons, {"schedule": "steps"}, "no schedule 'steps'; there are"),
        (perceptrons, {"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            grouped.fit(models, digits, ones(models), **{"epochs": 1, "seeds": 1} | options)
    with pytest.raises(training.DivergenceError, match=r"lr=1e\+30"):
        grouped.fit(perceptrons, digits, ones(perceptrons), epochs=2, seeds=1, lr=1e30)
