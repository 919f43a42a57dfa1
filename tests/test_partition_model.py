"""Partitions in whole networks, and the variance of a mean over a cycle, by enumeration."""

import itertools
import math

import pytest
import torch
from torch import nn

from mcnn.partition import (
    DropoutPartition,
    cycle_outputs,
    first_order_share,
    part_labels,
    replace_dropout,
    variance_factor,
)
from mcnn.training import nets

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), *layers, nn.Linear(20, 3))


# --- replace_dropout ----------------------------------------------------------------------------


def test_every_dropout_is_replaced_and_nothing_else():
    model = nets.build("alexnet-cifar", hidden=16, dropout=0.25)
    new = replace_dropout(model, seed=5)
    pairs = list(zip(model, new, strict=True))
    changed = [(a, b) for a, b in pairs if type(a) is not type(b)]
    assert [type(a) for a, _ in changed] == [nn.Dropout, nn.Dropout]
    assert [(b.parts, b.seed) for _, b in changed] == [(4, 5), (4, 6)]
    assert all(torch.equal(new.state_dict()[name], w) for name, w in model.state_dict().items())
    assert all(a is not b for a, b in zip(model.parameters(), new.parameters(), strict=True))


def test_channels_mode_and_options_are_kept():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout2d(1 / 2)).eval()
    new = replace_dropout(model, redraw="never", balanced=True)[1]
    assert (new.channels, new.redraw, new.balanced, new.training) == (True, "never", True, False)


def test_a_layer_that_has_two_names_stays_one():
    drop = nn.Dropout(0.5)
    new = replace_dropout(nn.ModuleDict({"a": drop, "b": nn.Sequential(drop), "c": nn.Dropout()}))
    assert new["a"] is new["b"][0]
    assert new["a"].seed != new["c"].seed


def test_a_layer_by_itself():
    assert replace_dropout(nn.Dropout(0.2), seed=3).seed == 3


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), 3, "no Dropout layer to replace: put DropoutPartition"),
        (small(nn.Dropout(0.7)), None, "a dropout rate of 0.7 is not near 1/P: give the parts"),
        (small(nn.Dropout(0.0)), None, "all dropout rates are 0.0, which is not near 1/P"),
    ],
)
def test_what_cannot_be_replaced(model, parts, message):
    with pytest.raises(ValueError, match=message):
        replace_dropout(model, parts)


def test_three_steps_with_a_third_of_the_numbers():
    """In a network with dropout 1/3, three steps drop every unit once."""
    model = replace_dropout(small(nn.Dropout(1 / 3)))
    zeros = []
    model[2].register_forward_hook(lambda module, x, y: zeros.append((y == 0) & (x[0] != 0)))
    x = torch.ones(1, 6)
    active = model[1](model[0](x)) != 0
    for _ in range(3):
        model(x)
    assert torch.equal(sum(z.int() for z in zeros), active.int())
    assert model[2].numbers_drawn == 20


# --- cycle_outputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_outputs_of_a_cycle_leave_the_state_as_it_was(steps, device):
    model, twin = (small(DropoutPartition(3, seed=8)).to(device) for _ in range(2))
    x = normal(5, 6).to(device)
    for _ in range(steps):
        model(x), twin(x)
    each = cycle_outputs(model, x)
    assert each.shape == (3, 5, 3)
    assert model.training
    assert not each.requires_grad
    hidden = model[1](model[0](x))
    labels = part_labels(20, 3, seed=8, device=device)
    for t in range(3):
        by_hand = model[3](hidden * (labels != t) * 1.5)
        torch.testing.assert_close(each[t], by_hand)
    assert torch.equal(model(x), twin(x)), "the next step is the one it would have been"
    assert model[2].numbers_drawn == twin[2].numbers_drawn


def test_the_mean_over_a_cycle_is_exact_after_one_layer():
    model = small(DropoutPartition(9)).eval()
    x = normal(4, 6)
    torch.testing.assert_close(cycle_outputs(model, x).mean(0), model(x))
    assert not model[2].training


def test_other_modules_are_in_evaluation():
    model = small(DropoutPartition(2), nn.Dropout(0.5), nn.BatchNorm1d(20))
    x = normal(4, 6)
    first, second = cycle_outputs(model, x), cycle_outputs(model, x)
    assert torch.equal(first, second)
    assert int(model[4].num_batches_tracked) == 0
    assert all(m.training for m in model)


def test_cycles_of_different_length_are_all_complete():
    model = nn.Sequential(DropoutPartition(2, redraw="never"), DropoutPartition(3, redraw="never"))
    each = cycle_outputs(model, torch.ones(1, 30))
    assert len(each) == 6
    torch.testing.assert_close(each.mean(0), torch.ones(1, 30))


def test_a_fixed_partition_is_that_of_the_training():
    layer = DropoutPartition(2, redraw="never", seed=4)
    layer(torch.ones(1, 9))
    labels = layer.labels
    assert torch.equal(cycle_outputs(layer, torch.ones(1, 9))[0, 0] == 0, labels == 0)


def test_a_network_without_partitions_has_no_cycle():
    with pytest.raises(ValueError, match="the model has no DropoutPartition: there is no cycle"):
        cycle_outputs(small(nn.Dropout()), torch.ones(1, 6))


def test_an_input_that_is_refused_leaves_the_state_as_it_was():
    model = small(DropoutPartition(2))
    with pytest.raises(RuntimeError):
        cycle_outputs(model, torch.ones(1, 7))
    assert all(m.training for m in model.modules())


# --- theory -------------------------------------------------------------------------------------


def masks(labels, parts):
    """The scaled masks of a cycle: [P, units]."""
    turns = torch.arange(parts).unsqueeze(1)
    return (torch.tensor(labels) != turns).double() * parts / (parts - 1)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_factors_by_enumeration(order, parts):
    """All partitions of k units into P parts: the mean of the product of centred masks."""
    means = torch.stack(
        [
            (masks(labels, parts) - 1).prod(1).mean()
            for labels in itertools.product(range(parts), repeat=order)
        ]
    )
    single = (1 / (parts - 1)) ** order  # the variance of one mask is 1/(P - 1)
    assert float(means.square().mean()) == pytest.approx(
        variance_factor(order, parts) * single / parts, abs=1e-12
    )


def test_partitions_have_the_variance_of_theory():
    """A quadratic function of the masks of 12 units, from 20 000 cycles."""
    parts, n, cycles = 3, 12, 20_000
    linear, square = normal(n, seed=1).double(), normal(n, n, seed=2).double().triu(1)
    labels = part_labels(n * cycles, parts, seed=3).view(cycles, 1, n)
    turns = torch.arange(parts).view(1, parts, 1)
    m = (labels != turns).double().view(-1, n) * parts / (parts - 1) - 1  # [steps, n], centred
    f = m @ linear + torch.einsum("si,ij,sj->s", m, square, m)
    first = float(linear.square().sum()) / (parts - 1)
    second = float(square.square().sum()) / (parts - 1) ** 2
    expected = second * variance_factor(2, parts) / parts
    measured = float(f.view(cycles, parts).mean(1).var())
    assert measured == pytest.approx(expected, rel=0.1)
    assert float(f.var()) == pytest.approx(first + second, rel=0.05), "a step is that of dropout"


@pytest.mark.parametrize("parts", [2, 5, 9])
def test_the_share_of_the_first_order_comes_back(parts):
    share = 0.7
    mean = (1 - share) * variance_factor(2, parts)
    assert first_order_share(1 / mean, parts) == pytest.approx(share)
    assert math.isclose(variance_factor(1, parts), 0)


def test_a_constant_has_no_variance():
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        variance_factor(0, 3)
    with pytest.raises(ValueError, match="parts must be at least 2"):
        variance_factor(1, 1)
