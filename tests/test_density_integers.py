"""Layers of integers: both ways to compute them agree, and they estimate the layer without bias."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mcnn.baselines import rounding
from mcnn.baselines.inputs import rounded
from mcnn.density.integers import IntegerLayer, integer_model, sampled, use_engine

RULES = [sampled(0.5), sampled(3), sampled(2, "jittered"), rounded(4), rounded(5, "mse")]


def layers():
    generator = torch.Generator().manual_seed(3)
    options = [
        {"stride": 2, "padding": 1},
        {"padding": (0, 2), "dilation": (2, 1)},
        {"groups": 2, "padding": 1, "bias": False},
        {"groups": 4},
    ]
    for option in options:
        layer = nn.Conv2d(4, 8, (3, 2), **option)
        yield layer, torch.randn(3, 4, 9, 7, generator=generator)
    yield nn.Linear(17, 5), torch.randn(6, 17, generator=generator)
    yield nn.Linear(17, 5, bias=False), torch.randn(2, 3, 17, generator=generator).relu()


CASES = list(layers())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_engines_agree_bit_by_bit(case, rule):
    layer, x = CASES[case]
    small, _ = integer_model(layer, sampled(2), rule, seed=5)
    exact = use_engine(small, "integer")
    assert exact.sums(exact.coded(x)[0]).dtype == torch.int32
    out = exact(x)
    assert torch.equal(use_engine(small, "float")(x), out)
    assert out.shape == layer(x).shape
    assert out.is_contiguous()


@pytest.mark.parametrize("case", range(len(CASES)))
def test_layer_is_that_of_dequantised_weights_and_inputs(case):
    layer, x = CASES[case]
    small, _ = integer_model(layer, sampled(2), rounded(6), seed=5)
    codes, scale = small.coded(x)
    values = codes * scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim()))
    rows = small.scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    weight = small.codes * rows
    if isinstance(layer, nn.Linear):
        expected = F.linear(values, weight, layer.bias)
    else:
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        expected = F.conv2d(values, weight, layer.bias, *options)
    torch.testing.assert_close(small(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [0, 4])
def test_a_sampled_layer_has_no_bias(case):
    """The mean of many samplings is within five of its standard errors of what the layer does."""
    layer, x = CASES[case]
    with torch.no_grad():
        outs = torch.stack(
            [integer_model(layer, sampled(1), sampled(1), seed=s)[0](x) for s in range(400)]
        ).double()
        error = (outs.mean(0) - layer(x)).abs()
    bars = outs.std(0) / 20
    assert (error <= 5 * bars + 1e-6).all()
    assert bars.max() > 0


def test_a_sum_too_large_is_refused():
    layer = nn.Linear(4, 1, bias=False)
    nn.init.ones_(layer.weight)
    small, _ = integer_model(layer, sampled(2.0**14), sampled(2.0**14))
    with pytest.raises(ValueError, match="do not fit into int32"):
        use_engine(small, "integer")(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    use_engine(small, "float")
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert small.sums(small.coded(x)[0]).dtype == torch.float64
    torch.testing.assert_close(small(x), layer(x))


def test_tied_layers_are_replaced_everywhere():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    once = nn.Linear(6, 6)
    model = nn.Sequential(first, nn.ReLU(), second, once, nn.ReLU(), once)
    small, _ = integer_model(model, sampled(1), sampled(1))
    kinds = [type(m) for m in small]
    assert kinds.count(IntegerLayer) == 4
    assert torch.equal(small[0].codes, small[2].codes)
    assert torch.equal(small[2].bias, second.bias)
    assert small[3] is small[5]


def test_what_has_no_form_of_integers_is_named():
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="shares its weight with '1', is of type Embedding"):
        integer_model(tied, sampled(1), sampled(1))
    with pytest.raises(ValueError, match="type Conv1d"):
        integer_model(nn.Sequential(nn.Conv1d(1, 1, 1)), sampled(1), sampled(1))
    with pytest.raises(ValueError, match="padding must be"):
        integer_model(nn.Conv2d(1, 1, 3, padding="same"), sampled(1), sampled(1))
    with pytest.raises(ValueError, match="no engine 'int8'"):
        use_engine(tied, "int8")


def test_the_model_is_not_changed_and_the_report_counts():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small, report = integer_model(model, lambda w, s: rounding.nearest(w, 3), rounded(3))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert report.weights == 18 + 6
    assert [layer.floats for layer in report.layers] == [4, 6]
    assert small(torch.ones(2, 1, 3, 3)).shape == (2, 3)


def test_rounded_inputs_have_no_negative_codes_where_none_are_negative():
    codes, scale = rounded(3)(torch.tensor([[0.0, 1.0, 7.0], [-3.0, 1.0, 3.0]]), 0)
    assert codes.tolist() == [[0, 1, 7], [-3, 1, 3]]
    assert scale.tolist() == [1.0, 1.0]


def test_clipping_by_squared_error_is_never_worse():
    x = torch.randn(50, 200, generator=torch.Generator().manual_seed(1)) ** 3
    error = [
        ((c * s[:, None] - x) ** 2).sum(1)
        for c, s in (rounded(3)(x, 0), rounded(3, clip="mse")(x, 0))
    ]
    assert (error[1] <= error[0] * (1 + 1e-6)).all()
    assert (error[1] < 0.9 * error[0]).any()
