"""The structure of sparse layers: edges, sorted both ways, and blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnn.paths import METHODS, PathLinear, sample_paths
from mcnn.sparse.autograd import block_product, product
from mcnn.sparse.structure import (
    check_operands,
    dense_matrix,
    edges_of_paths,
    edges_of_rows,
    find_blocks,
)


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


# --- edges ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    number=st.integers(1, 80),
    merge=st.booleans(),
    method=st.sampled_from(list(METHODS)),
    seed=st.integers(0, 1000),
)
def test_edges_are_the_paths_sorted_both_ways(n, m, number, merge, method, seed):
    paths = sample_paths([n, m], number, method, seed)
    edges, edge_of_path = edges_of_paths(paths, n, m, merge)
    count = len(edges.inputs)
    assert all(t.dtype == torch.int32 for t in edges)
    assert torch.equal(edges.inputs[edge_of_path], paths[0])
    assert torch.equal(edges.outputs[edge_of_path], paths[1])
    assert ((edges.outputs.long() * n + edges.inputs).diff() >= (1 if merge else 0)).all()
    assert torch.equal(edges.outputs_by_input, edges.outputs[edges.order])
    assert (edges.inputs[edges.order].diff() >= 0).all()
    assert torch.equal(edge_of_path.unique(), torch.arange(count))
    assert count == (len(paths.unique(dim=1).T) if merge else number)
    fan_in = torch.bincount(edges.outputs, minlength=m)
    fan_out = torch.bincount(edges.inputs, minlength=n)
    assert torch.equal(edges.starts.diff(), fan_in.int())
    assert torch.equal(edges.starts_by_input.diff(), fan_out.int())
    rows = edges_of_rows(edges.starts, edges.inputs, n)
    assert all(torch.equal(a, b) for a, b in zip(rows, edges, strict=True))


def test_rows_may_be_empty_and_in_any_order():
    starts, inputs = torch.tensor([0, 0, 3, 3]).int(), torch.tensor([3, 0, 1]).int()
    edges = edges_of_rows(starts, inputs, 4)
    assert edges.outputs.tolist() == [1, 1, 1]
    assert edges.order.tolist() == [1, 2, 0]
    assert edges.starts_by_input.tolist() == [0, 1, 2, 2, 3]
    want = [[0] * 4, [2, 3, 0, 1], [0] * 4]
    assert dense_matrix(torch.tensor([1, 2, 3]), edges, 4).tolist() == want
    nothing = edges_of_rows(torch.zeros(3).int(), torch.zeros(0).int(), 2)
    assert nothing.starts_by_input.tolist() == [0, 0, 0]


def test_weights_of_one_edge_add_up_in_a_matrix():
    edges, edge_of_path = edges_of_paths(torch.tensor([[1, 0, 1], [0, 1, 0]]), 2, 2, merge=False)
    w = torch.tensor([1.0, 10.0, 100.0])
    sorted_w = torch.empty(3).scatter_(0, edge_of_path, w)
    assert dense_matrix(sorted_w, edges, 2).tolist() == [[0, 101], [10, 0]]
    filters = dense_matrix(sorted_w[:, None, None].expand(3, 2, 2), edges, 2)
    assert filters.shape == (2, 2, 2, 2)
    assert torch.equal(filters[:, :, 1, 0], dense_matrix(sorted_w, edges, 2))


def test_operands_are_cast_only_where_autocast_lets_them():
    x, w, bias = torch.ones(3, 2), torch.ones(5), torch.ones(4)
    assert check_operands(x, w, bias, 3, 4, 5) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert check_operands(x.bfloat16(), w, bias, 3, 4, 5).dtype == torch.float32
    with pytest.raises(TypeError, match=r"one type, got torch.bfloat16 and torch.float32"):
        check_operands(x.bfloat16(), w, bias, 3, 4, 5)


# --- blocks ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    digits=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    more=st.integers(1, 4),
    seed=st.integers(0, 10**9),
    dimensions=st.permutations(range(6)),
)
def test_sobol_layers_fall_into_full_blocks(digits, more, seed, dimensions):
    n, m = (1 << d for d in digits)
    paths = max(n, m) << more
    found = sample_paths([n, m], paths, "sobol", seed, dimensions=dimensions[:2])
    edges, _ = edges_of_paths(found, n, m)
    blocks = find_blocks(edges)
    count = len(edges.inputs)
    if count == n * m:
        assert blocks is None  # one block: a full layer
        return
    assert torch.equal(blocks.inputs[blocks.input_places], torch.arange(n))
    assert torch.equal(blocks.outputs[blocks.output_places], torch.arange(m))
    w, x = randn(count), randn(n, 5, seed=1)
    torch.testing.assert_close(block_product(x, w, blocks), product(x, w, edges))


@pytest.mark.parametrize(
    "paths",
    [
        [[0, 1, 2, 3], [0, 1, 2, 2]],  # two edges into one unit
        [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 1, 2, 3, 0]],  # a ring
        [[0, 0, 1, 1], [0, 0, 1, 1]],  # duplicates
    ],
)
def test_other_layers_do_not(paths):
    paths = torch.tensor(paths)
    n = int(paths.max()) + 1
    edges, _ = edges_of_paths(paths, n, n, merge=False)
    assert find_blocks(edges) is None
    with pytest.raises(ValueError, match="does not fall into blocks"):
        PathLinear(n, n, paths, kernel="blocks", duplicates="keep")
