"""Maximisers with a known answer, Gabor fits of Gabor functions, and what a ReLU lets through."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mcnn import interpreter
from mcnn.errors import UsageError
from mcnn.experiments.interpreter import mobilenet, wavelets

torch.set_num_threads(1)
DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


# Activation maximisation


@pytest.mark.parametrize("norm", [0.25, 1.0, 8.0])
def test_the_maximiser_of_a_filter_is_the_filter_over_the_price_of_its_norm(norm):
    layer = nn.Conv2d(3, 4, 5).double()
    prior = interpreter.Prior(norm=norm)
    found = interpreter.maximise(layer, 2, prior, start=drawn(1, 3, 5, 5))
    want = layer.weight[2:3].detach() / norm
    torch.testing.assert_close(found.image, want, rtol=1e-6, atol=1e-6)
    square, bias = float(want.square().sum()) * norm**2, float(layer.bias[2].detach())
    assert found.activation == pytest.approx(square / norm + bias, rel=1e-6)
    assert found.objective == pytest.approx(-square / norm / 2 - bias, rel=1e-6)
    assert layer.weight.grad is None


def test_no_step_from_a_maximiser_makes_it_better_and_variation_makes_it_smoother():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double()
    edges = []
    for variation in (0.0, 0.05):
        prior = interpreter.Prior(1.0, variation)
        found = interpreter.maximise(model, 1, prior, start=drawn(1, 1, 5, 5), steps=300)
        for k in range(20):
            near = found.image + 0.01 * drawn(1, 1, 5, 5, seed=k)
            cost = float(prior(near) - model(near)[0, 1])
            assert cost > found.objective - 1e-6
        image = found.image / found.image.norm()
        edges.append(float(image.diff(dim=-1).abs().sum() + image.diff(dim=-2).abs().sum()))
    assert edges[1] < edges[0]


def test_the_prior_is_what_its_formula_says_and_has_the_right_gradient():
    x = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]]], **DOUBLE)
    assert float(interpreter.Prior(2.0)(x)) == 25
    assert float(interpreter.Prior(2.0, 1.0)(x)) == pytest.approx(25 + 5, abs=1e-2)
    assert torch.autograd.gradcheck(interpreter.Prior(0.5, 2.0), drawn(1, 2, 4, 5).requires_grad_())


def test_a_search_that_runs_away_is_an_error():
    model = nn.Linear(2, 1).double()

    def prior(x):
        return -(x.square().sum().exp())

    with pytest.raises(interpreter.MaximiseError, match="larger norm"):
        interpreter.maximise(model, 0, prior, start=torch.ones(1, 2, **DOUBLE), steps=200)


def test_maximise_refuses_units_and_priors_that_there_are_not():
    layer, start = nn.Linear(3, 2), torch.zeros(1, 3)
    with pytest.raises(UsageError, match=r"unit must be 0 \.\.\. 1, got 2"):
        interpreter.maximise(layer, 2, start=start)
    with pytest.raises(UsageError, match="steps"):
        interpreter.maximise(layer, 0, start=start, steps=0)
    for norm, variation in ((0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(UsageError, match="norm must be positive"):
            interpreter.Prior(norm, variation)


# Gabor functions


def gabor(side, angle, frequency, phase, sigma, centre=None):
    centre = (side - 1) / 2 if centre is None else centre
    y, x = torch.meshgrid(
        torch.arange(side, **DOUBLE) - centre, torch.arange(side, **DOUBLE) - centre, indexing="ij"
    )
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    bell = torch.exp(-(u**2 + v**2) / (2 * sigma**2))
    return bell * torch.cos(2 * math.pi * frequency * u + phase)


@pytest.mark.parametrize("k", range(8))
@pytest.mark.parametrize("phase", [0.0, 1.0, math.pi / 2])
def test_a_gabor_function_is_explained_with_its_direction_and_frequency(k, phase):
    angle, frequency = k * math.pi / 8, 2 / 16
    fit = interpreter.gabor_fit(gabor(16, angle, frequency, phase, 0.56 / frequency)[None])
    assert float(fit.explained) > 0.95  # its place is half a pixel off the dictionary's
    assert float(fit.angle) == pytest.approx(angle)
    assert float(fit.frequency) == pytest.approx(frequency)


def test_the_fit_is_a_projection():
    images = drawn(5, 7, 7)
    fit = interpreter.gabor_fit(images)
    inner = (fit.image * images).sum((1, 2))
    torch.testing.assert_close(inner, fit.image.square().sum((1, 2)))
    torch.testing.assert_close(fit.explained, inner / images.square().sum((1, 2)))
    assert ((fit.explained > 0) & (fit.explained < 1)).all()
    torch.testing.assert_close(interpreter.gabor_fit(-3 * images).explained, fit.explained)


def test_noise_and_blobs_are_explained_less():
    wave = interpreter.gabor_fit(gabor(16, 0.4, 0.125, 0.3, 4.0)[None]).explained
    noise = interpreter.gabor_fit(drawn(20, 16, 16)).explained
    flat = interpreter.gabor_fit(torch.ones(1, 16, 16, **DOUBLE)).explained
    assert max(float(noise.max()), float(flat)) < 0.4
    assert float(wave) > 0.8


def test_planes_are_orthonormal():
    planes, angles, frequencies = interpreter.gabor.dictionary(7, 9)
    gram = planes @ planes.transpose(1, 2)
    torch.testing.assert_close(gram[:, 0, 0], torch.ones(len(gram), **DOUBLE))
    torch.testing.assert_close(gram[:, 0, 1], torch.zeros(len(gram), **DOUBLE), atol=1e-8, rtol=0)
    assert len(angles) == len(frequencies) == len(planes)


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 7, 9), (1, 5, 6)])
def test_shuffled_phases_keep_frequencies_and_lose_the_place(shape):
    x = drawn(*shape) + 0.5
    y = interpreter.phase_shuffled(x, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.fft.fft2(x).abs(), torch.fft.fft2(y).abs())
    torch.testing.assert_close(x.mean((1, 2)), y.mean((1, 2)))
    assert float((x - y).norm() / x.norm()) > 0.3
    torch.testing.assert_close(interpreter.orientation(x), interpreter.orientation(y))
    torch.testing.assert_close(interpreter.band(x), interpreter.band(y))
    wave = gabor(16, 0.5, 0.2, 0.0, 2.5)[None]
    lost = interpreter.phase_shuffled(wave, torch.Generator().manual_seed(2))
    both = (float(interpreter.gabor_fit(image).explained) for image in (wave, lost))
    before, after = both
    assert after < 0.7 * before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 10), st.integers(4, 10))
def test_indices_of_a_spectrum_lie_between_zero_and_one_and_turn_with_the_image(seed, h, w):
    x = drawn(3, h, w, seed=seed)
    for index in (interpreter.orientation, interpreter.band):
        value = index(x)
        assert ((value >= 0) & (value <= 1 + 1e-12)).all()
        torch.testing.assert_close(index(x.transpose(1, 2)), value)
        torch.testing.assert_close(index(2 * x), value)


def test_images_without_a_fit_are_refused():
    for images, message in (
        (torch.zeros(1, 5, 5), "without energy"),
        (torch.full((1, 5, 5), torch.nan), "without energy"),
        (torch.ones(5, 5), "must be"),
        (torch.ones(1, 2, 5), "3 x 3"),
    ):
        with pytest.raises(UsageError, match=message):
            interpreter.gabor_fit(images)


# What a ReLU lets through


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_the_probability_is_a_sum_of_binomials(n, m):
    want = sum(math.comb(m, k) for k in range(n, m + 1)) / 2**m
    assert interpreter.recovery_probability(n, m) == pytest.approx(want, abs=1e-12)


def test_open_rows_decide_what_can_be_found_again():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], **DOUBLE)
    weight = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]],  # two open rows: found
            [[1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]],  # one open row
            [[1.0, 0.0], [2.0, 0.0], [-1.0, -1.0]],  # two that say the same
        ],
        **DOUBLE,
    )
    assert interpreter.recovered(x, weight).tolist() == [True, False, False]


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 5), (5, 8), (6, 12)])
def test_the_count_has_that_probability(n, m):
    draws = 2000
    p = interpreter.recovery_probability(n, m)
    spread = (p * (1 - p) * draws) ** 0.5
    assert abs(interpreter.count_recovered(n, m, draws, seed=3) - p * draws) < 4 * spread
    assert interpreter.count_recovered(3, 2, 50) == 0
    for arguments in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            interpreter.count_recovered(*arguments)


# The networks of the experiments


def test_the_papers_table_gives_the_parameters():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.mobilenet_v2(num_classes=7)
    assert mobilenet.table(7) == sum(p.numel() for p in model.parameters())
    assert mobilenet.table(1000) == 3_504_872


def test_rectified_bottlenecks_differ_by_rectifiers_alone():
    trials = mobilenet.bottleneck_trials("fast", [3])
    linear, rectified = (mobilenet.network(t, 10, 3) for t in trials)
    assert [t.bottleneck for t in trials] == ["linear", "relu6"]
    for a, b in zip(linear.parameters(), rectified.parameters(), strict=True):
        assert torch.equal(a, b)

    def count(model):
        return sum(isinstance(m, nn.ReLU6) for m in model.modules())

    blocks = sum(row[2] for row in mobilenet.SETTING)
    assert count(rectified) == count(linear) + blocks
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    narrow = rectified.eval().features[1](rectified.features[0](x))
    assert float(narrow.detach().min()) >= 0
    assert float(linear.eval().features[1](linear.features[0](x)).detach().min()) < 0


def test_halving_undoes_repetition_and_the_network_doubles():
    x = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    model = wavelets.network(4, seed=0)
    assert model(x).shape == (2, 1, 12, 16)
    with torch.no_grad():
        model.details[-2].weight.zero_()
        model.details[-2].bias.zero_()
    torch.testing.assert_close(wavelets.small(model(x)), x)
