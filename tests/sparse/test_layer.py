"""The interface of sparse layers, the same for layers of samples and of paths."""

import copy
import io

import pytest
import torch
from torch import nn

from mcnn.linear import SampledLinear
from mcnn.paths import PathLinear, to_dense_model, to_gather_model
from mcnn.profiling import PeakBytes
from mcnn.sparse.backends import c
from mcnn.sparse.layer import SparseLinear

IN, OUT = 32, 16


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


def _trained(seed=1, samples=20):
    dense = nn.Linear(IN, OUT)
    with torch.no_grad():
        dense.weight.copy_(randn(OUT, IN, seed=seed))
        dense.weight[3] = 0
        dense.bias.copy_(randn(OUT, seed=seed + 1))
    return SampledLinear.from_linear(dense, samples, seed=seed)


def _paths(seed=1, paths=96, **options):
    layer = PathLinear(IN, OUT, paths, seed=seed, **options)
    nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(seed))
    return layer


_RANDOM = {"method": "uniform"}
# name: makes a layer for a seed; another seed gives other edges, and another number of them
LAYERS = {
    "sampled": lambda seed=1: _trained(seed, 20 * seed),
    "sampled, untrained": lambda seed=1: SampledLinear.random(IN, OUT, 5 * seed, seed=seed),
    "paths, gather": lambda seed=1: _paths(seed, 64 << seed, kernel="gather"),
    "paths, blocks": lambda seed=1: _paths(seed, 32 << seed, kernel="blocks"),
    "paths, dense": lambda seed=1: _paths(seed, 96 * seed, **_RANDOM, kernel="dense"),
    "paths, duplicates": lambda seed=1: _paths(seed, 300 * seed, **_RANDOM, duplicates="keep"),
    "paths, signs": lambda seed=1: _paths(seed, 96 * seed, **_RANDOM, fixed_signs=True),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def matrix_of(layer):
    """The weights as a matrix, entry by entry: [out_features, in_features], float64."""
    edges, matrix = layer.edges, torch.zeros(OUT, IN, dtype=torch.float64)
    for i, j, w in zip(edges.outputs, edges.inputs, layer.weights().detach(), strict=True):
        matrix[i, j] += w.double()
    return matrix


@pytest.fixture(params=["torch", "c"])
def backend(request, monkeypatch):
    """Let one backend compute everything, whatever the size."""
    if request.param == "torch":
        monkeypatch.setattr(c, "available", lambda: False)
    elif not c.available():
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(c, "SMALLEST", 0)
    return request.param


@every_layer
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_layers_compute_what_matrices_do(make, batch, backend):
    layer = make()
    matrix, bias = matrix_of(layer), layer.bias.detach().double()
    x, grad = randn(batch, IN), randn(batch, OUT, seed=1)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    want = x.double() @ matrix.T + bias
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-4)
    with torch.no_grad():  # may take another way
        torch.testing.assert_close(layer(x), y)
        torch.testing.assert_close(layer.feature_major(x.T.contiguous(), relu=True), y.relu().T)
    dx, db = torch.autograd.grad(y, [leaf, layer.bias], grad)
    torch.testing.assert_close(dx.double(), grad.double() @ matrix, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(db, grad.sum(0), rtol=1e-5, atol=1e-4)


@every_layer
def test_forms_hold_the_same_weights(make):
    layer = make().eval()
    assert isinstance(layer, SparseLinear)
    matrix, x = matrix_of(layer), randn(5, IN)
    torch.testing.assert_close(layer.dense_weight().double(), matrix)
    dense, csr = layer.to_dense(), layer.to_csr()
    assert type(dense) is nn.Linear
    assert not dense.training
    torch.testing.assert_close(dense(x), layer(x))
    assert csr.layout == torch.sparse_csr
    torch.testing.assert_close(csr.to_dense().double(), matrix)
    assert layer.n_weights == len(layer.weights()) == len(layer.edges.inputs)
    assert layer.density == layer.n_weights / (IN * OUT)
    for convert in (to_dense_model, to_gather_model):
        torch.testing.assert_close(convert(nn.Sequential(layer, nn.ReLU()))(x), layer(x).relu())
    shown = f"in_features={IN}, out_features={OUT}, n_weights={layer.n_weights}, bias=True"
    assert shown in repr(layer)


@every_layer
def test_gradients(make):
    layer = make().double()
    x = randn(3, IN, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


@every_layer
def test_empty_batches(make):
    layer = make()
    for shape in ((0,), (2, 0), (0, 3)):
        x = torch.ones(*shape, IN, requires_grad=True)
        y = layer(x)
        assert y.shape == (*shape, OUT)
        y.sum().backward()
        assert x.grad.shape == x.shape
        assert all((p.grad == 0).all() for p in layer.parameters())


@every_layer
def test_inputs_in_any_layout(make, backend):
    layer, x = make(), randn(18, 5, IN)
    want = layer(x)
    for other in (x.mT.contiguous().mT, x.repeat_interleave(2, 1)[:, ::2], x.flip(0).flip(0)):
        torch.testing.assert_close(layer(other), want)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()  # its gradient has strides of zero
    want = matrix_of(layer).sum(0).float().expand_as(x)
    torch.testing.assert_close(leaf.grad, want, rtol=1e-5, atol=1e-5)


@every_layer
def test_results_may_be_changed_in_place(make, backend):
    """As behind nn.Linear, where ``nn.ReLU(inplace=True)`` is common; and they lie like its."""
    layer, gradients = make(), []
    for inplace in (True, False):
        leaf = randn(40, IN).requires_grad_()
        y = layer(leaf)
        assert y.is_contiguous()
        nn.functional.relu(y, inplace=inplace).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@every_layer
def test_types(make):
    layer, x = make(), randn(20, IN)
    want = layer(x)
    narrow = copy.deepcopy(layer).bfloat16()
    y = narrow(x.bfloat16().requires_grad_())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), want, rtol=0.05, atol=0.2)
    y.sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in narrow.parameters())
    with pytest.raises((TypeError, RuntimeError), match=r"type|dtype"):
        layer(x.bfloat16())


@every_layer
def test_layers_follow_autocast(make):
    """As nn.Linear: a type for all that goes in and out, but for float64, and none for weights."""
    layer = make()
    net, x = nn.Sequential(nn.Linear(IN, IN), layer), randn(20, IN)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        assert layer(x).dtype == torch.bfloat16
        assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), net(x), rtol=0.05, atol=0.1)
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


@every_layer
def test_states_bring_their_own_lists(make):
    """A layer that was used takes over another's edges, however many, and forgets its own."""
    source, target = make(2), make(1)
    assert source.n_weights != target.n_weights
    x = randn(20, IN).requires_grad_()
    target(x).sum().backward()
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.ReLU(), source).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for assign in (False, True):
        loaded = nn.Sequential(nn.ReLU(), copy.deepcopy(target))
        assert loaded.load_state_dict(state, assign=assign)
        assert torch.equal(loaded[1](x), source(x))
        for layer in (loaded[1], source):
            layer.zero_grad()
        (dx,) = torch.autograd.grad(loaded[1](x).square().sum(), x)
        torch.testing.assert_close(dx, *torch.autograd.grad(source(x).square().sum(), x))
        torch.testing.assert_close(matrix_of(loaded[1]), matrix_of(source))


def test_states_keep_their_names():
    """Checkpoints of older versions have these."""
    sampled = {"starts", "inputs", "counts", "scale", "bias"}
    assert LAYERS["sampled"]().state_dict().keys() == sampled
    paths = {"paths", "weight", "bias"}
    assert LAYERS["paths, gather"]().state_dict().keys() == paths
    assert LAYERS["paths, signs"]().state_dict().keys() == paths | {"signs"}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("inputs", lambda t: t + IN, "inputs must be in"),
        ("starts", lambda t: t.flip(0), "starts must grow"),
        ("counts", lambda t: t[1:], "same length"),
        ("paths", lambda t: t + IN, "inputs of paths"),
    ],
)
def test_a_state_that_is_none_of_this_layer_changes_nothing(name, value, error):
    """The loops in C trust the lists: a bad file must not get as far."""
    layer = LAYERS["paths, gather" if name == "paths" else "sampled"]()
    before, x = copy.deepcopy(layer.state_dict()), randn(20, IN)
    want = layer(x)
    with pytest.raises(ValueError, match=error):
        layer.load_state_dict(before | {name: value(before[name])})
    assert torch.equal(layer(x), want)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({k: v for k, v in before.items() if k != name})
    assert torch.equal(layer(x), want)


@every_layer
def test_compiled(make):
    """One graph, from another layer to another, with the lists that training needs made in it."""
    torch.compiler.reset()
    net = nn.Sequential(nn.Linear(IN, IN), make(), nn.ReLU(), nn.Linear(OUT, 2))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x, parameters = randn(20, IN), list(net.parameters())
    got = torch.autograd.grad(compiled(x).square().sum(), parameters)
    for a, b in zip(got, torch.autograd.grad(net(x).square().sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_samples_stay_small_until_they_are_trained():
    layer = SampledLinear.random(256, 256, 8)
    lean = 5 * layer.n_weights + 4 * (3 * 256 + 1)
    layer(randn(20, 256)).sum().backward()  # scale and bias need no more lists
    layer.to_dense(), layer.to_csr(), layer.weights()
    assert layer.n_bytes == lean
    size = 4 * 256 * 20
    with torch.no_grad(), PeakBytes() as made:
        layer(randn(256, 20).T)
    assert made.peak <= 4 * layer.n_weights + 3 * size  # counts as numbers, input, sums, their rows
    layer(randn(20, 256).requires_grad_()).sum().backward()
    assert layer.n_bytes == lean + 12 * layer.n_weights + 4 * 257
    assert layer.state_dict().keys() == {"starts", "inputs", "counts", "scale", "bias"}
