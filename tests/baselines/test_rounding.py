"""Rounding, thresholds and pruning: closed forms and invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mcnn import density
from mcnn.baselines import rounding
from mcnn.experiments.density import baselines as compared
from mcnn.modelwise import Layer
from mcnn.sampling import fold_in
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


RULES = {
    "nearest": lambda w, bits: rounding.nearest(w, bits),
    "mse": lambda w, bits: rounding.nearest(w, bits, clip="mse"),
    "stochastic": lambda w, bits: rounding.stochastic(w, bits, seed=3),
}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 30)),
    bits=st.integers(2, 8),
    seed=st.integers(0, 1000),
    power=st.integers(-100, 100),
)
def test_codes_stay_in_range_and_near_the_weight(rule, shape, bits, seed, power):
    w = randn(*shape, seed=seed) * 2.0**power
    codes, scale = RULES[rule](w, bits)
    levels = 2 ** (bits - 1) - 1
    assert codes.dtype == torch.int32
    assert codes.shape == w.shape
    assert codes.abs().max() <= levels
    assert scale.shape == (shape[0],)
    if rule != "mse":
        error = (codes * scale.double()[:, None] - w.double()).abs()
        step = {"nearest": 0.5, "stochastic": 1.0}[rule]
        assert (error <= step * scale.double()[:, None] * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_least_squares_never_has_the_larger_error(bits):
    w = randn(40, 200, dtype=torch.float64)
    errors = []
    for clip in rounding.CLIPS:
        codes, scale = rounding.nearest(w, bits, clip)
        errors.append((codes * scale[:, None] - w).square().sum(1))
    assert (errors[1] <= errors[0]).all()
    if bits <= 4:  # with many levels there is nothing to be gained by cutting off
        assert errors[1].sum() < 0.95 * errors[0].sum()


def test_least_squares_finds_the_best_step_of_a_normal_row():
    """Max (1960): the best three levels of a standard normal density lie at 0 and ±1.224."""
    _, scale = rounding.nearest(randn(1, 400_000, dtype=torch.float64), 2, "mse")
    assert scale.item() == pytest.approx(1.224, abs=0.05)  # the grid of steps is about 0.07 wide


def test_stochastic_rounding_is_unbiased_with_the_variance_of_theory():
    w, repeats = randn(1, 12, seed=1), 20000
    many = w.repeat(repeats, 1)
    codes, scale = rounding.stochastic(many, 3, seed=2)
    drawn = codes * scale.double()[:, None]
    step = scale[0].double()
    part = (w[0].double() / step) % 1
    theory = step**2 * part * (1 - part)  # a coin at the height of the place between two codes
    z = (drawn.mean(0) - w[0]) / (theory / repeats).sqrt().clamp(min=1e-6)
    assert z.abs().max() < 4.5
    torch.testing.assert_close(drawn.var(0), theory, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_seeds_decide_and_devices_do_not(device):
    w = randn(5, 50)
    a = rounding.stochastic(w, 4, seed=1)[0]
    assert torch.equal(a, rounding.stochastic(w.to(device), 4, seed=1)[0].cpu())
    assert not torch.equal(a, rounding.stochastic(w, 4, seed=2)[0])
    generator, before = torch.Generator().manual_seed(0), torch.get_rng_state()
    b = rounding.stochastic(w, 4, seed=generator)[0]
    assert not torch.equal(b, rounding.stochastic(w, 4, seed=generator)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_the_scale_of_a_threshold_leaves_the_least_error():
    """For given codes the error is a parabola in the scale, lowest at the mean magnitude kept."""
    w = randn(6, 300, dtype=torch.float64)
    codes, scale = rounding.ternary(w)
    for factor in (0.9, 1.1):
        other = (codes * factor * scale[:, None] - w).square().sum(1)
        assert ((codes * scale[:, None] - w).square().sum(1) < other).all()
    kept = w.abs() > 0.7 * w.abs().mean(1, keepdim=True)
    assert torch.equal(codes != 0, kept)
    assert (codes * w >= 0).all()


def test_the_threshold_of_a_normal_row_keeps_what_the_normal_law_says():
    codes, scale = rounding.ternary(randn(1, 200_000))
    # 0.7 E|w| = 0.5585 for a standard normal; P(|w| > 0.5585) and E[|w| given that]
    assert codes.count_nonzero().item() / 200_000 == pytest.approx(0.5765, abs=0.004)
    assert scale.item() == pytest.approx(1.1840, abs=0.006)


def test_largest_keeps_the_number_asked_for():
    w = randn(4, 10, 3)
    for each in ("row", "tensor"):
        kept = rounding.largest(w, 0.2, each)
        alive = kept != 0
        assert torch.equal(kept[alive], w[alive])
        assert alive.sum() == 24
        assert w[alive].abs().min() > 0
    assert (rounding.largest(w, 0.2).flatten(1) != 0).sum(1).tolist() == [6] * 4
    everywhere = rounding.largest(w, 0.2, "tensor")
    assert everywhere[everywhere != 0].abs().min() >= w[everywhere == 0].abs().max()
    assert torch.equal(rounding.largest(w, 1.0), w)
    assert (rounding.largest(w, 1e-9) != 0).flatten(1).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_is_welcome_and_zeros_stay(rule, dtype):
    w = torch.cat([torch.zeros(1, 20), randn(2, 20)]).to(dtype)
    codes, scale = RULES[rule](w, 3)
    assert scale.dtype == dtype
    assert (codes[0] == 0).all()
    assert codes[1:].abs().max() == 3
    codes, scale = rounding.ternary(w)
    assert (codes[0] == 0).all()
    assert scale[0] == 0
    assert rounding.largest(w, 0.5).dtype == dtype


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda w: rounding.nearest(w, 1), "bits"),
        (lambda w: rounding.nearest(w, 17), "bits"),
        (lambda w: rounding.stochastic(w, 0), "bits"),
        (lambda w: rounding.nearest(w, 3, "best"), "clip"),
        (lambda w: rounding.largest(w, 0.0), "fraction"),
        (lambda w: rounding.largest(w, 1.5), "fraction"),
        (lambda w: rounding.largest(w, 0.5, "layer"), "each"),
    ],
)
def test_bad_calls_are_named(call, names):
    with pytest.raises(ValueError, match=names):
        call(torch.ones(2, 3))


def test_models_get_codes_times_a_scale():
    model = nets.build("lenet5", seed=0)
    small, report = rounding.quantize(model, lambda w, seed: rounding.nearest(w, 4), "[79]", 0)
    assert [layer.name for layer in report.layers] == ["7", "9"]
    expected, scale = rounding.nearest(model[7].weight, 4)
    values, numbers = expected.unique(return_counts=True)
    assert report.layers[0].histogram == dict(zip(values.tolist(), numbers.tolist(), strict=True))
    assert torch.equal(small[7].weight, expected * scale[:, None])
    assert torch.equal(small[0].weight, model[0].weight)
    assert torch.equal(small[7].bias, model[7].bias)
    random = rounding.quantize(model, lambda w, seed: rounding.stochastic(w, 4, seed))[1]
    assert (random.layers[0].rows, random.layers[0].inputs) == (6, 25)


def test_each_layer_rounds_by_a_seed_of_its_own():
    model = nn.Sequential(nn.Linear(40, 9), nn.Linear(40, 9))
    model[1].load_state_dict(model[0].state_dict())
    small, _ = rounding.quantize(model, lambda w, seed: rounding.stochastic(w, 3, seed), seed=5)
    for number in range(2):
        codes, scale = rounding.stochastic(model[number].weight, 3, fold_in(5, number))
        assert torch.equal(small[number].weight, codes * scale[:, None])
    assert not torch.equal(small[0].weight, small[1].weight)


def test_costs_are_added_up_over_layers():
    square = torch.tensor([[0, 1], [1, 0]])
    layers = [
        Layer("", 0, nn.Linear(inputs, rows)).report(codes, floats=0)
        for codes in (square, torch.zeros(1, 8, dtype=torch.int32))
        for rows, inputs in [codes.shape]
    ]
    cost = compared._cost(layers)
    assert cost == {"bits": (4 + 32 * 3) / 12, "entropy": (4 + 32 * 3) / 12, "kept": 1 - 10 / 12}
    more = compared._cost(layers, inputs_too=True)
    assert more["bits"] == pytest.approx((4 + 32 * 3 + 32 * 10) / 12)


def test_what_comes_before_is_computed_once_and_nothing_else_changes():
    from mcnn import data, training

    digits = data.load("digits")
    model = nets.build("lenet5", seed=0, shape=(1, 8, 8)).eval()
    changed, _ = density.quantize(model, fraction=0.5, layers="9", seed=0)
    for start in (0, 3, 9):
        accuracy = compared.accuracy_from(model, start, digits.test)
        assert accuracy(changed) == training.evaluate(changed, digits.test).accuracy
