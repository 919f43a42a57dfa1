"""Equations with a learned kernel: closed forms, oracles, and gradients through the solver."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch.nn import functional as F

from mcnn import equations
from mcnn.equations import (
    Attention,
    ContractionError,
    Hammerstein,
    NeuralIntegralEquation,
    Urysohn,
    fixed_point,
    rank_one,
    rule,
    self_normalised,
)
from mcnn.errors import UsageError
from mcnn.experiments.equations import learn, lotka, rate, ratio
from mcnn.integral.kernels import Fourier, Kernel, Perceptron
from mcnn.profiling import SavedBytes

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Constant(Kernel):
    def __init__(self, value):
        super().__init__(1)
        self.value = value

    def forward(self, x, y):
        return torch.full((len(x), len(y)), self.value, dtype=x.dtype)


def fourier(gain, frequencies=3, seed=0):
    kernel = Fourier(1, 1, frequencies, generator(seed)).double()
    x = torch.linspace(0, 1, 65, dtype=F64).unsqueeze(1)
    with torch.no_grad():
        kernel.weight.mul_(gain / kernel(x, x).abs().mean(0).max())
    return kernel


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make().double()


OPERATORS = {
    "fourier": lambda: fourier(0.8),
    "bounded": lambda: Hammerstein(fourier(3.0), "tanh", bound=0.7),
    "perceptron": lambda: made(lambda: Perceptron(1, 1, hidden=4)),
    "urysohn": lambda: made(lambda: Urysohn(1, 1, hidden=3, frequencies=2, scale=1.0)),
    "attention": lambda: made(lambda: Attention(1, 1, 2, hidden=3, frequencies=2, scale=1.0)),
}


def layer_of(name, limits="fredholm", **options):
    options = {"points": "gauss", "n": 5, "tol": 1e-13} | options
    layer = NeuralIntegralEquation(OPERATORS[name](), limits, seed=0, dtype=F64, **options)
    shape = (2, len(layer.x)) if isinstance(layer.operator, Hammerstein) else (2, len(layer.x), 1)
    return layer, torch.randn(shape, dtype=F64, generator=generator(2))


# Rules


@pytest.mark.parametrize("points", ["random", "jittered", "sobol", "gauss", "trapezoid"])
def test_weights_of_fredholm_sum_to_one(points):
    x, weights = rule(8, points=points, dtype=F64)
    assert weights.shape == (8, 8)
    assert torch.allclose(weights.sum(0), torch.ones(8, dtype=F64))
    assert torch.allclose(weights, weights[:, :1].expand(-1, 8))
    assert x.shape == (8, 1)


@given(st.integers(2, 20), st.sampled_from(["trapezoid", "rectangle"]))
def test_grids_integrate_what_they_are_made_for(n, points):
    x, weights = rule(n, points=points, limits="volterra", dtype=F64)
    y = x[:, 0]
    assert torch.allclose(torch.ones(n, dtype=F64) @ weights, y)
    if points == "trapezoid":
        assert torch.allclose((3 * y + 1) @ weights, 1.5 * y.square() + y)
    else:
        assert bool((weights.tril() == 0).all()), "no place looks at itself or later"


def test_random_nodes_integrate_up_to_each_of_them_without_bias():
    estimates = []
    for seed in range(400):
        x, weights = rule(16, points="random", limits="volterra", seed=seed, dtype=F64)
        assert bool((x[:, 0].diff() > 0).all())
        # Given its place, the other 15 nodes of 16 are uniform, and it counts itself by half.
        k = seed % 16
        y = x[k, 0]
        others = weights[:, k] @ x[:, 0].square() - y.square() / 32
        estimates.append(float(others - y**3 / 3 * 15 / 16))
    # k is a rank, not a fixed node: over all ranks in turn the places are uniform again.
    z = np.mean(estimates) / (np.std(estimates, ddof=1) / len(estimates) ** 0.5)
    assert abs(z) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": "magic"}, "no points 'magic'"),
        ({"limits": "here"}, "no limits 'here'"),
        ({"points": "trapezoid", "n": 1}, "at least 2 nodes"),
        ({"points": "rectangle", "d": 2}, "d = 1"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rule(**({"n": 4} | options))


# Solutions


def test_a_linear_equation_is_what_a_linear_solver_says():
    operator = Hammerstein(fourier(0.9), "identity")
    layer = NeuralIntegralEquation(operator, "fredholm", "gauss", 12, tol=1e-13, dtype=F64)
    f = torch.randn(3, 12, dtype=F64, generator=generator())
    matrix = operator.matrix(layer.x, layer.weights, layer.x).detach()
    oracle = torch.linalg.solve(torch.eye(12, dtype=F64) - matrix.T, f.T).T
    assert torch.allclose(layer(f), oracle, atol=1e-11)
    layer.damping = 0.5
    undamped = layer.taken
    assert torch.allclose(layer(f), oracle, atol=1e-11)
    assert layer.taken > undamped


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("limits", equations.LIMITS)
def test_a_solution_solves(name, limits):
    layer, f = layer_of(name, limits, n=9)
    a = layer(f)
    again = f + layer.operator.sample(layer.x, layer.weights, layer.x)(a)
    assert torch.allclose(a, again, atol=1e-11)
    assert not torch.allclose(a, f, atol=1e-3)
    if limits == "fredholm":
        assert torch.allclose(layer.extend(a, f, layer.x), a, atol=1e-11)


def test_the_solution_between_nodes_is_that_of_more_nodes():
    layer, _ = layer_of("fourier", n=32)
    y = torch.linspace(0, 1, 7, dtype=F64).unsqueeze(1)
    found = layer.extend(layer(layer.x.T + 1), y.T + 1, y)
    layer.draw(64, "gauss")
    assert torch.allclose(layer.extend(layer(layer.x.T + 1), y.T + 1, y), found, atol=1e-4)


def test_the_smallest_equation_is_a_quotient():
    class Product(Kernel):
        def forward(self, x, y):
            return 0.7 * x.cos() @ y.cos().T

    operator = Hammerstein(Product(1), "identity")
    layer = NeuralIntegralEquation(operator, points="random", n=6, seed=1, tol=1e-14, dtype=F64)
    f, u = layer.x.sin().T + 1, layer.x.cos().T
    assert torch.allclose(layer(f), f + 0.7 * u * rank_one(f, u, 0.7), atol=1e-12)


def test_volterra_with_one_cosine_is_a_differential_equation():
    operator = made(lambda: Urysohn(1, 2, hidden=4, frequencies=1, scale=2.0))
    start = torch.tensor([0.5, -0.3], dtype=F64)

    def field(t, a):
        with torch.no_grad():
            return operator.net(torch.tensor([t, *a], dtype=F64)).numpy()

    oracle = solve_ivp(field, (0, 1), start.numpy(), rtol=1e-10, atol=1e-12).y[:, -1]
    errors = []
    for n in (17, 33):
        layer = NeuralIntegralEquation(operator, "volterra", "trapezoid", n, tol=1e-12, dtype=F64)
        end = layer(start.expand(1, n, 2))[0, -1].detach().numpy()
        errors.append(np.abs(end - oracle).max())
    assert 3.5 < errors[0] / errors[1] < 4.5, "second order"


def test_strictly_before_solves_any_equation_in_as_many_repetitions_as_nodes():
    layer = NeuralIntegralEquation(
        Hammerstein(Constant(300.0), "identity"), "volterra", "rectangle", 12, tol=1e-12, dtype=F64
    )
    a = layer(torch.ones(1, 12, dtype=F64))[0]
    steps = (1 + 300 / 11) ** torch.arange(12, dtype=F64)  # Euler's steps for a' = 300 a
    assert torch.allclose(a, steps)
    assert layer.taken <= 12
    layer.draw(12, "trapezoid")
    with pytest.raises(ContractionError, match="no contraction"):
        layer(torch.ones(1, 12, dtype=F64))


@given(st.floats(0.05, 0.95), st.floats(-3, 3), st.floats(0, 0.8))
def test_a_constant_kernel_is_a_geometric_series(q, f, damping):
    layer = NeuralIntegralEquation(
        Hammerstein(Constant(q), "identity"), n=4, tol=1e-12, damping=damping, steps=5000, dtype=F64
    )
    a = layer(torch.full((1, 4), f, dtype=F64))
    assert torch.allclose(a, torch.full_like(a, f / (1 - q)), rtol=1e-8)
    assert math.isclose(layer.gain(), q)


# What has no solution


def test_a_kernel_that_is_no_contraction_says_so():
    layer = NeuralIntegralEquation(Constant(1.5), n=4, seed=0, dtype=F64)
    with pytest.raises(ContractionError, match=r"1\.5 times as much .* its gain below 1"):
        layer(torch.ones(1, 4, dtype=F64))
    layer = NeuralIntegralEquation(Constant(0.99), n=4, seed=0, steps=20, dtype=F64)
    with pytest.raises(ContractionError, match="allow more than 20 steps"):
        layer(torch.ones(1, 4, dtype=F64))
    layer = NeuralIntegralEquation(Constant(1e200), n=4, seed=0, dtype=F64)
    with pytest.raises(ContractionError, match="no contraction"):
        layer(torch.full((1, 4), 1e200, dtype=F64))


def test_damping_helps_where_the_answer_swings():
    operator = Hammerstein(Constant(-1.5), "identity")
    layer = NeuralIntegralEquation(operator, n=4, seed=0, tol=1e-12, dtype=F64)
    with pytest.raises(ContractionError):
        layer(torch.ones(1, 4, dtype=F64))
    layer.damping = 0.5
    assert torch.allclose(layer(torch.ones(1, 4, dtype=F64)), torch.tensor(0.4, dtype=F64))


def test_the_backward_pass_says_so_too():
    a = torch.ones(1, dtype=F64, requires_grad=True)
    start = torch.zeros(1, dtype=F64)
    # At rest at once, for the start is the unstable solution; its adjoint grows.
    out, taken = equations.solve(lambda v: 1.5 * v + 0 * a, start, tol=1e-6, steps=40)
    assert taken == 0
    with pytest.raises(ContractionError, match=r"1\.5 times"):
        out.backward()


@pytest.mark.parametrize(
    "options", [{"tol": 0.0}, {"damping": 1.0}, {"steps": 0}, {"gradient": "none"}, {"n": 0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):  # noqa: PT011  # each has a message of its own
        NeuralIntegralEquation(Constant(0.5), **options)


def test_wrong_inputs_are_refused():
    layer, _ = layer_of("fourier")
    with pytest.raises(UsageError, match=r"5 nodes.*got \[2, 4\]"):
        layer(torch.zeros(2, 4, dtype=F64))
    layer, f = layer_of("attention", "volterra")
    with pytest.raises(UsageError, match="fredholm"):
        layer.extend(f, f, layer.x)
    with pytest.raises(UsageError, match="gain"):
        layer.gain()
    with pytest.raises(UsageError, match="between 0 and 1"):
        Hammerstein(Constant(0.5), bound=1.0)
    with pytest.raises(UsageError, match="no activation"):
        Hammerstein(Constant(0.5), "sine")
    for make in (lambda: Urysohn(1, 0), lambda: Attention(1, 1, width=0), lambda: Urysohn(0, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            make()


def test_a_bound_is_kept_and_else_does_nothing():
    x, weights = rule(32, points="gauss", dtype=F64)
    kernel = fourier(2.0)
    plain, bounded = Hammerstein(kernel), Hammerstein(kernel, bound=0.9)
    assert math.isclose(float(bounded.matrix(x, weights, x).detach().abs().sum(0).max()), 0.9)
    with torch.no_grad():
        kernel.weight.mul_(0.1)
    assert torch.equal(bounded.matrix(x, weights, x), plain.matrix(x, weights, x))


# Gradients


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("limits", equations.LIMITS)
@pytest.mark.parametrize("gradient", equations.GRADIENTS)
def test_gradients(name, limits, gradient):
    layer, f = layer_of(name, limits, gradient=gradient, n=4)
    parameters = list(layer.parameters())
    names = [n for n, _ in layer.named_parameters()]

    def solution(f, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), f)

    inputs = [t.detach().clone().requires_grad_() for t in (f[:1], *parameters)]
    assert torch.autograd.gradcheck(solution, inputs, fast_mode=True)


def test_memory_does_not_grow_with_the_repetitions():
    held = {}
    for gradient in equations.GRADIENTS:
        for gain in (0.3, 0.9):
            layer = NeuralIntegralEquation(
                fourier(gain), points="gauss", n=32, tol=1e-8, gradient=gradient, dtype=F64
            )
            with SavedBytes() as saved:
                out = layer(torch.ones(4, 32, dtype=F64) + layer.x.T)
            held[gradient, gain] = saved.live, layer.taken
            assert out.requires_grad
    assert held["implicit", 0.9][1] > 1.5 * held["implicit", 0.3][1]
    assert held["implicit", 0.9][0] == held["implicit", 0.3][0]
    bytes_more, more = (
        a - b for a, b in zip(held["unrolled", 0.9], held["unrolled", 0.3], strict=True)
    )
    assert bytes_more >= more * 4 * 32 * 8 > 0, "a solution for each repetition"


def test_no_functions_have_no_solutions():
    for gradient in equations.GRADIENTS:
        layer = NeuralIntegralEquation(fourier(0.3), n=8, gradient=gradient, dtype=F64)
        assert layer(torch.zeros(0, 8, dtype=F64)).shape == (0, 8)


def test_second_derivatives_are_right_or_refused():
    """As a penalty on a gradient needs them; implicit ones would leave terms out."""
    source = torch.ones(2, 8, dtype=F64, requires_grad=True)
    layer = NeuralIntegralEquation(fourier(0.3), n=8, gradient="unrolled", tol=1e-12, dtype=F64)
    assert torch.autograd.gradgradcheck(lambda f: layer(f).square(), source)
    layer.gradient = "implicit"
    with pytest.raises(UsageError, match="second derivatives"):
        torch.autograd.grad(layer(source).square().sum(), source, create_graph=True)


def test_only_the_kernel_is_in_the_state():
    layer, _ = layer_of("fourier")
    assert list(layer.state_dict()) == ["operator.kernel.weight"]


# Attention


def test_attention_is_that_of_torch():
    operator = made(lambda: Attention(1, 3, width=4, hidden=5, frequencies=3, scale=1.0))
    a = torch.randn(2, 6, 3, dtype=F64, generator=generator())
    for limits in equations.LIMITS:
        x, weights = rule(6, points="random", limits=limits, dtype=F64)
        told = equations.operators.cosines(x, 3)
        held = torch.cat([told.expand(2, -1, -1), a], -1)
        bias = weights.T.log()  # of nodes: no node is minus infinity, half a node is its half
        oracle = F.scaled_dot_product_attention(
            operator.query(told).expand(2, -1, -1),
            operator.key(held),
            operator.value(held),
            attn_mask=bias.expand(2, -1, -1),
        )
        assert torch.allclose(operator.sample(x, weights, x)(a), oracle)


def test_self_normalised_is_softmax_attention():
    g = generator(3)
    q, k, v = (torch.randn(2, n, 4, dtype=F64, generator=g) for n in (3, 7, 7))
    oracle = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(self_normalised(q @ k.transpose(1, 2) / 2, v), oracle)
    weights = torch.tensor([0.5, 0, 0, 0, 0, 0, 0.5], dtype=F64)
    ends = self_normalised(q @ k.transpose(1, 2) / 2, v, weights)
    two = F.scaled_dot_product_attention(q, k[:, [0, 6]], v[:, [0, 6]])
    assert torch.allclose(ends, two)


@pytest.mark.parametrize("make", [ratio._Attention, ratio._Equation])
def test_the_bias_is_the_one_of_theory(make):
    """n times the bias tends to (μ var B − cov(A, B)) / β²."""
    problem = make(generator(5))
    x, weights = equations.rules.nodes(64**2, 2, "gauss", dtype=F64)
    above, below = problem.parts(x)
    alpha, beta = above @ weights, below @ weights
    assert torch.allclose(problem.estimate(x[:1]), (above / below)[..., 0], atol=1e-12)
    mu = (alpha / beta).unsqueeze(-1)
    off, centred = above - mu * below, below - beta.unsqueeze(-1)
    theory = -((off * centred) @ weights) / beta.square()
    n, replicates = 256, 4000
    x = torch.rand(replicates, n, 2, dtype=F64, generator=generator(6))
    a, b = (part.mean(-1) for part in problem.parts(x))
    rest = problem.estimate(x) - mu[:, 0] - (a - mu[:, 0] * b) / beta
    z = (n * rest.mean(0) - theory) / (n * rest.std(0) / replicates**0.5)
    assert float(z.abs().max()) < 4.5
    assert float((theory * replicates**0.5 / (n * rest.std(0))).abs().max()) > 10, "seen at all"


def test_one_mean_is_unbiased_and_the_quotient_is_not():
    f, u = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.5]])
    whole = rank_one(f, u, 0.8)
    halves = torch.stack([rank_one(f[:, i : i + 1], u[:, i : i + 1], 0.8) for i in range(2)])
    assert float(halves.mean()) > 1.05 * float(whole)


# Experiments


@pytest.mark.parametrize(("d", "kinked"), [(1, False), (2, True), (4, False)])
def test_the_source_of_a_plane_is_that_of_the_closed_form(d, kinked):
    plane = rate._Plane(d, kinked, seed=3)
    y = torch.rand(5, d, dtype=F64, generator=generator())
    expected = plane.ridge(y) - plane.kernel.scale * plane.ridge.exact(y)
    assert torch.allclose(plane.source(y), expected, atol=1e-8)
    centre = torch.full((1, d), 0.5, dtype=F64)
    x, weights = equations.rules.nodes(8**d, d, "gauss", dtype=F64)
    assert math.isclose(float(weights @ plane.kernel(x, centre)[:, 0]), rate._GAIN, rel_tol=1e-6)


def test_the_lamp_is_solved():
    lamp = rate._Lamp(4)
    operator = Hammerstein(lamp.kernel, lamp.activation)
    layer = NeuralIntegralEquation(operator, points="sobol", n=512, seed=0, tol=1e-9, dtype=F64)
    found, exact = layer(lamp.source(layer.x).unsqueeze(0))[0], lamp.exact(layer.x)
    assert float((found - exact).norm() / exact.norm()) < 0.01


def test_pairs_solve_the_equation_on_another_grid():
    pairs = learn.Pairs(3, 0, learn.Rod(albedo=0.8, free_path=0.2))
    m = 300
    x = (torch.arange(m, dtype=F64) + 0.5).unsqueeze(1) / m
    f, a = pairs.at(x)
    again = f + a.relu() @ pairs.rod.cells(x[:, 0], m).T
    assert float((again - a).abs().max() / a.abs().max()) < 1e-3


def test_predators_and_prey_keep_what_they_conserve():
    seed = 2
    states = lotka.systems(seed)
    assert states.shape == (lotka.DRAWS, lotka.POINTS, 2)
    g = generator(lotka.fold_in(seed, 0))
    rates = 0.8 + 0.4 * torch.rand(2, dtype=F64, generator=g)
    kept = ((states - states.log()) * rates.flip(0)).sum(-1)  # [draws, points]
    assert float((kept.max(1)[0] - kept.min(1)[0]).max()) < 1e-4


def test_models_have_as_many_parameters():
    sizes = [sum(p.numel() for p in make().parameters()) for make in lotka.MODELS.values()]
    assert max(sizes) <= 1.1 * min(sizes)


def test_measures_are_paired():
    class Record:
        def __init__(self, config, metrics):
            self.config, self.metrics = config, metrics

    rows = [
        Record(
            learn.LearnTrial(noise=0.5, through=through, seed=seed),
            {"held out": {"64": error * (1 + seed)}},
        )
        for seed in range(2)
        for through, error in (("solver", 1.0), ("equation", 2.0))
    ]
    assert learn.measure_noise(rows) == {"noise 0.5: solver over equation": [0.5, 0.5]}


def test_repetitions_are_counted():
    _, taken = fixed_point(lambda a: a / 2, torch.zeros(3), tol=1e-9, steps=5)
    assert taken == 0
