"""Stochastic units, their exact gradients, baselines, and the layer that computes what is on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from torch.nn import functional as F

from mcnn import gates
from mcnn.errors import UsageError
from mcnn.profiling import Work
from mcnn.randomness import draws, straight_through
from mcnn.randomness import expected_loss as binary_loss

torch.set_num_threads(1)
F64 = torch.float64
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def curved(h):
    """A loss that is not linear: a log-sum-exp of sums, [..., 3] -> [...]."""
    return torch.logsumexp(h @ normal(3, 5, seed=9), -1)


def gradient(value, a):
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(value(leaf).sum(), leaf)[0]


# --- units --------------------------------------------------------------------------------------


@given(a=st.floats(-8, 8), xi=st.floats(0, 1, exclude_max=True))
def test_one_number_switches_all_units(a, xi):
    a, xi = torch.tensor([a], dtype=F64), torch.tensor([xi], dtype=F64)
    p = float(a.sigmoid())
    if abs(float(xi) - p) > 1e-12:  # else rounding decides
        assert bool(gates.noisy_rectifier(a, xi) > 0) == bool(straight_through(a, xi) > 0)
    smooth = float(gates.smooth_times_stochastic(a, xi))
    assert smooth in (0.0, pytest.approx(p**0.5))
    assert (smooth > 0) == (float(xi) < p**0.5)


@pytest.mark.parametrize("a", [-3.0, 0.0, 2.5])
def test_means_are_those_of_the_table(a):
    n = 200_000
    xi = (torch.arange(n, dtype=F64) + 0.5) / n  # a midpoint rule over the noise
    a = torch.full((n,), a, dtype=F64)
    rectified = gates.noisy_rectifier(a, xi).mean()
    assert float(rectified) == pytest.approx(float(F.softplus(a[:1])), rel=1e-3)
    assert float(gates.smooth_times_stochastic(a, xi).mean()) == pytest.approx(
        float(a[0].sigmoid()), abs=1e-4
    )
    for unit in gates.UNITS:
        share = (gates.sample(a, xi, unit) > 0).double().mean()
        assert float(share) == pytest.approx(float(gates.on_probability(a[:1], unit)), abs=1e-4)


@pytest.mark.parametrize("unit", gates.UNITS[1:])
def test_units_have_the_derivative_of_what_they_compute(unit):
    a, xi = normal(4, 3).requires_grad_(), draws(4, 3, seed=1)[:, 0]
    assert torch.autograd.gradcheck(lambda v: gates.sample(v, xi, unit), a)


def test_half_of_the_derivative_is_lost_where_the_loss_is_straight():
    a, v = normal(2, 3), normal(3, seed=1)
    mean, _ = gates.moments(a, lambda h: h @ v, "smooth-times-stochastic")
    exact = gradient(lambda x: binary_loss(x, lambda h: h @ v), a)
    torch.testing.assert_close(mean, exact / 2)


def test_a_draw_of_zero_is_finite():
    assert gates.noisy_rectifier(torch.zeros(1), torch.zeros(1)).isfinite().all()


# --- exact expectations -------------------------------------------------------------------------


@pytest.mark.parametrize("unit", gates.UNITS)
def test_weights_of_states_sum_to_one(unit):
    h, weight = gates.states(normal(4, 3), unit)
    torch.testing.assert_close(weight.sum(0), torch.ones(4, dtype=F64))
    assert h.shape == (*weight.shape, 3)


def test_binary_states_are_those_of_the_chapter_on_randomness():
    a = normal(4, 3)
    torch.testing.assert_close(gates.expected_loss(a, curved), binary_loss(a, curved))


@pytest.mark.parametrize("a", [-4.0, 0.5, 3.0])
def test_a_rectifier_is_integrated_as_scipy_does(a):
    def loss(h):
        return torch.log1p(torch.exp(2 * h[..., 0] - 1)) * torch.cos(h[..., 0])

    def integrand(xi):
        h = max(0.0, a - np.log(xi / (1 - xi)))
        return np.log1p(np.exp(2 * h - 1)) * np.cos(h)

    p = 1 / (1 + np.exp(-a))
    wanted = integrate.quad(integrand, 0, p, epsabs=1e-11, limit=500)[0]
    wanted += integrate.quad(integrand, p, 1, epsabs=1e-11)[0]
    found = gates.expected_loss(torch.tensor([[a]], dtype=F64), loss, "noisy-rectifier", 64)
    assert float(found) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("unit", gates.UNITS)
def test_exact_gradients_are_gradients(unit):
    a = normal(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: gates.expected_loss(v, curved, unit, 8), a)


def test_a_rectifier_has_no_bias():
    a = normal(3, 3)
    exact = gradient(lambda v: gates.expected_loss(v, curved, "noisy-rectifier"), a)
    mean, _ = gates.moments(a, curved, "noisy-rectifier")
    torch.testing.assert_close(mean, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("unit", gates.UNITS)
def test_moments_are_those_of_draws(unit, device):
    a, n = normal(1, 3, seed=3).to(device), 40_000
    xi = draws(1, 3, "random", 5, n)[0].to(device)  # [n, 3]

    def loss(h):
        return torch.logsumexp(h @ normal(3, 5, seed=9).to(device), -1)

    drawn = gradient(lambda v: loss(gates.sample(v, xi, unit)), a.repeat(n, 1))
    mean, variance = gates.moments(a, loss, unit)
    z = (drawn.mean(0) - mean[0]) / (variance[0] / n).sqrt()
    assert z.abs().max() < 4.5
    # Relative to a normal variable's, the spread of a variance; these have heavier tails.
    assert ((drawn.var(0) / variance[0] - 1).abs() < 12 * (2 / n) ** 0.5).all()


def test_the_expected_effect_is_that_of_binary_units_to_first_order():
    a = normal(4, 3)
    gaps = []
    for scale in (0.1, 0.05):
        loss = lambda h, s=scale: curved(s * h)  # noqa: E731
        smooth = gates.expected_loss(a, loss, "smooth-times-stochastic")
        gaps.append((smooth - gates.expected_loss(a, loss)).abs().mean())
    assert float(gaps[0] / gaps[1]) == pytest.approx(4, rel=0.1)


# --- baselines ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 30), shift=st.floats(-2, 2))
def test_no_constant_has_less_variance(seed, shift):
    a = normal(2, 3, seed=seed)
    best = gates.all_baselines(a, curved)["minimum variance"]
    least = gates.variance(a, curved, best)
    assert (gates.variance(a, curved, best + shift) >= least - 1e-12).all()
    for baseline in gates.all_baselines(a, curved).values():
        assert (gates.variance(a, curved, baseline) >= least - 1e-12).all()
    assert (gates.local_variance(a, curved) <= least + 1e-12).all()


def test_the_best_baseline_exchanges_the_probabilities():
    a = normal(2, 3)
    h, weight = gates.states(a)
    value, p = curved(h), a.sigmoid()

    def mean_if(i, state):
        chosen = weight * (h[..., i] == state)
        return (chosen * value).sum(0) / chosen.sum(0)

    best = gates.all_baselines(a, curved)["minimum variance"]
    for i in range(3):
        swapped = (1 - p[:, i]) * mean_if(i, 1) + p[:, i] * mean_if(i, 0)
        torch.testing.assert_close(best[:, i], swapped)


@pytest.mark.parametrize("name", [*gates.BASELINES, "local expectation"])
def test_estimates_are_unbiased_and_vary_as_computed(name):
    a, n = normal(1, 3, seed=3), 20_000
    xi = draws(1, 3, "random", 5, n)
    if name == "local expectation":
        value = lambda v: gates.local_expectation(v, xi, curved)  # noqa: E731
        variance = gates.local_variance(a, curved)
    else:
        c = gates.all_baselines(a, curved)[name]
        value = lambda v: gates.score_function(v, xi, curved, c)  # noqa: E731
        variance = gates.variance(a, curved, c)
    drawn = gradient(value, a.repeat(n, 1))
    exact = gradient(lambda v: gates.expected_loss(v, curved), a)
    assert ((drawn.mean(0) - exact[0]) / (variance[0] / n).sqrt()).abs().max() < 4.5
    assert ((drawn.var(0) / variance[0] - 1).abs() < 0.1).all()


def test_a_running_baseline_finds_the_best_one():
    a, n = normal(1, 3, seed=3), 64
    baseline = gates.RunningBaseline(0.995)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        h = (torch.rand(n, 3, generator=generator, dtype=F64) < a.sigmoid()).double()
        baseline.update(h - a.sigmoid(), curved(h))
    best = gates.all_baselines(a, curved)["minimum variance"][0]
    torch.testing.assert_close(baseline.value, best, rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="decay"):
        gates.RunningBaseline(1.0)


# --- the layer ----------------------------------------------------------------------------------


def dense(layer, x, g):
    """The straightforward form: everything is computed, then multiplied."""
    y = torch.einsum("bi,gni->bgn", x, layer.weight)
    if layer.bias is not None:
        y = y + layer.bias
    return (y * g.unsqueeze(-1)).flatten(1)


def gated(b, k, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(b, k, generator=generator) < share
    return on * (0.5 + torch.rand(b, k, generator=generator, dtype=F64))


@given(
    b=st.integers(0, 6),
    k=st.integers(1, 4),
    n=st.integers(1, 3),
    m=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    bias=st.booleans(),
)
def test_blocks_are_those_of_a_dense_layer(b, k, n, m, share, bias):
    layer = gates.GatedLinear(m, k * n, k, bias, seed=1, dtype=F64)
    x, g = normal(b, m), gated(b, k, share)
    torch.testing.assert_close(layer(x, g), dense(layer, x, g))
    x.requires_grad_()
    v = normal(b, k * n, seed=2)
    found, wanted = (
        torch.autograd.grad((y * v).sum(), [x, *layer.parameters()])
        for y in (layer(x, g), dense(layer, x, g))
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_layer(bias):
    layer = gates.GatedLinear(3, 4, 2, bias, seed=1, dtype=F64)
    x = normal(3, 3).requires_grad_()
    g = torch.tensor([[0.5, 0.0], [1.5, 0.7], [0.0, -1.0]], dtype=F64)
    on = g != 0

    def value(x, values, *parameters):
        names = dict(zip(("weight", "bias"), parameters, strict=False))
        scattered = torch.zeros_like(g).masked_scatter(on, values)
        return torch.func.functional_call(layer, names, (x, scattered))

    values = g[on].requires_grad_()
    assert torch.autograd.gradcheck(value, (x, values, *layer.parameters()))


def test_what_is_off_gets_no_gradient():
    layer = gates.GatedLinear(3, 4, 2, seed=1, dtype=F64)
    g = torch.tensor([[0.0, 1.0]], dtype=F64, requires_grad=True)
    layer(normal(1, 3), g).sum().backward()
    assert g.grad[0, 0] == 0 != g.grad[0, 1]
    assert (layer.weight.grad[0] == 0).all()


def test_operations_follow_the_share_that_is_on():
    layer, x = gates.GatedLinear(64, 256, 8, seed=0), torch.rand(128, 64)

    def operations(on):
        g = torch.zeros(128, 8)
        g[:, :on] = 1
        with Work() as work:
            layer(x, g).sum().backward()
        return work.operations

    counts = [operations(on) for on in (1, 2, 3)]
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], rel=0.03)
    assert counts[0] < 0.2 * operations(8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gates.GatedLinear(3, 5, 2),
        lambda: gates.GatedLinear(3, 0, 2),
        lambda: gates.GatedLinear(3, 4, 2)(torch.ones(1, 2), torch.ones(1, 2)),
        lambda: gates.GatedLinear(3, 4, 2)(torch.ones(1, 3), torch.ones(2, 2)),
        lambda: gates.GatedBlock(3, 4, 2, "hard"),
        lambda: gates.GatedBlock(3, 4, 2, on=1.0),
        lambda: gates.sample(torch.ones(1), torch.ones(1), "hard"),
        lambda: gates.states(torch.ones(1, 1), "hard"),
        lambda: gates.states(torch.ones(1, 9), "noisy-rectifier"),
    ],
)
def test_what_a_user_can_mend_is_said(call):
    with pytest.raises(UsageError):
        call()


def test_a_full_block_computes_the_same_and_its_gates_hear_more():
    x, xi = torch.rand(6, 20), torch.rand(6, 8)
    found = []
    for full in (False, True):
        block = gates.GatedBlock(20, 16, 8, "straight-through", 0.3, full, seed=0)
        y = block(x, xi)
        y.square().sum().backward()
        heard = (block.gater.bias.grad != 0).sum()
        found.append((y.detach(), block.layer.weight.grad, block.layer.bias.grad, int(heard)))
        torch.testing.assert_close(y, block.eval()(x, xi))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    # With a loss that also looks at blocks that are off, through their gates alone.
    heard = []
    for full in (False, True):
        block = gates.GatedBlock(20, 16, 8, "straight-through", 0.3, full, seed=0)
        block(x[:1], xi[:1]).sum().backward()
        heard.append(int((block.gater.bias.grad != 0).sum()))
    assert heard[0] < heard[1]


@pytest.mark.parametrize("unit", gates.UNITS)
def test_a_block_starts_with_the_share_asked_for_and_saves_its_state(unit):
    block, x = gates.GatedBlock(20, 16, 8, unit, 0.2, seed=0), torch.zeros(500, 20)
    torch.manual_seed(0)
    y = block(x)
    assert block.share == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(block.probability, torch.full((500, 8), 0.2))
    assert (y.view(500, 8, 2).abs().sum(-1) > 0).float().mean() <= block.share
    other = gates.GatedBlock(20, 16, 8, unit, 0.2, seed=1)
    other.load_state_dict(block.state_dict())
    x = torch.rand(5, 20)
    assert torch.equal(block.eval()(x), other.eval()(x))
    assert torch.equal(block(x), block(x))
