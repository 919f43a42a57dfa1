"""Whole models: every function does every model right, or refuses it with one clear message."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from mcnn import density, linear, modelwise
from mcnn.baselines import rounding
from mcnn.density import folding, importance
from mcnn.modelwise import LayerReport, Report
from mcnn.paths import compress
from mcnn.sampling import fold_in


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


# --- models ---------------------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def conv():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def transposed():
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2))


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


def twice():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def hooked(change):
    """Return how to make a model with one layer whose weight something else computes."""

    def make():
        model = mlp()
        change(model[2])
        return model

    return make


MODELS = {
    "mlp": (mlp, (2, 6)),
    "conv": (conv, (2, 1, 6, 6)),
    "transposed": (transposed, (2, 4, 5, 5)),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2)), (2, 4, 9)),
    "tied": (tied, (2, 6)),
    "twice": (twice, (2, 6)),
    "parametrised": (hooked(parametrizations.weight_norm), (2, 6)),
    "parametrised spectrally": (hooked(parametrizations.spectral_norm), (2, 6)),
    "weight_norm": (hooked(nn.utils.weight_norm), (2, 6)),
    "spectral_norm": (hooked(nn.utils.spectral_norm), (2, 6)),
    "pruned": (hooked(lambda m: prune.l1_unstructured(m, "weight", 0.5)), (2, 6)),
    "pruned bias": (hooked(lambda m: prune.l1_unstructured(m, "bias", 0.5)), (2, 6)),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), (2, 6)),
    "nothing": (lambda: nn.Sequential(nn.ReLU()), (2, 6)),
}

# --- functions: with so many samples, steps or walks that the network comes back ------------------


def names(model):
    """Name each weight once, whether it can be written to or not."""
    first = {}
    for name, module in model.named_modules():
        if isinstance(module, modelwise.KINDS):
            first.setdefault(id(module.__dict__.get("_parameters").get("weight", module)), name)
    return list(first.values())


FUNCTIONS = {
    "quantize": lambda m, n: density.quantize(m, samples=n),
    "importance": lambda m, n: importance.quantize(
        m, {name: torch.tensor(2.0) for name in names(m)}, samples=n
    ),
    "rounding": lambda m, n: rounding.quantize(
        m, lambda w, seed: rounding.nearest(w, 16 if n > 100 else 3)
    ),
    "sample_linears": lambda m, n: linear.sample_linears(m, samples=n),
    "compress": lambda m, n: compress(m, paths=10 * n),
}

NOTHING = "the model has no linear or convolutional layer to sample"
UNDONE = "layer '2': its {} is computed by something else before each call, .* call {} first"
REFUSED = {
    "parametrised": "layer '2' is parametrised: call .*remove_parametrizations on it first",
    "parametrised spectrally": "layer '2' is parametrised: call .*remove_parametrizations",
    "weight_norm": UNDONE.format("weight", r"torch\.nn\.utils\.remove_weight_norm\(layer\)"),
    "spectral_norm": UNDONE.format("weight", r"torch\.nn\.utils\.remove_spectral_norm\(layer\)"),
    "pruned": UNDONE.format("weight", r'torch\.nn\.utils\.prune\.remove\(layer, "weight"\)'),
    "pruned bias": UNDONE.format("bias", r'torch\.nn\.utils\.prune\.remove\(layer, "bias"\)'),
    "lazy": "layer '0' has no shape yet: call the model on an input first",
    "nothing": NOTHING,
    ("sample_linears", "transposed"): NOTHING,
    ("sample_linears", "grouped"): NOTHING,
    ("compress", "transposed"): "a walk cannot pass '0', ConvTranspose2d",
    ("compress", "grouped"): "layer '0': groups are not supported",
    ("compress", "tied"): "layers '0' and '2' share their weights",
    ("compress", "twice"): "layers '0' and '2' share their weights",
}


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:Lazy modules")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_does_every_model_right_or_says_why_not(function, kind):
    make, shape = MODELS[kind]
    model = seeded(make)
    message = REFUSED.get((function, kind), REFUSED.get(kind))
    if message:
        with pytest.raises((TypeError, ValueError), match=message):
            FUNCTIONS[function](model, 10)
        return
    x = seeded(lambda: torch.rand(shape))
    expected = model(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same, _ = FUNCTIONS[function](model, 10**7)
    torch.testing.assert_close(same(x), expected, atol=1e-3, rtol=1e-3)
    small, report = FUNCTIONS[function](model, 3)
    assert not torch.allclose(small(x), expected, atol=1e-3, rtol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    untouched = ("0",) if (function, kind) == ("sample_linears", "conv") else ()
    assert report.untouched == untouched
    assert (report.covered == report.parameters) == (not untouched)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert len({x.name for x in report.layers}) == len(report.layers)
    if function != "sample_linears":
        kept = [int(layer.rows.count_nonzero()) for layer in modelwise.select(small)]
        assert kept == [layer.distinct for layer in report.layers]


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("kind", [k for k in MODELS if k in REFUSED and k != "lazy"])
def test_measuring_inputs_and_folding_refuse_the_same(kind):
    make, shape = MODELS[kind]
    with pytest.raises(ValueError, match=REFUSED[kind]):
        importance.input_scales(make(), torch.ones(shape))
    if kind != "nothing":
        with pytest.raises(ValueError, match=REFUSED[kind]):
            folding.fold_norms(make())


@pytest.mark.parametrize("layers", ["fc", ["0", "fc"], "[a-z]*"])
@pytest.mark.parametrize(
    "call",
    [
        lambda m, layers: density.quantize(m, samples=3, layers=layers),
        lambda m, layers: linear.sample_linears(m, samples=3, layers=layers),
        lambda m, layers: rounding.quantize(m, lambda w, s: rounding.ternary(w), layers),
        lambda m, layers: importance.input_scales(m, torch.ones(1, 6), layers),
    ],
)
def test_patterns_that_match_nothing_are_named_with_what_there_is(call, layers):
    pattern = re.escape(repr(layers[-1] if isinstance(layers, list) else layers))
    with pytest.raises(ValueError, match=f"nothing is named {pattern}; there are: 0, 2"):
        call(mlp(), layers)
    with pytest.raises(ValueError, match=NOTHING):
        call(mlp(), lambda name, module: False)
    with pytest.raises(ValueError, match=NOTHING):
        call(mlp(), [])


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("change", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_hooks_elsewhere_go_on(change):
    model = hooked(change)()
    x = torch.rand(2, 6)
    model(x)
    for layers in ("0", lambda name, module: name == "0"):
        small, report = density.quantize(model, samples=10**7, layers=layers)
        assert "2" in report.untouched
        torch.testing.assert_close(small(x), model(x), atol=1e-3, rtol=1e-3)
        assert small[2].weight.grad_fn is not None
        assert small[2].weight.grad_fn is not model[2].weight.grad_fn


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_mended_models_are_sampled():
    """The remedies that the messages name are remedies."""
    for change, remedy in (
        (nn.utils.weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
        (
            lambda m: prune.l1_unstructured(m, "weight", 0.5),
            lambda m: prune.remove(m, "weight"),
        ),
        (
            parametrizations.weight_norm,
            lambda m: nn.utils.parametrize.remove_parametrizations(m, "weight"),
        ),
    ):
        model = hooked(change)()
        remedy(model[2])
        small, report = density.quantize(model, samples=1)
        small(torch.ones(1, 6))
        assert [layer.name for layer in report.layers] == ["0", "2"]
        assert (small[2].weight != 0).sum() <= 3


# --- layers ---------------------------------------------------------------------------------------

LAYOUTS = {
    "linear": (lambda: nn.Linear(4, 6), (2, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2)), (2, 4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), groups=2), (2, 4, 5, 5)),
    "transposed3d": (lambda: nn.ConvTranspose3d(6, 3, 2, groups=3), (2, 6, 4, 4, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_is_what_one_output_adds_up(layout):
    make, shape = LAYOUTS[layout]
    module, x = make(), torch.rand(shape)
    (layer,) = modelwise.select(module)
    before, weight = module(x).detach(), module.weight
    layer.write(layer.rows.clone())
    assert torch.equal(module(x), before)
    assert module.weight is weight
    assert layer.rows.numel() == weight.numel()
    channel = 1 if layout != "linear" else -1
    for output, row in enumerate(layer.rows.clone()):
        rows = layer.rows.clone()
        rows[output] = 0
        layer.write(rows)
        for other, (now, then) in enumerate(
            zip(module(x).unbind(channel), before.unbind(channel), strict=True)
        ):
            wanted = torch.full_like(then, module.bias[other].item()) if other == output else then
            torch.testing.assert_close(now.detach(), wanted)
        rows[output] = row
        layer.write(rows)


def test_layers_are_numbered_as_chosen_and_have_seeds_of_their_own():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(12)))
    chosen = modelwise.select(model, ["1", "1?"])
    assert [(layer.number, layer.name) for layer in chosen] == [(0, "1"), (1, "10"), (2, "11")]
    assert [layer.seed(7) for layer in chosen] == [fold_in(7, number) for number in range(3)]


def test_biases_of_shared_weights_are_all_left_out_or_none_is_sampled():
    model = tied()
    small, _ = density.quantize(model, samples=2, bias="none")
    assert (small[0].bias == 0).all()
    assert (small[2].bias == 0).all()
    with pytest.raises(ValueError, match="'0' shares its weight with '2', but not its bias"):
        density.quantize(model, samples=2, bias="sampled")
    small, report = density.quantize(twice(), samples=2, bias="sampled")
    assert report.layers[0].inputs == 7
    assert small[0] is small[2]


def test_any_name_of_a_shared_layer_will_do():
    for make in (tied, twice):
        model = make()
        for name, other in (("0", "2"), ("2", "0")):
            (layer,) = modelwise.select(model, name)
            assert (layer.name, layer.shared) == (name, (other,))
        small, _ = linear.sample_linears(model, samples=2)
        assert [type(m).__name__ for m in small] == ["SampledLinear", "ReLU", "SampledLinear"]
        assert (small[0] is small[2]) == (model[0] is model[2])


# --- reports --------------------------------------------------------------------------------------


def layer_report(**changes):
    """Return the report of 4 rows of 8 weights with a quarter of -1 and 1 each."""
    values = {
        "name": "fc",
        "rows": 4,
        "inputs": 8,
        "visited": 4,
        "samples": 5,
        "histogram": {-1: 8, 0: 16, 1: 8},
        "floats": 6,
        "bytes_dense": 4 * 36,
    }
    return LayerReport(**values | changes)


def test_costs_of_a_layer_are_closed_forms():
    layer = layer_report()
    assert (layer.weights, layer.distinct, layer.ternary) == (32, 16, True)
    assert layer.bits_per_weight == 1.5
    assert layer.bits == 32 * 1.5 + 6 * 32
    assert layer.bytes_packed == 32 * 2 // 8 + 6 * 4
    uniform = layer_report(histogram=dict.fromkeys(range(-4, 4), 4))
    assert (uniform.bits_per_weight, uniform.ternary) == (3, False)
    assert uniform.bytes_packed == 32 * 3 // 8 + 6 * 4
    empty = layer_report(histogram={0: 32})
    assert (empty.bits_per_weight, empty.bits, empty.bytes_packed) == (0, 6 * 32, 6 * 4)
    odd = layer_report(rows=1, inputs=9, histogram={0: 1, 1: 8})
    assert odd.bytes_packed == 2 + 6 * 4  # nine bits take two bytes


def test_costs_of_a_model_are_those_of_its_layers():
    layers = (layer_report(), layer_report(name="head", histogram={0: 16, 2: 16}))
    report = Report(layers=layers, parameters=100, covered=72, untouched=("rnn",))
    assert (report.weights, report.distinct) == (64, 32)
    assert report.histogram == {-1: 8, 0: 32, 1: 8, 2: 16}
    assert report.bits_per_weight == 1.25
    assert report.bits == 64 * 1.25 + 12 * 32
    assert report.bytes_dense == 8 * 36
    assert report.bytes_packed == 8 + 8 + 12 * 4  # both in two bits: 0 ... 2 are three values
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "layer",
        "weights",
        "samples",
        "hit",
        "largest",
        "bits",
        "bytes",
        "packed",
    ]
    assert lines[1].split() == ["fc", "32", "5", "50.0%", "1", "1.50", "144", "32"]
    assert lines[3] == "50.0% of the weights, 1.25 bits each"
    assert lines[4] == "72 of 100 parameters are in these layers, 72.0%"
    assert lines[5:] == ["not touched: rnn"]
    walked = Report(layers=layers, parameters=72, covered=72, untouched=(), paths=9)
    assert str(walked).splitlines()[0].split()[:3] == ["layer", "rows", "visited"]
    assert "9 paths, 50.0% of the weights" in str(walked)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 4), nn.LSTM(4, 5), nn.Linear(5, 2)


def test_what_was_not_touched_is_said():
    model = Classifier()
    _, report = density.quantize(model, samples=2)
    rest = 9 * 4 + 4 * 5 * (4 + 5 + 2)
    assert (report.covered, report.parameters) == (12 + rest - 9 * 4, 12 + rest)
    assert report.untouched == ("embed",)
    assert "not touched: embed (a table that is looked up: name it in layers" in str(report)
    _, report = density.quantize(model, samples=2, layers=["head", "embed"])
    assert [layer.name for layer in report.layers] == ["embed", "head"]
    assert report.reasons == {"rnn": "not chosen, or partly"}
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    _, report = density.quantize(encoder, samples=2)
    assert [layer.name for layer in report.layers] == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj",
        "linear1",
        "linear2",
    ]
    assert report.reasons == {"norm1": "normalisation", "norm2": "normalisation"}
    many = nn.Sequential(nn.Linear(2, 2), *(nn.BatchNorm1d(2) for _ in range(11)))
    assert "not touched: 1, 2, 3, 4, 5, 6, 7, 8 and 3 more" in str(density.quantize(many, 2)[1])


def test_a_weight_that_is_used_elsewhere_is_said():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    _, report = density.quantize(model, samples=2)
    assert report.untouched == ()
    assert (report.covered, report.parameters) == (21, 21)
    assert "same weight: head is also embed" in str(report)


def test_rounding_reports_its_codes():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, -1.0, 0.0, 3.0]])
    small, report = rounding.quantize(model, lambda w, seed: rounding.nearest(w, 3))
    assert torch.equal(small.weight, model.weight)
    assert report.histogram == {-1: 1, 0: 1, 3: 2}
    assert (report.bits, report.layers[0].samples) == (4 * 1.5 + 32, None)
    assert "samples" not in str(report)


def test_what_is_no_model_and_layers_that_choose_nothing_are_named():
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got OrderedDict"):
        modelwise.select(nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="that layers chooses; there are: 0"):
        modelwise.select(nn.Sequential(nn.Linear(2, 2)), [])
    with pytest.raises(TypeError, match="layers must be names"):
        modelwise.select(nn.Linear(2, 2), 3)
