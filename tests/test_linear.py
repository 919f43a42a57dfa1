"""Layers of sampled weights: the same numbers as the dense form, at a cost that grows linearly."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mcnn import data, density, linear
from mcnn.experiments.linear import cost, fc
from mcnn.ledger import cli, records, registry
from mcnn.linear import SampledLinear
from mcnn.linear.wiring import METHODS, sample_connections, signs
from mcnn.profiling import PeakBytes
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(layer, x):
    """Unit by unit, weight by weight: the straightforward form."""
    y = torch.zeros(*x.shape[:-1], layer.out_features, dtype=x.dtype)
    for i in range(layer.out_features):
        for at in range(int(layer.starts[i]), int(layer.starts[i + 1])):
            w = int(layer.counts[at]) * layer.scale[i].detach().to(x.dtype)
            y[..., i] += w * x[..., int(layer.inputs[at])]
        if layer.bias is not None:
            y[..., i] += layer.bias[i].detach()
    return y


# --- the layer ----------------------------------------------------------------------------------


@given(
    outputs=st.integers(1, 6),
    inputs=st.integers(1, 9),
    batch=st.lists(st.integers(0, 3), max_size=2),
    zeros=st.floats(0, 1),
    largest=st.sampled_from([1, 127, 128, 40000]),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_counts_give_what_the_straightforward_form_gives(
    outputs, inputs, batch, zeros, largest, bias, seed
):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(-largest, largest + 1, (outputs, inputs), generator=generator)
    counts[torch.rand(outputs, inputs, generator=generator) < zeros] = 0
    scale = normal(outputs, seed=seed, dtype=torch.float64)
    b = normal(outputs, seed=seed + 1, dtype=torch.float64) if bias else None
    layer = SampledLinear.from_counts(counts, scale, b)
    assert layer.n_weights == counts.count_nonzero()
    assert torch.equal(layer.dense_weight(), counts * scale[:, None])
    x = normal(*batch, inputs, seed=seed + 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x), rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_floating_type_and_device(dtype, device):
    layer = SampledLinear.from_linear(nn.Linear(200, 30), samples=20, seed=1).to(device, dtype)
    x = normal(7, 200).to(device, dtype)
    y = layer(x)
    assert y.dtype == dtype
    exact = F.linear(x.double(), layer.dense_weight().double(), layer.bias.double())
    error = (y - exact).abs().max() / exact.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


def test_counts_are_those_of_the_density_in_the_narrowest_type():
    dense = nn.Linear(300, 20)
    for samples, dtype in ((50, torch.int8), (60000, torch.int16)):
        layer = SampledLinear.from_linear(dense, samples, "systematic", seed=3)
        counts = density.sample_counts(dense.weight, samples, "systematic", seed=3)
        assert layer.counts.dtype == dtype
        assert torch.equal(layer.counts.int(), counts[counts != 0])
        torch.testing.assert_close(layer.dense_weight(), density.dequantize(counts, dense.weight))
    assert layer.bias is not dense.bias
    assert torch.equal(layer.bias, dense.bias)


def test_a_neuron_keeps_at_most_as_many_weights_as_it_has_samples():
    layer = SampledLinear.from_linear(nn.Linear(500, 40), samples=17)
    assert layer.starts.diff().max() <= 17
    rows = torch.arange(40).repeat_interleave(layer.starts.diff())
    sums = torch.zeros(40, dtype=torch.int64).index_add(0, rows, layer.counts.abs().long())
    assert (sums == 17).all()


def test_neurons_without_weights_give_their_bias():
    dense = nn.Linear(5, 3)
    with torch.no_grad():
        dense.weight[1] = 0
    layer = SampledLinear.from_linear(dense, samples=4)
    assert torch.equal(layer(normal(6, 5))[:, 1], dense.bias[1].expand(6))
    nothing = SampledLinear.from_counts(torch.zeros(2, 3, dtype=torch.int32), torch.ones(2))
    assert torch.equal(nothing(normal(4, 3)), torch.zeros(4, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_gradients(bias):
    dense = nn.Linear(12, 5, bias=bias).double()
    layer = SampledLinear.from_linear(dense, samples=7, seed=2)
    x = normal(4, 12, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_compiled():
    torch.compiler.reset()
    layer = SampledLinear.from_linear(nn.Linear(60, 20), samples=9)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = normal(8, 60)
    torch.testing.assert_close(compiled(x), layer(x))


def test_layers_hand_on_their_order_without_a_copy():
    """Unit by unit, behind the first layer; rows, as ``nn.Linear`` returns them, take a copy."""
    first, second = (SampledLinear.random(256, 256, 8, seed=s) for s in (1, 2))
    x = normal(256, 64)  # as a layer before would have left it
    with torch.no_grad():
        y = first.feature_major(x, relu=True)
    assert y.is_contiguous()
    with torch.no_grad(), PeakBytes() as again:
        z = second.feature_major(y)
    one = 4 * 256 * 64
    assert one <= again.peak < 2 * one, "a copy of the input would make two"
    with torch.no_grad(), PeakBytes() as copied:
        rows = second(y.T)
    assert copied.peak >= 2 * one
    assert rows.is_contiguous()
    torch.testing.assert_close(rows, z.T)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_the_batch_have_a_stride_of_one(batch, monkeypatch):
    """With any other stride, as a single column may have, PyTorch takes three times as long."""
    strides = []
    real = F.embedding_bag
    monkeypatch.setattr(
        F,
        "embedding_bag",
        lambda i, a, *rest, **o: strides.append(a.stride()) or real(i, a, *rest, **o),
    )
    layer = SampledLinear.random(50, 20, 4)
    layer(normal(batch, 50))
    layer(normal(50, batch).T)
    assert strides == [(batch, 1)] * 2


def test_a_state_is_loaded_whatever_the_lengths_of_its_lists(tmp_path):
    layer = SampledLinear.from_linear(nn.Linear(90, 30), samples=500, seed=1)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = SampledLinear.random(90, 30, fan_in=1)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert other.counts.dtype == layer.counts.dtype
    assert torch.equal(other(x := normal(4, 90)), layer(x))
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        SampledLinear.random(90, 31, fan_in=1).load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


_LISTS = {
    "in_features": 3,
    "starts": torch.tensor([0, 1, 2], dtype=torch.int32),
    "inputs": torch.tensor([0, 2], dtype=torch.int32),
    "counts": torch.tensor([1, -1], dtype=torch.int8),
    "scale": torch.ones(2),
}


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"starts": torch.tensor([0, 1, 2])}, TypeError, "starts and inputs must be int32"),
        ({"inputs": torch.tensor([0, 2])}, TypeError, "int64"),
        ({"counts": torch.tensor([1.0, 2.0])}, TypeError, "counts must be int8"),
        ({"starts": torch.zeros(1, dtype=torch.int32)}, ValueError, r"\[out_features \+ 1\]"),
        ({"starts": torch.tensor([0, 2, 1], dtype=torch.int32)}, ValueError, "grow from 0 to 2"),
        ({"starts": torch.tensor([1, 1, 2], dtype=torch.int32)}, ValueError, "grow from 0"),
        ({"counts": torch.ones(3, dtype=torch.int8)}, ValueError, "same length"),
        ({"in_features": 2}, ValueError, "in_features - 1 = 1"),
        ({"inputs": torch.tensor([-1, 2], dtype=torch.int32)}, ValueError, "inputs must be in"),
        ({"scale": torch.ones(3)}, ValueError, r"scale must be \[out_features\] = \[2\]"),
        ({"bias": torch.ones(1)}, ValueError, "bias must be"),
    ],
)
def test_bad_lists_are_named(change, error, names):
    SampledLinear(**_LISTS)
    with pytest.raises(error, match=names):
        SampledLinear(**_LISTS | change)


def test_input_of_the_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"must be \[..., 3\], got \[2, 4\]"):
        SampledLinear(**_LISTS)(torch.ones(2, 4))
    assert "in_features=3, out_features=2, n_weights=2, bias=False" in repr(SampledLinear(**_LISTS))


# --- from scratch -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(n=st.integers(1, 200), units=st.integers(1, 100), data=st.data(), seed=st.integers(0, 99))
def test_a_unit_has_one_input_of_each_stratum(method, n, units, data, seed):
    k = data.draw(st.integers(1, n))
    inputs = sample_connections(n, units, k, method, seed)
    assert inputs.dtype == torch.int32
    edges = torch.arange(k + 1) * n // k
    assert (edges[:-1] <= inputs).all()
    assert (inputs < edges[1:]).all(), "so they are distinct"


@pytest.mark.parametrize("method", METHODS)
def test_every_input_is_as_likely_as_any_other(method):
    n, units, k, seeds = 48, 96, 4, 400
    hits = torch.stack(
        [
            torch.bincount(sample_connections(n, units, k, method, s).flatten().long(), minlength=n)
            for s in range(seeds)
        ]
    ).double()  # [seeds, n]
    mean = units * k / n
    assert hits.mean() == mean
    spread = hits.std(0).clamp(min=0.1) / seeds**0.5
    assert ((hits.mean(0) - mean) / spread).abs().max() < 4.5


def test_rotated_inputs_cover_all_and_lie_next_to_those_of_the_unit_before():
    n, k = 4096, 16
    inputs = sample_connections(n, n, k, "rotated", seed=3)
    hits = torch.bincount(inputs.flatten().long(), minlength=n)
    assert hits.min() >= k - 2
    assert hits.max() <= k + 2
    steps = inputs.diff(dim=0)
    assert ((steps >= -1) & (steps <= 1)).float().mean() > 0.99, "but where it starts anew"


def test_signs_are_fair_and_independent_of_each_other():
    found = signs(1000, 100, seed=1).double()
    assert found.abs().eq(1).all()
    assert abs(found.mean()) < 4 / 1e5**0.5
    correlation = found.T @ found / 1000 - torch.eye(100)
    assert correlation.abs().max() < 5.5 / 1000**0.5


@pytest.mark.parametrize("method", METHODS)
def test_blocks_do_not_change_a_layer(method, monkeypatch):
    a = SampledLinear.random(100, 37, 70, method, seed=5)
    monkeypatch.setattr("mcnn.linear.wiring._BLOCK", 210)
    b = SampledLinear.random(100, 37, 70, method, seed=5)
    c = SampledLinear.random(100, 37, 70, method, seed=6)
    for name in ("inputs", "counts"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert not torch.equal(getattr(a, name), getattr(c, name))


@pytest.mark.parametrize("device", DEVICES)
def test_a_generator_is_advanced_and_the_global_one_is_not(device):
    generator = torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    a, b = (SampledLinear.random(50, 9, 5, seed=generator, device=device) for _ in range(2))
    assert not torch.equal(a.inputs, b.inputs)
    assert torch.equal(before, torch.get_rng_state())


def test_activations_keep_their_size_through_the_layers():
    net = nn.Sequential(
        *[m for s in range(8) for m in (SampledLinear.random(1024, 1024, 32, seed=s), nn.ReLU())]
    )
    x = normal(64, 1024)
    assert 0.5 < net(x).square().mean() / x.square().mean() * 2 < 2


@pytest.mark.parametrize("method", METHODS)
def test_cost_is_linear_in_the_width(method):
    """No matrix of all weights is formed, and twice the units cost twice as much."""
    cost = []
    for n in (2**13, 2**14):
        with torch.no_grad(), PeakBytes() as building:
            layer = SampledLinear.random(n, n, 8, method)
        with torch.no_grad(), PeakBytes() as running:
            layer(torch.ones(n, 4).T)
        assert building.peak < 4 * n * n / 16
        assert layer.n_bytes == 5 * layer.n_weights + 4 * (3 * n + 1)
        cost.append(torch.tensor([layer.n_weights, layer.n_bytes, running.peak]))
    torch.testing.assert_close(cost[1] / cost[0], torch.full((3,), 2.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"in_features": 0}, "in_features must be at least 1"),
        ({"out_features": 0}, "out_features must be at least 1"),
        ({"fan_in": 0}, r"fan_in must be in 1 \.\.\. in_features = 10, got 0"),
        ({"fan_in": 11}, "fan_in"),
        ({"method": "iid"}, "no method 'iid'; there are: jittered, rotated"),
        ({"out_features": 2**31}, r"less than 2\*\*31 weights"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_sizes_are_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        SampledLinear.random(**{"in_features": 10, "out_features": 4, "fan_in": 3} | arguments)


# --- whole networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", density.METHODS)
@pytest.mark.parametrize("order", ["stored", "shuffled"])
def test_a_network_computes_what_the_quantised_one_does(method, order):
    model = nets.build("lenet5", seed=0)
    options = {"fraction": 0.3, "method": method, "order": order, "seed": 4}
    small, report = linear.sample_linears(model, **options)
    fully_connected = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    plain, expected = density.quantize(model, layers=fully_connected, **options)
    assert report == expected
    found = {n: m for n, m in small.named_modules() if isinstance(m, SampledLinear)}
    assert list(found) == fully_connected
    assert sum(m.n_weights for m in found.values()) == report.distinct
    x = normal(5, 1, 28, 28)
    torch.testing.assert_close(small(x), plain(x), rtol=1e-4, atol=1e-5)
    assert isinstance(model[7], nn.Linear)


def test_layers_are_chosen_and_convolutions_stay_as_they_are_stored():
    model = nets.build("lenet5", seed=0).eval()
    small, report = linear.sample_linears(model, samples=9, layers=["3", "7"])
    assert [layer.name for layer in report.layers] == ["3", "7"]
    assert isinstance(small[7], SampledLinear)
    assert not small[7].training
    assert isinstance(small[3], nn.Conv2d)
    assert not torch.equal(small[3].weight, model[3].weight)
    assert isinstance(small[9], nn.Linear)
    lone, _ = linear.sample_linears(nn.Linear(5, 5), samples=3)
    assert isinstance(lone, SampledLinear)
    with pytest.raises(ValueError, match="no linear"):
        linear.sample_linears(nn.ReLU(), samples=3)
    with pytest.raises(ValueError, match="either samples or fraction"):
        linear.sample_linears(model)


# --- memory -------------------------------------------------------------------------------------


def test_peak_bytes_are_those_that_are_held_at_once():
    x = torch.ones(1000)
    with PeakBytes() as made:
        x.view(10, 100).add_(1)
        assert made.peak == 0, "views and what is done in place make nothing"
        y = x + 1
        z = y * 2
        del y
        assert (made.live, made.peak) == (4000, 8000)
        z = z.double()
        assert (made.live, made.peak) == (8000, 12000)
    assert made.peak == 12000
    del z
    assert made.live == 0


# --- the experiments ----------------------------------------------------------------------------


def test_slopes_are_those_of_the_curves():
    trial = cost.CostTrial()
    widths = {kind: [2.0**p for p in cost.powers(trial, kind)] for kind in (*cost.SAMPLED, "dense")}
    metrics = {
        kind: {
            "operations": [n**2 for n in ns],
            "bytes": [5 * n for n in ns],
            "peak bytes": [n**1.5 for n in ns],
            "log2 seconds": [1.25 * np.log2(n) - 30 for n in ns],
        }
        for kind, ns in widths.items()
    }
    one, other = (SimpleNamespace(config=replace(trial, batch=b), metrics=metrics) for b in (64, 1))
    found = registry.get("linear-cost").measures["linear-cost"]([one, other, one])
    for kind in widths:
        assert found[f"operations, {kind}"] == pytest.approx([2, 2])
        assert found[f"bytes, {kind}"] == pytest.approx([1, 1])
        assert found[f"peak bytes, {kind}"] == pytest.approx([1.5, 1.5])
        assert found[f"seconds, {kind}"] == pytest.approx([1.25, 1.25])
        assert found[f"seconds, {kind}, batch 1"] == pytest.approx([1.25])
    assert found["seconds, jittered, from 2^17"] == pytest.approx([1.25, 1.25])
    assert "seconds, dense, from 2^17" not in found


def test_cost_of_layers_is_counted_from_what_is_there():
    trial = cost.CostTrial(batch=4, fan_in=8, powers=(5, 6), dense_powers=(5, 6), rounds=1)
    found = registry.get("linear-cost").run(trial, torch.device("cpu"))
    for kind in cost.SAMPLED:
        assert found[kind]["operations"] == [2 * 8 * n * 4 for n in (32, 64)]
        assert found[kind]["bytes"] == [5 * 8 * n + 4 * (3 * n + 1) for n in (32, 64)]
    assert found["dense"]["operations"] == [2 * n * n * 4 for n in (32, 64)]
    assert found["dense"]["bytes"] == [4 * (n * n + n) for n in (32, 64)]
    held = [4 * (n * n + n + 2 * n * 4) for n in (32, 64)]  # with input and output
    assert found["dense"]["peak bytes"] == held


@pytest.mark.parametrize("name", ["lenet5", "lenet-wide", "alexnet"])
def test_a_network_is_cut_before_its_fully_connected_layers(name):
    model = nets.build(name, seed=0).eval()
    convolutions, head = fc.parts(model)
    x = normal(2, *((3, 224, 224) if name == "alexnet" else (1, 28, 28)))
    with torch.no_grad():
        torch.testing.assert_close(head(convolutions(x)), model(x))
    assert not any(isinstance(m, nn.Linear) for m in convolutions.modules())
    assert not any(isinstance(m, nn.Conv2d) for m in head.modules())


def test_with_all_samples_that_fit_a_network_is_as_accurate_as_it_was(monkeypatch):
    monkeypatch.setattr(fc.density, "quantize", lambda head, **_: (head, FULL))
    trial = fc.FcTrial(dataset="digits", net="lenet5", epochs=1, mixed=True, methods=("iid",))
    found = registry.get("linear-fc").run(trial, torch.device("cpu"))
    record = SimpleNamespace(config=trial, metrics=found)
    readings = fc._measure([record], ["top-1", "top-5"])
    assert readings["LeNet, digits, top-5: iid, 10%"] == [1.0]
    assert readings["LeNet, digits, top-1: iid, 50% less 10%"] == [0.0]
    assert found["hit"]["iid"] == pytest.approx([0.25] * 10)


FULL = SimpleNamespace(distinct=1, weights=4)


def test_readings_are_means_over_samplings_relative_to_the_whole_network():
    trial = fc.FcTrial(methods=("jittered",), fractions=(0.1, 0.5, 1.0), samplings=2)
    sampled = {"top-1": {"jittered": [[0.1, 0.3], [0.4, 0.6], [0.7, 0.7]]}}
    metrics = {"dense": {"top-1": 0.8}, "sampled": sampled}
    found = fc._measure([SimpleNamespace(config=trial, metrics=metrics)] * 3, ["top-1"])
    assert found["LeNet, CIFAR-10: jittered, 10%"] == pytest.approx([0.25] * 3)
    assert found["LeNet, CIFAR-10: jittered, 100% less 50%"] == pytest.approx([0.25] * 3)
    assert found["LeNet, CIFAR-10: jittered, 50% less 10%"] == pytest.approx([0.375] * 3)


def test_every_net_has_a_title_and_the_claims_find_their_readings():
    experiment = registry.get("linear-fc")
    for profile in ("fast", "full"):
        for trial in experiment.trials(profile, range(5)):
            assert (trial.net, trial.dataset) in fc.TITLES
            assert {0.1, 0.5, 1.0} <= set(trial.fractions)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Three validation photographs of two classes where ILSVRC12 is looked for."""
    folder = tmp_path / "ilsvrc12"
    names = {"n01440764": ("tench",), "n01443537": ("goldfish",)}
    rng = np.random.default_rng(2)
    for wnid, count in zip(names, (2, 1), strict=True):
        (folder / "val" / wnid).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (260, 240, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "val" / wnid / f"{i}.JPEG")
    torch.save((names, ["n01440764", "n01440764", "n01443537"]), folder / "meta.bin")
    known = replace(data.DATASETS["ilsvrc12"], sizes=(0, 3))
    monkeypatch.setitem(data.DATASETS, "ilsvrc12", known)
    monkeypatch.setenv("MCNN_DATA", str(tmp_path))


@pytest.fixture
def small_alexnet(monkeypatch):
    """AlexNet with few units, whose published weights always see a goldfish, then a tench."""
    real = torchvision.models.alexnet

    def alexnet(weights, num_classes, dropout):
        assert weights == "IMAGENET1K_V1"
        model = real(num_classes=num_classes, dropout=dropout)
        for at, sizes in {1: (9216, 16), 4: (16, 16), 6: (16, num_classes)}.items():
            model.classifier[at] = nn.Linear(*sizes)
        with torch.no_grad():
            model.classifier[6].weight.zero_()
            model.classifier[6].bias.copy_(-torch.arange(num_classes).sub(1.2).abs())
        return model

    monkeypatch.setattr(torchvision.models, "alexnet", alexnet)


def test_ilsvrc12_is_one_command(photographs, small_alexnet, tmp_path, capsys):
    run = ["run", "linear-fc", "--profile", "full", "--dataset", "ilsvrc12", "--seeds", "0-1"]
    assert cli.main([*run, "--device", "cpu", "--results", str(tmp_path / "results")]) == 0
    assert "linear-fc: 2 to run, 0 recorded\n2 new records" in capsys.readouterr().out
    found = records.read("linear-fc", tmp_path / "results")
    assert [r.config.weights for r in found] == ["IMAGENET1K_V1"] * 2
    assert found[0].metrics["dense"] == {"top-1": 1 / 3, "top-5": 1.0}
    assert found[0].provenance["data"]
    readings = registry.get("linear-fc").measures["linear-fc-ilsvrc12"](found)
    assert readings["AlexNet, ILSVRC12, top-5: jittered, 50%"] == [1.0, 1.0]
    assert readings["AlexNet, ILSVRC12, top-1: systematic, 10%"] == [1.0, 1.0]
