"""Weights whose paths change stay the same parameters: whoever holds them goes on holding them."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune

from mcnn.errors import UsageError
from mcnn.paths import PathCNN, PathConv2d, PathLinear, PathMLP, grow, regrow

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
# name: makes a module for a seed, of as many edges for each, or of other numbers of them
NETS = {
    "linear": lambda seed: PathLinear(12, 9, 40, "uniform", seed),
    "linear, as many": lambda seed: PathLinear(16, 16, 64, seed=seed),
    "linear, signs": lambda seed: PathLinear(12, 9, 40, "uniform", seed, fixed_signs=True),
    "linear, duplicates": lambda seed: PathLinear(12, 9, 40 + seed, seed=seed, duplicates="keep"),
    "conv": lambda seed: PathConv2d(12, 9, 3, 40, "uniform", seed, padding=1),
    "mlp": lambda seed: PathMLP([12, 9, 4], 40, "uniform", seed),
    "cnn": lambda seed: PathCNN([3, 8], 4, 40, "uniform", seed, blocks=1),
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step(net, optimizer, steps=1):
    shape = {PathConv2d: (12, 4, 4), PathCNN: (3, 8, 8)}.get(type(net))
    if shape is None:
        shape = (net.widths[0] if isinstance(net, PathMLP) else net.in_features,)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(randn(8, *shape)).square().mean()
        loss.backward()
        optimizer.step()
    return loss


def weights(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


# --- loading --------------------------------------------------------------------------------------


@every_net
@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["adam"]])
def test_an_ordinary_resume_goes_on_as_if_it_had_not_stopped(net, make):
    """Build, load both, train; the seed of what is built does not matter."""
    first = net(1)
    optimizer = make(first.parameters())
    step(first, optimizer, 3)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = net(2)
    resumed = make(second.parameters())
    before = list(second.parameters())
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert all(a is b for a, b in zip(before, second.parameters(), strict=True))
    for n, o in ((first, optimizer), (second, resumed)):
        step(n, o, 3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@every_net
@pytest.mark.parametrize("make", [OPTIMIZERS["sgd"], OPTIMIZERS["adam"]])
def test_an_optimiser_that_has_worked_trains_what_is_loaded(net, make):
    """As a new one would: what it remembers is of other edges."""
    target, source = net(2), net(1)
    optimizer = make(target.parameters())
    loss = step(target, optimizer, 2)  # in scope, as in a user's loop: the old graph is there
    target.load_state_dict(source.state_dict())
    loaded = weights(target)
    step(target, optimizer)
    moved = [not torch.equal(p, loaded[name]) for name, p in target.named_parameters()]
    assert all(moved)
    del loss


@every_net
def test_what_was_said_of_a_parameter_holds_for_it(net):
    target, seen = net(2), []
    frozen = next(m for m in target.modules() if isinstance(m, PathLinear | PathConv2d))
    trained = [m for m in target.modules() if isinstance(m, PathLinear | PathConv2d)][-1]
    alone = trained is frozen
    trained.weight.register_hook(lambda g: seen.append(g.shape))
    trained.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.shape))
    if not alone:
        frozen.weight.requires_grad_(False)
    target.load_state_dict(net(1).state_dict())
    assert alone or not frozen.weight.requires_grad
    step(target, torch.optim.SGD([p for p in target.parameters() if p.requires_grad], lr=0.1))
    assert seen == [trained.weight.shape] * 2


def test_a_backward_pass_through_what_was_is_an_error():
    layer = PathLinear(12, 9, 40, "uniform", 1)
    for other in (PathLinear(12, 9, 40, "uniform", 2), PathLinear(12, 9, 40, "permutation", 1)):
        loss = layer(randn(3, 12).requires_grad_()).sum()
        layer.load_state_dict(other.state_dict())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        layer(randn(3, 12)).sum().backward()
        assert layer.weight.grad.shape == layer.weight.shape


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_training_resumes_or_refuses():
    first = PathMLP([16, 16, 8], 64, seed=1)  # all blocks: as many edges for each seed
    optimizer = torch.optim.Adam(first.parameters())
    step(first, optimizer, 2)
    wrapped = DistributedDataParallel(PathMLP([16, 16, 8], 64, seed=2))
    resumed = torch.optim.Adam(wrapped.parameters())
    wrapped.module.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        step(first, optimizer)
        resumed.zero_grad()
        wrapped(randn(8, 16)).square().mean().backward()
        resumed.step()
    for a, b in zip(first.parameters(), wrapped.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    before = weights(wrapped)
    for change in (
        lambda: grow(wrapped.module, 9),
        lambda: wrapped.module.load_state_dict(PathMLP([16, 16, 8], 90, "uniform").state_dict()),
    ):
        with pytest.raises(UsageError, match="before the network is wrapped"):
            change()
        assert all(torch.equal(p, before[name]) for name, p in wrapped.named_parameters())
        assert wrapped.module(randn(8, 16)).shape == (8, 8)
    alone = PathMLP([16, 16, 8], 64, seed=1)
    grow(alone, 9)  # not wrapped
    step(alone, torch.optim.SGD(alone.parameters(), lr=0.1))


# --- growing --------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("duplicates", ["merge", "keep"])
@pytest.mark.parametrize("change", [lambda n: grow(n, 9), lambda n: regrow(n, 11)])
def test_optimisers_follow_by_themselves(change, duplicates, make):
    net = PathMLP([12, 9, 7, 4], 20, "uniform", 3, duplicates=duplicates)
    optimizer = make(net.parameters())
    step(net, optimizer, 3)
    old, parameters = copy.deepcopy(net), list(net.parameters())
    gradients = {id(p): p.grad.clone() for p in parameters}
    remembered = {id(p): copy.deepcopy(optimizer.state[p]) for p in parameters}
    change(net)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    for was, layer in zip(old.layers, net.layers, strict=True):
        before, after = remembered[id(layer.weight)], optimizer.state[layer.weight]
        assert before.keys() == after.keys()
        # Numbers of an edge stay together: found by their weights, which no two edges share.
        same = (layer.weight[:, None] == was.weight).nonzero()  # [edges that stay, 2]
        new = torch.ones(len(layer.weight), dtype=torch.bool)
        new[same[:, 0]] = False
        assert len(same) > 5
        assert new.any()
        for name, value in after.items():
            if isinstance(value, torch.Tensor) and value.dim():
                assert torch.equal(value[same[:, 0]], before[name][same[:, 1]])
                assert (value[new] == 0).all()
            else:
                assert value == before[name]
        grad = gradients[id(layer.weight)]
        assert torch.equal(layer.weight.grad[same[:, 0]], grad[same[:, 1]])
        assert (layer.weight.grad[new] == 0).all()
    now = weights(net)
    step(net, optimizer)
    assert all(not torch.equal(p, now[name]) for name, p in net.named_parameters())


def test_an_optimiser_that_cannot_follow_is_refused_and_nothing_changes():
    net = PathMLP([12, 9, 4], 20, "uniform", 3)
    optimizer = torch.optim.LBFGS(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = net(randn(8, 12)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    before, y = weights(net), net(randn(3, 12))
    for change in (lambda: grow(net, 5), lambda: regrow(net, 5)):
        with pytest.raises(UsageError, match="does not belong to single edges"):
            change()
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
        assert torch.equal(net(randn(3, 12)), y)


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        lambda m: parametrize.register_parametrization(m, "weight", nn.Tanh()),
    ],
)
def test_weights_that_something_recomputes_are_refused(wrap):
    net = PathMLP([12, 9, 4], 20, "uniform", 3)
    wrap(net.layers[0])
    y = net(randn(3, 12))
    with pytest.raises(UsageError, match="computed by something else"):
        grow(net, 5)
    assert torch.equal(net(randn(3, 12)), y)


@pytest.mark.parametrize("init", ["dense", "realised", "constant"])
@pytest.mark.parametrize("change", [lambda n: grow(n, 30, 0.0), lambda n: regrow(n, 10, 0.0)])
def test_edges_that_begin_at_zero_are_trained(change, init):
    net = PathMLP([12, 9, 7, 4], 20, "uniform", 3, fixed_signs=True, init=init)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, optimizer, 2)
    y, paths = net(randn(5, 12)), net.paths.shape[1]
    change(net)
    if net.paths.shape[1] > paths:
        torch.testing.assert_close(net(randn(5, 12)), y)
    began = [layer.weight == 0 for layer in net.layers]
    signs = [layer.signs.clone() for layer in net.layers]
    assert all(zero.any() for zero in began)
    assert all((s.abs() == 1).all() for s in signs)
    for k in range(20):  # edges at zero hear of nothing before those behind them are not
        optimizer.zero_grad()
        net(randn(64, 12, seed=k)).sum(1).sub(1).square().mean().backward()
        optimizer.step()
    moved = [layer.weight[zero] != 0 for layer, zero in zip(net.layers, began, strict=True)]
    assert torch.cat(moved).float().mean() > 0.3  # not those of units that never fire
    for layer, s in zip(net.layers, signs, strict=True):
        assert torch.equal(layer.signs, s)
        assert (layer.weights() * s >= 0).all()


# --- sequences ------------------------------------------------------------------------------------


def test_a_network_that_was_loaded_goes_on_with_its_own_sequence():
    first, second = PathMLP([12, 9, 4], 20, "uniform", 3), PathMLP([12, 9, 4], 20, "pixel", 4)
    second.load_state_dict(first.state_dict())
    for net in (first, second):
        grow(net, 10)
    assert torch.equal(first.paths, second.paths)
    assert torch.equal(first.paths, PathMLP([12, 9, 4], 30, "uniform", 3).paths)
    old = {k: v for k, v in first.state_dict().items() if k != "sequence"}  # of an older version
    second.load_state_dict(old)
