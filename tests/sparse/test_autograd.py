"""Products of sparse layers: equal to those of matrices with zeros, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnn.paths import METHODS, PathLinear, sample_paths
from mcnn.sparse.autograd import block_product, dense_product, product
from mcnn.sparse.structure import edges_of_paths, find_blocks


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


@settings(max_examples=30, deadline=None)
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
def test_the_operators_keep_the_rules_of_operators(dtype, batch):
    edges, _ = edges_of_paths(sample_paths([64, 32], 64), 64, 32)
    blocks = find_blocks(edges)
    count = len(edges.inputs)
    x, grad = randn(64, batch, dtype=dtype), randn(32, batch, dtype=dtype)
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


@pytest.mark.parametrize("kernel", ["gather", "blocks"])
def test_second_derivatives_are_refused(kernel):
    layer = PathLinear(64, 64, 64 * 4, kernel=kernel)
    x = randn(5, 64).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


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
