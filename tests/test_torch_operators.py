"""Our operators under the samples that PyTorch tests its own with, and under its ``opcheck``."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_checks import every_path, tables

from mcnn.partition import DropoutPartition, HashedPartition
from mcnn.paths import PathConv2d, PathLinear, sample_paths
from mcnn.relu import absolute, leaky_relu, max_pool2d, maximum
from mcnn.sparse.structure import edges_of_paths, find_blocks

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
every_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def samples(name: str, dtype: torch.dtype, every: int = 1) -> list:
    op = tables().operators[name]
    found = list(op.sample_inputs("cpu", dtype, requires_grad=True))[::every]
    return [*found, *(s.noncontiguous() for s in found)]


def agree(got: Tensor, want: Tensor, leaves: list[Tensor], others: list[Tensor]) -> None:
    """The same values, and the same gradients at two lists of tensors."""
    options = {}
    if want.dtype.itemsize == 2:  # sums in another order
        most = float(want.detach().abs().amax()) if want.numel() else 1.0
        options = {"rtol": 2e-2, "atol": 2e-2 * max(1.0, most)}
    torch.testing.assert_close(got, want, **options)
    upstream = torch.randn_like(want)
    pairs = zip(
        torch.autograd.grad(got, leaves, upstream),
        torch.autograd.grad(want, others, upstream),
        strict=True,
    )
    for a, b in pairs:
        if options:
            options["atol"] = 2e-2 * max(1.0, float(b.abs().amax()) if b.numel() else 1.0)
        torch.testing.assert_close(a.view_as(b), b, **options)


@every_type
@pytest.mark.parametrize("kernel", ["gather", "dense"])
def test_linear(kernel, dtype):
    for sample in samples("nn.functional.linear", dtype):
        x, weight, bias = sample.input, sample.args[0], (*sample.args[1:], None)[0]
        outputs, inputs = weight.shape
        layer = PathLinear(
            inputs, outputs, every_path(inputs, outputs), bias=bias is not None, kernel=kernel
        ).to(dtype)
        layer.weight.data = weight.detach().flatten()
        ours, theirs = [x, layer.weight], [x, weight]
        if bias is not None:
            layer.bias.data = bias.detach().clone()
            ours, theirs = [*ours, layer.bias], [*theirs, bias]
        agree(layer(x), F.linear(x, weight, bias), ours, theirs)


@every_type
@pytest.mark.parametrize("kernel", ["gather", "dense"])
def test_conv2d(kernel, dtype):
    refused = 0
    for sample in samples("nn.functional.conv2d", dtype):
        x, weight, bias, options = sample.input, *sample.args, dict(sample.kwargs)
        outputs, inputs, *sides = weight.shape
        sizes = (inputs, outputs, tuple(sides), every_path(inputs, outputs))
        options |= {"bias": bias is not None, "kernel": kernel}
        if options.get("groups", 1) != 1:
            with pytest.raises(ValueError, match="no groups"):
                PathConv2d(*sizes, **options)
            refused += 1
            continue
        layer = PathConv2d(*sizes, **options).to(dtype)
        layer.weight.data = weight.detach().reshape(-1, *sides)
        ours, theirs = [x, layer.weight], [x, weight]
        if bias is not None:
            layer.bias.data = bias.detach().clone()
            ours, theirs = [*ours, layer.bias], [*theirs, bias]
        agree(layer(x), F.conv2d(x, weight, bias, **sample.kwargs), ours, theirs)
    assert refused


@every_type
def test_max_pool2d(dtype):
    for sample in samples("nn.functional.max_pool2d", dtype, every=13):
        x, options = sample.input, dict(sample.kwargs)
        if options.pop("return_indices"):
            continue
        distinct = torch.randperm(x.numel()).view_as(x).to(dtype) / 4 - 9
        with torch.no_grad():  # of the strides of the sample; equal ones would share the gradient
            x = torch.empty_like(x).copy_(distinct).requires_grad_()
        agree(max_pool2d(x, **options), F.max_pool2d(x, **options), [x], [x])


def test_what_max_pool2d_refuses_is_refused():
    for error in tables().operators["nn.functional.max_pool2d"].error_inputs("cpu"):
        options = dict(error.sample_input.kwargs)
        options.pop("return_indices", None)
        with pytest.raises(ValueError, match=r"must|does not fit"):
            max_pool2d(error.sample_input.input, **options)


@every_type
def test_activations(dtype):
    for sample in samples("nn.functional.leaky_relu", dtype):
        x = sample.input
        ours = leaky_relu(x, *sample.args, **sample.kwargs)
        torch.testing.assert_close(ours, F.leaky_relu(x, *sample.args, **sample.kwargs))
    for sample in samples("abs", dtype):
        assert torch.equal(absolute(sample.input), sample.input.abs())
    for sample in samples("maximum", dtype):
        assert torch.equal(
            maximum(sample.input, *sample.args), torch.maximum(sample.input, *sample.args)
        )


@every_type
@pytest.mark.parametrize("kind", [DropoutPartition, HashedPartition])
def test_dropout(kind, dtype):
    """Elements are dropped or scaled, and gradients likewise; values of random masks differ."""
    seen = set()
    for sample in samples("nn.functional.dropout", dtype):
        x, p, training = (
            sample.input,
            sample.kwargs.get("p", 0.5),
            sample.kwargs.get("training", True),
        )
        if p not in (0.5, 1 / 3, 0.25, 0.2):
            with pytest.raises(ValueError, match=r"1/P|1/256"):
                kind(p=p)
            seen.add("rate")
            continue
        layer = kind(p=p).train(training)
        least = 2 if kind is DropoutPartition else 1
        if training and x.dim() < least:
            with pytest.raises(ValueError, match=r"must be \[batch"):
                layer(x)
            seen.add("shape")
            continue
        if not training:
            assert layer(x) is x
            continue
        y = layer(x)
        assert y.shape == x.shape
        kept = y != 0
        torch.testing.assert_close(y, torch.where(kept, x * (layer.parts / (layer.parts - 1)), 0))
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad[x != 0] != 0, kept[x != 0])
        seen.add("dropped")
    assert seen == {"dropped", "shape", "rate"}


def test_all_operators_of_ours_are_checked():
    names = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if "mcnn::" in n}
    assert names == set(operands())


# --- operators of our own -------------------------------------------------------------------------


def operands() -> dict[str, tuple]:
    edges, _ = edges_of_paths(sample_paths([8, 8], 16), 8, 8)
    blocks = find_blocks(edges)
    x, g = torch.randn(8, 3), torch.randn(8, 3)
    w, bias = torch.randn(len(edges.inputs)), torch.randn(8)
    state = torch.tensor([1, 7])
    return {
        "path_sum": (x, w, edges.inputs, edges.starts, bias, True),
        "path_dot": (x, g, edges.inputs, edges.outputs, edges.starts),
        "path_grads": (x, g, w, *edges),
        "path_blocks": (x, w, *blocks, bias, True),
        "path_block_grads": (x, g, w, *blocks),
        "path_rectified": (g, x.relu()),
        "hashed_turn": (state,),
        "drop_hashed": (x, state, 3),
        "next_turn": (state, 3, 8, 3, torch.device("cpu")),
        "sample_counts": (w.view(4, 4), 8, "jittered", "stored", 1),
        "take_turn": (
            torch.zeros(4, dtype=torch.int64),
            torch.zeros(5, dtype=torch.uint8),
            3,
            "cycle",
            False,
            "lfsr",
            1,
            True,
        ),
    }


@pytest.mark.parametrize("name", operands())
def test_schemas_and_shapes_of_our_operators(name):
    """They change no operand unless they say so, and fake tensors have the shapes of real ones."""
    utils = ["test_schema", "test_faketensor"]
    if name == "next_turn":
        utils = utils[1:]  # PyTorch's reader of schemas knows no devices
    torch.library.opcheck(
        getattr(torch.ops.mcnn, name),
        operands()[name],
        test_utils=utils,
    )
