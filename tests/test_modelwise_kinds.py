"""Kinds of layers other than linear ones and convolutions: rows, coverage, inputs, ties."""

import math
import warnings

import pytest
import torch
from torch import nn

from mcnn import density, linear, modelwise, partition
from mcnn.baselines import rounding
from mcnn.density import importance
from mcnn.paths import PathConv2d, PathLinear


class Conv1D(nn.Module):
    """As in transformers: y = x W + b with W [inputs, outputs]."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.3)
        self.bias = nn.Parameter(torch.randn(nf) * 0.1)

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight).view(
            *x.shape[:-1], self.nf
        )


class Block(nn.Module):
    def __init__(self, width, heads, drop):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Conv1D(3 * width, width), Conv1D(width, width)
        self.mlp = nn.ModuleDict(
            {"c_fc": Conv1D(4 * width, width), "c_proj": Conv1D(width, 4 * width)}
        )
        self.resid_dropout = nn.Dropout(drop)

    def forward(self, x):
        b, t, c = x.shape
        parts = self.c_attn(self.ln_1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, c)))
        hidden = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)))
        return x + self.resid_dropout(self.mlp["c_proj"](hidden))


class SmallGPT(nn.Module):
    """GPT-2 as transformers has it: Conv1D, learned positions, and a head tied to the embedding."""

    def __init__(self, width=16, heads=2, layers=2, tokens=11, positions=8, drop=0.1):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.drop = nn.Dropout(drop)
        self.h = nn.ModuleList([Block(width, heads, drop) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, tokens, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids):
        x = self.drop(self.wte(ids) + self.wpe.weight[: ids.shape[1]])
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Recurrent(nn.Module):
    """A recurrent layer, or a cell step by step, as a function of its input alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if isinstance(self.layer, nn.RNNBase):
            return self.layer(x)[0]
        state = None
        for step in x:
            state = self.layer(step, state)
        return state[0] if isinstance(state, tuple) else state


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        nn.init.normal_(self.layer.in_proj_bias)
        self.options = options

    def forward(self, x):
        other = x[..., : self.options.get("kdim", 8)]
        return self.layer(x, other, other)[0]


KINDS = {
    "attention": (lambda: Attention(), (3, 5, 8)),
    "attention, three weights": (lambda: Attention(kdim=4, vdim=4), (3, 5, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM(6, 5, 2, bidirectional=True)), (4, 3, 6)),
    "lstm with projection": (lambda: Recurrent(nn.LSTM(6, 5, proj_size=3)), (4, 3, 6)),
    "gru": (lambda: Recurrent(nn.GRU(6, 5, batch_first=True)), (4, 3, 6)),
    "rnn": (lambda: Recurrent(nn.RNN(6, 5, nonlinearity="relu")), (4, 3, 6)),
    "lstm cell": (lambda: Recurrent(nn.LSTMCell(6, 5)), (4, 3, 6)),
    "gru cell": (lambda: Recurrent(nn.GRUCell(6, 5)), (4, 3, 6)),
    "rnn cell": (lambda: Recurrent(nn.RNNCell(6, 5)), (4, 3, 6)),
    "conv1d": (lambda: Conv1D(6, 5), (3, 5)),
    "paths": (lambda: PathLinear(12, 10, paths=40), (3, 12)),
    "paths, uneven": (lambda: PathLinear(12, 10, paths=40, method="uniform"), (3, 12)),
    "paths, signs": (lambda: PathLinear(12, 10, paths=40, fixed_signs=True), (3, 12)),
    "paths, kept": (lambda: PathLinear(12, 10, paths=99, duplicates="keep"), (3, 12)),
    "paths of filters": (lambda: PathConv2d(4, 6, 3, paths=12), (2, 4, 5, 5)),
}


def made(kind):
    make, shape = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = make()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "bias" in name:
                    p.normal_()
        return model.eval(), torch.randn(shape)


FUNCTIONS = {
    "quantize": lambda m, n: density.quantize(m, samples=n),
    "sampled bias": lambda m, n: density.quantize(m, samples=n, bias="sampled"),
    "importance": lambda m, n: importance.quantize(
        m, {layer.name: torch.tensor(2.0) for layer in modelwise.select(m)}, samples=n
    ),
    "rounding": lambda m, n: rounding.quantize(
        m, lambda w, seed: rounding.nearest(w, 16 if n > 100 else 3)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_kind_is_sampled_and_comes_back_with_many_samples(function, kind):
    model, x = made(kind)
    expected = model(x)
    same, report = FUNCTIONS[function](model, 10**7)
    torch.testing.assert_close(same(x), expected, atol=2e-3, rtol=2e-3)
    assert (report.covered, report.untouched) == (report.parameters, ())
    small, report = FUNCTIONS[function](model, 2)
    assert not torch.allclose(small(x), expected, atol=1e-3, rtol=1e-3)
    weights = [p for name, p in model.named_parameters() if "bias" not in name]
    biases = sum(p.numel() for name, p in model.named_parameters() if "bias" in name)
    total = sum(p.numel() for p in weights)
    assert report.weights == total + (biases if function == "sampled bias" else 0)
    if function != "sampled bias":
        kept = sum(int(p.count_nonzero()) for n, p in small.named_parameters() if "bias" not in n)
        assert kept == report.distinct < total


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_what_one_output_adds_up(kind):
    """The sum of magnitudes of a row is the scale of its samples, so rows must be whole."""
    model, _ = made(kind)
    for layer in modelwise.select(model):
        rows = layer.rows.clone()
        outputs = {"weight": getattr(layer.module, "out_units", None)}.get(layer.slot.weight)
        if layer.bias is not None:
            assert len(rows) == len(layer.bias)
        assert outputs in (None, len(rows))
        weight = layer.weight.detach().clone()
        layer.write(rows)
        assert torch.equal(layer.weight, weight)
        assert rows.abs().sum().isclose(weight.abs().sum())


# --- inputs ---------------------------------------------------------------------------------------


def test_inputs_of_attention_are_those_of_its_weights():
    model, x = made("attention, three weights")
    attention = model.layer
    scales = importance.input_scales(model, x)
    for name, width in (("q", 8), ("k", 4), ("v", 4)):
        wanted = x[..., :width].flatten(0, 1).square().mean(0).sqrt()
        torch.testing.assert_close(
            scales[f"layer.{name}_proj_weight"], wanted.expand(8, width).contiguous()
        )
    # With the last weight the identity, attention shows what that weight meets.
    weight, bias = attention.out_proj.weight.data.clone(), attention.out_proj.bias.data.clone()
    attention.out_proj.weight.data, attention.out_proj.bias.data = torch.eye(8), torch.zeros(8)
    mixed = model(x).flatten(0, 1)
    attention.out_proj.weight.data, attention.out_proj.bias.data = weight, bias
    wanted = mixed.square().mean(0).sqrt().expand(8, 8)
    torch.testing.assert_close(scales["layer.out_proj"], wanted)


def steps_of(layer, x):
    """Unroll a stack of LSTMs in one direction by cells: what each weight meets, by its name."""
    inputs, seen = list(x), {}
    for level in range(layer.num_layers):
        cell = nn.LSTMCell(inputs[0].shape[1], layer.hidden_size)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data = getattr(layer, f"{name}_l{level}").data
        h, c = (torch.zeros(len(inputs[0]), layer.hidden_size) for _ in range(2))
        seen[f"weight_ih_l{level}"], before, outputs = torch.cat(inputs), [], []
        for step in inputs:
            before.append(h)
            h, c = cell(step, (h, c))
            outputs.append(h)
        seen[f"weight_hh_l{level}"], inputs = torch.cat(before), outputs
    return seen


@torch.no_grad()
def test_inputs_of_recurrent_layers_are_those_of_their_cells():
    layer, x = nn.LSTM(6, 5, 2), torch.randn(4, 3, 6)
    scales = importance.input_scales(layer, x, batch_size=len(x))
    for name, inputs in steps_of(layer, x).items():
        wanted = inputs.square().mean(0).sqrt()
        torch.testing.assert_close(scales[name], wanted.expand_as(scales[name]))
    both = importance.input_scales(nn.GRU(6, 5, bidirectional=True), x)
    assert {len(scale) for scale in both.values()} == {15}
    packed = nn.utils.rnn.pack_padded_sequence(x, [4, 2, 1])
    mean = importance.input_scales(layer, (packed,))["weight_ih_l0"][0]
    torch.testing.assert_close(mean, packed.data.square().mean(0).sqrt())


@torch.no_grad()
def test_inputs_of_cells():
    model, x = made("lstm cell")
    scales = importance.input_scales(model, (x,))
    torch.testing.assert_close(
        scales["layer.weight_ih"][0], x.flatten(0, 1).square().mean(0).sqrt()
    )
    assert bool((scales["layer.weight_hh"] > 0).all())


@pytest.mark.parametrize("kind", ["paths", "paths, signs", "paths, kept", "paths of filters"])
def test_inputs_of_paths_are_those_of_the_dense_layer(kind):
    model, x = made(kind)
    scale = importance.input_scales(model, x)[""]
    dense = importance.input_scales(model.to_dense(), x)[""]
    edges = model.edges
    torch.testing.assert_close(scale, dense[edges.outputs.long(), edges.inputs.long()])


def test_inputs_that_stay_inside_of_a_layer_are_refused():
    model, x = made("lstm with projection")
    with pytest.raises(ValueError, match=r"'layer.weight_hr_l0' was never used .* leave it out"):
        importance.input_scales(model, x)


# --- whole networks -------------------------------------------------------------------------------


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Sentences(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.rnn, self.head = nn.LSTM(8, 32, 2, batch_first=True), nn.Linear(32, 2)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


def test_what_is_covered_of_real_networks():
    """The share of parameters that issue threads ask for, and each module that is left is named."""
    _, report = density.quantize(Sentences(), fraction=0.5)
    assert report.reasons == {
        "embed": "a table that is looked up: name it in layers if you want it sampled"
    }
    assert report.covered / report.parameters > 0.95
    _, report = density.quantize(encoder(), fraction=0.5)
    assert set(report.reasons.values()) == {"normalisation"}
    gpt = SmallGPT()
    _, report = density.quantize(gpt, fraction=0.5)
    assert len(report.layers) == 9
    assert [x.shared for x in report.layers if x.name == "lm_head"] == [("wte",)]
    assert set(report.untouched) == {"wpe", "ln_f"} | {
        f"h.{i}.ln_{k}" for i in range(2) for k in (1, 2)
    }


def test_parameters_of_no_known_kind_are_named():
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.token = nn.Parameter(torch.zeros(3))

    model = nn.Sequential(nn.Bilinear(2, 3, 4), Own())
    _, report = density.quantize(model, samples=1)
    assert report.untouched == ("0", "1")
    assert "Bilinear is of no known kind, its weight, bias stays" in str(report)


# --- ties -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["head first", "table first"])
def test_a_head_that_is_tied_to_a_table_is_said(order):
    head, table = nn.Linear(6, 50, bias=False), nn.Embedding(50, 6)
    head.weight = table.weight
    pair = {"head": head, "table": table}
    model = nn.ModuleDict(pair if order == "head first" else dict(reversed(pair.items())))
    for function in FUNCTIONS.values():
        small, report = function(model, 2)
        assert small["head"].weight is small["table"].weight
        assert "same weight: head is also table" in str(report)
        assert (report.weights, report.untouched) == (300, ())
    small, report = linear.sample_linears(model, samples=2)
    assert isinstance(small["head"], linear.SampledLinear)
    torch.testing.assert_close(small["head"].weight, small["table"].weight)
    assert "same weight: head is also table" in str(report)


@torch.no_grad()
def test_sampled_linears_compute_inside_of_attention():
    model = encoder().eval()
    x = torch.randn(2, 5, 8)
    small, report = linear.sample_linears(model, samples=10**6)
    assert isinstance(small.layers[0].self_attn.out_proj, linear.SampledLinear)
    torch.testing.assert_close(small(x), model(x), atol=1e-3, rtol=1e-3)  # the fast path
    torch.testing.assert_close(small.train()(x).shape, x.shape)
    assert len(report.layers) == 6
    assert math.isclose(
        report.covered, sum(p.numel() for n, p in model.named_parameters() if _is_linear(n))
    )


def _is_linear(name):
    return "linear" in name or "out_proj" in name


# --- calibration ----------------------------------------------------------------------------------


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, mask=None, scale=1.0):
        x = x * scale
        return self.fc(x if mask is None else x * mask)


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x)


X = torch.arange(24.0).view(6, 4)
ZERO = torch.zeros(6, 4)
BATCHES = {
    "tensor": (One, X),
    "keywords": (Keywords, {"x": X, "scale": 1.0}),
    "keywords, masked": (Keywords, [{"x": X, "mask": torch.ones(4)}]),
    "batches": (One, [X[:2], X[2:]]),
    "input and label": (One, (X, torch.arange(6))),
    "inputs and labels": (One, [(X[:3], torch.arange(3)), (X[3:], torch.arange(3))]),
    "loader": (
        One,
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, torch.arange(6)), 4),
    ),
    "generator": (One, (x for x in X.split(1))),
}


@pytest.mark.parametrize("form", BATCHES)
def test_batches_of_every_form(form):
    make, inputs = BATCHES[form]
    scale = importance.input_scales(make(), inputs)["fc"]
    torch.testing.assert_close(scale[0], X.square().mean(0).sqrt())


def test_batches_that_are_not_clear():
    with pytest.raises(TypeError, match="2 members, and the model takes x, mask, scale: give dict"):
        importance.input_scales(Keywords(), [(X, ZERO)])
    scale = importance.input_scales(Keywords(), [(X, ZERO)], call=lambda m, b: m(*b))["fc"]
    assert (scale == 0).all()
    for empty in (X[:0], [], (), {}):
        with pytest.raises(ValueError, match="inputs is empty"):
            importance.input_scales(One(), empty)
    with pytest.raises(TypeError, match="inputs must be a tensor, a dict"):
        importance.input_scales(One(), 3)


def test_calibration_changes_nothing():
    drops = nn.Dropout(), partition.DropoutPartition(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), *drops, nn.Linear(8, 2))
    model.train()
    model[1].eval()  # frozen statistics stay frozen
    model.append(nn.BatchNorm1d(2))
    model(X)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    scales = importance.input_scales(model, X)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert [m.training for m in model] == [True, False, True, True, True, True]
    again = importance.input_scales(model.eval(), X)
    assert all(torch.equal(scales[name], again[name]) for name in scales)
    with pytest.raises(RuntimeError):
        importance.input_scales(model.train(), X[:, :3])
    assert model[0].training


def test_encoder_layers_in_evaluation_are_seen():
    """Their fast path calls no module, so no hook."""
    x = torch.randn(3, 5, 8)
    model = encoder().eval()
    scales = importance.input_scales(model, x)
    assert len(scales) == 8
    wanted = x.flatten(0, 1).square().mean(0).sqrt()
    torch.testing.assert_close(scales["layers.0.self_attn.in_proj_weight"][0], wanted)
    small, _ = importance.quantize(model, scales, samples=10**6)
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), atol=2e-3, rtol=2e-3)


def test_inputs_at_all_places_of_a_weight_count():
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    layers[1].weight = layers[0].weight
    model = nn.Sequential(*layers)
    x = torch.randn(7, 3)
    met = torch.cat([x, layers[0](x)]).detach()
    torch.testing.assert_close(
        importance.input_scales(model, x)["0"][0], met.square().mean(0).sqrt()
    )


def test_networks_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vit = models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    scales = importance.input_scales(vit, x)
    small, report = importance.quantize(vit, scales, fraction=0.5)
    assert small(x).shape == (2, 5)
    assert len(report.layers) == 2 + 2 * 4
    assert set(report.untouched) == {"", "encoder", "encoder.ln"} | {
        f"encoder.layers.encoder_layer_{i}.ln_{k}" for i in range(2) for k in (1, 2)
    }
    assert "(the model itself)" in str(report)


def test_a_gpt_is_sampled_whole_and_trained_with_partitions():
    torch.manual_seed(0)
    gpt, ids = SmallGPT().eval(), torch.randint(11, (2, 8))
    small, _ = density.quantize(gpt, samples=10**7)
    torch.testing.assert_close(small(ids), gpt(ids), atol=2e-3, rtol=2e-3)
    scales = importance.input_scales(gpt, ids)
    assert scales["h.0.c_attn"].shape == (16, 48)  # [inputs, outputs], as the weight
    assert torch.equal(scales["h.0.c_attn"][:, 0], scales["h.0.c_attn"][:, 1])
    compact, report = linear.sample_linears(gpt, samples=10**7)
    torch.testing.assert_close(compact(ids), gpt(ids), atol=2e-3, rtol=2e-3)
    assert [x.name for x in report.layers] == ["lm_head"]
    again, report = density.quantize(compact, samples=3)
    assert report.reasons["lm_head"] == "sampled before"
    net = partition.replace_dropout(gpt, masks="own").train()
    assert net.h[0].resid_dropout.parts == 10
    for length in (8, 3, 5):
        net(ids[:, :length]).sum().backward()
    assert again(ids).shape == (2, 8, 11)
