"""Gates with what strangers bring: half precision, sure units, copies, autocast, wrong shapes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import gates
from mcnn.errors import UsageError

torch.set_num_threads(1)
F64 = torch.float64


def curved(h):
    return h.square().sum(-1) + 3 * h.prod(-1)


def test_noise_of_half_precision_is_finite_and_that_of_float32():
    xi = torch.tensor([0.0, 1e-9, 0.3, 1 - 2**-24])
    found = gates.noisy_rectifier(torch.ones(4, dtype=torch.float16), xi)
    exact = gates.noisy_rectifier(torch.ones(4), xi)
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), exact, rtol=2e-3)


@pytest.mark.parametrize("sure", [800.0, -800.0])
def test_a_sure_unit_has_the_best_baseline_too(sure):
    a = torch.tensor([[sure, 0.3, -0.7]], dtype=F64)
    best = gates.all_baselines(a, curved)["minimum variance"]
    # Probabilities exchanged: the mean loss with this unit in the other state.
    other = a.clone()
    other[0, 0] = -sure
    expected = gates.expected_loss(other, curved)
    assert torch.allclose(best[:, 0], expected)
    nearly = a.clone()
    nearly[0, 0] = sure / 40  # where the weighted sum still has a weight
    assert torch.allclose(gates.all_baselines(nearly, curved)["minimum variance"], best, atol=1e-6)


@pytest.mark.parametrize("estimate", [gates.score_function, gates.local_expectation])
def test_estimates_want_draws_and_one_loss_for_each(estimate):
    a = torch.zeros(3, 2)
    for shape in ((3, 2), (0, 3, 2)):
        with pytest.raises(UsageError, match=r"xi must be \[S, 3, 2\]"):
            estimate(a, torch.rand(shape), curved)
    for wrong in (lambda h: h.sum(-1, keepdim=True), lambda h: h.sum((-1, -2))):
        with pytest.raises(UsageError, match="the loss must map"):
            estimate(a, torch.rand(3, 3, 2), wrong)


def test_a_running_baseline_takes_one_loss_for_each_example():
    baseline = gates.RunningBaseline()
    for shapes in (((4, 2), (4, 1)), ((4, 2), (3,)), ((0, 2), (0,))):
        with pytest.raises(UsageError, match=r"\[b, k\] and \[b\]"):
            baseline.update(*map(torch.ones, shapes))
    assert baseline.value == 0.0


def test_sizes_may_be_numpys_and_gates_of_any_type():
    layer = gates.GatedLinear(np.int64(3), np.int64(4), np.int64(2), seed=0)
    x, on = torch.ones(2, 3), torch.tensor([[1, 0], [1, 1]])
    expected = layer(x, on.float())
    for kind in (torch.bool, torch.int64, torch.float64):
        assert torch.equal(layer(x, on.to(kind)), expected)
    with pytest.raises(TypeError, match="integer"):
        gates.GatedLinear(3, 4, 2.0)


def test_an_empty_batch_has_a_share():
    block = gates.GatedBlock(3, 4, 2, seed=0)
    assert block(torch.ones(0, 3)).shape == (0, 4)
    assert block.share == 0.0


def test_a_block_is_copied_after_a_call():
    block = gates.GatedBlock(3, 4, 2, seed=0)
    x, xi = torch.randn(5, 3), torch.rand(5, 2)
    expected = block(x, xi)
    other = copy.deepcopy(block)
    assert block.probability.requires_grad, "the original keeps its graph"
    assert torch.equal(other(x, xi), expected)


@pytest.mark.parametrize("full", [False, True])
def test_a_block_takes_what_autocast_makes(full):
    unit = gates.UNITS[0] if full else gates.UNITS[1]
    net = nn.Sequential(nn.Linear(3, 3), gates.GatedBlock(3, 4, 2, unit, full=full, seed=0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.ones(2, 3)).float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net[1].layer.weight.grad is not None
