"""Layers and networks of paths: equal to matrices with zeros, forward and backward."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcnn.paths import (
    METHODS,
    PathCNN,
    PathConv2d,
    PathLinear,
    PathMLP,
    PathResidual,
    export_onnx,
    grow,
    regrow,
    sample_paths,
    strengths,
    to_dense_model,
    to_gather_model,
    two_four,
)

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
KERNELS = ["gather", "dense"]


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


# --- layers ---------------------------------------------------------------------------------------


def test_the_kernel_is_chosen_and_shown():
    assert PathLinear(64, 64, 64 * 16).kernel == "blocks"
    assert PathLinear(64, 64, 64 * 8).kernel == "gather"
    assert PathLinear(64, 64, 64 * 16, "permutation").kernel == "gather"
    assert PathLinear(64, 64, 64 * 60, "permutation").kernel == "dense"
    assert PathLinear(64, 64, 64 * 16, kernel="dense").kernel == "dense"
    assert "n_weights=1024, bias=True, paths=1024, kernel='blocks'" in repr(
        PathLinear(64, 64, 64 * 16)
    )
    assert PathConv2d(256, 256, 3, 256 * 8).kernel == "gather"
    assert PathConv2d(32, 32, 3, 32 * 8).kernel == "dense"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", [*KERNELS, "blocks"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_linear_layers_are_their_dense_form(kernel, dtype, device):
    layer = PathLinear(32, 16, 128, seed=3, kernel=kernel, dtype=dtype, device=device)
    nn.init.uniform_(layer.bias, generator=torch.Generator(device).manual_seed(0))
    dense = layer.to_dense()
    x = randn(2, 5, 32).to(device, dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert y.shape == (2, 5, 16)
    size = torch.finfo(dtype).eps * 30
    torch.testing.assert_close(y, dense(x), rtol=size, atol=size)
    y.square().sum().backward()
    dense(x).square().sum().backward()
    expected = dense.weight.grad[layer.edges.outputs.long(), layer.edges.inputs.long()]
    torch.testing.assert_close(layer.weight.grad, expected, rtol=size, atol=4 * size * 32)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=size, atol=4 * size * 32)
    csr = layer.to_csr()
    torch.testing.assert_close(csr.to_dense(), dense.weight.detach())
    assert csr.values().numel() == 128


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("k", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 2, 0)])
def test_convolutions_are_their_dense_form(k, stride, padding, kernel):
    options = {"stride": stride, "padding": padding, "kernel": kernel, "dtype": torch.float64}
    layer = PathConv2d(6, 8, k, 20, "permutation", seed=2, **options)
    nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(0))
    dense = layer.to_dense()
    x = randn(3, 6, 9, 11, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(layer(x), dense(x))
    (dx,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(dx, *torch.autograd.grad(dense(x).square().sum(), x))
    layer(x).square().sum().backward()
    dense(x).square().sum().backward()
    expected = dense.weight.grad[layer.edges.outputs.long(), layer.edges.inputs.long()]
    torch.testing.assert_close(layer.weight.grad, expected)
    assert (dense.weight.detach() == 0).all(-1).all(-1).sum() == 48 - len(layer.weight)


def test_kept_duplicates_add_up():
    paths = torch.tensor([[0, 0, 1], [1, 1, 0]])
    kept = PathLinear(2, 2, paths, duplicates="keep")
    merged = PathLinear(2, 2, paths)
    assert kept.weight.shape == (3,)
    assert merged.weight.shape == (2,)
    both = kept.weight[kept.edge_of_path()[:2]].sum()
    torch.testing.assert_close(kept.to_dense().weight[1, 0], both)
    torch.testing.assert_close(kept.to_csr().to_dense(), kept.to_dense().weight.detach())
    assert kept.density == 0.75
    assert merged.density == 0.5


def test_initial_weights():
    layers = {
        init: PathLinear(400, 300, 8000, "uniform", init=init) for init in ("dense", "constant")
    }
    assert layers["dense"].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.03)
    assert layers["constant"].weight.abs().unique().item() == pytest.approx((2 / 400) ** 0.5)
    assert abs(layers["constant"].weight.sign().mean()) < 0.05
    assert (layers["dense"].bias == 0).all()
    layer = PathLinear(400, 300, 8000, "uniform", init="realised")
    fan_in = layer.edges.starts.diff()[layer.edges.outputs]
    assert (layer.weight * (fan_in / 2).sqrt()).std().item() == pytest.approx(1, rel=0.03)
    conv = PathConv2d(40, 30, 3, 600)
    assert conv.weight.std().item() == pytest.approx((2 / 360) ** 0.5, rel=0.03)


def test_alternating_signs_follow_the_number_of_the_path():
    layer = PathLinear(64, 64, 256, init="constant", sign="alternating")
    signs = layer.weight.sign()[layer.edge_of_path()]
    assert torch.equal(signs[0::2], torch.ones(128))
    assert torch.equal(signs[1::2], -torch.ones(128))
    # What is wrong with them: the parity of the path is the leading digit of dimension 0.
    inputs = layer.paths[0] < 32
    assert len(inputs[0::2].unique()) == 1


def test_signs_stay_where_they_are_fixed():
    layer = PathLinear(16, 16, 64, fixed_signs=True, seed=1)
    before = layer.weights().sign().detach()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for step in range(20):
        optimizer.zero_grad()
        layer(randn(8, 16, seed=step)).square().sum().backward()
        optimizer.step()
        layer.weight.data.clamp_(-10, 10)
    assert (layer.weights().sign() == before).all()
    assert (layer.weight < 0).any()  # though parameters changed theirs
    torch.testing.assert_close(layer.to_dense()(randn(3, 16)), layer(randn(3, 16)))


def test_the_same_seed_gives_the_same_layer_and_the_global_generator_stays():
    before = torch.get_rng_state()
    a, b, c = (PathLinear(16, 16, 64, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, c.weight)
    assert torch.equal(before, torch.get_rng_state())


def test_checkpoints_bring_their_paths():
    a = PathMLP([16, 16, 4], 64, seed=1, fixed_signs=True)
    for b in (PathMLP([16, 16, 4], 64, seed=2, fixed_signs=True), copy.deepcopy(a)):
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(randn(3, 16)), b(randn(3, 16)))
        assert torch.equal(a.paths, b.paths)
    b = PathMLP([16, 16, 4], 32, "uniform", seed=2, fixed_signs=True)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(randn(3, 16)), b(randn(3, 16)))
    assert len(b.layers[0].weight) == len(a.layers[0].weight)
    keys = {"weight", "bias", "paths", "signs"}
    layers = {f"layers.{i}.{k}" for i in (0, 1) for k in keys}
    assert a.state_dict().keys() == layers | {"sampled", "sequence"}


def test_compiled_networks_compute_the_same():
    net = PathMLP([16, 64, 64, 4], 1024, seed=1)
    assert {layer.kernel for layer in net.layers} == {"dense", "blocks"}
    sparse = PathMLP([16, 64, 64, 4], 64, seed=1, kernel="gather")
    for model in (net, sparse):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        x = randn(5, 16)
        torch.testing.assert_close(compiled(x), model(x))
        found = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
        expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_networks_are_their_dense_form(method):
    net = PathMLP([20, 16, 12, 4], 60, method, seed=1, dtype=torch.float64)
    layers = [m for layer in net.layers for m in (layer.to_dense(), nn.ReLU())]
    x = randn(7, 20, dtype=torch.float64)
    torch.testing.assert_close(net(x), nn.Sequential(*layers[:-1])(x))
    assert net.widths == (20, 16, 12, 4)
    assert torch.equal(net.paths, sample_paths([20, 16, 12, 4], 60, method, 1))


@pytest.mark.parametrize("outputs", [1, 4])
def test_an_example_without_a_batch_is_the_first_of_one(outputs):
    net = PathMLP([20, 16, outputs], 60, dtype=torch.float64)
    x = randn(1, 20, dtype=torch.float64)
    assert net(x[0]).shape == (outputs,)
    assert torch.equal(net(x[0]), net(x)[0])


@pytest.mark.parametrize("net", [PathMLP([20, 16, 4], 60), PathCNN([3, 8, 16], 5, 128, blocks=1)])
def test_every_parameter_gets_a_gradient(net):
    x = randn(8, 20) if isinstance(net, PathMLP) else randn(8, 3, 8, 8)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_paths_run_through_a_whole_convolutional_network():
    net = PathCNN([3, 8, 16], 5, 128, blocks=1, seed=2)
    layers = [m for m in net.modules() if isinstance(m, PathConv2d | PathLinear)]
    for first, second in pairwise(layers):
        assert torch.equal(first.paths[1], second.paths[0])
    assert [layer.in_units for layer in layers] == [3, 8, 8, 8, 16, 16, 16]
    torch.testing.assert_close(
        to_dense_model(net)(randn(2, 3, 8, 8)), net.eval()(randn(2, 3, 8, 8))
    )


def test_a_residual_block_adds():
    block = PathResidual(8, 16, 64).eval()
    nn.init.zeros_(block.body[-1].weight)
    x = randn(2, 8, 6, 6)
    assert torch.equal(block(x), x)


# --- growth ---------------------------------------------------------------------------------------


def test_networks_nest():
    small, large = (PathMLP([16, 32, 4], paths, seed=3) for paths in (64, 96))
    before = small(randn(5, 16))
    weights = [layer.to_dense().weight.detach() for layer in small.layers]
    grow(small, 32, scale=0)
    assert torch.equal(small.paths, large.paths)
    torch.testing.assert_close(small(randn(5, 16)), before)
    for layer, weight in zip(small.layers, weights, strict=True):
        assert torch.equal(layer.to_dense().weight.detach()[weight != 0], weight[weight != 0])
    grown = PathMLP([16, 32, 4], 64, seed=3)
    grow(grown, 32)
    assert torch.equal(grown.paths, large.paths)
    assert (grown.layers[0].weight != 0).all()


@pytest.mark.parametrize("duplicates", ["merge", "keep"])
@given(seed=st.integers(0, 10**6), rounds=st.integers(1, 4), paths=st.integers(1, 30))
def test_exchanging_paths_never_disconnects(duplicates, seed, rounds, paths):
    from mcnn.paths import Graph

    net = PathMLP([9, 8, 7, 3], 40, "uniform", seed=seed, duplicates=duplicates)
    for _ in range(rounds):
        old, strength = net.paths, strengths(net)
        weights = [layer.weights().detach()[layer.edge_of_path()] for layer in net.layers]
        left = regrow(net, paths)
        assert net.paths.shape == (4, 40)
        assert torch.equal(left, old[:, strength.sort(stable=True).indices[:paths]])
        staying = strength.sort(stable=True).indices[paths:].sort().values
        assert torch.equal(net.paths[:, : 40 - paths], old[:, staying])
        for layer, weight in zip(net.layers, weights, strict=True):
            now = layer.weights().detach()[layer.edge_of_path()]
            assert torch.equal(now[: 40 - paths], weight[staying])
        graph = Graph.of_paths(net.paths, net.widths)
        assert not any(graph.useless)
        assert not any(graph.dangling)
    assert int(net.sampled) == 40 + rounds * paths
    total = sum(layer.weights().detach().abs().log()[layer.edge_of_path()] for layer in net.layers)
    torch.testing.assert_close(strengths(net), total)


# --- other engines --------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [to_gather_model, to_dense_model])
def test_plain_networks_compute_the_same(convert):
    net = PathMLP([20, 16, 4], 60, seed=1, fixed_signs=True)
    plain = convert(net)
    assert not [m for m in plain.modules() if isinstance(m, PathLinear)]
    torch.testing.assert_close(plain(randn(3, 20)), net(randn(3, 20)))
    nested = convert(nn.Sequential(nn.Linear(8, 20), PathLinear(20, 4, 30, bias=False)))
    assert nested(randn(2, 8)).shape == (2, 4)


def test_another_engine_computes_the_same(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = PathMLP([20, 16, 4], 60, seed=1)
    export_onnx(net, randn(2, 20), tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        x = randn(batch, 20)
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), net(x).detach(), atol=1e-5, rtol=0)


def test_two_of_four():
    layer = PathLinear(16, 8, 64, "uniform", seed=1)
    dense, found = layer.to_dense().weight.detach(), two_four(layer)
    fours = found.weight.view(8, 4, 4)
    assert (fours.count_nonzero(2) <= 2).all()
    kept = found.weight != 0
    assert torch.equal(found.weight[kept], dense[kept])
    assert found.edges == len(layer.weight)
    assert found.lost == found.edges - kept.sum()
    lost = (dense - found.weight).square().sum() / dense.square().sum()
    assert found.lost_energy == pytest.approx(float(lost))
    largest = dense.view(8, 4, 4).abs().sort(2).values[..., 2:].square().sum()
    assert fours.square().sum() == pytest.approx(float(largest))


# --- cost -----------------------------------------------------------------------------------------


def saved_bytes(net, x):
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    seen = {}

    def pack(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(x)
    del y
    return sum(seen.values())


def test_memory_grows_by_edges_and_units_only():
    """No tensor of edges times batch: with a batch, memory grows as the units do."""
    layer = PathLinear(256, 256, 256 * 8, "permutation", kernel="gather")
    small, large = (saved_bytes(layer, randn(b, 256)) for b in (16, 32))
    assert large - small <= 16 * 4 * 2 * 256
    double = PathLinear(256, 256, 256 * 16, "permutation", kernel="gather")
    assert saved_bytes(double, randn(16, 256)) < 2 * small


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: PathLinear(4, 4, 8, init="he"), "no init 'he'; there are: "),
        (lambda: PathLinear(4, 4, 8, duplicates="drop"), "duplicates"),
        (lambda: PathLinear(4, 4, 8, sign="even"), "sign"),
        (lambda: PathLinear(4, 4, 8, kernel="csr"), "kernel"),
        (lambda: PathConv2d(4, 4, 3, 8, kernel="blocks"), "kernel"),
        (lambda: PathConv2d(4, 4, 0, 8), "kernel_size"),
        (lambda: PathLinear(4, 4, torch.zeros(3, 2, dtype=torch.int32)), r"\[2, paths\]"),
        (lambda: PathLinear(4, 4, torch.tensor([[0], [4]])), "outputs of paths"),
        (lambda: PathLinear(4, 4, torch.tensor([[-1], [0]])), "inputs of paths"),
        (lambda: PathLinear(4, 4, 8)(torch.zeros(2, 5)), r"\[..., 4\]"),
        (lambda: PathConv2d(4, 4, 3, 8)(torch.zeros(2, 4, 2, 5)), "at least 3"),
        (lambda: PathMLP([4, 4], torch.zeros(3, 2, dtype=torch.int32)), r"\[2, paths\]"),
        (lambda: PathResidual(4, 4, torch.zeros(2, 2, dtype=torch.int32)), r"\[3, paths\]"),
        (lambda: PathCNN([3, 4], 2, 8, blocks=-1), "blocks"),
        (lambda: grow(PathMLP([4, 4], torch.zeros(2, 2, dtype=torch.int32)), 1), "given"),
        (lambda: grow(PathMLP([4, 4], 8), 0), "paths"),
        (lambda: regrow(PathMLP([4, 4], 8), 8), "leave some"),
        (lambda: export_onnx(PathMLP([4, 4], 8), randn(2, 4), "net.onnx", "csr"), "form"),
        (lambda: to_gather_model(PathConv2d(4, 4, 3, 8)), "no gather form"),
        (lambda: two_four(PathLinear(6, 4, 8)), "multiple of 4"),
    ],
)
def test_bad_input_is_named(make, names):
    with pytest.raises(ValueError, match=names):
        make()
