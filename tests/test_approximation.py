"""Approximation: closed forms, unbiased layers, trees node by node, least squares as an oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial import cKDTree
from torch import nn

from mcnn.approximation import Bump, HiddenLayer, Pieces, TreeNet, sampled_layer
from mcnn.approximation.fitted import fit
from mcnn.approximation.pieces import grid
from mcnn.approximation.targets import Compositional, Turned, Waves
from mcnn.approximation.tree import node_paths, shallow_like
from mcnn.errors import UsageError
from mcnn.experiments.approximation import built, pieces, sampled, trees
from mcnn.experiments.approximation.sampled import places
from mcnn.sampling import points

DOUBLE = {"dtype": torch.float64}


def outputs_of(units, x):
    return (x @ units.weight.T + units.bias).clamp(min=0) @ units.height / len(units.bias)


def two_layers(seed=3, inputs=3, units=40, outputs=2):
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Linear(inputs, units), nn.Linear(units, outputs)
    for parameter in (p for layer in layers for p in layer.double().parameters()):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return layers


# Integrals over ridge functions


@pytest.mark.parametrize("d", [1, 2, 8, 32])
def test_a_bump_is_the_mean_of_its_units(d):
    """Means of many units against exp(-|x|²), in standard errors of the mean."""
    f = Bump(d)
    x = places(6, d, seed=d)
    batches = torch.stack(
        [
            outputs_of(f.units(points(1 << 12, d + 1, seed=s, dtype=torch.float64)), x)
            for s in range(40)
        ]
    )  # [batches, places, 1]
    off = batches.mean(0) + f.constant() - f(x)
    z = off / (batches.std(0) / math.sqrt(len(batches)))
    assert float(z.abs().max()) < 4
    assert float(f(torch.zeros(1, d))) == 1


def test_one_wave_is_a_sum_of_kinks():
    """The identity behind the bump, by SciPy's quadrature."""
    for size, t in ((2.0, 0.7), (5.0, 0.9), (0.3, 1.0)):
        integral, _ = quad(lambda b, s=size, t=t: math.cos(s * b) * (t - b), 0, t)
        assert 1 - size**2 * integral == pytest.approx(math.cos(size * t), abs=1e-9)


def test_points_of_the_edge_become_finite_units():
    units = Bump(3).units(torch.tensor([[0.0, 0, 0, 0], [1 - 2.0**-53] * 4], **DOUBLE))
    assert all(bool(part.isfinite().all()) for part in units)


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 3), st.integers(0, 99))
def test_a_hidden_layer_is_the_mean_over_its_units(inputs, units, outputs, seed):
    """Enumerated: every unit as often as its probability says gives the layer itself."""
    first, last = two_layers(seed, inputs, units, outputs)
    f = HiddenLayer(first, last)
    middles = (f.probability.cumsum(0) - f.probability / 2).unsqueeze(1)
    chosen = f.units(middles)
    assert chosen.weight.equal(first.weight.detach()), "the middle of each step selects its unit"
    x = torch.randn(5, inputs, generator=torch.Generator().manual_seed(seed), **DOUBLE)
    on = (x @ chosen.weight.T + chosen.bias).clamp(min=0)
    mean = (on * f.probability) @ chosen.height + f.constant()
    assert torch.allclose(mean, f(x).detach(), rtol=1e-10, atol=1e-10)


def test_units_that_add_nothing_are_never_drawn():
    first, last = two_layers()
    last.weight.data[:, [0, 17, 39]] = 0
    f = HiddenLayer(first, last)
    edges = torch.tensor([[0.0], [1 - 2.0**-53]], **DOUBLE)
    drawn = f.units(torch.cat([edges, points(4096, 1, dtype=torch.float64)]))
    assert bool(drawn.height.isfinite().all())
    assert {0, 17, 39}.isdisjoint(
        (drawn.bias.unsqueeze(1) == first.bias.detach()).nonzero()[:, 1].tolist()
    )


@pytest.mark.parametrize("method", ["random", "jittered", "sobol"])
def test_a_sampled_layer_is_unbiased_and_its_variance_is_that_of_theory(method):
    f = HiddenLayer(*two_layers())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), **DOUBLE)
    n, repetitions = 16, 600
    nets = (sampled_layer(f, n, method, seed, dtype=torch.float64) for seed in range(repetitions))
    with torch.no_grad():
        found, exact = torch.stack([net(x) for net in nets]), f(x)  # [repetitions, places, outputs]
        each = f.units((f.probability.cumsum(0) - f.probability / 2).unsqueeze(1))
        on = (x @ each.weight.T + each.bias).clamp(min=0)  # [places, units]
        square = (on.square() * f.probability) @ each.height.square()
        theory = (square - (exact - f.constant()).square()) / n
    z = (found.mean(0) - exact) / (found.std(0) / math.sqrt(repetitions))
    assert float(z.abs().max()) < 4.5
    ratio = found.var(0) / theory
    if method == "random":
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.3)
    else:
        assert float(ratio.max()) < 0.9, "better points have less"


def test_a_sampled_layer_is_a_network_of_torch():
    net = sampled_layer(Bump(4), 32, "sobol", seed=1)
    assert [type(m) for m in net] == [nn.Linear, nn.ReLU, nn.Linear]
    assert net(torch.zeros(7, 4)).dtype == torch.float32
    net(torch.rand(7, 4)).sum().backward()
    assert net[0].weight.grad is not None
    assert sampled_layer(Bump(4), 8, seed=5)[0].weight.equal(
        sampled_layer(Bump(4), 8, seed=5)[0].weight
    )
    small = sampled_layer(Bump(2), 6, **DOUBLE)
    x = torch.rand(3, 2, requires_grad=True, **DOUBLE)
    assert torch.autograd.gradcheck(small, x)


# Pieces


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_largest_unit_is_that_of_the_nearest_centre(d):
    centres, x = (points(n, d, seed=n, dtype=torch.float64) for n in (50, 400))
    f = Waves(d, seed=1)
    layer = Pieces(centres, f)
    nearest = torch.from_numpy(cKDTree(centres.numpy()).query(x.numpy())[1])
    assert layer.winners(x).equal(nearest)
    assert layer(x).equal(f(centres)[nearest])
    assert Pieces(centres, f(centres)).state_dict().keys() == layer.state_dict().keys()


def test_pieces_of_a_line_have_the_error_of_theory():
    """x on N cells: uniform on half a cell either side, so 1 / (N √12)."""
    x = grid(1 << 12, 1)
    for n in (4, 16):
        error = float((Pieces(grid(n, 1), lambda c: c)(x) - x).square().mean().sqrt())
        assert error == pytest.approx(1 / (n * math.sqrt(12)), rel=1e-3)
    assert grid(3, 2).shape == (9, 2)


def test_many_inputs_are_taken_in_parts(monkeypatch):
    layer, x = Pieces(grid(4, 2), lambda c: c), points(100, 2, dtype=torch.float64)
    whole = layer(x)
    monkeypatch.setattr("mcnn.approximation.pieces._CHUNK", 50)
    assert layer(x).equal(whole)


# Trees


@pytest.mark.parametrize(("inputs", "arity"), [(2, 2), (8, 2), (9, 3), (16, 4), (8, 8)])
def test_a_tree_computes_each_node_by_itself(inputs, arity):
    """Against a loop over nodes; each output depends on the inputs of its own branch alone."""
    width = 5
    net = TreeNet(inputs, width, arity, seed=1, **DOUBLE)
    x = torch.randn(6, inputs, generator=torch.Generator().manual_seed(2), **DOUBLE)
    values = x
    for level in net:
        first, last = level.layers
        nodes = values.shape[1] // arity
        out = []
        for node in range(nodes):
            mine = slice(node * width, (node + 1) * width)
            a = first.weight.view(nodes, width, arity)[node]
            hidden = (values[:, node * arity : (node + 1) * arity] @ a.T + first.bias[mine]).relu()
            out.append(hidden @ last.weight[mine] + last.bias[node])
        given, values = values, torch.stack(out, 1)
        assert torch.allclose(level(given), values)
    assert torch.allclose(net(x), values, atol=1e-12)
    assert net(x).shape == (6, 1)


def test_a_tree_has_no_other_edges():
    net = TreeNet(8, 3, seed=1, **DOUBLE)
    jacobian = torch.autograd.functional.jacobian(net[0], torch.randn(1, 8, **DOUBLE))
    wired = jacobian[0, :, 0] != 0  # [nodes, inputs]
    allowed = torch.eye(4).repeat_interleave(2, 1).bool()
    assert not bool((wired & ~allowed).any())
    assert [len(level.layers[0].weight) for level in net] == [24, 12, 6]
    assert node_paths(1, 2, 2).tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


@given(st.sampled_from([2, 4, 8, 16]), st.integers(1, 40))
def test_a_shallow_network_has_as_many_weights_or_a_few_more(inputs, width):
    tree = TreeNet(inputs, width)
    more = shallow_like(tree).n_weights - tree.n_weights
    assert 0 <= more < inputs + 2
    assert tree.n_weights == (inputs - 1) * (4 * width + 1)


def test_gradients_of_a_tree():
    net = TreeNet(4, 3, seed=2, **DOUBLE)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), **DOUBLE)
    assert torch.autograd.gradcheck(net, x.requires_grad_())
    names = [name for name, _ in net.named_parameters()]

    def of_weights(*values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_weights, tuple(net.parameters()))


def test_a_checkpoint_of_a_tree_is_the_tree():
    one, other = TreeNet(8, 4, seed=1), TreeNet(8, 4, seed=2)
    x = torch.randn(5, 8)
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert TreeNet(8, 4, seed=1)(x).equal(one(x))
    assert not TreeNet(8, 4)(x).equal(TreeNet(8, 4)(x)), "two made alike differ"


# What is to be approximated


def test_waves_have_mean_zero_and_variance_one_for_normal_inputs():
    x = torch.special.ndtri(points(1 << 16, 2, "sobol", seed=1, dtype=torch.float64).clamp(1e-15))
    for seed in range(5):
        y = Waves(2, seed)(x)
        assert float(y.mean()) == pytest.approx(0, abs=2e-3)
        assert float(y.var()) == pytest.approx(1, abs=5e-3)


def test_eight_variables_go_through_the_formula_of_the_slide():
    f = Compositional(8, seed=4)
    (g11, g12), (g21, g22), (g3,) = f.levels
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), **DOUBLE)

    def pair(a, b):
        return torch.cat([a, b], 1)

    left = g21(pair(g11(x[:, :2]), g12(x[:, 2:4])))
    right = g22(pair(g11(x[:, 4:6]), g12(x[:, 6:])))
    assert torch.allclose(f(x), g3(pair(left, right)))
    assert [tuple(s.shape) for s in f.stages(x)] == [(6, 8), (6, 4), (6, 2), (6, 1)]


def test_a_turned_function_is_as_hard_for_a_shallow_network():
    """Whatever a shallow network is for f, one of turned weights is for the control."""
    f = Compositional(8, seed=4)
    control = Turned(f, seed=5)
    r = control.rotation
    assert torch.allclose(r @ r.T, torch.eye(8, **DOUBLE))
    assert float(r.abs().min()) > 1e-4, "every leaf has every variable"
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), **DOUBLE)
    assert torch.allclose(control(x @ r), f(x))
    net = TreeNet(8, 9, 8, seed=1, **DOUBLE)
    before = net(x @ r.T).detach()
    weight = net[0].layers[0].weight
    weight.data = (weight.detach().view(9, 8) @ r).flatten()
    assert torch.allclose(net(x), before)


# Built networks


def test_a_node_is_the_least_squares_solution():
    """Against NumPy: the residual is normal to all hidden units and to the constant."""
    f, x = Compositional(2, seed=1), torch.randn(500, 2, **DOUBLE)
    net = TreeNet(2, 20, **DOUBLE)
    fit(net, f.stages(x), seed=3)
    first, last = net[0].layers
    before = x @ first.weight.detach().view(20, 2).T + first.bias.detach()
    assert float(before.abs().min(0).values.max()) < 1e-12, "each kink goes through an input"
    hidden = before.clamp(min=0)
    design = np.concatenate([hidden.numpy(), np.ones((500, 1))], 1)
    heights, *_ = np.linalg.lstsq(design, f(x).numpy(), rcond=None)
    found = torch.cat([last.weight, last.bias]).detach().numpy()
    assert np.allclose(design @ found, design @ heights.ravel(), atol=1e-8)
    assert np.allclose(design.T @ (f(x).numpy().ravel() - design @ found), 0, atol=1e-6)


def test_a_tree_that_has_the_constituents_gives_the_function():
    """A function whose constituents are ReLU networks is fitted without error, level by level."""
    known = TreeNet(4, 3, seed=7, **DOUBLE)
    x = torch.randn(900, 4, generator=torch.Generator().manual_seed(1), **DOUBLE)
    with torch.no_grad():
        middle = known[0](x)
        stages = [x, middle, known[1](middle)]
    net = TreeNet(4, 400, **DOUBLE)
    fit(net, stages, seed=1)
    error = (net(x) - stages[-1]).square().mean() / stages[-1].var()
    assert float(error.detach()) < 0.01
    with pytest.raises(UsageError, match="needs 3 stages"):
        fit(net, stages[:2])
    with pytest.raises(UsageError, match="does not fit values"):
        fit(net, [x, stages[-1], middle])


# Experiments


def test_errors_of_sampled_layers_fall_as_the_root_of_units():
    trial = sampled.RateTrial(dimension=8, sizes=(16, 64, 256), repetitions=24, places=64, seed=1)
    metrics = sampled._run_rate(trial, torch.device("cpu"))
    assert metrics["random"]["slope"] == pytest.approx(-0.5, abs=0.07)
    assert metrics["sobol"]["slope"] < -0.55


def test_a_relu_behind_a_layer_is_biased_upwards_and_the_layer_is_not():
    trial = sampled.BiasTrial(sizes=(128, 512), repetitions=200, places=64, seed=2)
    metrics = sampled._run_bias(trial, torch.device("cpu"))
    assert min(metrics["bias"]) > 0
    assert metrics["slope"] == pytest.approx(-1, abs=0.2)
    assert abs(metrics["before"][-1]) < 5e-3


def test_pieces_and_dimensions():
    for d, sides in ((1, (8, 16, 32)), (2, (8, 16, 32))):
        trial = pieces.PiecesTrial(dimension=d, sides=sides, seed=1)
        metrics = pieces.run(trial, torch.device("cpu"))
        assert metrics["grid"]["slope"] * d == pytest.approx(-1, abs=0.05)


def test_built_trees_do_not_mind_variables_and_shallow_networks_do():
    metrics = {
        d: built.run(
            built.BuiltTrial(dimension=d, widths=(16, 64), examples=1 << 11, repetitions=2, seed=3),
            torch.device("cpu"),
        )
        for d in (2, 8)
    }
    error = {(d, name): m[name]["error"] for d, m in metrics.items() for name in built.NETS}
    assert error[8, "tree"][1] < 0.6 * error[8, "tree"][0]
    assert error[8, "shallow"][1] > 0.8 * error[8, "shallow"][0]
    assert metrics[8]["shallow"]["weights"][0] >= metrics[8]["tree"]["weights"][0]
    assert error[2, "tree"] == pytest.approx(error[2, "shallow"]), "two variables: the same network"


def test_training_is_the_same_for_both_and_learns():
    trial = trees.TreeTrial(
        dimension=4, widths=(8,), rates=(0.03, 0.06), steps=150, examples=1 << 11, held_out=1 << 10
    )
    metrics = trees.run(trial, torch.device("cpu"))
    assert all(m["error"][0] < 0.9 and m["rate"][0] in trial.rates for m in metrics.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Bump(0), "inputs must be at least 1"),
        (lambda: HiddenLayer(nn.Linear(2, 3), nn.Linear(4, 1)), "3 units before, 4 behind"),
        (lambda: sampled_layer(Bump(2), 0), "at least 1 unit, got n = 0"),
        (lambda: sampled_layer(Bump(2), 5, "jittered"), "no such points: jittered"),
        (lambda: sampled_layer(Bump(2), 5, "sobel"), "no such points: no method 'sobel'"),
        (lambda: Pieces(torch.zeros(3), torch.zeros(3, 1)), "centres must be"),
        (lambda: Pieces(torch.zeros(3, 2), torch.zeros(2, 1)), r"values must be \[3, outputs\]"),
        (lambda: TreeNet(6, 4), "power of the arity 2, got 6"),
        (lambda: TreeNet(1, 4), "power of the arity 2, got 1"),
        (lambda: TreeNet(4, 4, 1), "2 children and 1 unit"),
        (lambda: TreeNet(4, 0), "2 children and 1 unit"),
        (lambda: Compositional(6, 1), "power of two from 2 on, got 6"),
    ],
)
def test_what_cannot_be_done_is_one_line(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_a_layer_of_zeros_has_no_density():
    first, last = two_layers()
    last.weight.data.zero_()
    with pytest.raises(UsageError, match="no unit"):
        HiddenLayer(first, last)
