"""Integral layers: exact where an exact value is known, unbiased where there is a random source."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcnn import integral
from mcnn.experiments.integral import kink
from mcnn.integral import layer as layers
from mcnn.integral import learning, noise, randomised, regroup, transport
from mcnn.integral.kernels import Fourier, Kernel, Perceptron, Readout, cosines
from mcnn.integral.layer import ClassBias, CosineBias, IntegralLayer, IntegralNet
from mcnn.integral.nodes import RULES, nodes
from mcnn.integral.recurrent import RecurrentLayer
from mcnn.integral.ridge import CosineProduct, Ridge, random_ridge
from mcnn.integral.transport import Rod

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The ReLU at the input


def stack(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "linear":
            return nn.Sequential(
                nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU()
            ), torch.randn(11, 5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        ), torch.randn(11, 1, 8, 8)


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_moving_the_relu_changes_no_bit(kind):
    model, x = stack(kind)
    moved = regroup.relu_to_input(model)
    assert torch.equal(model(x), moved(x))
    assert regroup.difference(model, x) == (0.0, 0.0)
    assert isinstance(moved[-1], nn.ReLU) == (kind == "linear")
    assert sum(isinstance(m, regroup.InputReLU) for m in moved) == sum(
        isinstance(m, nn.ReLU) for m in model[:-1]
    )


def test_moving_the_relu_past_what_does_not_commute_is_refused():
    with pytest.raises(ValueError, match=r"layer 2 \(AvgPool1d\).*commute"):
        regroup.relu_to_input(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.AvgPool1d(2)))


# Nodes


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("device", DEVICES)
def test_weights_sum_to_one_and_points_are_inside(method, device):
    x, w = nodes(16, 1, method, 3, device, F64)
    assert x.shape == (16, 1)
    assert w.shape == (16,)
    assert math.isclose(float(w.sum()), 1, rel_tol=1e-14)
    assert bool((x >= 0).all() and (x < 1).all() and (w > 0).all())


@given(st.integers(1, 6), st.integers(1, 3))
def test_gauss_integrates_monomials_up_to_its_degree(side, d):
    x, w = nodes(side**d, d, "gauss", dtype=F64)
    degree = 2 * side - 1
    assert math.isclose(float(w @ x.pow(degree).prod(1)), (1 / (degree + 1)) ** d, rel_tol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 1, "magic"), "no method 'magic'"), ((7, 2, "gauss"), "power m\\*\\*2"), ((0, 1), "n ")],
)
def test_impossible_nodes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nodes(*arguments)


# Kernels and the layer


def test_cosines_are_orthonormal():
    x, w = nodes(32**2, 2, "gauss", dtype=F64)
    phi = cosines(x, 4)
    gram = phi.T @ (w.unsqueeze(1) * phi)
    assert torch.allclose(gram, torch.eye(16, dtype=F64), atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_quick_integrals_are_those_of_the_plain_sum(device):
    x, _ = nodes(30, 2, "random", 1, device, F64)
    y, _ = nodes(20, 1, "random", 2, device, F64)
    classes = torch.arange(3, device=device)
    values = torch.randn(4, 30, dtype=F64, generator=generator()).to(device)
    for kernel, at in [
        (Fourier(2, 1, 3, generator()), y),
        (Readout(2, 3, 4, generator()), classes),
    ]:
        kernel.to(device, F64)
        assert torch.allclose(
            kernel.integrate(values, x, at), Kernel.integrate(kernel, values, x, at)
        )


def test_a_series_of_cosines_integrates_to_its_coefficients():
    kernel = Fourier(1, 1, 5, generator()).double()
    layer = IntegralLayer(kernel, "gauss", n=40, dtype=F64)
    y = torch.linspace(0, 1, 7, dtype=F64).unsqueeze(1)
    a = 3 + cosines(layer.x, 5)[:, 2]  # positive: the ReLU does nothing
    expected = (3 * kernel.weight[0] + kernel.weight[2]) @ cosines(y, 5).T
    assert torch.allclose(layer(a.unsqueeze(0), y)[0], expected, atol=1e-12)


class Step(Kernel):
    """w(x, y) = [x < y]: integrates what lies left of y."""

    def forward(self, x, y):
        return (x < y.T).to(x.dtype)


def test_the_relu_acts_on_the_input():
    layer = IntegralLayer(Step(1), "jittered", n=4096, dtype=F64)
    a = layer.x[:, 0] - 0.5  # negative on the left half
    out = layer(a.unsqueeze(0), torch.tensor([[0.5], [1.0]], dtype=F64))[0]
    assert torch.allclose(out, torch.tensor([0, 1 / 8], dtype=F64), atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda: Fourier(1, 2, 3, generator()), lambda: Perceptron(1, 2, 4)]
)
def test_gradients(make):
    layer = IntegralLayer(make(), "sobol", n=4, bias=CosineBias(2, 2)).double()
    a = torch.randn(2, 4, dtype=F64, generator=generator(5), requires_grad=True)
    y = torch.rand(2, 2, dtype=F64, generator=generator(6), requires_grad=True)
    assert torch.autograd.gradcheck(layer, (a, y))
    readout = IntegralLayer(Readout(1, 3, 4, generator()), n=4, bias=ClassBias(3)).double()
    assert torch.autograd.gradcheck(
        lambda v, *_: readout(v, torch.arange(3)), (a, *readout.parameters())
    )


def test_a_kernel_keeps_the_mean_square_of_a_signal():
    ratios = []
    for seed in range(40):
        layer = IntegralLayer(Fourier(2, 2, 6, generator(seed)), "sobol", n=1024)
        a = cosines(layer.x, 6) @ torch.randn(36, 1, generator=generator(seed + 1000)) / 6
        y, _ = nodes(1024, 2, "sobol", seed)
        ratios.append(float(layer(a.T, y).detach().square().mean() / a.square().mean()))
    mean, error = np.mean(ratios), np.std(ratios) / math.sqrt(len(ratios))
    assert abs(mean - 1) < 4 * error + 0.02


def test_parameters_do_not_depend_on_nodes_and_travel_between_resolutions():
    coarse = IntegralLayer(Fourier(2, 1, 3, generator(1)), n=16)
    fine = IntegralLayer(Fourier(2, 1, 3, generator(2)), n=1024, seed=0)
    fine.load_state_dict(coarse.state_dict())
    coarse.draw(1024, "jittered", 0)
    a, y = torch.randn(1, 1024, generator=generator()), torch.rand(5, 1, generator=generator())
    assert torch.equal(coarse(a, y), fine(a, y))


def test_functions_must_be_given_at_the_nodes():
    with pytest.raises(ValueError, match=r"16 nodes.*\[2, 15\]"):
        IntegralLayer(Fourier(1, 1, 2), n=16)(torch.zeros(2, 15), torch.zeros(1, 1))


@pytest.mark.parametrize("make", [lambda: Fourier(1, 1, 0), lambda: Readout(1, 0, 2)])
def test_empty_kernels_are_refused(make):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        make()


# Images


def test_pictures_are_exact_at_pixel_centres():
    images = torch.rand(3, 1, 5, 4, generator=generator())
    row, column = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    centres = torch.stack([(column + 0.5) / 4, (row + 0.5) / 5], -1).view(-1, 2)
    assert torch.allclose(layers.picture(images)(centres), images.flatten(1), atol=1e-6)


def test_a_net_converges_with_the_number_of_nodes():
    g, images = generator(), torch.rand(2, 1, 8, 8, generator=generator())
    net = IntegralNet(
        [
            IntegralLayer(Fourier(2, 2, 3, g), bias=CosineBias(2, 3)),
            IntegralLayer(Readout(2, 10, 3, g), bias=ClassBias(10)),
        ],
        classes=10,
        n=64,
    )
    first = net(images)
    assert torch.equal(net(images), first)
    assert torch.equal(copy.deepcopy(net)(images), first)
    net.draw(64, "jittered")
    assert not torch.equal(net(images), first)  # a new sample of the same integrals
    net.draw(4096, "gauss")
    truth = net(images).detach()
    error = {}
    for n in (64, 1024):
        net.draw(n, "jittered")
        error[n] = float((net(images).detach() - truth).abs().max())
    assert error[1024] < error[64] / 4


# Known integrals


@pytest.mark.parametrize("d", [1, 2, 8])
@pytest.mark.parametrize("kinked", [True, False])
def test_ridges_are_known_exactly(d, kinked):
    ridge = random_ridge(d, kinked, seed=d)
    y, _ = nodes(5, d, "random", 9, dtype=F64)
    if not kinked:  # where the ReLU does nothing, the moments alone are the answer
        assert torch.allclose(ridge.exact(y), ridge._moments(y)[1], rtol=1e-9)
    n, rule = {1: (1 << 16, "jittered"), 2: (1 << 16, "jittered"), 8: (3**8, "gauss")}[d]
    layer = IntegralLayer(CosineProduct(d), rule, n=n, dtype=F64)
    estimate = layer(ridge(layer.x).unsqueeze(0), y)[0]
    # Gauss with three points a side is good to three digits when smooth, not at a kink.
    rtol = {1: 1e-6, 2: 1e-4, 8: 2e-2 if kinked else 2e-3}[d]
    assert torch.allclose(estimate, ridge.exact(y), rtol=rtol)
    low = ridge(layer.x).min()
    assert bool(low < 0) == kinked


def test_estimates_are_unbiased():
    ridge, y = random_ridge(2, True, 1), torch.tensor([[0.3, 0.8]], dtype=F64)
    exact = float(ridge.exact(y))
    for method in ("random", "jittered", "sobol", "lattice"):
        found = []
        for seed in range(200):
            layer = IntegralLayer(CosineProduct(2), method, n=16, seed=seed, dtype=F64)
            found.append(float(layer(ridge(layer.x).unsqueeze(0), y)))
        z = (np.mean(found) - exact) / (np.std(found, ddof=1) / math.sqrt(len(found)))
        assert abs(z) < 4, method


# The recurrent form


class RodKernel(Kernel):
    """The rod's kernel, which is symmetric."""

    def forward(self, x, y):
        return Rod().kernel(x, y.T)


def test_a_recurrent_layer_sums_the_neumann_series():
    layer = RecurrentLayer(RodKernel(1), "gauss", n=256, steps=200, dtype=F64)
    x = layer.x[:, 0]
    smooth = Rod().emission(x)
    found = layer(smooth.unsqueeze(0))[0]
    assert layer.gain() < 1
    assert torch.allclose(found, Rod().exact(x), atol=0.05)  # the lamp's edges fall between nodes
    assert torch.allclose(
        found, smooth + layer.kernel.integrate(layer.weights * found, layer.x, layer.x)
    )


class Half(Kernel):
    """w(x, y) = ½, so that a constant c > 0 comes back as c/2."""

    def forward(self, x, y):
        return torch.full((len(x), len(y)), 0.5, dtype=x.dtype)


def test_a_recurrent_layer_hears_only_what_is_positive():
    layer = RecurrentLayer(Half(1), n=16, steps=100, dtype=F64)
    source = torch.tensor([[1.0], [-1.0]], dtype=F64).expand(2, 16)
    expected = torch.tensor([[2.0], [-1.0]], dtype=F64).expand(2, 16)
    assert torch.allclose(layer(source), expected)


def test_gradients_pass_through_time():
    kernel = Fourier(1, 1, 2, generator()).double()
    layer = RecurrentLayer(kernel, "gauss", n=4, steps=3, dtype=F64)
    source = torch.randn(2, 4, dtype=F64, generator=generator(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, _: layer(a), (source, kernel.weight))


def test_each_step_shrinks_the_distance_to_the_solution_by_the_gain():
    kernel = Fourier(1, 1, 3, generator()).double()
    with torch.no_grad():
        kernel.weight *= 0.15
    layer = RecurrentLayer(kernel, "gauss", n=32, steps=200, dtype=F64)
    source = torch.randn(1, 32, dtype=F64, generator=generator(1))
    q, solution = layer.gain(), layer(source).detach()
    assert q < 1
    before = float((source - solution).abs().max())
    for steps in range(1, 8):
        layer.steps = steps
        after = float((layer(source).detach() - solution).abs().max())
        assert after <= q * before * (1 + 1e-9)
        before = after


# Transport


@pytest.mark.parametrize("rod", [Rod(), Rod(0.5, 0.3, (0.25, 0.5)), Rod(0.99, 0.05, (0.0, 0.125))])
def test_neumann_series_approaches_the_closed_form_with_order_two(rod):
    errors = []
    for m in (128, 256):
        x = (torch.arange(m, dtype=F64) + 0.5) / m
        errors.append(float((transport.neumann(rod, m) - rod.exact(x)).abs().max()))
    assert errors[1] < 2e-2
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_cells_integrate_the_kernel():
    rod, x = Rod(), torch.tensor([0.0, 0.37, 1.0], dtype=F64)
    y = (torch.arange(1 << 14, dtype=F64) + 0.5) / (1 << 14)
    sums = rod.kernel(x.unsqueeze(1), y).view(3, 8, -1).mean(-1) / 8
    assert torch.allclose(rod.cells(x, 8), sums, rtol=1e-4)


def z_score(values, truth):
    return abs(float((values.mean() - truth) / (values.std() / math.sqrt(len(values)))))


@pytest.mark.parametrize("absorb", [True, False])
@pytest.mark.parametrize("start", [0.125, 0.8])
def test_walks_are_unbiased(absorb, start):
    truth = float(Rod().exact(torch.tensor(start, dtype=F64)))
    assert z_score(transport.walks(Rod(), start, 20000, generator(2), absorb), truth) < 4


@pytest.mark.parametrize("table", ["solution", "wrong", "zero"])
def test_guided_walks_are_unbiased_whatever_guides_them(table):
    tables = {
        "solution": transport.neumann(Rod(), 64),
        "wrong": torch.linspace(0.2, 0.1, 32, dtype=F64),
        "zero": torch.zeros(32, dtype=F64),
    }
    truth = float(Rod().exact(torch.tensor(0.3, dtype=F64)))
    estimates = learning.guided_walks(Rod(), 0.3, tables[table], 2048, generator(4))
    assert z_score(estimates, truth) < 4


def test_walks_guided_by_the_solution_have_almost_no_variance():
    plain = transport.walks(Rod(), 0.125, 4096, generator(2))
    table = transport.neumann(Rod(), 128)
    guided = learning.guided_walks(Rod(), 0.125, table, 1024, generator(3), explore=0.005)
    assert guided.var() < plain.var() / 100


def test_steps_have_the_density_they_claim():
    k, q = torch.tensor([0.1, 0.3, 0.2, 0.0]), torch.tensor([2.0, 1.0, 0.0, 5.0])
    cell, y, density = learning.step_towards(k.expand(40000, 4), q, 0.2, generator(1))
    chance = torch.tensor([0.05 + 0.32, 0.05 + 0.48, 0.05, 0.05])
    assert torch.allclose(density.float(), 4 * chance[cell], atol=1e-5)
    assert torch.equal((y * 4).long(), cell)
    share = torch.bincount(cell, minlength=4) / 40000
    assert bool(((share - chance).abs() < 4 * (chance / 40000).sqrt()).all())


@pytest.mark.parametrize("target", ["expected", "sarsa"])
def test_reinforcement_learning_finds_the_solution(target):
    rod = Rod(0.5, 0.2, (0.5, 0.75))
    tables = learning.learn(rod, 600, generator(5), cells=16, learners=16, target=target)
    x = torch.tensor([0.1, 0.6, 0.9], dtype=F64)
    found = transport.gather(rod, tables, x)  # [learners, 3]
    grid = transport.gather(rod, transport.neumann(rod, 16), x)
    truth = rod.exact(x)
    bar = found.std(0) / 4 + 2 * (grid - truth).abs()
    assert bool(((found.mean(0) - truth).abs() < 4 * bar).all())
    assert bool((bar < 0.02 * truth).all())


def test_the_maximum_is_another_equation():
    rod = Rod(0.5, 0.2, (0.5, 0.75))
    tables = learning.learn(rod, 600, generator(5), cells=16, learners=4, target="max")
    x = (torch.arange(16, dtype=F64) + 0.5) / 16
    assert torch.allclose(tables.mean(0), rod.emission(x) + 0.5 * 2, atol=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rod(albedo=1), "albedo"),
        (lambda: Rod(free_path=0), "free_path"),
        (lambda: Rod(lamp=(0.5, 0.5)), "lamp"),
        (lambda: learning.learn(Rod(), 1, generator(), target="best"), "no target 'best'"),
        (lambda: learning.learn(Rod(), 0, generator()), "at least 1"),
        (lambda: learning.learn(Rod(), 1, generator(), explore=0), "explore"),
        (lambda: learning.guided_walks(Rod(), 0, -torch.ones(4), 1, generator()), "not negative"),
    ],
)
def test_impossible_transport_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Noise


def test_noisy_targets_have_the_right_mean_and_variance():
    ridge, y = random_ridge(2, True, 3), torch.tensor([[0.2, 0.7]], dtype=F64).expand(4000, 2)
    targets = noise.sample_targets(ridge, y, 4, generator(1))
    assert z_score(targets, float(ridge.exact(y[:1]))) < 4
    variance = float(noise.sample_variance(ridge, y[:1])) / 4
    assert math.isclose(float(targets.var()), variance, rel_tol=0.05)


def test_excess_error_is_as_predicted():
    ridge, (y, _) = random_ridge(2, True, 4), nodes(200, 2, "random", 1, dtype=F64)
    g = generator(7)
    noisy = torch.stack([noise.sample_targets(ridge, y, 2, g) for _ in range(300)], 1)
    fits = noise.least_squares(y, noisy, 3)
    clean = noise.least_squares(y, ridge.exact(y), 3)
    excess = (fits - clean.unsqueeze(1)).square().mean(0)  # [300]
    predicted = noise.predicted_excess(y, noise.sample_variance(ridge, y) / 2, 3)
    assert z_score(excess, predicted) < 4
    assert float((fits.mean(1) - clean).square().mean()) < predicted / 300 * 3


def test_networks_learn_the_mean_with_squares_and_the_median_with_absolute_values():
    y = torch.zeros(200, 1, dtype=F64)
    skewed = -torch.log(torch.rand(200, 2, dtype=F64, generator=generator(2)))
    for loss, values in [("squared", skewed.mean(0)), ("absolute", skewed.median(0).values)]:
        found = noise.fit_networks(y, skewed, y[:1], generator(), 2, steps=200, loss=loss)
        assert torch.allclose(found[0], values, atol=0.03)


def test_networks_side_by_side_do_not_touch_each_other():
    y = torch.rand(20, 2, dtype=F64, generator=generator(1))
    targets = torch.randn(20, 3, dtype=F64, generator=generator(2))
    together = noise.fit_networks(y, targets, y, generator(), 4, steps=20)
    alone = noise.fit_networks(y, targets[:, 1:2], y, generator(), 4, steps=20)
    assert torch.allclose(together[:, 1:2], alone, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, y: noise.sample_targets(r, y, 0, generator()), "samples"),
        (lambda r, y: noise.least_squares(y, y, 4), "as many targets"),
        (lambda r, y: noise.fit_networks(y, y, y, generator(), loss="no"), "no loss 'no'"),
    ],
)
def test_impossible_regression_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Ridge(torch.ones(1, dtype=F64), 0.0), torch.rand(3, 1, dtype=F64))


def test_the_package_offers_what_it_lists():
    assert all(hasattr(integral, name) for name in integral.__all__)


# Points whose error can be averaged


def test_nested_permutations_keep_what_digits_share_and_are_all_as_likely():
    p = randomised.nested_permutations(5, 3, seed=1)
    numbers = torch.arange(32)
    for k in range(6):  # the leading k digits of the image depend on those of the number alone
        leading = p >> (5 - k)
        for one in leading:
            assert all(len(one[numbers >> (5 - k) == i].unique()) == 1 for i in range(1 << k))
    assert torch.equal(p.sort(1).values, numbers.expand(3, -1))
    pairs = Counter(
        tuple(map(tuple, randomised.nested_permutations(2, 2, seed).tolist()))
        for seed in range(6400)
    )
    assert len(pairs) == 64  # eight trees in either dimension, independent
    assert max(abs(n - 100) for n in pairs.values()) < 50  # five standard deviations


def test_nested_sobol_points_are_a_net_and_uniform():
    x = randomised.nested_sobol(64, 2, seed=3)
    assert x.dtype == F64
    for a in range(7):  # one point in every elementary box of area 1/64
        boxes = (x * torch.tensor([2.0**a, 2.0 ** (6 - a)])).long()
        assert len((boxes[:, 0] * 64 + boxes[:, 1]).unique()) == 64
    many = torch.stack([randomised.nested_sobol(4, 2, seed) for seed in range(4000)])
    assert (many.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 4000) ** 0.5
    assert (many.var(0) * 12 - 1).abs().max() < 0.1


def test_nested_sobol_takes_powers_of_two():
    for n in (0, 3, 1 << 21):
        with pytest.raises(ValueError, match="power of two"):
            randomised.nested_sobol(n, 1)


def test_nested_scrambling_has_the_variance_of_theory_for_x():
    # One uniform point in each of n cells: for f(x) = x the variance is 1 / (12 n³).
    means = torch.stack([randomised.nested_sobol(32, 1, seed).mean() for seed in range(3000)])
    assert means.var().item() * 12 * 32**3 == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("d", [1, 2, 8])
def test_the_rules_of_the_kink_experiment_are_without_bias(d):
    trial = kink.KinkTrial(dimension=d, seed=5)
    integrands = kink._Integrands(d, trial.seed)
    exact = torch.stack([ridge.exact(integrands.y) for ridge in integrands.ridges])
    for method in kink.METHODS:
        draws = kink._draws(method, 4**d if d < 8 else 256, d, range(300))
        found = torch.stack([integrands.means(x)[:2] for x in draws])
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - exact).abs() < 5 * error + 1e-9).all(), method
