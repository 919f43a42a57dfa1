"""Gradients through binary units, direct feedback, and what the experiments measure."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn.experiments.randomness.binarise import BinaryNet
from mcnn.experiments.randomness.common import evaluate
from mcnn.experiments.randomness.order import variances
from mcnn.randomness import (
    DRAWS,
    SOURCES,
    FeedbackMLP,
    alignment_angles,
    all_states,
    draws,
    expected_loss,
    score_function,
    straight_through,
)
from mcnn.randomness.binarise import log_probability

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# --- binary units -------------------------------------------------------------------------------


@given(k=st.integers(1, 8))
def test_states_are_all_and_their_probabilities_sum_to_one(k):
    h = all_states(k, F64)
    assert h.unique(dim=0).shape == (2**k, k)
    a = normal(k, seed=k)
    assert log_probability(a, h).exp().sum() == pytest.approx(1, abs=1e-12)


def test_expected_loss_of_a_linear_loss_is_the_loss_of_the_probabilities():
    a, v = normal(5, 4), normal(4, seed=1)
    torch.testing.assert_close(expected_loss(a, lambda h: h @ v), a.sigmoid() @ v)


def test_expected_loss_of_a_product_is_the_product_of_the_probabilities():
    a = normal(6, 3, seed=2)
    expected = a.sigmoid().prod(1)
    torch.testing.assert_close(expected_loss(a, lambda h: h.prod(-1)), expected)


def quadratic(h):
    matrix = normal(4, 4, seed=9)
    return ((h @ matrix) * h).sum(-1) + h.sum(-1).sin()


def test_the_exact_gradient_is_a_gradient():
    a = normal(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: expected_loss(a, quadratic), a)


def gradient(value, a):
    a = a.clone().requires_grad_()
    return torch.autograd.grad(value(a).sum(), a)[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("source", DRAWS)
def test_the_score_function_is_unbiased(source, centred, device):
    a = normal(1, 4, seed=3).to(device)
    loss = lambda h: quadratic(h.cpu()).to(device)  # noqa: E731
    exact = gradient(lambda a: expected_loss(a, loss), a)
    repeats = 1000
    xi = draws(8, 4, source, 5, repeats).to(device)  # [8, repeats, 4]
    found = gradient(lambda a: score_function(a, xi, loss, centred), a.repeat(repeats, 1))
    z = (found.mean(0) - exact[0]) / (found.std(0) / repeats**0.5)
    assert z.abs().max() < 4.5


def test_straight_through_is_biased_where_the_loss_bends_and_not_where_it_is_straight():
    a, repeats = normal(1, 4, seed=3), 20_000
    xi = draws(1, 4, "random", 5, repeats)

    def z(loss):
        exact = gradient(lambda a: expected_loss(a, loss), a)
        found = gradient(lambda a: loss(straight_through(a, xi)).mean(0), a.repeat(repeats, 1))
        spread = (found.std(0) / repeats**0.5).clamp(min=1e-12)
        return ((found.mean(0) - exact[0]) / spread).abs().max()

    assert z(lambda h: h @ torch.arange(4.0, dtype=F64)) < 1e-2
    assert z(quadratic) > 10


def test_centring_and_better_points_reduce_the_variance():
    repeats = 500
    many = normal(1, 4, seed=3).repeat(repeats, 1)
    xi = draws(16, 4, "random", 7, repeats)

    def variance(source):
        xi = draws(16, 4, source, 7, repeats)
        return gradient(lambda a: score_function(a, xi, quadratic), many).var(0).sum()

    usual = variance("random")
    far = gradient(lambda a: score_function(a, xi, lambda h: quadratic(h) + 9, False), many)
    near = gradient(lambda a: score_function(a, xi, lambda h: quadratic(h) + 9), many)
    assert far.var(0).sum() > 10 * near.var(0).sum()
    assert variance("sobol") < 0.6 * usual
    assert variance("lattice") < 0.6 * usual
    assert variance("antithetic") < 1.1 * usual


def test_values_are_the_mean_loss_of_the_draws_and_states_are_exact():
    a = normal(3, 4)
    xi = draws(6, 4, "random", 1, 3)
    h = straight_through(a, xi)
    assert torch.equal(h, (xi < a.sigmoid()).double())
    torch.testing.assert_close(score_function(a, xi, quadratic), quadratic(h).mean(0))


def test_the_parameters_of_the_loss_learn_too():
    net = BinaryNet(6, 4, 3, seed=0).double()
    y = torch.tensor([0, 2])
    a = net.first(normal(2, 6))
    for value in (
        expected_loss(a, net.losses(y)),
        score_function(a, draws(4, 4, "random", 1, 2), net.losses(y)),
    ):
        grads = torch.autograd.grad(value.sum(), list(net.parameters()), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in grads)


def test_estimators_compile_and_take_half_precision():
    a = normal(3, 4).bfloat16()
    xi = draws(2, 4, "sobol", 1, 3)
    loss = lambda h: h.square().sum(-1)  # noqa: E731
    assert score_function(a, xi, loss).dtype == torch.bfloat16
    assert straight_through(a, xi).dtype == torch.bfloat16
    compiled = torch.compile(straight_through, backend="eager", fullgraph=True)
    assert torch.equal(compiled(a, xi), straight_through(a, xi))


def test_antithetic_draws_are_mirrored():
    xi = draws(6, 3, "antithetic", 2, 2)
    torch.testing.assert_close(xi[:3] + xi[3:], torch.ones(3, 2, 3, dtype=F64))
    assert (xi < 1).all()


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: all_states(21), "k must be"),
        (lambda: all_states(0), "k must be"),
        (lambda: draws(3, 2, "antithetic"), "pairs"),
        (lambda: draws(3, 2, "jittered"), "source 'jittered'"),
        (lambda: draws(3, 2, sets=0), "sets must be"),
        (lambda: FeedbackMLP((4, 2)), "hidden layer"),
        (lambda: alignment_angles(FeedbackMLP((4, 2, 2)), None, None, "weights"), "'weights'"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(ValueError, match=names):
        call()


# --- direct feedback ----------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_direct_feedback_is_what_its_formula_says(device):
    model = FeedbackMLP((5, 7, 6, 3), seed=1).double().to(device)
    x, y = normal(4, 5).to(device), torch.tensor([0, 1, 2, 1], device=device)
    *hidden, logits = model.activations(x)
    torch.nn.functional.cross_entropy(logits, y, reduction="sum").backward()
    e = logits.softmax(1).detach() - torch.nn.functional.one_hot(y, 3)  # [4, 3]
    below = [x, *hidden]
    for number, (a, layer) in enumerate(zip(hidden, model.layers, strict=False)):
        delta = (e @ getattr(model, f"feedback{number}").T) * (a > 0)
        torch.testing.assert_close(layer.weight.grad, delta.T @ below[number].detach())
        torch.testing.assert_close(layer.bias.grad, delta.sum(0))
    last = model.layers[-1]
    torch.testing.assert_close(last.weight.grad, e.T @ hidden[-1].detach())


def test_feedback_changes_gradients_but_not_outputs():
    direct, back = FeedbackMLP((5, 7, 3), seed=1), FeedbackMLP((5, 7, 3), seed=1, direct=False)
    back.load_state_dict(direct.state_dict())
    x = normal(4, 5).float()
    torch.testing.assert_close(direct(x), back(x))
    plain = x
    for layer in back.layers[:-1]:
        plain = layer(plain).relu()
    assert torch.equal(back(x), back.layers[-1](plain))


def test_feedback_through_the_weights_themselves_is_backpropagation():
    model = FeedbackMLP((5, 7, 3), seed=1).double()
    with torch.no_grad():
        model.feedback0.copy_(model.layers[1].weight.T)
    x, y = normal(4, 5), torch.tensor([0, 1, 2, 1])
    for of in ("errors", "gradients"):
        assert alignment_angles(model, x, y, of)[0] < 1e-4
    with torch.no_grad():
        model.feedback0.neg_()
    assert alignment_angles(model, x, y, "gradients")[0] > 179.9
    assert model.direct


@pytest.mark.parametrize("source", SOURCES)
def test_feedback_matrices_are_fixed_and_of_the_right_size(source):
    model = FeedbackMLP((8, 64, 10), source, seed=2)
    assert "feedback0" in model.state_dict()
    assert not model.feedback0.requires_grad
    assert model.feedback0.shape == (64, 10)
    assert float(model.feedback0.var()) * 64 == pytest.approx(1, abs=0.25)


# --- what the experiments measure ---------------------------------------------------------------


def test_variances_of_means():
    errors = normal(64_000, 2)
    one, four, sixteen = variances(errors)
    assert one == pytest.approx(2, rel=0.02)
    assert four == pytest.approx(0.5, rel=0.05)
    assert sixteen == pytest.approx(0.125, rel=0.1)
    assert variances(normal(1, 3).repeat(64, 1))[2] == pytest.approx(
        float(normal(1, 3).square().sum())
    )


def test_evaluation_is_the_share_that_is_right():
    from mcnn import data

    split = data.load("digits").test

    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10).float()

    share = float((split.labels == 0).double().mean())
    assert evaluate(Always(), split)["accuracy"] == pytest.approx(share)
