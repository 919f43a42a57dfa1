"""Networks that change their paths in training: what is kept, what is counted, what it equals."""

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn import data, training
from mcnn.experiments.paths import growth, signs
from mcnn.experiments.paths.common import BATCH, RECIPE
from mcnn.paths import Graph, PathMLP, grow, regrow, sample_paths
from mcnn.paths.optimizer_state import migrate_optimizer_state

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
WIDTHS = (12, 9, 7, 4)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def trained(optimizer="sgd", device="cpu", steps=3, paths=20, **options):
    net = PathMLP(WIDTHS, paths, "uniform", 3, device=device, **options)
    optimizer = OPTIMIZERS[optimizer](net.parameters())
    step(net, optimizer, steps)
    return net, optimizer


def step(net, optimizer, steps=1):
    x = torch.rand(8, WIDTHS[0], generator=torch.Generator().manual_seed(1)).to(net.sampled.device)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def by_place(layer, values):
    """Name the numbers of edges by their two ends."""
    ends = zip(layer.edges.outputs.tolist(), layer.edges.inputs.tolist(), strict=True)
    return dict(zip(ends, values.tolist(), strict=True))


# --- momentum -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("optimizer", "name"), [("sgd", "momentum_buffer"), ("adam", "exp_avg")])
@pytest.mark.parametrize("change", [lambda n: grow(n, 9), lambda n: regrow(n, 11)])
def test_edges_that_stay_keep_their_momentum(optimizer, name, change, device):
    net, optimizer = trained(optimizer, device)
    old = copy.deepcopy(net)
    before = [by_place(m, optimizer.state[m.weight][name]) for m in net.layers]
    with migrate_optimizer_state(optimizer, net):
        change(net)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters()}
    assert set(map(id, optimizer.state)) == held
    for was, layer, places in zip(old.layers, net.layers, before, strict=True):
        now = by_place(layer, optimizer.state[layer.weight][name])
        weights, weights_before = by_place(layer, layer.weight), by_place(was, was.weight)
        assert set(now) - set(places), "no edge is new"
        stayed = {p for p in now if weights[p] == weights_before.get(p)}
        assert len(stayed) > 5
        for place, value in now.items():
            assert value == (places[place] if place in stayed else 0)
    step(net, optimizer)  # the optimiser trains what is there now
    assert all((m.weight.grad is not None) for m in net.layers)


def test_nothing_happens_without_a_change():
    net, optimizer = trained()
    state = {id(p): s["momentum_buffer"].clone() for p, s in optimizer.state.items()}
    with migrate_optimizer_state(optimizer, net):
        pass
    assert all(torch.equal(state[id(p)], s["momentum_buffer"]) for p, s in optimizer.state.items())


def test_a_fresh_optimiser_has_nothing_to_carry():
    net = PathMLP(WIDTHS, 20)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with migrate_optimizer_state(optimizer, net):
        grow(net, 5)
    assert not optimizer.state
    step(net, optimizer)


def test_an_optimiser_of_another_network_is_refused():
    _, optimizer = trained()
    with (
        pytest.raises(ValueError, match="does not train"),
        migrate_optimizer_state(optimizer, PathMLP(WIDTHS, 9)),
    ):
        pass


# --- the loop -------------------------------------------------------------------------------------


def test_the_loop_is_that_of_the_other_experiments():
    """Without changes, the weights are those of `training.fit`, bit by bit."""
    found = data.load("digits")
    nets = [PathMLP((64, 20, 10), 100, "uniform", 1) for _ in range(2)]
    options = {"epochs": 2, "batch_size": BATCH, "seed": 5, **RECIPE}
    nothing = partial(growth.changed, change=lambda net, step: None)
    training.fit(nets[0], found, on_step=nothing, **options)
    training.fit(nets[1], found, **options)
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(a, b)


def test_exchange_follows_the_schedule_of_set():
    net, steps = PathMLP(WIDTHS, 100, "uniform"), 140
    sampled = []
    for s in range(steps):
        growth._exchange(net, s, steps=steps, share=0.4, scale=0.0)
        sampled.append(int(net.sampled))
    came = torch.tensor([100, *sampled]).diff().tolist()
    for s, n in enumerate(came):
        due = s in range(10, 105, 10)
        assert n == (int(20 * (1 + math.cos(math.pi * s / 105))) if due else 0)
    assert net.paths.shape[1] == 100


def test_growth_ends_with_all_paths_at_three_quarters():
    net, steps = PathMLP(WIDTHS, 25, "uniform", 2), 140
    numbers = []
    for s in range(steps):
        growth._grow(net, s, steps=steps, paths=100, scale=1.0)
        numbers.append(net.paths.shape[1])
    assert numbers[9] == 25
    assert numbers == sorted(numbers)
    assert numbers[99] < 100 or numbers[89] < 100
    assert numbers[104] == 100
    assert torch.equal(net.paths, PathMLP(WIDTHS, 100, "uniform", 2).paths)


@given(paths=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_narrow_network_is_that_of_the_first_paths(paths, seed):
    net = PathMLP(WIDTHS, 40, "uniform", seed)
    for layer in net.layers:
        torch.nn.init.normal_(layer.bias)
    small = PathMLP(WIDTHS, net.paths[:, :paths].clone())
    for a, b in zip(net.layers, small.layers, strict=True):
        known = by_place(a, a.weight)
        places = by_place(b, b.weight)
        b.weight.data = torch.tensor([known[place] for place in places])
        b.bias.data = a.bias.data
    x = torch.rand(5, WIDTHS[0])
    found = growth.narrow(net, growth.first_paths(net), paths, x)
    torch.testing.assert_close(found, small(x))


@given(total=st.integers(3, 100), seed=st.integers(0, 99))
def test_as_many_paths_as_the_edges_allow(total, seed):
    def distinct(n):
        return sum(Graph.of_paths(sample_paths(WIDTHS, n, "uniform", seed), WIDTHS).unique)

    n = growth.paths_for(WIDTHS, total, "uniform", seed)
    assert distinct(n) <= total
    assert n + 1 == max(total, 2) or distinct(n + 1) > total


@pytest.mark.parametrize("device", DEVICES)
def test_exchanged_and_grown_paths_leave_nothing_dangling(device):
    for trial in growth._trials("fast", [1]):
        few = growth.GrowthTrial(**{**vars(trial), "epochs": 2})
        found = growth._run(few, torch.device(device))
        for counts in (found["before"], found["after"]):
            if trial.arm not in ("set", "rigl"):
                assert (counts["useless"], counts["dangling"]) == (0, 0)
        if trial.arm in ("set", "rigl"):
            assert found["before"]["edges"] == found["after"]["edges"]
        assert 0 <= found["accuracy"] <= 1
        if trial.arm == "nested":
            assert found["accuracy_of_prefixes"][-1] == found["accuracy"]


def test_edges_can_start_from_the_network_of_the_paths():
    options = {"dataset": "digits", "widths": (64, 20, 10), "epochs": 1, "share": 0.0}
    static = growth._run(growth.GrowthTrial(arm="static", **options), torch.device("cpu"))
    same = growth.GrowthTrial(arm="set", from_paths=True, **options)
    found = growth._run(same, torch.device("cpu"))
    assert found["before"] == static["before"] == found["after"]
    assert found["accuracy"] == pytest.approx(static["accuracy"], abs=0.02)


# --- signs ----------------------------------------------------------------------------------------


def test_alternating_signs_are_one_sided_where_sobols_first_dimension_is():
    kinds = ("constant, alternating signs", "constant, random signs", "constant, positive")
    options = {"per_pixel": 4, "widths": (64, 32, 32, 10), "seed": 3}
    found = {
        (kind, method): signs.one_sided_units(
            signs.make(signs.SignsTrial(kind=kind, method=method, **options))
        )
        for kind in kinds
        for method in ("sobol", "uniform")
    }
    assert found["constant, alternating signs", "sobol"][0] == 1
    assert found["constant, alternating signs", "uniform"][0] < 0.5
    assert found["constant, random signs", "sobol"][0] < 0.5
    assert found["constant, positive", "sobol"] == [1, 1, 1]


def test_fixed_signs_stay_and_free_ones_need_not():
    found = data.load("digits")
    for kind, (options, _) in signs.KINDS.items():
        trial = signs.SignsTrial(kind=kind, per_pixel=4, widths=(64, 20, 10), seed=2)
        net = signs.make(trial)
        before = [layer.weights().detach().sign() for layer in net.layers]
        training.fit(net, found, epochs=3, lr=0.1)
        after = [layer.weights().detach().sign() for layer in net.layers]
        changed = sum(int((a * b < 0).sum()) for a, b in zip(before, after, strict=True))
        assert (changed == 0) == options.get("fixed_signs", False)
