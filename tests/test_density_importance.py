"""The optimal density, and factors that move between layers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcnn import density
from mcnn.density import folding, importance
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


# --- scales of inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_scales_of_a_linear_layer_are_root_mean_squares(device):
    x = randn(501, 7).to(device)
    scales = importance.input_scales(nn.Linear(7, 3).to(device), x, batch_size=100)[""]
    expected = x.square().mean(0).sqrt().expand(3, 7)
    torch.testing.assert_close(scales, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"dilation": 2},
        {"padding": 1, "padding_mode": "reflect", "stride": 2},
    ],
)
def test_scales_of_a_convolution_are_those_of_its_patches(options):
    layer, x = nn.Conv2d(3, 4, 3, **options), randn(5, 3, 9, 9)
    mode, pad = options.pop("padding_mode", "constant"), options.pop("padding", 0)
    padded = F.pad(x, (pad,) * 4, mode=mode)
    patches = F.unfold(padded, 3, **options)  # [5, 27, places]
    expected = patches.square().mean((0, 2)).sqrt().view(1, 3, 3, 3).expand(4, 3, 3, 3)
    torch.testing.assert_close(importance.input_scales(layer, x)[""], expected)


def test_rows_of_different_groups_have_their_own_scales():
    x = torch.cat([torch.ones(2, 1, 6), 3 * torch.ones(2, 1, 6)], 1)
    scales = importance.input_scales(nn.Conv1d(2, 4, 3, groups=2), x)[""]
    assert scales.flatten(1).mean(1).tolist() == pytest.approx([1, 1, 3, 3])


def test_scales_inside_a_model_are_those_of_its_activations():
    model, x = nets.build("lenet5", seed=0), randn(20, 1, 28, 28).abs()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scales = importance.input_scales(model, x)
    assert list(scales) == ["0", "3", "7", "9", "11"]
    with torch.no_grad():
        seen = model[:9](x)  # [20, 120]
    torch.testing.assert_close(scales["9"][0], seen.square().mean(0).sqrt())
    assert list(importance.input_scales(model, x, layers="9")) == ["9"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_scales_of_half_precision_do_not_overflow():
    layer = nn.Linear(4, 2).half()
    scales = importance.input_scales(layer, torch.full((3, 4), 1000.0).half())[""]
    assert scales.dtype == torch.float32
    assert (scales == 1000).all()


def test_bad_calibrations_are_named():
    layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="inputs is empty"):
        importance.input_scales(layer, torch.ones(0, 4))
    model = nn.Sequential(nn.Linear(4, 4))
    model.add_module("head", nn.Linear(4, 2))
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match="'head' was never used"):
        importance.input_scales(model, torch.ones(2, 4))


# --- the optimum --------------------------------------------------------------------------------


def mean_variance(w, inputs, scale, samples, method="iid"):
    """Sampling w with scales s is sampling w s for inputs a / s."""
    many = (w * scale).expand(len(inputs), -1)
    return density.variance(many, inputs / scale, samples, method).mean()


@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), strength=st.floats(0.01, 2))
def test_no_scales_beat_the_measured_ones(seed, n, strength):
    w = randn(1, n, seed=seed).double()
    inputs = randn(50, n, seed=seed + 1).double() * torch.arange(1, n + 1)
    best = inputs.square().mean(0).sqrt()
    other = best * (strength * randn(n, seed=seed + 2).double()).exp()
    least = mean_variance(w, inputs, best, 5)
    assert least <= mean_variance(w, inputs, other, 5) * (1 + 1e-9)
    assert least <= mean_variance(w, inputs, torch.ones(n), 5) * (1 + 1e-9)


def test_the_least_variance_is_that_of_the_formula():
    w, inputs = randn(1, 30).double(), randn(40, 30, seed=1).double().relu()
    scale = inputs.square().mean(0).sqrt()
    exact = (inputs @ w[0]).square().mean()
    expected = ((w.abs() * scale).sum() ** 2 - exact) / 7
    torch.testing.assert_close(mean_variance(w, inputs, scale, 7), expected)


@pytest.mark.parametrize("method", density.METHODS)
def test_sampling_with_scales_is_unbiased(method):
    row, repeats = randn(1, 9), 20000
    layer = nn.Linear(9, repeats)
    with torch.no_grad():
        layer.weight.copy_(row)
    scale = torch.arange(1.0, 10)
    sampled, report = importance.quantize(layer, {"": scale}, samples=5, method=method, seed=3)
    drawn = sampled.weight.detach().double()
    z = (drawn.mean(0) - row[0]) / (drawn.std(0) / repeats**0.5)
    assert z.abs().max() < 4.5
    assert sum(abs(c) * n for c, n in report.histogram.items()) == 5 * repeats
    assert torch.equal(sampled.bias, layer.bias)


def test_equal_scales_change_nothing():
    model = nets.build("lenet5", seed=0)
    scales = {"3": torch.tensor(2.0), "7": torch.tensor(2.0)}
    a, _ = importance.quantize(model, scales, fraction=0.5, seed=4)
    b, _ = density.quantize(model, fraction=0.5, layers=["3", "7"], seed=4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scales_keep_the_dtype(dtype):
    layer = nn.Linear(8, 3).to(dtype)
    sampled, _ = importance.quantize(layer, {"": torch.arange(8.0)}, samples=4)
    assert sampled.weight.dtype == dtype
    assert (sampled.weight[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        ({"": torch.tensor([1.0, -1.0, 1.0])}, "negative"),
        ({"": torch.tensor([1.0, float("nan"), 1.0])}, "NaN"),
        ({"": torch.ones(4)}, "does not broadcast"),
        ({"": torch.ones(1), "fc": torch.ones(1)}, "'fc' is no linear"),
        ({}, "no linear or convolutional layer"),
    ],
)
def test_bad_scales_are_named(scales, names):
    with pytest.raises(ValueError, match=names):
        importance.quantize(nn.Linear(3, 2), scales, samples=3)


# --- folding ------------------------------------------------------------------------------------

STACKS = {
    "mlp": (lambda: nets.mlp((8, 6, 5, 3)), (4, 8)),
    "lenet5": (lambda: nets.lenet5((1, 28, 28)), (2, 1, 28, 28)),
    "lenet-wide": (lambda: nets.lenet_wide((3, 32, 32)), (2, 3, 32, 32)),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv1d(2, 3, 3), nn.LeakyReLU(), nn.AvgPool1d(2)),
            nn.Conv1d(3, 4, 2, bias=False),
            nn.PReLU(4),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (3, 2, 12),
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_folded_network_computes_the_same(name):
    make, shape = STACKS[name]
    model, x = seeded(make).double(), randn(*shape, dtype=torch.float64)
    folded = folding.fold_norms(model)
    torch.testing.assert_close(folded(x), model(x))
    layers = [m for m in folded.modules() if hasattr(m, "weight") and m.weight.dim() > 1]
    for layer in layers[:-1]:
        norm = layer.weight.flatten(1).abs().sum(1)
        torch.testing.assert_close(norm, torch.ones_like(norm))


def test_folding_leaves_the_densities_of_the_first_layer_and_no_others():
    model = seeded(lambda: nets.mlp((8, 6, 5, 3)))
    folded = folding.fold_norms(model)
    for index, same in ((1, True), (3, False), (5, False)):
        p, q = (m[index].weight.abs() for m in (model, folded))
        p, q = (x / x.sum(1, keepdim=True) for x in (p, q))
        assert torch.allclose(p, q) == same


def test_without_biases_no_activation_exceeds_the_inputs():
    folded = folding.fold_norms(nets.mlp((8, 6, 5, 3), bias=False))
    x = randn(100, 8).clamp(-1, 1)
    assert folded[:5](x).max() <= 1 + 1e-6


def test_norms_as_scales_are_the_densities_of_the_folded_network():
    """Two ways to the same samples: fold and sample, or sample with the factors of folding."""
    model = seeded(lambda: nets.lenet5((1, 28, 28)))
    scales = folding.input_norms(model)
    assert {k: tuple(v.shape) for k, v in scales.items()} == {
        "0": (1, 1, 1, 1),
        "3": (1, 6, 1, 1),
        "7": (1, 400),
        "9": (1, 120),
        "11": (1, 84),
    }
    for name in scales:
        own = {name: scales[name]}
        a = importance.quantize(model, own, fraction=0.5, method="systematic", seed=1)[1]
        folded = folding.fold_norms(model)
        b = density.quantize(folded, fraction=0.5, layers=name, method="systematic", seed=1)[1]
        assert a.layers[0].histogram.keys() == b.layers[0].histogram.keys()
        assert abs(a.distinct - b.distinct) <= 2  # rounding may move a sample over an edge


def test_a_neuron_without_weights_is_left_alone():
    model = seeded(lambda: nets.mlp((4, 3, 2)))
    with torch.no_grad():
        model[1].weight[1].zero_()
    x = randn(5, 4)
    torch.testing.assert_close(folding.fold_norms(model)(x), model(x))


def _shared():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("model", "error", "names"),
    [
        (nn.Linear(3, 2), TypeError, "nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2)), ValueError, "Sigmoid"),
        (_shared(), ValueError, "shares its weights"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, groups=2)), ValueError, "groups"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(4, 4)), ValueError, "inputs of layer '1'"),
        (nn.Sequential(nn.Linear(2, 4), nn.Flatten(), nn.Linear(8, 4)), ValueError, "'2'"),
    ],
)
def test_networks_that_cannot_be_folded_say_why(model, error, names):
    with pytest.raises(error, match=names):
        folding.fold_norms(model)
