"""The kernels for GPUs compute what PyTorch's operators do: interpreted on the CPU, or on a GPU.

They also are compiled for a GPU, which needs none.
"""

import os
import subprocess
import sys

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cuda"] if torch.cuda.is_available() else ["cpu"] if INTERPRETED else []
TYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
runs = pytest.mark.skipif(not DEVICES, reason="needs a GPU, or TRITON_INTERPRET=1")


def _layer(inputs, outputs, paths, method, seed=0):
    from mcnn.paths import sample_paths
    from mcnn.sparse.structure import edges_of_paths

    found = sample_paths([inputs, outputs], paths, method, seed=seed)
    return edges_of_paths(found, inputs, outputs)[0]


def _on(device, edges):
    return type(edges)(*(t.to(device) for t in edges))


@runs
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("inputs", "outputs", "paths", "batch"), [(7, 5, 11, 3), (33, 64, 150, 70)]
)
def test_triton_sums_and_dots_are_those_of_a_matrix(dtype, inputs, outputs, paths, batch):
    from mcnn.sparse.backends import triton as kernels
    from mcnn.sparse.structure import dense_matrix

    for device in DEVICES:
        edges = _on(device, _layer(inputs, outputs, paths, "uniform"))
        g = torch.Generator().manual_seed(1)
        x, grad, w, bias = (
            torch.randn(shape, generator=g).to(device, dtype)
            for shape in ((inputs, batch), (outputs, batch), (len(edges.inputs),), (outputs,))
        )
        matrix = dense_matrix(w.double(), edges, inputs)
        close = {"rtol": TYPES[dtype], "atol": 4 * TYPES[dtype]}
        y = kernels.sum_rows(x, w, edges.inputs, edges.starts)
        torch.testing.assert_close(y.double(), matrix @ x.double(), **close)
        y = kernels.sum_rows(x, w, edges.inputs, edges.starts, bias, relu=True)
        want = (matrix @ x.double() + bias.double()[:, None]).relu()
        torch.testing.assert_close(y.double(), want, **close)
        order = edges.order.long()
        dx = kernels.sum_rows(grad, w[order], edges.outputs_by_input, edges.starts_by_input)
        torch.testing.assert_close(dx.double(), matrix.T @ grad.double(), **close)
        dots = kernels.dot_rows(x, grad, edges.inputs, edges.outputs)
        all_dots = grad.double() @ x.double().T
        want = all_dots[edges.outputs.long(), edges.inputs.long()]
        torch.testing.assert_close(dots.double(), want, **close | {"atol": 10 * TYPES[dtype]})


@runs
def test_triton_kernels_refuse_what_they_cannot_sum():
    from mcnn.sparse.backends import triton as kernels

    edges = _layer(64, 64, 1024, "sobol")
    x, w = torch.ones(64, 2), torch.ones(len(edges.inputs))
    with pytest.raises(TypeError, match="one floating point type"):
        kernels.sum_rows(x.int(), w, edges.inputs, edges.starts)
    with pytest.raises(TypeError, match="one floating point type"):
        kernels.dot_rows(x, x.double(), edges.inputs, edges.outputs)
    assert kernels.sum_rows(x[:, :0], w, edges.inputs, edges.starts).shape == (64, 0)


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is not compiled")
@pytest.mark.parametrize("float_type", ["fp32", "bf16", "fp16", "fp64"])
def test_triton_kernels_compile_for_a_gpu(float_type):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mcnn.sparse.backends import triton as kernels

    f, i32 = f"*{float_type}", "*i32"
    wide = {"wide": float_type == "fp64"}
    cases = {
        kernels._sum_rows: (
            [f, f, i32, i32, f, f, "i32"],
            {"has_bias": True, "relu": True, "tile": 64} | wide,
        ),
        kernels._dot_rows: ([f, f, i32, i32, f, "i32", "i32"], {"group": 16, "tile": 64} | wide),
    }
    for kernel, (types, constants) in cases.items():
        names = kernel.arg_names
        signature = dict(zip(names, types, strict=False)) | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()})
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert ".visible .entry" in compiled.asm["ptx"]


@pytest.mark.skipif(bool(DEVICES), reason="they ran in this process")
def test_triton_kernels_run_interpreted():
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            __file__,
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout
