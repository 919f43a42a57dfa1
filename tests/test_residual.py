"""Residual layers as differential equations: closed forms, invariants, orders, gradients."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from mcnn.errors import UsageError
from mcnn.experiments.residual import common
from mcnn.profiling import SavedBytes
from mcnn.residual import ADAPTIVE, ORDERS, SOLVERS, STRUCTURES, WEIGHTS, ResidualODE
from mcnn.residual.fields import Schedule, Weight
from mcnn.residual.solvers import solve
from mcnn.stats import slope

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
FIXED = [s for s in SOLVERS if s not in ADAPTIVE and s != "verlet"]
SEPARABLE = ("hamiltonian", "second-order")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def jacobian(net, state):
    return torch.autograd.functional.jacobian(net.flow, state)


def tanh_problem(n=4, seed=0):
    """Return a network a' = Q diag(c) tanh(Q^T a), an input, and the closed form at time 1."""
    q = torch.linalg.qr(normal(n, n, seed=seed)).Q
    c = torch.linspace(-1.5, 1.5, n, dtype=torch.float64)
    net = ResidualODE(n, n, weights="shared", bias=False, activation=torch.tanh).double()
    with torch.no_grad():
        net.field.inner.weight.knots[0].copy_(q.T)
        net.field.outer.knots[0].copy_(q * c)
    a = normal(16, n, seed=seed + 1)
    # In the basis Q each component follows y' = c tanh y, so sinh y grows like exp(c t).
    exact = torch.asinh(torch.exp(c) * torch.sinh(a @ q)) @ q.T
    return net, a, exact


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_euler_is_a_stack_of_residual_layers(device, weights):
    net = ResidualODE(5, 7, steps=8, weights=weights, horizon=0.5).double().to(device)
    a = normal(3, 5).to(device)
    expected = a
    inner, outer = net.field.inner, net.field.outer
    for layer in range(8):
        s = layer * net.schedule.span / 8
        w1, b, w2 = inner.weight(s), inner.bias(s), outer(s)
        expected = expected + 0.5 / 8 * linear(torch.relu(linear(expected, w1, b)), w2)
    torch.testing.assert_close(net(a), expected, rtol=1e-14, atol=1e-14)


def test_weights_as_functions_of_time():
    generator = torch.Generator().manual_seed(1)
    layers = Weight((2,), 1.0, Schedule("layers", 3), generator)
    assert [layers.knots[i].equal(layers(s)) for i, s in ((0, 0.99), (1, 1.0), (2, 5.0))] == [
        True
    ] * 3
    between = Weight((2,), 1.0, Schedule("interpolated", 3), generator)
    torch.testing.assert_close(between(1.25), 0.75 * between.knots[1] + 0.25 * between.knots[2])
    assert between(2.0).equal(between.knots[2])
    assert len(Weight((2,), 1.0, Schedule("shared", 3), generator).knots) == 1


@pytest.mark.parametrize("solver", FIXED)
def test_order_of_convergence(solver):
    net, a, exact = tanh_problem()
    net.solver = solver
    steps, errors = [16, 32, 64, 128], []
    for net.steps in steps:
        errors.append((net(a) - exact).square().mean().sqrt().item())
    assert -slope(steps, errors) == pytest.approx(ORDERS[solver], abs=0.15)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_solvers_keep_their_tolerance(solver):
    net, a, exact = tanh_problem()
    net.solver = solver
    for net.tolerance in (1e-5, 1e-9):
        assert (net(a) - exact).abs().max() < 20 * net.tolerance


@pytest.mark.parametrize("solver", [*FIXED, *ADAPTIVE])
def test_jumps_between_layers_cost_no_accuracy(solver):
    """Solved in one go or layer by layer, the result must be the same."""
    options = {"activation": torch.tanh, "tolerance": 1e-10}
    net = ResidualODE(3, 6, steps=12, solver=solver, layers=3, **options).double()
    a = normal(4, 3)
    expected = a
    for layer in range(3):
        one = ResidualODE(3, 6, 4, solver, "shared", horizon=1 / 3, **options).double()
        state = {k.replace(f"knots.{layer}", "knots.0"): v for k, v in net.state_dict().items()}
        one.load_state_dict(
            {k: v for k, v in state.items() if k in one.state_dict()}
            | {
                k: net.state_dict()[k.replace("knots.0", f"knots.{layer}")]
                for k in one.state_dict()
            }
        )
        expected = one(expected)
    atol = 1e-8 if solver in ADAPTIVE else 1e-13
    torch.testing.assert_close(net(a), expected, rtol=0, atol=atol)


@given(seed=st.integers(0, 10**6), fraction=st.floats(0.05, 1.0))
def test_parabolic_never_grows_below_the_bound(seed, fraction):
    net = ResidualODE(5, 9, steps=6, structure="parabolic", bias=False, seed=seed).double()
    net.horizon = fraction * net.euler_bound() * net.steps
    norms = net.trajectory(normal(8, 5, seed=seed)).norm(dim=-1)  # [steps + 1, 8]
    assert (norms.diff(dim=0) <= 1e-12).all()


def test_parabolic_bound_is_sharp():
    net = ResidualODE(3, 1, steps=1, structure="parabolic", bias=False).double()
    a = net.field.layer.weight.knots[0].detach()  # [1, 3]: the ReLU passes it
    grows = []
    for factor in (0.99, 1.01):
        net.horizon = factor * net.euler_bound()
        grows.append(bool(net(a).norm() > a.norm()))
    assert grows == [False, True]


@given(seed=st.integers(0, 10**6))
def test_parabolic_with_biases_moves_no_two_states_apart(seed):
    net = ResidualODE(5, 9, steps=6, structure="parabolic", seed=seed).double()
    net.horizon = net.euler_bound() * net.steps
    a, b = net.trajectory(normal(2, 8, 5, seed=seed)).unbind(1)  # [steps + 1, 8, 5] each
    assert ((a - b).norm(dim=-1).diff(dim=0) <= 1e-12).all()


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s != "free"])
def test_stable_structures_are_gradients_of_an_energy(structure):
    net = ResidualODE(4, 8, structure=structure, weights="shared").double()
    state = normal(8 if structure == "second-order" else 4).requires_grad_()

    def energy(layer, a):
        w, b = layer.weight(0), layer.bias(0)
        return torch.relu(linear(a, w, b)).square().sum() / 2

    if structure == "parabolic":
        expected = -torch.autograd.grad(energy(net.field.layer, state), state)[0]
    else:
        q, p = state.chunk(2)
        if structure == "hamiltonian":
            total = energy(net.field.first, p) + energy(net.field.second, q)
        else:
            total = p.square().sum() / 2 + energy(net.field.layer, q)
        dq, dp = torch.autograd.grad(total, state)[0].chunk(2)
        expected = torch.cat([dp, -dq])
    torch.testing.assert_close(net.field(0.0, state), expected)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("structure", SEPARABLE)
def test_verlet_keeps_volume_and_runs_backwards(structure, weights):
    net = ResidualODE(4, 8, 6, "verlet", weights, structure, horizon=6.0, layers=4).double()
    state = normal(8 if structure == "second-order" else 4)
    volume = torch.linalg.det(jacobian(net, state)).item()
    assert volume == pytest.approx(1, abs=1e-12)
    back = net.flow(net.flow(state), reverse=True)
    torch.testing.assert_close(back, state, rtol=0, atol=1e-13)
    net.solver = "euler"  # for contrast: neither holds
    assert abs(torch.linalg.det(jacobian(net, state)).item() - 1) > 1e-3
    assert (net.flow(net.flow(state), reverse=True) - state).abs().max() > 1e-3


@pytest.mark.parametrize("structure", SEPARABLE)
def test_verlet_solves_the_same_equation(structure):
    options = {"tolerance": 1e-10, "activation": torch.tanh}
    net = ResidualODE(4, 8, 64, "verlet", "shared", structure, **options).double()
    a, steps = normal(5, 4), [64, 128, 256]
    reference = copy.deepcopy(net)
    reference.solver = "dopri5"
    errors = []
    for net.steps in steps:
        errors.append((net(a) - reference(a)).abs().max().item())
    assert -slope(steps, errors) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_reverse_returns_to_the_start(solver):
    net = ResidualODE(3, 6, 512, solver, layers=4, tolerance=1e-9).double()
    a = normal(4, 3)
    error = (net.flow(net.flow(a), reverse=True) - a).abs().max()
    assert error < (1e-2 if solver == "euler" else 1e-6)


@pytest.mark.parametrize(
    ("structure", "solver"),
    [
        *((structure, solver) for structure in STRUCTURES for solver in ("euler", "rk4")),
        *((structure, "verlet") for structure in SEPARABLE),
    ],
)
def test_gradcheck(structure, solver):
    net = ResidualODE(2, 4, 3, solver, "interpolated", structure).double()
    a = normal(2, 2).requires_grad_()
    names, values = zip(*net.named_parameters(), strict=True)

    def call(a, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (a,))

    assert torch.autograd.gradcheck(call, (a, *values))


def gradients(net, a):
    net.zero_grad()
    a = a.clone().requires_grad_()
    net(a).square().sum().backward()
    return torch.cat([a.grad.flatten(), *(p.grad.flatten() for p in net.parameters())])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_adjoint_gradient_approaches_that_of_the_steps(weights):
    net = ResidualODE(3, 6, 4, "euler", weights, layers=4, activation=torch.tanh).double()
    a, steps, errors = normal(5, 3), [16, 32, 64], []
    for net.steps in steps:
        net.adjoint = False
        direct = gradients(net, a)
        net.adjoint = True
        errors.append((gradients(net, a) - direct).norm().item())
    assert -slope(steps, errors) == pytest.approx(1, abs=0.15)
    net.solver, net.tolerance = "dopri5", 1e-10
    adjoint = gradients(net, a)
    net.adjoint = False
    torch.testing.assert_close(adjoint, gradients(net, a), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("structure", "solver"), [*((s, "dopri5") for s in STRUCTURES), ("free", "dopri8")]
)
def test_gradient_of_adaptive_solvers(structure, solver):
    """Finite differences would see the step size change, so a fine fixed step is the reference."""
    net = ResidualODE(4, 4, 8, solver, "interpolated", structure, activation=torch.tanh).double()
    net.tolerance = 1e-9
    a = normal(2, 4)
    adaptive = gradients(net, a)
    net.solver, net.steps = "rk4", 7 * 16
    torch.testing.assert_close(adaptive, gradients(net, a), rtol=1e-6, atol=1e-7)


def test_memory_of_gradients():
    net, a = ResidualODE(8, 16, 8, weights="shared"), normal(32, 8, dtype=torch.float32)
    peaks = {}
    for net.adjoint in (False, True):
        for net.steps in (8, 64):
            with SavedBytes(net.parameters()) as saved:
                net(a).sum().backward()
            peaks[net.adjoint, net.steps] = saved.peak
            assert saved.live == 0  # everything was let go
    assert peaks[False, 64] > 7 * peaks[False, 8]
    assert peaks[True, 64] == peaks[True, 8]
    # Each step keeps its input for W1, and the output of the ReLU for W2 and for the ReLU itself.
    assert (peaks[False, 64] - peaks[False, 8]) / 56 == pytest.approx(4 * 32 * (8 + 16), rel=0.01)


def test_saved_bytes_counts_each_storage_once_and_leaves_out_what_is_excluded():
    w, x = torch.ones(2, 100, requires_grad=True), torch.ones(100, requires_grad=True)
    with SavedBytes([w]) as saved:
        y = (w[0] * x).sum() + (x * w[1]).sum()  # each product keeps both factors
        assert (saved.live, saved.peak) == (400, 400)
    y.backward()
    assert (saved.live, saved.peak) == (0, 400)


def test_attributes_can_be_exchanged_and_survive_copies():
    net = ResidualODE(3, 6, steps=4)
    other = copy.deepcopy(net)
    other.solver, other.steps = "rk4", 9
    assert (net.solver, net.steps) == ("euler", 4)
    fresh = ResidualODE(3, 6, steps=4, seed=5)
    fresh.load_state_dict(net.state_dict())
    a = normal(2, 3, dtype=torch.float32)
    assert fresh(a).equal(net(a))
    assert not ResidualODE(3, 6, steps=4, seed=5)(a).equal(net(a))


def test_compile():
    net, a = ResidualODE(3, 6, steps=4), normal(2, 3, dtype=torch.float32)
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(compiled(a), net(a))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_any_leading_shape_and_narrow_types(structure):
    solver = "verlet" if structure in SEPARABLE else "rk4"
    net = ResidualODE(4, 8, 4, solver, structure=structure)
    a = normal(2, 3, 4, dtype=torch.float32)
    assert net(a).shape == (2, 3, 4)
    assert net.trajectory(a).shape == (5, 2, 3, 4)
    torch.testing.assert_close(net.trajectory(a)[-1], net(a))
    assert net(a[:0]).shape == (0, 3, 4)
    exact = net(a)
    half = copy.deepcopy(net).bfloat16()(a.bfloat16())
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"steps": 0}, "layers must be at least 1"),
        ({"steps": 0, "layers": 2}, "steps must be at least 1"),
        ({"solver": "leapfrog"}, "no solver 'leapfrog'; there are: euler"),
        ({"solver": "verlet"}, "needs a state of two halves"),
        ({"weights": "none"}, "no weights 'none'; there are: "),
        ({"structure": "none"}, "no structure 'none'; there are: "),
        ({"horizon": 0.0}, "horizon must be positive"),
        ({"horizon": float("nan")}, "horizon must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
        ({"steps": 1, "weights": "interpolated"}, "at least 2"),
        ({"width": 3, "structure": "hamiltonian"}, "must be even"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualODE(**{"width": 4, "hidden": 8} | options)


def test_bad_inputs():
    net = ResidualODE(4, 8)
    with pytest.raises(TypeError, match="steps must be an int"):
        net.steps = 2.5
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\], got \[2, 5\]"):
        net(torch.ones(2, 5))
    with pytest.raises(TypeError, match="floating point"):
        net(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="structure 'parabolic'"):
        net.euler_bound()
    net.solver = "dopri5"
    with pytest.raises(ValueError, match="NaN or infinity"):
        net(torch.full((2, 4), torch.nan))
    second = ResidualODE(4, 8, solver="verlet", structure="second-order", adjoint=True)
    with pytest.raises(ValueError, match="full state must be"):
        second.flow(torch.ones(2, 4))
    with pytest.raises(ValueError, match="not for 'verlet'"):
        second(torch.ones(2, 4))


def test_an_adaptive_solver_that_gets_stuck_says_so():
    net = ResidualODE(2, 2, solver="dopri5", activation=lambda a: a**3, horizon=100.0)
    with torch.no_grad():
        net.field.outer.knots[0].copy_(net.field.inner.weight.knots[0].T)
    with pytest.raises(ArithmeticError, match="dopri5 got stuck"):
        net(torch.ones(1, 2) * 10)


def test_what_is_measured_of_solvers_that_stay_and_that_are_exchanged():
    def record(training, accuracy, exchanged):
        trial = common.ExchangeTrial(seed=1, training=training)
        tested = {s: [0.9] * len(counts) for s, counts in common.TESTED.items()} | exchanged
        return SimpleNamespace(config=trial, metrics={"accuracy": accuracy, "exchanged": tested})

    coarse = [0.1, 0.1, 0.1, 0.3, 0.4, 0.5, 0.85, 0.9]  # Euler's method with 1 to 128 steps
    found = [record("euler", 0.8, {}), record("rk4", 0.95, {"euler": coarse})]
    name = "layers weights, RK4, 8 steps"
    (value,) = common.measure_solver(found)[f"{name}: minus Euler, 8 steps"]
    assert value == pytest.approx(0.15)
    change = common.measure_exchange(found)
    assert change[f"{name}: worst of fine solvers"] == [pytest.approx(-0.1)]
    assert change[f"{name}: worst of all with 8 steps or more"] == [pytest.approx(-0.65)]


# --- adaptive steps and calls counted -------------------------------------------------------------


class Cubic(nn.Module):
    """The spiral of torchdiffeq's examples: a' = M a^3, bounded."""

    def forward(self, s, a):
        return a**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=a.dtype)


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_step_is_the_solvers_own(solver, steps, reverse):
    """A step of a fixed share of the way leaves the spiral, and never comes back."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    a = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    span, scale = 1, 0.5 if reverse else 25.0
    y = solve(Cubic(), a, solver, steps, span, scale, reverse=reverse, tolerance=1e-7)
    t = torch.tensor([scale, 0.0] if reverse else [0.0, scale], dtype=torch.float64)
    want = torchdiffeq.odeint(Cubic(), a, t, rtol=1e-9, atol=1e-9)[-1]
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_the_first_step_has_no_part_in_the_gradient():
    net = ResidualODE(3, 5, solver="dopri5", seed=1, tolerance=1e-4).double()
    a = torch.randn(2, 3, dtype=torch.float64)
    net(a).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net.tolerance = 1e-10
    net(a).sum().backward()
    for g, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_trajectories_go_back_as_often_as_they_went(solver, stages):
    counts = {}
    for steps in (8, 32):
        net = ResidualODE(3, 4, steps, solver, "shared", adjoint=True, seed=1).double()
        calls = []
        net.field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        states = net.trajectory(torch.randn(2, 3, dtype=torch.float64))
        forward = len(calls)
        states.square().sum().backward()
        counts[steps] = len(calls) - forward
        assert forward == stages * steps
        assert counts[steps] == stages * steps
        found = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        net.adjoint = False
        net.trajectory(torch.randn(2, 3, dtype=torch.float64)).square().sum().backward()
        assert len(found) == len(list(net.parameters()))


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_the_adjoint_of_a_trajectory_approaches_that_of_its_steps(solver):
    a, errors = torch.randn(2, 3, dtype=torch.float64), []
    for steps in (16, 64):
        net = ResidualODE(
            3, 4, steps, solver, "shared", activation=torch.tanh, seed=1, layers=1
        ).double()
        gradients = []
        for net.adjoint in (False, True):
            net.zero_grad()
            net.trajectory(a)[:: steps // 16].square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        errors.append(float((gradients[0] - gradients[1]).norm() / gradients[0].norm()))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.05


@pytest.mark.parametrize("solver", ["dopri5", "dopri8"])
def test_a_runaway_ends_without_assertions(solver):
    """As under ``python -O``, which leaves out the guards of the library."""
    program = f"""
import torch
from mcnn.residual.solvers import solve

class Growing(torch.nn.Module):
    def forward(self, s, a):
        return a**3 + 1

try:
    solve(Growing(), torch.ones(1, 2).double(), {solver!r}, 4, 1, 10.0)
except ArithmeticError as error:
    print(error)
"""
    command = [sys.executable, "-O", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert f"{solver} got stuck" in done.stdout


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_as_far_as_others(dtype):
    net = ResidualODE(3, 4, 600, "euler", "shared", seed=1)
    a = torch.randn(2, 3)
    want = net(a)
    half = net.to(dtype)(a.to(dtype))
    torch.testing.assert_close(half.float(), want, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("solver", ["euler", "rk4", *ADAPTIVE])
def test_empty_batches(solver, adjoint):
    net = ResidualODE(3, 4, 4, solver, seed=1, adjoint=adjoint)
    a = torch.zeros(0, 3, requires_grad=True)
    y = net(a)
    assert y.shape == (0, 3)
    y.sum().backward()
    assert all((p.grad == 0).all() for p in net.parameters() if p.grad is not None)
    assert net.trajectory(a).shape == (5, 0, 3)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_a_penalty_on_adjoint_gradients_is_refused_for_it_would_do_nothing(solver):
    def penalised(net):
        z = normal(2, 3).requires_grad_()
        y = net(z)
        (slope_of_y,) = torch.autograd.grad(y.square().sum(), z, create_graph=True)
        (y.sum() + slope_of_y.square().sum()).backward()
        return [p.grad for p in net.parameters()]

    net = ResidualODE(3, 4, 4, solver, adjoint=True, seed=1, activation=torch.tanh).double()
    with pytest.raises(UsageError, match=r"cannot be differentiated again .*adjoint=False"):
        penalised(net)
    net(normal(2, 3)).sum().backward(retain_graph=True)  # once is what they are for
    net.adjoint = False
    assert all(g.abs().max() > 0 for g in penalised(net))


@pytest.mark.parametrize(("solver", "adjoint"), [("rk4", True), ("dopri5", False)])
def test_transformations_that_cannot_look_inside_are_refused(solver, adjoint):
    net = ResidualODE(3, 4, 4, solver, adjoint=adjoint, seed=1).double()
    x = normal(2, 3)
    for transformed in (
        lambda: torch.func.vmap(net)(x),
        lambda: torch.func.grad(lambda v: net(v).sum())(x),
        lambda: torch.func.jvp(net, (x,), (x,)),
    ):
        with pytest.raises(UsageError, match="adjoint=False and a solver of a fixed step"):
            transformed()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_shapes_flow_where_there_are_no_numbers(solver, adjoint):
    net = ResidualODE(3, 4, 5, solver, adjoint=adjoint, seed=1, device="meta")
    x = torch.empty(2, 3, device="meta")
    assert net(x).shape == (2, 3)
    assert net.trajectory(x).shape == (6, 2, 3)
    assert net(x).is_meta
