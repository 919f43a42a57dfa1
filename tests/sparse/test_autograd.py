"""Products of sparse layers: equal to those of matrices with zeros, forward and backward."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn.linear import SampledLinear
from mcnn.paths import METHODS, PathConv2d, PathLinear, PathMLP, sample_paths, to_dense_model
from mcnn.sparse.autograd import block_product, dense_product, product
from mcnn.sparse.structure import edges_of_paths, find_blocks


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


@given(
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    b=st.integers(1, 9),
    paths=st.integers(1, 80),
    merge=st.booleans(),
    method=st.sampled_from(list(METHODS)),
    seed=st.integers(0, 1000),
)
def test_products_are_those_of_a_matrix(n, m, b, paths, merge, method, seed):
    edges, _ = edges_of_paths(sample_paths([n, m], paths, method, seed), n, m, merge)
    count = len(edges.inputs)
    w, x = randn(count, dtype=torch.float64), randn(n, b, seed=1, dtype=torch.float64)
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for i, j, value in zip(edges.outputs.tolist(), edges.inputs.tolist(), w.tolist(), strict=True):
        matrix[i, j] += value
    torch.testing.assert_close(product(x, w, edges), matrix @ x)
    torch.testing.assert_close(dense_product(x, w, edges), matrix @ x)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("method", ["uniform", "sobol"])
def test_derivatives(merge, method):
    edges, _ = edges_of_paths(sample_paths([6, 5], 20, method), 6, 5, merge)
    x = randn(6, 3, dtype=torch.float64).requires_grad_()
    w = randn(len(edges.inputs), seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: product(x, w, edges), (x, w))
    assert torch.autograd.gradcheck(lambda x, w: dense_product(x, w, edges), (x, w))


def test_derivatives_block_by_block():
    edges, _ = edges_of_paths(sample_paths([8, 16], 64), 8, 16)
    blocks = find_blocks(edges)
    x = randn(8, 3, dtype=torch.float64).requires_grad_()
    w = randn(64, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: block_product(x, w, blocks), (x, w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [3, 1100])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_operators_keep_the_rules_of_operators(dtype, batch, batch_first):
    edges, _ = edges_of_paths(sample_paths([64, 32], 64), 64, 32)
    blocks = find_blocks(edges)
    count = len(edges.inputs)
    x, grad = randn(64, batch, dtype=dtype), randn(32, batch, dtype=dtype)
    if batch_first:
        x, grad = x.T.contiguous().T, grad.T.contiguous().T
    w, bias = randn(count, dtype=dtype), randn(32, dtype=dtype)
    operators, tests = torch.ops.mcnn, ("test_schema", "test_faketensor")
    for operator, arguments in (
        (operators.path_sum, (x, w, edges.inputs, edges.starts, bias, True)),
        (operators.path_dot, (x, grad, edges.inputs, edges.outputs, edges.starts)),
        (operators.path_grads, (x, grad, w, *edges)),
        (operators.path_rectified, (grad, grad)),
        (operators.path_blocks, (x, w, *blocks, bias, True)),
        (operators.path_block_grads, (x, grad, w, *blocks)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=tests)


# --- derivatives of derivatives, and transformations ----------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", ["merge", "keep", "blocks"])
def test_second_derivatives(kind, relu):
    method = "sobol" if kind == "blocks" else "uniform"
    edges, _ = edges_of_paths(sample_paths([8, 4], 16, method, 1), 8, 4, kind != "keep")
    layer = find_blocks(edges) if kind == "blocks" else edges
    multiply = block_product if kind == "blocks" else product
    shapes = ((8, 3), (len(edges.inputs),), (4,))
    operands = [randn(*s, seed=i, dtype=torch.float64) for i, s in enumerate(shapes)]

    def f(x, w, bias):
        return multiply(x, w, layer, bias, relu)

    leaves = [t.requires_grad_() for t in operands]
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, leaves)
    for wanted in (leaves[:1], leaves[1:2]):  # the others are constant
        fixed = [t if any(t is w for w in wanted) else t.detach() for t in leaves]
        assert torch.autograd.gradgradcheck(f, fixed)


KERNELS = ["gather", "blocks", "dense"]


def critic(kernel, seed=3, dtype=torch.float64, **options):
    net = PathMLP([16, 32, 16, 1], 128, seed=seed, kernel="gather", dtype=dtype, **options)
    for layer in net.layers[:-1]:
        layer._kernel = kernel
    return net


@pytest.mark.parametrize("options", [{}, {"fixed_signs": True}, {"duplicates": "keep"}])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_a_gradient_penalty_trains_as_it_does_with_matrices(kernel, weight, options):
    """As a Wasserstein GAN has it; of smooth activations, and of fused rectifiers."""
    if kernel == "blocks" and "duplicates" in options:
        pytest.skip("blocks have no duplicates")
    net = critic(kernel, **options)
    plain = to_dense_model(net)
    z = randn(6, 16, dtype=torch.float64).requires_grad_()

    def gradients(model):
        def score(z):
            return model(z).tanh()

        (slope,) = torch.autograd.grad(score(z).sum(), z, create_graph=True)
        loss = score(z).mean() + weight * (slope.norm(dim=1) - 1).square().mean()
        return torch.autograd.grad(loss, [z, *model.parameters()], allow_unused=True)

    got, want = gradients(net), gradients(plain)
    torch.testing.assert_close(got[0], want[0])
    linear = [m for m in plain if isinstance(m, torch.nn.Linear)]
    named = dict(zip([n for n, _ in net.named_parameters()], got[1:], strict=True))
    wanted = dict(zip([n for n, _ in plain.named_parameters()], want[1:], strict=True))
    at = {id(m): n for n, m in plain.named_modules()}
    for i, (layer, dense) in enumerate(zip(net.layers, linear, strict=True)):
        full, edges = wanted[f"{at[id(dense)]}.weight"], layer.edges
        full = full[edges.outputs.long(), edges.inputs.long()]
        if layer.signs is not None:
            full = full * layer.signs * layer.weight.sign()
        torch.testing.assert_close(named[f"layers.{i}.weight"], full)
        torch.testing.assert_close(named[f"layers.{i}.bias"], wanted[f"{at[id(dense)]}.bias"])


def test_a_penalty_is_not_nothing():
    net, z = critic("gather"), randn(6, 16, dtype=torch.float64).requires_grad_()

    def gradient(weight):
        (slope,) = torch.autograd.grad(net(z).sum(), z, create_graph=True)
        loss = net(z).mean() + weight * (slope.norm(dim=1) - 1).square().mean()
        return torch.autograd.grad(loss, net.layers[0].weight)[0]

    assert not torch.allclose(gradient(0.0), gradient(10.0))


LAYERS = {
    "gather": lambda: PathLinear(16, 8, 32, seed=1, kernel="gather"),
    "blocks": lambda: PathLinear(16, 8, 32, seed=1, kernel="blocks"),
    "dense": lambda: PathLinear(16, 8, 32, seed=1, kernel="dense"),
    "signs": lambda: PathLinear(16, 8, 32, seed=1, fixed_signs=True),
    "conv": lambda: PathConv2d(16, 8, 3, 32, seed=1, kernel="gather", padding=1),
    "sampled": lambda: SampledLinear.random(16, 8, 4, seed=1),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_transformations_see_through_layers(make):
    """Gradients of each example, and forward mode, as loops over examples and differences have."""
    layer = make().double()
    x = randn(5, 16, *[4] * 2 * isinstance(layer, PathConv2d), dtype=torch.float64)
    p = {n: v.detach() for n, v in layer.named_parameters()}

    def loss(p, x):
        return torch.func.functional_call(layer, p, (x[None],)).sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(p, x)
    for j, one in enumerate(x):
        for name, g in torch.func.grad(loss)(p, one).items():
            torch.testing.assert_close(each[name][j], g)
    total = layer(x).sin().sum()
    for name, g in zip(p, torch.autograd.grad(total, list(layer.parameters())), strict=True):
        torch.testing.assert_close(each[name].sum(0), g)
    v = randn(*x.shape, seed=2, dtype=torch.float64)
    _, got = torch.func.jvp(layer, (x,), (v,))
    zero = layer(torch.zeros_like(x))
    torch.testing.assert_close(got, layer(v) - zero)  # for it is affine
    jacobian = torch.func.jacrev(lambda t: layer(t[None]).flatten())(x[0])
    torch.testing.assert_close(jacobian.flatten(1) @ v[0].flatten(), got[0].flatten())
    hessian = torch.func.hessian(lambda t: layer(t[None]).square().sum())(x[0])
    flat = jacobian.flatten(1)
    size = flat.shape[1]
    torch.testing.assert_close(hessian.reshape(size, size), 2 * flat.T @ flat)


def test_shapes_that_do_not_fit_are_refused():
    edges, _ = edges_of_paths(sample_paths([8, 16], 32), 8, 16)
    blocks = find_blocks(edges)
    for multiply, layer in ((product, edges), (block_product, blocks)):
        for x, w in ((randn(9, 2), randn(32)), (randn(8), randn(32))):
            with pytest.raises(ValueError, match=r"x must be \[8, batch\]"):
                multiply(x, w, layer)
        with pytest.raises(ValueError, match=r"bias must be \[16\]"):
            multiply(randn(8, 2), randn(32), layer, randn(15))
        with pytest.raises(TypeError, match="bias and weight"):
            multiply(randn(8, 2), randn(32), layer, randn(16).double())
    with pytest.raises(ValueError, match=r"weight \[32\]"):
        product(randn(8, 2), randn(48), edges)
    for count in (0, 31, 48):
        with pytest.raises(ValueError, match="equally many"):
            block_product(randn(8, 2), randn(count), blocks)
