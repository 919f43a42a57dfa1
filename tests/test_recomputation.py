"""Activation checkpointing: what is computed again drops what was dropped, and is no other step."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from mcnn.errors import UsageError
from mcnn.partition import DropoutPartition
from mcnn.partition.hashed import HashedPartition
from mcnn.randomness import SOURCES, DropConnect, Dropout

LAYERS = {
    "one": lambda seed: DropoutPartition(3, seed=seed),
    "keep one": lambda seed: DropoutPartition(2, "keep-one", "epoch", seed=seed),
    "each": lambda seed: DropoutPartition(4, per_sample=True, balanced=True, seed=seed),
    "hashed": lambda seed: HashedPartition(3, seed=seed),
    **{
        f"coins, {source}": lambda seed, source=source: Dropout(8, 0.5, source, seed)
        for source in SOURCES
    },
    "weights": lambda seed: DropConnect(8, 8, source="sobol", seed=seed),
}
MODES = {
    "reentrant": partial(checkpoint, use_reentrant=True),
    "not reentrant": partial(checkpoint, use_reentrant=False),
    "to the end": partial(checkpoint, use_reentrant=False, early_stop=False),
    "in a function": lambda f, x: checkpoint(lambda y: f(y), x, use_reentrant=False),
    "one in another": lambda f, x: checkpoint(
        lambda y: checkpoint(f, y, use_reentrant=False), x, use_reentrant=False
    ),
    "one in another, reentrant": lambda f, x: checkpoint(
        lambda y: checkpoint(f, y, use_reentrant=True), x, use_reentrant=True
    ),
    "by pieces": lambda f, x: checkpoint_sequential(f, 2, x, use_reentrant=False),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
every_mode = pytest.mark.parametrize("call", MODES.values(), ids=MODES)


def network(make):
    torch.manual_seed(1)
    layers = [nn.Linear(8, 8), make(1), nn.Tanh(), nn.Linear(8, 8), make(2), nn.Tanh()]
    return nn.Sequential(*layers).double()


def inputs(number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def states(net):
    kept = [m.get_extra_state().tolist() for m in net if hasattr(m, "_state")]
    return kept + [m.coins._state().tolist() for m in net if hasattr(m, "coins")]


@every_mode
@every_layer
def test_training_is_what_it_is_without(make, call):
    nets = [network(make) for _ in range(2)]
    for step in range(7):
        for net, run in zip(nets, (lambda f, x: f(x), call), strict=True):
            net.zero_grad()
            run(net, inputs(step)).square().sum().backward()
        assert states(nets[0]) == states(nets[1])
        for a, b in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@every_mode
@every_layer
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_passes_may_wait_for_each_other_and_go_back_in_any_order(make, call, order):
    """Also of the same inputs, which nothing but the pass tells apart."""
    nets = [network(make) for _ in range(2)]
    for net, run in zip(nets, (lambda f, x: f(x), call), strict=True):
        losses = [run(net, inputs(0)).square().sum() for _ in range(3)]
        for i in order:
            losses[i].backward()
    assert states(nets[0]) == states(nets[1])
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@every_layer
def test_a_graph_that_is_kept_goes_back_twice(make):
    nets = [network(make) for _ in range(2)]
    for net, run in zip(nets, (lambda f, x: f(x), MODES["not reentrant"]), strict=True):
        loss = run(net, inputs(0)).square().sum()
        for _ in range(2):
            loss.backward(retain_graph=True)
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


@every_layer
@pytest.mark.parametrize("call", [MODES["reentrant"], MODES["not reentrant"]])
def test_a_layer_may_be_called_more_than_once(make, call):
    nets = [network(make) for _ in range(2)]

    def twice(net, x):
        return net[1](net[0](net[1](net[0](x)))).sin()

    for net, run in zip(nets, (lambda f, x: f(x), call), strict=True):
        for step in range(3):
            run(partial(twice, net), inputs(step)).sum().backward()
    assert states(nets[0]) == states(nets[1])
    torch.testing.assert_close(nets[0][0].weight.grad, nets[1][0].weight.grad)


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiler_leaves_it_or_is_refused(make, dtype):
    """It does not look into a segment where a partition keeps its labels; a hashed one has none.

    That one is refused where a loop in C drops; operators of other types are left to PyTorch.
    """
    torch.compiler.reset()
    nets = [network(make).to(dtype) for _ in range(2)]

    @partial(torch.compile, backend="aot_eager")
    def run(x):
        return checkpoint(nets[1], x, use_reentrant=False).square().sum()

    if "Hashed" in repr(nets[1]) and dtype == torch.float32:
        with pytest.raises(UsageError, match="do not compile"):
            run(inputs(0).to(dtype)).backward()
        return
    for step in range(4):
        x = inputs(step).to(dtype)
        nets[0](x).square().sum().backward()
        run(x).backward()
        assert states(nets[0]) == states(nets[1])
        torch.testing.assert_close(nets[0][0].weight.grad, nets[1][0].weight.grad)


class Recomputed(torch.autograd.Function):
    """Checkpointing as other packages write it."""

    @staticmethod
    def forward(ctx, x, f):
        ctx.f = f
        ctx.save_for_backward(x)
        return f(x)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            y = ctx.f(x)
        return torch.autograd.grad(y, x, grad)[0], None


@every_layer
def test_what_cannot_be_told_is_refused(make):
    net = network(make)
    y = Recomputed.apply(inputs(0), net)
    before = states(net)
    with pytest.raises(UsageError, match="called in a backward pass"):
        y.sum().backward()
    assert states(net) == before
    calls = iter([1, 2])

    def more_often(x):
        for _ in range(next(calls)):
            x = net[1](x)
        return x.sin()

    y = checkpoint(more_often, inputs(0), use_reentrant=True)
    with pytest.raises(UsageError, match="more often"):
        y.sum().backward()


@every_layer
def test_states_made_for_inference_train_later(make):
    with torch.inference_mode():
        layer = make(3)
        other = make(4)
        layer.load_state_dict(copy.deepcopy(other.state_dict()))
        layer(torch.ones(2, 8))
    y = layer(torch.ones(2, 8, requires_grad=True))
    y.sum().backward()
    layer(torch.ones(2, 8))
    assert states([layer]) != states([other])
