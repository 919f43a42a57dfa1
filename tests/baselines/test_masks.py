"""Masks of the field: numbers of edges, closed forms and published numbers of their papers."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcnn import baselines, data, training
from mcnn.baselines.masks import apportion, ranked
from mcnn.experiments.paths import common
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
WIDTHS = (12, 9, 7, 4)


def mlp(seed=0, widths=WIDTHS):
    return nets.build("mlp", seed=seed, widths=widths)


def batch(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 3, 4, generator=generator)
    return x, torch.randint(4, (n,), generator=generator)


def total(masks):
    return sum(int(mask.count_nonzero()) for mask in masks.values())


# --- masks --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_random_masks_have_exactly_their_edges(shape, share, seed):
    edges = int(share * shape[0] * shape[1])
    mask = baselines.random_mask(shape, edges, seed)
    assert mask.dtype == torch.bool
    assert mask.shape == shape
    assert mask.sum() == edges
    assert torch.equal(mask, baselines.random_mask(shape, edges, seed))
    control = baselines.shuffled({"a": mask, "b": mask.T}, seed % 2**62)
    assert {name: int(m.sum()) for name, m in control.items()} == {"a": edges, "b": edges}


def test_random_masks_use_all_places_alike():
    hits = sum(baselines.random_mask((6, 5), 12, seed).float() for seed in range(2000))
    z = (hits - 2000 * 0.4) / (2000 * 0.4 * 0.6) ** 0.5
    assert z.abs().max() < 4


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 12),
    inputs=st.integers(1, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**62),
)
def test_fan_in_is_that_of_every_row(rows, inputs, share, seed):
    wanted = apportion(int(share * rows * inputs), rows)
    assert max(wanted) - min(wanted) <= 1
    assert baselines.fan_in_mask((rows, inputs), wanted, seed).sum(1).tolist() == wanted


@settings(max_examples=50, deadline=None)
@given(
    widths=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    density=st.floats(0.001, 1),
)
def test_densities_of_erdos_and_renyi_keep_the_number_of_weights(widths, density):
    shapes = [(b, a) for a, b in pairwise(widths)]
    sizes = [a * b for a, b in shapes]
    found = baselines.erk_densities(shapes, density)
    assert all(0 <= d <= 1 + 1e-12 for d in found)
    assert sum(d * n for d, n in zip(found, sizes, strict=True)) == pytest.approx(
        density * sum(sizes)
    )
    edges = baselines.edges_of(found, sizes, round(density * sum(sizes)))
    assert sum(edges) == round(density * sum(sizes))
    assert all(e <= n for e, n in zip(edges, sizes, strict=True))


def test_erdos_renyi_is_its_formula_where_no_layer_is_full():
    shapes = [(300, 784), (300, 300), (100, 300)]
    found = baselines.erk_densities(shapes, 0.02, kernel=False)
    factors = [d * a * b / (a + b) for d, (a, b) in zip(found, shapes, strict=True)]
    assert factors == pytest.approx([factors[0]] * 3)


@pytest.mark.parametrize(("density", "published"), [(0.2, 0.42), (0.1, 0.24)])
def test_operations_of_an_erk_resnet50_are_those_of_the_paper(density, published):
    """Table 2 of the paper on RigL: of the dense network's multiplications at 80 % and 90 %."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50().eval()
    places = {}

    def note(name):
        return lambda module, x, y: places.update({name: y[0, 0].numel()})

    found = baselines.weights(model)
    for name, module in model.named_modules():
        if name in found:
            module.register_forward_hook(note(name))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    dense = [w.numel() * (places[name] if w.dim() == 4 else 1) for name, w in found.items()]
    densities = baselines.erk_densities([w.shape for w in found.values()], density)
    kept = sum(n * d for n, d in zip(dense, densities, strict=True))
    assert kept / sum(dense) == pytest.approx(published, abs=0.01)


def test_largest_weights_together_and_by_layer():
    model = mlp(seed=3)
    masks = baselines.magnitude(model, 50)
    kept = torch.cat([w[masks[n]].abs() for n, w in baselines.weights(model).items()])
    gone = torch.cat([w[~masks[n]].abs() for n, w in baselines.weights(model).items()])
    assert len(kept) == 50
    assert kept.min() >= gone.max()
    each = {"1": 10, "3": 20, "5": 5}
    assert {n: int(m.sum()) for n, m in baselines.magnitude(model, each).items()} == each


def test_ties_do_not_change_the_number():
    assert ranked(torch.zeros(7, 5), 11).sum() == 11


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_stays_inside_masks(optimizer, device):
    found = data.load("digits", device=device)
    model = mlp(widths=(64, 20, 10)).to(device)
    masks = {
        n: baselines.random_mask(w.shape, w.numel() // 4)
        for n, w in baselines.weights(model).items()
    }
    before = {n: w.clone() for n, w in baselines.weights(model).items()}
    baselines.Masked(model, masks)
    training.fit(model, found, epochs=1, optimizer=optimizer, lr=0.01)
    for name, w in baselines.weights(model).items():
        mask = masks[name].to(device)
        assert (w[~mask] == 0).all()
        assert (w[mask] != before[name][mask]).float().mean() > 0.5


def test_bad_masks_are_named():
    with pytest.raises(ValueError, match="no layer 'fc'"):
        baselines.Masked(mlp(), {"fc": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="layer '1': the mask is"):
        baselines.Masked(mlp(), {"1": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="edges"):
        baselines.random_mask((2, 3), 7)
    with pytest.raises(ValueError, match="fan_in"):
        baselines.fan_in_mask((2, 3), [4, 0])
    with pytest.raises(ValueError, match="density"):
        baselines.erk_densities([(2, 3)], 0.0)
    with pytest.raises(ValueError, match="no linear"):
        baselines.weights(nn.ReLU())


# --- before training ----------------------------------------------------------------------------


def test_connection_sensitivity_is_the_derivative_by_a_factor_at_one():
    model, (x, y) = mlp(seed=1), batch()
    factors = {
        n: torch.ones_like(w, requires_grad=True) for n, w in baselines.weights(model).items()
    }
    scaled = {f"{n}.weight": w.detach() * factors[n] for n, w in baselines.weights(model).items()}
    loss = F.cross_entropy(torch.func.functional_call(model, scaled, (x,)), y)
    gradients = torch.autograd.grad(loss, list(factors.values()))
    found = baselines.connection_sensitivity(model, x, y)
    for score, g in zip(found.values(), gradients, strict=True):
        torch.testing.assert_close(score, g.abs())
    assert total(baselines.snip(model, x, y, 33)) == 33


def test_what_flows_into_a_unit_flows_out():
    """Conservation of synaptic flow, theorem 1 of its paper, and the sum over all paths."""
    model = mlp(seed=2)
    flow = list(baselines.synaptic_flow(model, (1, 3, 4)).values())
    for below, above in pairwise(flow):
        torch.testing.assert_close(below.sum(1), above.sum(0))
    a, b, c = (w.detach().double().abs() for w in baselines.weights(model).values())
    assert flow[0].sum().item() == pytest.approx((c @ b @ a).sum().item())


def test_synaptic_flow_sees_neither_biases_nor_signs():
    model = mlp(seed=2)
    other = mlp(seed=2)
    for p in other.parameters():
        p.data.neg_()
    for a, b in zip(
        baselines.synaptic_flow(model, (1, 3, 4)).values(),
        baselines.synaptic_flow(other, (1, 3, 4)).values(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_iterated_synaptic_flow_keeps_a_path_to_the_last_weight():
    """Maximal critical compression: no layer is lost while there is a weight for each."""
    model = mlp(seed=4)
    masks = baselines.synflow(model, (1, 3, 4), edges=3)
    assert [int(m.sum()) for m in masks.values()] == [1, 1, 1]
    a, b, c = (m.nonzero()[0].tolist() for m in masks.values())
    assert a[0] == b[1]
    assert b[0] == c[1]
    once = baselines.synflow(model, (1, 3, 4), edges=3, iterations=1)
    assert total(once) == 3


def test_pruning_leaves_the_model_alone():
    model = mlp()
    before = [p.clone() for p in model.parameters()]
    baselines.synflow(model, (1, 3, 4), edges=20, iterations=5)
    baselines.snip(model, *batch(), 20)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    for edges, iterations, names in ((0, 5, "edges"), (10**6, 5, "edges"), (5, 0, "iterations")):
        with pytest.raises(ValueError, match=names):
            baselines.synflow(model, (1, 3, 4), edges, iterations)


# --- in training --------------------------------------------------------------------------------


def evolving(kind, model, **options):
    masks = {
        n: baselines.random_mask(w.shape, w.numel() // 3, 5)
        for n, w in baselines.weights(model).items()
    }
    return kind(model, masks, **({"steps": 100, "interval": 10} | options))


@pytest.mark.parametrize("kind", [baselines.Set, baselines.RigL])
def test_the_weakest_leave_and_as_many_come(kind):
    model = mlp(seed=6)
    masked = evolving(kind, model)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    before = {
        n: (m.bool(), baselines.weights(model)[n].detach().clone()) for n, m in masked.masks.items()
    }
    masked(model, 30)
    share = 0.3 / 2 * (1 + math.cos(math.pi * 30 / 75))
    for name, (mask, w) in before.items():
        new, leaving = masked.masks[name].bool(), int(share * mask.sum())
        assert new.sum() == mask.sum()
        weakest = torch.where(mask, w.abs(), torch.inf).flatten().argsort()[:leaving]
        left = torch.zeros(mask.numel(), dtype=torch.bool).index_fill(0, weakest, True)
        stayed = mask & ~left.view_as(mask)
        assert (new & stayed).sum() == stayed.sum()
        now = baselines.weights(model)[name].detach()
        assert torch.equal(now[stayed], w[stayed])
        assert (now[~stayed] == 0).all()
        if kind is baselines.RigL:
            gradient = masked.gradients[name].abs()
            come = new & ~stayed
            assert gradient[come].min() >= gradient[~new].max()


@pytest.mark.parametrize("kind", [baselines.Set, baselines.RigL])
def test_masks_change_only_when_it_is_time(kind):
    model = mlp(seed=6)
    masked = evolving(kind, model)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    first = {n: m.clone() for n, m in masked.masks.items()}
    for step in (0, 5, 75, 80, 90):
        masked(model, step)
        assert all(torch.equal(first[n], m) for n, m in masked.masks.items())
    masked(model, 10)
    assert not all(torch.equal(first[n], m) for n, m in masked.masks.items())


def test_the_share_falls_as_a_cosine():
    masked = evolving(baselines.Set, mlp())
    assert masked.share(0) == pytest.approx(0.3)
    assert masked.share(37.5) == pytest.approx(0.15)
    assert masked.share(75) == pytest.approx(0)


@pytest.mark.parametrize("kind", [baselines.Set, baselines.RigL])
def test_training_with_masks_that_change(kind):
    found = data.load("digits")
    model = mlp(widths=(64, 30, 10))
    masked = evolving(kind, model, steps=60, interval=5)
    edges = {n: int(m.sum()) for n, m in masked.masks.items()}
    first = {n: m.clone() for n, m in masked.masks.items()}
    training.fit(model, found, epochs=6, lr=0.3, on_step=masked.on_step)
    for name, w in baselines.weights(model).items():
        assert masked.masks[name].sum() == edges[name]
        assert (w[masked.masks[name] == 0] == 0).all()
        assert (masked.masks[name] != first[name]).sum() > 0.1 * edges[name]
    assert training.evaluate(model, found.test).accuracy > 0.6


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"steps": 0}, "steps"),
        ({"interval": 0}, "interval"),
        ({"fraction": 2.0}, "fraction"),
        ({"until": 0.0}, "until"),
    ],
)
def test_bad_schedules_are_named(options, names):
    with pytest.raises(ValueError, match=names):
        evolving(baselines.Set, mlp(), **options)


# --- how the experiments train ------------------------------------------------------------------


def test_edges_alone_train_as_masks_do():
    """The network of the experiments that goes through its edges, against zeros in matrices."""
    found = data.load("digits")
    masked = common.network((64, 20, 10), seed=1)
    masks = common.path_masks(masked, 100, "uniform", seed=1)
    sparse = common.sparse(masked, masks)
    baselines.Masked(masked, masks)
    x = found.test.inputs()
    torch.testing.assert_close(sparse(x), masked(x))
    for model in (sparse, masked):
        training.fit(model, found, epochs=1, seed=3)
    torch.testing.assert_close(sparse(x), masked(x), atol=1e-4, rtol=1e-4)
    assert common.edges(masks) == [w.numel() for n, w in sparse.named_parameters() if "wei" in n]


def test_initial_weights_by_the_realised_fan_in():
    model = common.network((400, 300, 10), seed=1)
    masks = common.path_masks(model, 1500, "uniform", seed=1)
    common.scale_to(model, masks)
    weight, mask = model[1].weight.detach(), masks["1"]
    inputs = mask.sum(1)
    spread = weight[inputs == 5].std() * (5 / 2) ** 0.5
    assert spread == pytest.approx(1, abs=0.02)
