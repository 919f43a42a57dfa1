"""The loops in C compute what matrices in float64 do, whatever the shape, and refuse the rest."""

import copy
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mcnn import native as compiler
from mcnn.density import native as loops_of_counts
from mcnn.partition import native as loops_of_parts
from mcnn.paths import PathLinear, PathMLP, backend, sample_paths
from mcnn.profiling import Work
from mcnn.sparse.autograd import block_product, product
from mcnn.sparse.backends import c
from mcnn.sparse.backends.torch import dot_rows as torch_dot
from mcnn.sparse.backends.torch import sum_rows as torch_sum
from mcnn.sparse.structure import dense_matrix, edges_of_paths, find_blocks

COMPILER = shutil.which((os.environ.get("CC") or "cc").split()[0])
pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
SIZES = [16, 17, 31, 32, 48, 63, 64, 65, 128, 130, 200]
BATCHES = st.sampled_from(SIZES)


def randn(*shape, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


@pytest.fixture
def always(monkeypatch):
    """Let layers of all sizes go through the loops."""
    monkeypatch.setattr(c, "SMALLEST", 0)


def derivatives(multiply, x, w, bias, grad):
    inputs = [t.detach().clone().requires_grad_() for t in (x, w, bias)]
    y = multiply(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    batch=BATCHES,
    paths=st.integers(1, 400),
    merge=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_loops_compute_what_matrices_do(n, m, batch, paths, merge, relu, seed):
    found = sample_paths([n, m], paths, "uniform", seed)
    edges, _ = edges_of_paths(found, n, m, merge)
    x, w, bias = randn(n, batch), randn(len(edges.inputs), seed=1), randn(m, seed=2)
    grad = randn(m, batch, seed=3)

    def exact(x, w, bias):
        y = dense_matrix(w, edges, n) @ x + bias[:, None]
        return y.relu() if relu else y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c, "SMALLEST", 0)
        results = derivatives(lambda x, w, b: product(x, w, edges, b, relu), x, w, bias, grad)
        dots = c.dot_rows(x, grad, edges.inputs, edges.starts)
    doubles = [t.double() for t in (x, w, bias, grad)]
    for got, want in zip(results, derivatives(exact, *doubles), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    want = torch_dot(x, grad, edges.inputs, edges.outputs, edges.starts)
    torch.testing.assert_close(dots, want, rtol=1e-5, atol=1e-4)


@given(
    digits=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    more=st.integers(1, 4),
    batch=BATCHES,
    relu=st.booleans(),
    seed=st.integers(0, 10**9),
)
def test_loops_over_blocks_compute_what_those_over_edges_do(digits, more, batch, relu, seed):
    n, m = (1 << d for d in digits)
    edges, _ = edges_of_paths(sample_paths([n, m], max(n, m) << more, "sobol", seed), n, m)
    blocks = find_blocks(edges)
    if blocks is None:
        assert len(edges.inputs) == n * m
        return
    x, w, bias = randn(n, batch), randn(len(edges.inputs), seed=1), randn(m, seed=2)
    grad = randn(m, batch, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c, "SMALLEST", 0)
        got = derivatives(lambda x, w, b: block_product(x, w, blocks, b, relu), x, w, bias, grad)
        want = derivatives(lambda x, w, b: product(x, w, edges, b, relu), x, w, bias, grad)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@given(
    digits=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    off=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    k=st.integers(1, 5),
    batch=st.sampled_from([*SIZES, 143, 144, 300]),
    part=st.sampled_from([1 << 12, 1 << 17]),
    threads=st.integers(1, 3),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_batches_example_by_example_give_the_same_bits(
    digits, off, k, batch, part, threads, relu, seed
):
    """Turned or not, in however many parts and threads, in blocks or edge by edge."""
    n, m = ((1 << d) + o for d, o in zip(digits, off, strict=True))
    method = "sobol" if off == (0, 0) else "uniform"
    edges, _ = edges_of_paths(sample_paths([n, m], max(n, m) << k, method, seed), n, m)
    layers = [(product, edges), (block_product, find_blocks(edges))]
    w, bias = randn(len(edges.inputs), seed=1), randn(m, seed=2)
    x, grad = randn(batch, n).T, randn(batch, m, seed=3).T
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c, "SMALLEST", 0)
        patch.setattr(c, "_PART", part)
        for multiply, layer in layers[: 1 if layers[1][1] is None else 2]:
            want = derivatives(
                lambda *t: multiply(*t[:2], layer, t[2], relu),  # noqa: B023
                x.contiguous(), w, bias, grad.contiguous(),
            )  # fmt: skip
            leaves = [x.detach().requires_grad_(), w.clone().requires_grad_()]
            patch.setattr(c, "_A_THREAD", 1)
            torch.set_num_threads(threads)
            try:
                y = multiply(*leaves, layer, bias, relu)
                got = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
            finally:
                torch.set_num_threads(before)
                patch.setattr(c, "_A_THREAD", 1 << 19)
            for a, b in zip(got, want[:3], strict=True):
                assert torch.equal(a, b)
            for t in got[:2]:
                assert t.T.is_contiguous() or n == 1  # a batch of single units lies both ways


def test_sums_come_in_the_order_of_embedding_bag():
    edges, _ = edges_of_paths(sample_paths([300, 200], 2000, "uniform"), 300, 200)
    x, w = randn(300, 64), randn(len(edges.inputs), seed=1)
    sums = c.sum_rows(x, w, edges.inputs, edges.starts)
    # The same but for a sum of products that this processor rounds once or twice.
    torch.testing.assert_close(sums, torch_sum(x, w, edges.inputs, edges.starts))


@pytest.mark.parametrize("method", ["sobol", "permutation"])
@pytest.mark.parametrize(("n", "k", "batch"), [(2048, 16, 80), (1 << 15, 16, 16)])
def test_large_layers_and_threads_agree_with_torch(method, n, k, batch):
    layer = PathLinear(n, n, n * k, method)
    edges, grad = layer.edges, randn(n, batch, seed=2)
    x = randn(n, batch).requires_grad_()
    inputs = [x, layer.weight, layer.bias]
    before, found = torch.get_num_threads(), {}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            y = layer.feature_major(x, relu=True)
            found[threads] = [y.detach(), *torch.autograd.grad(y, inputs, grad)]
        finally:
            torch.set_num_threads(before)
    for threads in (2, 3):  # who computes a sum does not change it
        for one, other in zip(found[1], found[threads], strict=True):
            assert torch.equal(one, other)
    y = F.relu(torch_sum(x, layer.weight, edges.inputs, edges.starts) + layer.bias[:, None])
    passed = torch.where(y > 0, grad, 0)
    w = layer.weight.detach().index_select(0, edges.order)
    dots = torch_dot(x.detach(), passed, edges.inputs, edges.outputs, edges.starts)
    dx = torch_sum(passed, w, edges.outputs_by_input, edges.starts_by_input)
    for got, want in zip(found[1], (y, dx, dots, passed.sum(1)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_what_the_loops_do_not_take_goes_through_torch():
    edges = 1 << 20
    x, w = torch.ones(4, 32), torch.ones(4)
    assert c.supports(edges, x, w)
    assert not c.supports(edges, x.double(), w.double())
    assert not c.supports(edges, x, w.double())
    assert not c.supports(edges, x[:, :15], w)
    assert not c.supports(edges, x.to("meta"), w)
    assert not c.supports(100, x, w)


@pytest.mark.usefixtures("always")
def test_inputs_in_any_layout(monkeypatch):
    edges, _ = edges_of_paths(sample_paths([16, 16], 64), 16, 16)
    x, w = randn(40, 16).T, randn(128)[::2]
    want = product(x.contiguous(), w.contiguous(), edges)
    assert torch.equal(product(x, w, edges), want)
    ones = torch.ones(()).expand(16, 40)  # what the sum of all results hands back
    for multiply, layer in ((product, edges), (block_product, find_blocks(edges))):
        leaf = x.contiguous().requires_grad_()
        (dx,) = torch.autograd.grad(multiply(leaf, w, layer), leaf, ones)
        torch.testing.assert_close(dx, dense_matrix(w, edges, 16).T @ ones)


@pytest.mark.usefixtures("always")
def test_what_is_no_number_stays_seen():
    edges, _ = edges_of_paths(torch.tensor([[0, 1], [0, 1]]), 2, 2)
    x = torch.ones(2, 16)
    x[0, 3] = torch.nan
    y = product(x, torch.ones(2), edges, relu=True)
    assert y.isnan().nonzero().tolist() == [[0, 3]]


def test_a_network_trains_to_the_same_with_and_without_loops(monkeypatch):
    net = PathMLP([64, 256, 256, 10], 4096, "permutation")
    other, x = copy.deepcopy(net), randn(64, 64)
    y = torch.arange(64) % 10

    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    with_loops = train(net)
    monkeypatch.setattr(c, "available", lambda: False)
    assert backend("cpu") == "torch"
    for a, b in zip(with_loops, train(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_compiler_compiles_all_loops():
    assert c.available()
    assert loops_of_counts.available()
    assert loops_of_parts.available()
    assert backend("cpu") == "c"


def test_without_a_compiler_there_is_none(monkeypatch, tmp_path):
    good, bad = tmp_path / "good.c", tmp_path / "bad.c"
    good.write_text("int one(void) { return 1; }")
    bad.write_text("this is not C")
    monkeypatch.setattr(compiler, "_TOLD", {})
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match="CC='no-such-compiler' names no program"):
        assert compiler.library(good, {"one": ()}, contract=False) is None
    monkeypatch.delenv("CC")
    assert compiler.library(bad, {}, contract=False) is None
    assert compiler.library(good, {"one": ()}, contract=True).one() == 1


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ("no-such-cc -O2", "names no program that is there"),
        ("false", "exits with status 1: no message"),
        ("'cc", "cannot be read: No closing quotation"),
        (f"{COMPILER} --no-such-option", "exits with status .*no-such-option"),
        ("true", "gives no library that can be loaded"),
    ],
)
def test_a_chosen_compiler_that_does_not_serve_is_named_once(monkeypatch, tmp_path, chosen, why):
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }")
    monkeypatch.setenv("CC", chosen)
    monkeypatch.setattr(compiler, "_TOLD", {})
    with pytest.warns(RuntimeWarning, match=f"{why}.*let CC name a C compiler"):
        assert compiler.library(source, {"one": ()}, contract=False) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler.library(source, {"one": ()}, contract=False) is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")  # nobody chose one, and there is none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler.library(source, {"one": ()}, contract=False) is None


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_a_compiler_may_have_arguments(monkeypatch, tmp_path):
    source = tmp_path / "two.c"
    source.write_text("int two(void) { return TWO; }")
    monkeypatch.setenv("CC", f"{COMPILER} -DTWO=2 -g")
    assert compiler.library(source, {"two": ()}, contract=False).two() == 2


def test_threads_do_not_outlive_a_fork():
    code = (
        "import os, sys, mcnn.native as n; f = lambda a, b: b - a\n"
        "assert n.in_parallel(f, [0, 3, 5, 9]) == [3, 2, 4]\n"
        "child = os.fork()\n"
        "assert n.in_parallel(f, [0, 3, 5, 9]) == [3, 2, 4]\n"
        "os._exit(0) if child == 0 else sys.exit(os.waitpid(child, 0)[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_large_memory_is_ordinary_memory():
    memory = compiler.empty((3, 1 << 20), torch.int32).fill_(7)
    assert memory.shape == (3, 1 << 20)
    assert memory.is_contiguous()
    assert int(memory.sum(dtype=torch.int64)) == 7 * 3 << 20


@pytest.mark.parametrize("kernel", ["gather", "blocks"])
def test_twice_the_paths_are_twice_the_work(kernel):
    """Counted, not timed: whatever computes the sums."""
    n, batch, found = 256, 32, {}
    x, grad = randn(n, batch), randn(n, batch, seed=1)
    for k in (8, 16):
        layer = PathLinear(n, n, n * k, bias=False, kernel=kernel)
        leaf = x.clone().requires_grad_()
        with Work() as forward:
            y = layer.feature_major(leaf)
        with Work() as backward:
            torch.autograd.grad(y, [leaf, layer.weight], grad)
        found[k] = forward, backward
        assert forward.operations == 2 * n * k * batch
        assert backward.operations == 4 * n * k * batch
    # What more edges add in bytes: their weights and gradients; where they are listed, their
    # numbers and a row of the batch each. In blocks a row is read once, for however many edges.
    numbers = {"gather": (batch + 1 + 1, batch + 2 + 4), "blocks": (1, 2)}[kernel]
    for few, many, each in zip(found[8], found[16], numbers, strict=True):
        assert many.operations == 2 * few.operations
        assert many.bytes - few.bytes == 4 * each * n * 8
