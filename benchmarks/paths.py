"""Layers of paths against dense ones, forward and backward."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Curve, Race, Work
from mcnn.paths import PathLinear, PathMLP
from mcnn.training import nets

DENSE = "nn.Linear"
ONEDNN = "oneDNN linear"
FEATURE_MAJOR = "Sobol' paths, feature-major"
BYTES, OPERATIONS = "copy of its bytes", "matrix product of its operations"


def _both_ways(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, *p: Tensor) -> Work:
    def run() -> None:
        torch.autograd.grad(layer(x), (x, *p), grad)

    return run


def _onednn(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a linear layer through oneDNN, forward and backward, feature-minor."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return product(x, w)

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
            x, w = ctx.saved_tensors
            dx = product(grad, w.T.contiguous())
            return dx, product(grad.T.contiguous(), x.T.contiguous())

    return lambda x: Linear.apply(x, weight)


def layers(
    n: int, batch: int, fan_in: int, device: torch.device, *, blocks: bool = True
) -> dict[str, Work]:
    """Return the candidates of one layer: n units before and behind it.

    Blocks need powers of two.
    """
    minor = torch.randn(batch, n, device=device, requires_grad=True)  # [b, n]
    major = torch.randn(n, batch, device=device, requires_grad=True)  # [n, b]
    grad = torch.randn(batch, n, device=device)
    grad_major = grad.T.contiguous()
    candidates: dict[str, Work] = {}
    for name, method, kernel in (
        ("Sobol' paths, blocks", "sobol", "blocks"),
        ("random permutations, gathered", "permutation", "gather"),
    )[not blocks :]:
        layer = PathLinear(n, n, n * fan_in, method, bias=False, kernel=kernel, device=device)
        candidates[name] = _both_ways(layer.feature_major, major, grad_major, layer.weight)
    if n <= 8192:
        dense = nn.Linear(n, n, bias=False, device=device)
        candidates[DENSE] = _both_ways(dense, minor, grad, dense.weight)
        if device.type == "cpu" and torch.backends.mkldnn.is_available():
            candidates[ONEDNN] = _both_ways(_onednn(dense.weight), minor, grad, dense.weight)
    return candidates


def floors(n: int, batch: int, fan_in: int, device: torch.device) -> dict[str, Work]:
    """Return what both passes of a layer need at least, as candidates.

    Each number is read and written once for each pass that needs it, at the speed of a copy of as
    many bytes, and each product and sum is done at the speed of a dense matrix product.
    """
    edges = n * fan_in
    numbers = 2 * n * batch + edges  # forward: x, y and weights
    numbers += 3 * n * batch + 2 * edges  # backward: x, both gradients, weights and theirs
    source, target = torch.ones(2, numbers // 2, device=device)
    side = round((3 * edges * batch) ** (1 / 3))
    a, b, c = torch.ones(3, side, side, device=device)
    return {
        BYTES: lambda: target.copy_(source),
        OPERATIONS: lambda: torch.mm(a, b, out=c),
    }


def one(device: torch.device, n: int, fan_in: int, batch: int, goal: float) -> Race:
    """One layer."""
    return Race(
        f"a layer of {n} units, {fan_in} inputs each ({fan_in / n:.1%}), batch {batch}",
        {**layers(n, batch, fan_in, device), **floors(n, batch, fan_in, device)},
        {DENSE: goal},
        (BYTES, OPERATIONS),
    )


def gathered(device: torch.device, n: int, fan_in: int, batch: int, goal: float) -> Race:
    """One layer without the structure of Sobol' points: ours is the general form."""
    race = one(device, n, fan_in, batch, goal)
    ours = "random permutations, gathered"
    candidates = {ours: race.candidates[ours], **race.candidates}
    return dataclasses.replace(race, candidates=candidates)


def drop_in(device: torch.device, n: int, fan_in: int, batch: int, goal: float) -> Race:
    """Use one layer as a user meets it: called on [batch, units], gradients by ``backward()``."""
    x = torch.randn(batch, n, device=device, requires_grad=True)  # [b, n]
    major = torch.randn(n, batch, device=device, requires_grad=True)  # [n, b]
    grad = torch.randn(batch, n, device=device)
    kinds = {"Sobol' paths": "sobol", "permutations": "permutation"}
    paths = {
        k: PathLinear(n, n, n * fan_in, m, bias=False, device=device) for k, m in kinds.items()
    }
    dense = nn.Linear(n, n, bias=False, device=device)

    def step(layer: nn.Module) -> Work:
        def run() -> None:
            x.grad = layer.weight.grad = None
            layer(x).backward(grad)

        return run

    first = paths["Sobol' paths"]
    turned = _both_ways(first.feature_major, major, grad.T.contiguous(), first.weight)
    candidates = {f"{kind}, drop-in": step(layer) for kind, layer in paths.items()}
    return Race(
        f"a drop-in layer of {n} units, {fan_in} inputs each ({fan_in / n:.1%}), batch {batch}",
        {**candidates, FEATURE_MAJOR: turned, DENSE: step(dense)},
        {DENSE: goal, FEATURE_MAJOR: 1 / 1.2},
    )


def density(device: torch.device) -> Curve:
    """Against the share of edges: where dense wins."""
    n, batch = 1024, 256

    def candidates(share: float) -> Mapping[str, Work]:
        found = layers(n, batch, max(1, round(share * n)), device, blocks=False)
        ours = "random permutations, gathered"
        return {ours: found[ours]} | {k: f for k, f in found.items() if k in (DENSE, ONEDNN)}

    return Curve(
        f"a layer of {n} units of random permutations, batch {batch}",
        "share of all edges",
        [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.48, 0.64],
        candidates,
        break_even={DENSE: 0.4, ONEDNN: 0.25},
    )


def number(device: torch.device) -> Curve:
    """Against the number of paths at a given width: at most linear."""
    n, batch = 4096, 64

    def candidates(paths: int) -> Mapping[str, Work]:
        ours = "random permutations, gathered"
        return {ours: layers(n, batch, paths // n, device, blocks=False)[ours]}

    return Curve(
        f"a layer of {n} units, batch {batch}",
        "paths",
        [n * 2**k for k in range(3, 9)],
        candidates,
        exponent=(0.95, 1.05),
    )


def width(device: torch.device) -> Curve:
    """Against the width at 16 inputs a unit."""
    batch = 16

    def candidates(n: int) -> Mapping[str, Work]:
        return {k: f for k, f in layers(n, batch, 16, device).items() if k != ONEDNN}

    return Curve(
        f"layers with 16 inputs a unit, batch {batch}",
        "units",
        [2**k for k in range(10, 21, 2)],
        candidates,
        exponent=(0.0, 1.05),
    )


def step(device: torch.device) -> Race:
    """Take a training step of a wide network."""
    widths, batch, fan_in = (784, 4096, 4096, 10), 64, 16
    x = torch.randn(batch, 1, 28, 28, device=device)
    y = torch.randint(10, (batch,), device=device)

    def train(model: nn.Module) -> Work:
        optimizer = torch.optim.SGD(model.parameters(), 0.01, foreach=True)

        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return run

    return Race(
        f"a training step of {'/'.join(map(str, widths))}, 4096·{fan_in} paths, batch {batch}",
        {
            "Sobol' paths": train(PathMLP(widths, 4096 * fan_in).to(device)),
            "permutations": train(PathMLP(widths, 4096 * fan_in, "permutation").to(device)),
            DENSE: train(nets.build("mlp", widths=widths).to(device)),
        },
        {DENSE: 50.0},
    )


BENCHMARKS = {
    "paths-1024": lambda device: one(device, 1024, 32, 256, 15.0),
    "paths-1024-gathered": lambda device: gathered(device, 1024, 32, 256, 15.0),
    "paths-4096": lambda device: one(device, 4096, 16, 64, 100.0),
    "paths-4096-32": lambda device: one(device, 4096, 32, 64, 93.0),
    "paths-1024-drop-in": lambda device: drop_in(device, 1024, 32, 256, 13.0),
    "paths-4096-drop-in": lambda device: drop_in(device, 4096, 16, 64, 85.0),
    "paths-density": density,
    "paths-number": number,
    "paths-width": width,
    "paths-step": step,
}
