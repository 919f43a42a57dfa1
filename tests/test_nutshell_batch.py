"""The homework of the slides, and what the size of a batch does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn.experiments import nutshell
from mcnn.stats import slope

CPU = torch.device("cpu")


def network(widths, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    net = nutshell._two_layers(widths, generator, CPU)
    x = torch.randn(batch, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randn(batch, widths[2], generator=generator, dtype=torch.float64).softmax(1)
    return net, x, y


@given(
    widths=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    batch=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)
def test_two_layers_by_hand_are_autograd(widths, batch, seed):
    net, x, y = network(widths, batch, seed)
    leaves = [w.clone().requires_grad_() for w in net]
    w1, b1, w2, b2 = leaves
    logits = torch.relu(x @ w1 + b1) @ w2 + b2
    loss = torch.nn.functional.cross_entropy(logits, y)
    assert nutshell._loss(net, x, y) == pytest.approx(float(loss.detach()), rel=1e-12, abs=1e-14)
    torch.testing.assert_close(
        nutshell._gradient(net, x, y),
        list(torch.autograd.grad(loss, leaves)),
        rtol=1e-11,
        atol=1e-13,
    )


def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_examples():
    net, x, y = network((5, 7, 3), 6, 1)
    each = [nutshell._gradient(net, x[i : i + 1], y[i : i + 1]) for i in range(6)]
    for found, parts in zip(nutshell._gradient(net, x, y), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, sum(parts) / 6)


def test_a_pass_takes_the_steps_of_sgd():
    net, x, y = network((5, 7, 3), 7, 2)
    leaves = [w.clone().requires_grad_() for w in net]
    optimizer = torch.optim.SGD(leaves, 0.1)
    for rows in (slice(0, 3), slice(3, 6)):  # the last one is not full
        logits = torch.relu(x[rows] @ leaves[0] + leaves[1]) @ leaves[2] + leaves[3]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, y[rows]).backward()
        optimizer.step()
    for found, wanted in zip(nutshell._one_pass(net, x, y, 3, 0.1), leaves, strict=True):
        torch.testing.assert_close(found, wanted.detach())


def test_the_experiments_measure_what_they_say():
    (trial,) = nutshell._homework_trials("fast", [7])
    assert max(max(v) for v in nutshell._homework(trial, CPU).values()) < 1e-13
    (trial,) = nutshell._batch_trials("fast", [7])
    found = nutshell._batches_of(trial, CPU)
    assert slope(trial.sizes, found["variance"]) == pytest.approx(-1, abs=0.2)
    assert all(rate in rates for rate, rates in zip(found["rate"], trial.rates, strict=True))
