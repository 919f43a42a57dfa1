"""Every public layer under what users do with modules: it works, or it says why not."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import paths as paths_of
from mcnn.density import quantize
from mcnn.density.integers import IntegerLayer, sampled
from mcnn.errors import UsageError
from mcnn.integral import CosineBias, Fourier, IntegralLayer, RecurrentLayer
from mcnn.integral.ridge import CosineProduct
from mcnn.linear import SampledLinear, sample_linears
from mcnn.partition import DropoutPartition, HashedPartition, replace_dropout
from mcnn.paths import PathCNN, PathConv2d, PathLinear, PathMLP, PathResidual
from mcnn.randomness import DropConnect, Dropout, FourierFeatures
from mcnn.relu import MaxPool2d
from mcnn.residual import ResidualODE

# name: (makes a layer, the shape of an example)
LAYERS = {
    "PathLinear, gather": (lambda **o: PathLinear(16, 8, 32, seed=1, kernel="gather", **o), (16,)),
    "PathLinear, blocks": (lambda **o: PathLinear(16, 8, 32, seed=1, kernel="blocks", **o), (16,)),
    "PathLinear, dense": (lambda **o: PathLinear(16, 8, 32, seed=1, kernel="dense", **o), (16,)),
    "PathLinear, kept": (lambda **o: PathLinear(16, 8, 200, seed=1, duplicates="keep", **o), (16,)),
    "PathLinear, signs": (lambda **o: PathLinear(16, 8, 32, seed=1, fixed_signs=True, **o), (16,)),
    "PathConv2d, gather": (
        lambda **o: PathConv2d(16, 8, 3, 32, seed=1, kernel="gather", **o),
        (16, 6, 6),
    ),
    "PathConv2d, dense": (
        lambda **o: PathConv2d(16, 8, 3, 32, seed=1, kernel="dense", **o),
        (16, 6, 6),
    ),
    "PathMLP": (lambda **o: PathMLP([16, 8, 4], 32, seed=1, **o), (16,)),
    "PathResidual": (lambda **o: PathResidual(4, 4, 16, seed=1, **o), (4, 6, 6)),
    "PathCNN": (
        lambda **o: PathCNN([3, 8], 4, 32, seed=1, blocks=1, init="realised", **o),
        (3, 8, 8),
    ),
    "SampledLinear": (lambda **o: SampledLinear.random(16, 8, 4, seed=1, **o), (16,)),
    "DropoutPartition": (lambda **o: DropoutPartition(p=1 / 3, seed=1).to(**o), (16,)),
    "HashedPartition": (lambda **o: HashedPartition(p=1 / 3, seed=1).to(**o), (16,)),
    "MaxPool2d": (lambda **o: MaxPool2d(2).to(**o), (4, 6, 6)),
    "ResidualODE": (lambda **o: ResidualODE(16, 8, 2, seed=1, **o), (16,)),
    "ResidualODE, dopri5": (
        lambda **o: ResidualODE(16, 8, 2, "dopri5", seed=1, **o),
        (16,),
    ),
}
PATHS = {k: v for k, v in LAYERS.items() if k.startswith("Path")}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
every_path_layer = pytest.mark.parametrize(("make", "shape"), PATHS.values(), ids=PATHS)


def inputs(*shape, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(**options)


# Those in place of a layer of PyTorch's, whose input has a name, besides those above.
NETWORKS = ("PathMLP", "PathResidual", "PathCNN", "ResidualODE", "ResidualODE, dopri5")
DROP_INS = {k: v for k, v in LAYERS.items() if k not in NETWORKS} | {
    "Dropout": (lambda: Dropout(16), (16,)),
    "DropConnect": (lambda: DropConnect(16, 8), (16,)),
    "integers": (
        lambda: IntegerLayer(nn.Linear(16, 8), torch.ones(8, 16), torch.ones(8), sampled(2), 0),
        (16,),
    ),
}


@pytest.mark.parametrize(("make", "shape"), DROP_INS.values(), ids=DROP_INS)
def test_inputs_have_the_name_that_they_have_in_torch(make, shape):
    layer, x = make().eval(), inputs(3, *shape)
    assert torch.equal(layer(input=x), layer(x))


@every_layer
def test_empty_batches(make, shape):
    layer = make()
    if any(isinstance(m, nn.BatchNorm2d) for m in layer.modules()):
        layer.eval()  # PyTorch's normalisation refuses nothing to normalise by
    full = layer(inputs(3, *shape))
    x = torch.zeros(0, *shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, *full.shape[1:])
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is None or (p.grad == 0).all() for p in layer.parameters())


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types(make, shape, dtype):
    if dtype == torch.bfloat16 and "dopri5" in repr(make()):
        pytest.skip("adaptive steps follow errors that half precision cannot tell")
    layer = make(dtype=dtype)
    assert {p.dtype for p in layer.parameters()} <= {dtype}
    x = inputs(3, *shape, dtype=dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert x.grad.dtype == dtype


@every_path_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_gives_outputs_its_type(make, shape, dtype):
    layer, x = make(), inputs(3, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.to(dtype))
    assert y.dtype == (torch.bfloat16 if "Residual" not in repr(layer)[:12] else dtype)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)
    y.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


@every_layer
def test_copies_go_on_alike(make, shape):
    layer = make()
    layer(inputs(3, *shape))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        want = copy.deepcopy(layer)(inputs(3, *shape))
        torch.testing.assert_close(other(inputs(3, *shape)), want)
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    other = make()
    other.load_state_dict(state)
    torch.testing.assert_close(other(inputs(3, *shape)), layer(inputs(3, *shape)))


@every_layer
def test_what_inference_made_trains_later(make, shape):
    with torch.inference_mode():
        layer = make()
        layer.load_state_dict(copy.deepcopy(make().state_dict()))
        layer(inputs(3, *shape))
    layer = copy.deepcopy(make()) if list(layer.parameters()) else layer  # parameters are PyTorch's
    with torch.inference_mode():
        layer.load_state_dict(make().state_dict())
        layer(inputs(3, *shape))
    x = inputs(3, *shape).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


@every_layer
def test_default_types_do_not_change_what_is_drawn(make, shape):
    want = make()
    torch.set_default_dtype(torch.float64)
    try:
        layer = make(dtype=torch.float32)
        own = make()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(want.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    del own


@every_path_layer
def test_layers_on_no_device_are_filled_by_a_state(make, shape):
    source = make()
    for how in ("context", "option"):
        if how == "context":
            with torch.device("meta"):
                layer = make()
        else:
            layer = make(device="meta")
        assert all(t.is_meta for t in [*layer.parameters(), *layer.buffers()])
        layer.load_state_dict(source.state_dict(), assign=True)
        held = [*layer.parameters(), *layer.buffers()]
        assert not any(t.is_meta for t in held)
        x = inputs(3, *shape)
        torch.testing.assert_close(layer.eval()(x), source.eval()(x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [*PATHS.values(), LAYERS["SampledLinear"]],
    ids=[*PATHS, "SampledLinear"],
)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_numbers_are_refused_and_the_layer_stays(make, shape):
    layer, x = make().eval(), inputs(3, *shape)
    want = layer(x)
    with pytest.raises(TypeError, match=r"is of real numbers, and cannot be torch.complex64"):
        layer.to(torch.complex64)
    if "Residual" not in repr(layer)[:12] and "CNN" not in repr(layer)[:12]:
        torch.testing.assert_close(layer(x), want)


def test_every_kernel_names_what_does_not_fit():
    for kernel in ("gather", "blocks", "dense"):
        layer = PathLinear(16, 8, 32, seed=1, kernel=kernel)
        with pytest.raises(TypeError, match="x and weight must be of one type"):
            layer(inputs(3, 16).double())
        with pytest.raises(ValueError, match=r"the input must be \[..., 16\], got \[\]"):
            layer(torch.tensor(1.0))
    net = PathMLP([16, 8, 4], 32, seed=1)
    torch.testing.assert_close(net(inputs(16)), net(inputs(1, 16))[0])
    with pytest.raises(ValueError, match=r"an example must have 16 numbers, got \[3, 17\]"):
        net(inputs(3, 17))


@pytest.mark.parametrize("kernel", ["gather", "dense"])
def test_batches_of_exported_convolutions_may_change(kernel):
    layer, x = PathConv2d(4, 4, 3, 8, seed=1, kernel=kernel).eval(), inputs(3, 4, 5, 5)
    sizes = ({0: torch.export.Dim("b", min=2, max=64)},)
    other = torch.export.export(layer, (x,), dynamic_shapes=sizes).module()
    twice = torch.cat([x, x])
    torch.testing.assert_close(other(twice), layer(twice))


@every_layer
def test_states_of_averages_load(make, shape):
    layer, x = make(), inputs(3, *shape)
    state = {k: v if v.is_floating_point() else v.float() for k, v in layer.state_dict().items()}
    other = make()
    other.load_state_dict(state)
    kinds = [v.dtype for v in layer.state_dict().values()]
    assert [v.dtype for v in other.state_dict().values()] == kinds
    torch.testing.assert_close(other(x), layer(x))


def test_averages_of_different_paths_are_refused():
    a, b = (PathLinear(16, 8, 40, "uniform", seed) for seed in (1, 2))
    state = a.state_dict() | {"paths": (a.paths.float() + b.paths.float()) / 2}
    with pytest.raises(ValueError, match="averages of different"):
        a.load_state_dict(state)
    layer = SampledLinear.random(16, 8, 4)
    state = layer.state_dict() | {"counts": layer.counts / 2}
    with pytest.raises(ValueError, match="counts are averages of different"):
        layer.load_state_dict(state)
    layer = DropoutPartition(3)
    with pytest.raises(ValueError, match="an average of others"):
        layer.load_state_dict({"_extra_state": layer.get_extra_state() / 2})


def test_sizes_of_numpy_are_sizes():
    n, m, paths = np.int64(16), np.int64(8), np.int64(32)
    plain = PathLinear(16, 8, 32, seed=1)
    assert torch.equal(PathLinear(n, m, paths, seed=1).weight, plain.weight)
    assert PathMLP([n, m], paths, seed=1)(inputs(3, 16)).shape == (3, 8)
    assert PathConv2d(n, m, np.int64(3), paths, seed=1)(inputs(3, 16, 6, 6)).shape == (3, 8, 4, 4)
    made = [
        SampledLinear.random(n, m, np.int64(4)),
        SampledLinear.from_linear(nn.Linear(16, 8), np.int64(4)),
        DropoutPartition(np.int64(3)),
        HashedPartition(np.int64(3)),
        Dropout(n, np.float32(0.5)),
        DropConnect(n, m),
        ResidualODE(n, m, np.int64(2)),
        FourierFeatures(n, m),
        paths_of.compress(nn.Sequential(nn.Linear(16, 8)), paths=np.int64(40))[0],
        paths_of.sparsify(nn.Linear(16, 8), density=np.float32(0.5))[0],
    ]
    for layer in made:
        assert len(layer(inputs(3, 16))) == 3
        assert "int64" not in repr(layer)
    assert MaxPool2d(np.int64(2), np.int64(2))(inputs(1, 4, 4)).shape == (1, 2, 2)


FROZEN = {
    "sparsify": (lambda m: paths_of.sparsify(m, density=0.5)[0], nn.Linear),
    "compress": (lambda m: paths_of.compress(m, paths=90)[0], nn.Linear),
    "quantize": (lambda m: quantize(m, samples=4)[0], nn.Linear),
    "sample_linears": (lambda m: sample_linears(m, samples=4)[0], nn.Linear),
    "replace_dropout": (replace_dropout, nn.Linear),
    "to_dense_model": (paths_of.to_dense_model, partial(PathLinear, paths=16)),
    "to_gather_model": (paths_of.to_gather_model, partial(PathLinear, paths=16)),
}


@pytest.mark.parametrize(("function", "layer"), FROZEN.values(), ids=FROZEN)
def test_what_was_frozen_stays_so(function, layer):
    model = nn.Sequential(layer(8, 8), nn.Dropout(), layer(8, 4))
    model[0].requires_grad_(False)
    made = function(model)
    assert [p.requires_grad for p in made[0].parameters()] == [False, False]
    assert all(p.requires_grad for p in made[2].parameters())


def test_who_reads_the_rate_of_a_partition_is_told():
    for kind in (DropoutPartition, HashedPartition):
        with pytest.warns(UserWarning, match=f"rate p of a {kind.__name__} was read"):
            assert kind(4).p == 0.25
    layer = DropoutPartition(2)
    layer(inputs(2, 3, 4))
    with pytest.raises(ValueError, match="HashedPartition where lengths change"):
        layer(inputs(2, 5, 4))


def test_what_layers_refuse_they_say():
    for net in (PathLinear(8, 4, 16), nn.Sequential(PathLinear(8, 4, 16))):
        for change in (paths_of.grow, paths_of.regrow):
            with pytest.raises(TypeError, match="must be a PathMLP"):
                change(net, 4)
    with pytest.raises(TypeError, match="dtype must be floating point"):
        PathLinear(8, 4, 16, dtype=torch.complex64)
    with pytest.raises(UsageError, match="load it first"):
        SampledLinear.from_linear(nn.Linear(8, 4, device="meta"), 4)
    with pytest.raises(ValueError, match="must end in 4 units"):
        Dropout(4)(torch.tensor(1.0))


@pytest.mark.parametrize("kernel", ["gather", "dense"])
def test_convolutions_take_what_those_of_torch_do(kernel):
    x = inputs(2, 16, 7, 6)
    same = PathConv2d(16, 8, (3, 3), 32, seed=1, kernel=kernel, padding="same")
    plain = PathConv2d(16, 8, 3, 32, seed=1, kernel=kernel, padding=1, groups=1)
    assert torch.equal(same(x), plain(x))
    torch.testing.assert_close(same(x[0]), same(x)[0])
    pair = PathConv2d(16, 8, 3, 32, seed=1, kernel=kernel, stride=(2, 2), padding=[1, 1])
    torch.testing.assert_close(pair(x), pair.to_dense()(x))
    for options in (
        {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)},
        {"padding": "same", "dilation": (1, 3)},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": "valid", "dilation": (2,)},
    ):
        wide = PathConv2d(16, 8, (3, 2), 32, seed=1, kernel=kernel, **options)
        torch.testing.assert_close(wide(x), wide.to_dense()(x))
        for part in options.values():
            assert part == 1 or str(part).strip("(),'") in repr(wide)
    for options, message in (
        ({"groups": 2}, "no groups"),
        ({"stride": (1, 2, 3)}, "one or two integers"),
        ({"dilation": 0}, "at least 1"),
        ({"padding_mode": "mirror"}, "padding_mode 'mirror'"),
        ({"padding": "same", "stride": 2}, "stride of 1"),
        ({"padding": "full"}, "padding 'full'"),
    ):
        with pytest.raises(ValueError, match=message):
            PathConv2d(16, 8, 3, 32, **options)


@pytest.mark.parametrize("kind", [DropoutPartition, HashedPartition])
def test_a_rate_names_the_parts(kind):
    assert [kind(p=p).parts for p in (0.5, 1 / 3, 0.33, 0.25, 0.2, 0.1)] == [2, 3, 3, 4, 5, 10]
    for p, message in ((0.3, "p=1/3 or p=1/4"), (0.0, "1/256"), (0.7, "1/2"), (1e-4, "1/P")):
        with pytest.raises(ValueError, match=message):
            kind(p=p)
    for options in ({}, {"parts": 2, "p": 0.5}):
        with pytest.raises(TypeError, match="either parts"):
            kind(**options)


def test_options_reach_every_layer_of_a_network():
    options = {"dtype": torch.float64, "init": "constant", "fixed_signs": True}
    net = PathCNN([3, 8], 4, 64, seed=1, blocks=1, bias=False, **options)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    layers = [m for m in net.modules() if isinstance(m, PathLinear | PathConv2d)]
    assert all(m.signs is not None and m.init == "constant" for m in layers)
    assert layers[-1].bias is None
    kept = PathCNN([3, 8], 4, 64, seed=1, duplicates="keep")
    assert kept[-1].n_weights == 64


def kernel():
    return Fourier(1, 1, 4, torch.Generator().manual_seed(0))


# Layers of functions: makes one, and calls it with a tensor of ones
FUNCTIONS = {
    "IntegralLayer": (
        lambda **o: IntegralLayer(kernel().to(**o), n=8, seed=1, **o),
        lambda layer, ones: layer(ones(2, 8), ones(3, 1)),
    ),
    "IntegralLayer, formula": (
        lambda **o: IntegralLayer(CosineProduct(1), n=8, seed=1, **o),
        lambda layer, ones: layer(ones(2, 8), ones(3, 1)),
    ),
    "RecurrentLayer": (
        lambda **o: RecurrentLayer(kernel().to(**o), n=8, seed=1, steps=2, **o),
        lambda layer, ones: layer(ones(2, 8)),
    ),
    "FourierFeatures": (
        lambda **o: FourierFeatures(3, 4, seed=1, **o),
        lambda layer, ones: layer(ones(2, 3)),
    ),
    "ResidualODE": (
        lambda **o: ResidualODE(3, 4, 2, seed=1, **o),
        lambda layer, ones: layer(ones(2, 3)),
    ),
}
every_function = pytest.mark.parametrize(("make", "call"), FUNCTIONS.values(), ids=FUNCTIONS)


@every_function
def test_functions_on_no_device_are_filled_by_a_state(make, call):
    source, layer = make(), make(device="meta")
    assert call(layer, partial(torch.ones, device="meta")).shape == call(source, torch.ones).shape
    layer.load_state_dict(source.state_dict(), assign=True)
    if list(layer.parameters()):  # else nothing says where it belongs
        torch.testing.assert_close(call(layer, torch.ones), call(source, torch.ones))


def test_places_of_another_dimension_are_named():
    layer = IntegralLayer(Fourier(1, 2, 4, torch.Generator().manual_seed(0)), n=8)
    with pytest.raises(ValueError, match=r"y must be places, \[m, 2\], got \[3, 1\]"):
        layer(torch.ones(2, 8), torch.ones(3, 1))


@every_function
def test_types_and_devices_are_those_asked_for_or_the_default(make, call):
    for dtype in (torch.float64, torch.bfloat16):
        assert call(make(dtype=dtype), partial(torch.ones, dtype=dtype)).dtype == dtype
    layer = make(device="meta")
    assert all(t.is_meta for t in [*layer.parameters(), *layer.buffers()])
    want = call(make(), torch.ones)
    torch.set_default_dtype(torch.float64)
    try:
        got = call(make(), torch.ones)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (want.dtype, got.dtype) == (torch.float32, torch.float64)


def test_nodes_belong_to_the_parameters():
    double = kernel().double()
    for layer in (IntegralLayer, RecurrentLayer):
        assert layer(double, n=8).x.dtype == torch.float64
        with pytest.raises(ValueError, match=r"float64 on cpu, its nodes torch.float32"):
            layer(double, n=8, dtype=torch.float32)
    with pytest.raises(ValueError, match="convert the kernel and the bias first"):
        IntegralLayer(kernel(), n=8, bias=CosineBias(1, 2).double())


def test_networks_that_grow_in_inference_mode_train_later():
    for change in (paths_of.grow, paths_of.regrow):
        net = PathMLP([16, 8, 4], 32, seed=1)
        with torch.inference_mode():
            change(net, 8)
        net(inputs(3, 16)).sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_other_paths_without_weights_are_refused():
    layer, state = PathLinear(16, 8, 32, seed=1), PathLinear(16, 8, 32, seed=2).state_dict()
    before = layer.weight.detach().clone()
    del state["weight"]
    with pytest.raises(UsageError, match="other paths than the layer, and no weights of theirs"):
        layer.load_state_dict(state, strict=False)
    assert torch.equal(layer.weight, before)
    own = {k: v for k, v in layer.state_dict().items() if k != "weight"}
    assert layer.load_state_dict(own, strict=False).missing_keys == ["weight"]
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("kernel", ["gather", "blocks", "dense"])
def test_states_of_other_paths_do_not_meet_the_edges_of_the_layer(kernel):
    layer, other = (PathLinear(16, 8, 32, seed=s, kernel=kernel) for s in (1, 2))
    x = inputs(3, 16)
    with pytest.raises(UsageError, match="without the lists of their edges"):
        torch.func.functional_call(layer, dict(other.state_dict()), (x,))
    whole = dict(other.named_parameters()) | dict(other.named_buffers())
    torch.testing.assert_close(torch.func.functional_call(layer, whole, (x,)), other(x))
    own = {name: value.clone() for name, value in layer.state_dict().items()}
    torch.testing.assert_close(torch.func.functional_call(layer, own, (x,)), layer(x))
    for changed in (copy.deepcopy(layer).double(), pickle.loads(pickle.dumps(layer)).double()):
        torch.testing.assert_close(changed(x.double()), layer(x).double())


def test_states_of_other_lists_do_not_meet_those_kept_for_the_way_back():
    def gradient(call):
        x = inputs(3, 16).requires_grad_()
        call(x).square().sum().backward()
        return x.grad

    layer, other = (SampledLinear.random(16, 8, 4, seed=s) for s in (1, 2))
    want = gradient(layer), gradient(other)
    state = {name: value.detach() for name, value in other.state_dict().items()}
    got = gradient(lambda x: torch.func.functional_call(layer, state, (x,)))
    torch.testing.assert_close(got, want[1])
    torch.testing.assert_close(gradient(layer), want[0])
    torch.testing.assert_close(gradient(copy.deepcopy(layer).double().float()), want[0])
