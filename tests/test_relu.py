import copy
import itertools
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from mcnn import relu
from mcnn.experiments.relu.operands import INTEGERS, hard_pairs
from mcnn.relu import native
from mcnn.relu import pool as pooling

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SEEDS = st.integers(0, 2**32)


def pairs(dtype, seed, n=20000):
    return hard_pairs(n, dtype, torch.Generator().manual_seed(seed))


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and bool((a.isnan() | (a == b)).all())


# Leaky ReLU and absolute value


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu_and_absolute_are_those_of_torch(device, dtype):
    x = torch.cat(pairs(dtype, seed=1)).to(device)
    for slope in (0.0, 0.01, 0.3, 1.0, -2.0):
        assert same(relu.leaky_relu(x, slope), F.leaky_relu(x, slope))
    zeros = torch.tensor([0.0, -0.0], dtype=dtype, device=device)
    assert relu.leaky_relu(zeros).signbit().tolist() == [False, True]
    number = x[~x.isnan()]
    assert same(relu.absolute(x), x.abs())
    assert not relu.absolute(number).signbit().any()


@pytest.mark.parametrize("function", [relu.leaky_relu, relu.absolute])
def test_gradients_of_unary_forms(function):
    x = torch.tensor([-2.0, -0.5, 0.25, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))


# Maximum


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_maximum_is_exact(device, dtype):
    for seed in range(5):
        x, y = (z.to(device) for z in pairs(dtype, seed))
        assert same(relu.maximum(x, y), torch.maximum(x, y))
    nan = torch.full_like(x, torch.nan)
    assert relu.maximum(x, nan).isnan().all()
    assert relu.maximum(nan, y).isnan().all()


def test_exact_maximum_where_only_all_pairs_of_bfloat16_found_it_wrong_before():
    # Halving the operands, so that y - x cannot overflow, loses the last bit of this y.
    x = torch.tensor(-(2.0**-117) * 253 / 128, dtype=torch.bfloat16)
    y = torch.tensor(2.0**-133 * 255, dtype=torch.bfloat16)
    assert relu.maximum(x, y) == y


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_exact_maximum_of_any_floats(x, y):
    x, y = torch.tensor([x]), torch.tensor([y])
    assert torch.equal(relu.maximum(x, y), torch.maximum(x, y))


@pytest.mark.parametrize("form", ["symmetric", "skip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_forms_are_within_two_ulp_of_the_larger_magnitude(form, dtype):
    x, y = pairs(dtype, seed=3)
    safe = torch.maximum(x.abs(), y.abs()) <= torch.finfo(dtype).max / 4
    x, y = x[safe], y[safe]
    error = relu.ulps(
        relu.maximum(x, y, form), torch.maximum(x, y), torch.maximum(x.abs(), y.abs())
    )
    assert 0.5 <= error.max() <= 2  # the bound holds, and is not idle


def test_why_the_symmetric_form_is_not_exact():
    def symmetric(x, y):
        return relu.maximum(torch.tensor(x), torch.tensor(y), "symmetric").item()

    assert symmetric(-1e20, 1.0) == 0.0  # 1 is lost beside 1e20
    assert symmetric(3e38, 3e38) == torch.inf
    assert symmetric(-torch.inf, 1.0) != symmetric(-torch.inf, 1.0)  # NaN


@pytest.mark.parametrize("form", relu.FORMS)
def test_gradients_of_maximum(form):
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 30, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: relu.maximum(x, y, form), (x, y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_maximum_gives_all_of_the_gradient_to_the_larger(dtype):
    x, y = pairs(dtype, seed=2)
    # What is added and taken away again inside must leave no trace in the gradient.
    info = torch.finfo(dtype)
    inside = (x.abs() <= info.max) & (y.abs() <= info.max) & (x != y)
    inside &= torch.maximum(x, y) < info.max
    x, y = x[inside].requires_grad_(), y[inside].requires_grad_()
    relu.maximum(x, y).sum().backward()
    assert torch.equal(x.grad, (x > y).to(dtype))
    assert torch.equal(y.grad, (y > x).to(dtype))


def test_gradient_at_ties_and_infinities():
    def gradients(x, y, form):
        x, y = (torch.tensor(v, requires_grad=True) for v in (x, y))
        relu.maximum(x, y, form).backward(torch.tensor(2.0**100))  # large: inf - inf would show
        return x.grad.item() / 2**100, y.grad.item() / 2**100

    assert gradients(2.0, 2.0, "exact") == (1, 0)
    assert gradients(2.0, 2.0, "skip") == (1, 0)
    assert gradients(2.0, 2.0, "symmetric") == (0.5, 0.5)
    assert gradients(torch.inf, 2.0, "exact") == (0, 0)
    assert gradients(-torch.inf, 2.0, "exact") == (0, 1)


# Max pooling


def window_arguments():
    def pair(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    return st.fixed_dictionaries(
        {
            "kernel_size": pair(1, 4),
            "stride": st.none() | pair(1, 4),
            "padding": pair(0, 2),
            "dilation": pair(1, 3),
            "ceil_mode": st.booleans(),
        }
    )


def image(shape, seed, dtype=torch.float32, ends=False):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).round()  # ties
    if ends:
        extreme = torch.tensor([torch.inf, -torch.inf, torch.nan, 65504.0, -65504.0])
        place = torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1))
        x = torch.where(place < 0.25, extreme[(place * 20).long().clamp(max=4)], x)
    return x.to(dtype)


@given(window_arguments(), st.integers(1, 9), st.integers(1, 9), SEEDS, st.booleans())
def test_pooling_is_that_of_torch(window, height, width, seed, ends):
    x = image((2, 3, height, width), seed, ends=ends)
    try:
        want = F.max_pool2d(x, **window)
    except RuntimeError:  # a window that does not fit, or too much padding
        with pytest.raises(ValueError, match=r"must be at most half|does not fit"):
            relu.max_pool2d(x, **window)
    else:
        assert same(relu.max_pool2d(x, **window), want)


@given(window_arguments(), SEEDS)
def test_gradient_is_that_of_torch_also_at_ties(window, seed):
    gradients = []
    for pool in (F.max_pool2d, relu.max_pool2d):
        x = image((2, 1, 9, 9), seed).requires_grad_()
        try:
            out = pool(x, **window)
        except (RuntimeError, ValueError):
            return
        if out.isinf().any():  # a window of padding only: PyTorch's gradient goes astray
            return
        weights = torch.arange(out.numel(), dtype=out.dtype).view_as(out)  # sums stay exact
        (out * weights).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": (41, 3), "stride": 2},
        {"kernel_size": (3, 60), "stride": (1, 7), "padding": (1, 30), "ceil_mode": True},
        {"kernel_size": 33, "padding": 16, "dilation": 2},
        {"kernel_size": (70, 64)},
    ],
)
@pytest.mark.parametrize("shape", [(2, 3, 70, 64), (3, 70, 64)])
def test_large_windows_go_through_the_same_tree(window, shape, monkeypatch):
    x = image(shape, 3, ends=True)
    got = relu.max_pool2d(x, **window)
    assert same(got, F.max_pool2d(x, **window))
    x = x.nan_to_num(0, 9, -9)
    for form in relu.FORMS:
        gradients = []
        for long in (32, 100):
            monkeypatch.setattr(relu.pool, "LONG", long)
            leaf = x.clone().requires_grad_()
            y = relu.max_pool2d(leaf, **window, form=form)
            y.sum().backward()
            gradients += [y, leaf.grad]
        assert torch.equal(gradients[0], gradients[2])
        torch.testing.assert_close(gradients[1], gradients[3])


@pytest.mark.parametrize("kernel_size", [2, 10**5, 10**6])
def test_long_axes_take_no_loop(kernel_size):
    x = torch.randn(1, 1, 1, 10**6, generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    y = relu.max_pool2d(x, (1, kernel_size))
    assert time.process_time() - start < 1  # with one it takes 4 seconds and more
    assert torch.equal(y, F.max_pool2d(x, (1, kernel_size)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_types_and_memory_formats(device, dtype, channels_last):
    x = image((2, 3, 10, 11), 1, dtype, ends=True).to(device)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    for window in ({"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        got, want = relu.max_pool2d(x, **window), F.max_pool2d(x, **window)
        assert same(got, want)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert same(relu.max_pool2d(x[0], 2), F.max_pool2d(x[0], 2))
    assert same(relu.max_pool2d(x[:0], 2), F.max_pool2d(x[:0], 2))


@pytest.mark.parametrize("form", ["symmetric", "skip"])
def test_other_forms_pool_within_two_ulp_a_level(form):
    x = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(4))
    window = {"kernel_size": 3, "stride": 2, "padding": 1}
    largest = F.max_pool2d(x.abs(), **window)
    error = relu.ulps(relu.max_pool2d(x, **window, form=form), F.max_pool2d(x, **window), largest)
    assert 0 < error.max() <= 2 * 4


@pytest.mark.parametrize("form", relu.FORMS)
def test_gradcheck_of_pooling(form):
    x = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    layer = relu.MaxPool2d(3, 2, 1, ceil_mode=True, form=form)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


def test_compiled():
    x = image((2, 3, 9, 9), 7, ends=True)
    layer = torch.compile(relu.MaxPool2d(3, 2, 1), backend="aot_eager", fullgraph=True)
    assert same(layer(x), F.max_pool2d(x, 3, 2, 1))


def test_replaced_in_alexnet_the_outputs_keep_their_bits():
    torch.manual_seed(0)
    network = models.alexnet(weights=None).eval()
    replaced = relu.replace_maxpool(network)
    kinds = [type(m) for m in replaced.modules()]
    assert kinds.count(relu.MaxPool2d) == 3
    assert nn.MaxPool2d not in kinds
    assert nn.MaxPool2d in map(type, network.modules())  # the original is as it was
    replaced.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(network(x), replaced(x))


def test_replacing_keeps_sharing_mode_and_a_bare_layer():
    pool = nn.MaxPool2d(2, ceil_mode=True)
    network = relu.replace_maxpool(nn.Sequential(pool, nn.ReLU(), pool).eval(), form="skip")
    assert network[0] is network[2]
    assert network[0].ceil_mode
    assert not network[0].training
    assert isinstance(relu.replace_maxpool(pool), relu.MaxPool2d)
    assert isinstance(copy.deepcopy(network)[0], relu.MaxPool2d)


def test_what_pooling_refuses():
    x = torch.zeros(1, 1, 4, 4)
    for arguments, message in [
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size must be"),
        ({"kernel_size": 2.0}, "kernel_size must be"),
        ({"kernel_size": 2, "stride": 0}, "stride must be"),
        ({"kernel_size": 2, "padding": -1}, "padding must be"),
        ({"kernel_size": 2, "padding": 2}, "half of the kernel size, 1"),
        ({"kernel_size": 2, "dilation": 0}, "dilation must be"),
        ({"kernel_size": 5}, "does not fit into 4"),
        ({"kernel_size": 2, "form": "odd"}, "no form 'odd'; there are: symmetric, skip, exact"),
    ]:
        with pytest.raises(ValueError, match=message):
            relu.max_pool2d(x, **arguments)
    with pytest.raises(ValueError, match="3 or 4 axes"):
        relu.max_pool2d(x[0, 0], 2)
    with pytest.raises(ValueError, match="must not be empty"):
        relu.max_pool2d(x[:, :0], 2)
    with pytest.raises(TypeError, match="floating point"):
        relu.max_pool2d(x.long(), 2)
    with pytest.raises(TypeError, match=r"of one type, got x torch\.float32 and y torch\.float64"):
        relu.maximum(x, x.double())
    with pytest.raises(ValueError, match="return_indices is not supported"):
        relu.MaxPool2d(2, return_indices=True)
    with pytest.raises(ValueError, match="layer '1': return_indices"):
        relu.replace_maxpool(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)))
    with pytest.raises(ValueError, match=r"no nn\.MaxPool2d"):
        relu.replace_maxpool(nn.Linear(2, 2))


# The loop in C


NEEDS_COMPILER = pytest.mark.skipif(not native.available(), reason="needs a C compiler")
LARGEST = torch.finfo(torch.float32).max
HARD = [torch.inf, -torch.inf, torch.nan, LARGEST, -LARGEST, 2e38, -2e38, 0.0, -0.0, 1e-45, 1e-38]


def hard_numbers(shape, seed, share):
    """Normal numbers, rounded so that there are ties, and hard ones among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = torch.where(torch.rand(shape, generator=generator) < 0.5, x.round(), x)
    hard = torch.tensor(HARD)[torch.randint(len(HARD), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < share, hard, x)


def same_bits(a, b):
    return same(a, b) and torch.equal(a.signbit()[~a.isnan()], b.signbit()[~b.isnan()])


def by_operators_and_loop(call):
    """Call twice; the loop must be used the second time only."""
    found, used = [], []
    loop = native.pool
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "SMALLEST", 0)
        patch.setattr(native, "pool", lambda *args: used.append(1) or loop(*args))
        for there in (False, True):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(native, "available", lambda there=there: there)
                found.append(call())
            assert bool(used) == there
    return found


@NEEDS_COMPILER
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 40)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.booleans(),
    st.sampled_from([0.0, 0.05, 0.5]),
    SEEDS,
)
def test_the_loop_has_the_bits_of_operators(shape, kernel, stride, padding, ceil, share, seed):
    x = hard_numbers(shape, seed, share)
    window = (kernel, stride, tuple(map(min, padding, (k // 2 for k in kernel))), 1, ceil)
    try:
        out = F.max_pool2d(x, *window)
    except RuntimeError:  # a window that does not fit
        return
    gradient = hard_numbers(out.shape, seed + 1, share)

    def both_ways():
        leaf = x.clone().requires_grad_()
        y = relu.max_pool2d(leaf, *window)
        y.backward(gradient)
        return y.detach(), leaf.grad

    (y, slope), (y_loop, slope_loop) = by_operators_and_loop(both_ways)
    assert same_bits(y, y_loop)
    assert same_bits(slope, slope_loop)


@NEEDS_COMPILER
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), (32, 1, 16), ((1, 3), (4, 1)), (3, 3, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_planes_of_many_blocks_and_threads_that_share_them(window, threads):
    x = hard_numbers((2, 3, 120, 130), 0, 0.01)

    def both_ways():
        leaf = x.clone().requires_grad_()
        y = relu.max_pool2d(leaf, *window)
        (y * hard_numbers(y.shape, 1, 0)).sum().backward()
        return y.detach(), leaf.grad

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "_A_THREAD", 1)
            for a, b in zip(*by_operators_and_loop(both_ways), strict=True):
                assert same_bits(a, b)
    finally:
        torch.set_num_threads(before)


@NEEDS_COMPILER
def test_second_derivatives_pass_through_the_loop():
    x, weight = hard_numbers((2, 3, 9, 9), 2, 0.0), hard_numbers((2, 3, 4, 4), 3, 0.0)

    def penalty():
        leaf, scale = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = relu.max_pool2d(leaf.square(), 3, 2)
        (slope,) = torch.autograd.grad((y * scale).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (leaf, scale))

    operators, loop = by_operators_and_loop(penalty)
    for a, b in zip(operators, loop, strict=True):
        assert a.abs().sum() > 0
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", range(1, 5))
def test_windows_that_lie_outside_with_all_their_taps(size):
    """Only dilation beyond the size makes such; their maximum is that of nothing."""
    x = torch.arange(1.0, size + 1).reshape(1, 1, size)
    outside = 0
    for dilation, kernel, stride in itertools.product(range(1, 9), range(2, 5), range(1, 4)):
        for padding in range(1, kernel // 2 + 1):
            options = ((1, kernel), (1, stride), (0, padding), (1, dilation))
            if size + 2 * padding <= dilation * (kernel - 1):
                continue
            expected = F.max_pool2d(x, *options)
            outside += int(expected.isinf().sum())
            assert torch.equal(relu.max_pool2d(x, *options), expected), options
            upright = [pair[::-1] for pair in options]
            assert torch.equal(relu.max_pool2d(x.mT, *upright), expected.mT), upright
    assert outside > 0


def test_what_the_loop_leaves_to_operators(monkeypatch):
    monkeypatch.setattr(pooling, "SMALLEST", 0)
    monkeypatch.setattr(native, "available", lambda: True)
    monkeypatch.setattr(native, "pool", lambda *args: pytest.fail("the loop was called"))
    x = torch.randn(2, 3, 8, 8)
    for other in (x.double(), x.half(), x.mT, x.to(memory_format=torch.channels_last)):
        assert torch.equal(relu.max_pool2d(other, 2), F.max_pool2d(other, 2))
    assert torch.equal(relu.max_pool2d(x, 2, dilation=3), F.max_pool2d(x, 2, dilation=3))
    relu.max_pool2d(x, 2, form="skip")
    vmapped = torch.func.vmap(lambda t: relu.max_pool2d(t, 2))(x)
    assert torch.equal(vmapped, F.max_pool2d(x, 2))
    slope = torch.func.grad(lambda t: relu.max_pool2d(t, 2).sum())(x)
    tangent = torch.func.jvp(lambda t: relu.max_pool2d(t, 2), (x,), (torch.ones_like(x),))[1]
    assert slope.sum() == tangent.sum() == 2 * 3 * 4 * 4
    compiled = torch.compile(lambda t: relu.max_pool2d(t, 2), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), F.max_pool2d(x, 2))
    with torch.device("meta"):
        assert relu.max_pool2d(torch.empty(2, 3, 8, 8), 2).shape == (2, 3, 4, 4)


def test_without_a_compiler_operators_pool(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    native._library.cache_clear()
    try:
        assert not native.available()
        x = torch.randn(2, 64, 16, 16)
        assert x.numel() >= pooling.SMALLEST
        assert torch.equal(relu.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))
    finally:
        native._library.cache_clear()


# Half spaces


def half_space(seed, dimension, dtype=torch.float64, points=64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, dimension, generator=generator, dtype=dtype) * 3
    normal = torch.randn(dimension, generator=generator, dtype=dtype)
    offset = torch.randn((), generator=generator, dtype=dtype)
    return x, normal, offset


def test_a_half_space_has_its_edge_in_the_origin_by_default():
    x, normal, _ = half_space(0, 5)
    assert torch.equal(relu.project_halfspace(x, normal), relu.project_halfspace(x, normal, 0.0))


@given(SEEDS, st.integers(1, 40), st.floats(-200, 200))
def test_projection_onto_half_space(seed, dimension, exponent):
    x, normal, offset = half_space(seed, dimension)
    once = relu.project_halfspace(x, normal * 2.0**exponent, offset)
    unit = normal / normal.norm()
    inside = x @ unit <= offset
    tolerance = 1e-13 * (1 + x.norm(dim=1) + offset.abs())
    # Inside nothing moves; outside the foot of the perpendicular.
    assert torch.equal(once[inside], x[inside])
    assert ((once @ unit - offset)[~inside].abs() <= tolerance[~inside]).all()
    moved = x - once
    assert ((moved - (moved @ unit)[:, None] * unit).norm(dim=1) <= tolerance).all()
    # Idempotent and non-expansive.
    twice = relu.project_halfspace(once, normal, offset)
    assert ((twice - once).norm(dim=1) <= tolerance).all()
    apart, projected = ((z[:, None] - z).norm(dim=2) for z in (x, once))
    assert (projected <= apart + tolerance).all()


@pytest.mark.parametrize("device", DEVICES)
def test_layer_is_the_residual_layer(device):
    x, normal, offset = (z.to(device) for z in half_space(1, 5, torch.float32))
    layer = relu.HalfspaceLayer(normal, offset).to(device)
    assert torch.equal(layer(x), relu.project_halfspace(x, normal, offset))
    unit = (normal / normal.norm()).double()
    written = x.double() - (x.double() @ unit - offset).clamp(min=0)[:, None] * unit
    torch.testing.assert_close(layer(x).double(), written, rtol=1e-6, atol=1e-6)
    assert sorted(layer.state_dict()) == ["normal", "offset"]


def test_gradcheck_of_half_spaces():
    x, normal, offset = (z.requires_grad_() for z in half_space(2, 3, points=5))
    assert torch.autograd.gradcheck(relu.project_halfspace, (x, normal, offset))
    layer = relu.HalfspaceLayer(normal, offset)
    layer(x).square().sum().backward()
    assert layer.normal.grad.abs().sum() > 0


def test_extreme_normals_keep_their_direction():
    x = torch.tensor([3.0, 4.0])
    for length in (1e-38, 1e38):
        got = relu.project_halfspace(x, torch.tensor([3.0, 4.0]) / 5 * length, 1.0)
        torch.testing.assert_close(got, torch.tensor([0.6, 0.8]))


def test_what_half_spaces_refuse():
    x = torch.zeros(4, 3)
    for normal, offset, message in [
        (torch.zeros(3), 0.0, "must not be zero"),
        (torch.ones(2), 0.0, r"got \(2,\) for x of shape \(4, 3\)"),
        (torch.ones(3, 1), 0.0, "must be a vector"),
        (torch.tensor([1.0, torch.nan, 0.0]), 0.0, "must be finite"),
        (torch.ones(3), torch.inf, "must be finite"),
        (torch.ones(3), torch.ones(2), "offset must be a scalar"),
    ]:
        with pytest.raises(ValueError, match=message):
            relu.project_halfspace(x, normal, offset)
    with pytest.raises(ValueError, match="must be a vector"):
        relu.HalfspaceLayer(torch.ones(2, 2))
    with pytest.raises(TypeError, match="floating point"):
        relu.project_halfspace(x.long(), torch.ones(3))


# Units in the last place


@pytest.mark.parametrize("dtype", DTYPES)
def test_ulp(dtype):
    info = torch.finfo(dtype)
    smallest = torch.tensor(info.smallest_normal, dtype=torch.float64) * info.eps
    x = torch.tensor([1.0, -1.5, 2.0, 0.0, info.smallest_normal, info.max], dtype=dtype)
    steps = torch.tensor([info.eps, info.eps, 2 * info.eps], dtype=torch.float64)
    assert torch.equal(relu.ulp(x)[:3], steps)
    assert relu.ulp(x)[3] == relu.ulp(x)[4] == smallest
    below = (x[5:].view(INTEGERS[dtype.itemsize]) - 1).view(dtype)
    assert relu.ulp(x)[5] == x[5].double() - below[0].double()
    with pytest.raises(TypeError, match="floating point"):
        relu.ulp(torch.ones(2, dtype=torch.int32))


def test_ulps_of_infinities_and_nan():
    value = torch.tensor([torch.inf, torch.inf, torch.nan, 1.0])
    truth = torch.tensor([torch.inf, 1.0, 1.0, 1.0])
    assert relu.ulps(value, truth).tolist() == [0, torch.inf, torch.inf, 0]
