"""Sampling the weights of a layer, and masks of partitions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Race, Spread, Work
from mcnn.density import sample_counts
from mcnn.partition import DropoutPartition
from mcnn.partition.hashed import HashedPartition

ROWS, INPUTS, SAMPLES = 4096, 9216, 1024  # AlexNet's first fully connected layer
BATCH, UNITS = 128, 4096
COPY = "copy"


def counts(device: torch.device, method: str) -> Race:
    """Count the samples of each row of a large layer."""
    weight = torch.randn(ROWS, INPUTS, device=device)
    density = weight.abs()
    hits = torch.ones((), dtype=torch.int32, device=device).expand(ROWS, SAMPLES)

    def multinomial() -> Tensor:
        drawn = torch.multinomial(density, SAMPLES, replacement=True)
        return torch.zeros(ROWS, INPUTS, dtype=torch.int32, device=device).scatter_add_(
            1, drawn, hits
        )

    return Race(
        f"{SAMPLES} {method} samples of each row of {ROWS}×{INPUTS} weights",
        {
            "mcnn": lambda: sample_counts(weight, SAMPLES, method),
            "torch.multinomial, counted": multinomial,
            "torch.multinomial": lambda: torch.multinomial(density, SAMPLES, replacement=True),
            COPY: weight.clone,
        },
        {"torch.multinomial": 4.0 if method == "jittered" else 6.0},
        (COPY,),
    )


def aliasing(device: torch.device) -> Spread:
    """Sample weights of one magnitude whose inputs repeat with the distance of the samples.

    The worst case of systematic samples, made up for them: all samples of a row meet the same
    input.
    """
    rows, inputs, samples = 4096, 4096, 1024
    weight = torch.ones(1, inputs, device=device).expand(rows, inputs)
    wave = torch.cos(torch.arange(inputs, device=device) * (2 * torch.pi * samples / inputs))

    def spread(method: str) -> Callable[[int], float]:
        def variance(seed: int) -> float:
            sums = sample_counts(weight, samples, method, seed=seed).float() @ wave  # [rows]
            return float((sums / samples).var())

        return variance

    return Spread(
        f"the variance of a neuron whose inputs repeat every {inputs // samples} weights, as far "
        f"apart as its {samples} samples",
        {method: spread(method) for method in ("jittered", "iid", "systematic")},
    )


def partition(device: torch.device, *, compiled: bool) -> Race:
    """Drop units of a batch in training."""
    x = torch.randn(BATCH, UNITS, device=device)

    def race(layer: Callable[[Tensor], Tensor]) -> Work:
        called = torch.compile(layer) if compiled else layer
        return lambda: called(x)

    how = "compiled" if compiled else "eager"
    return Race(
        f"a step of dropout on {BATCH}×{UNITS} units, {how}",
        {
            "DropoutPartition": race(DropoutPartition(3)),
            "DropoutPartition(per_sample)": race(DropoutPartition(3, per_sample=True)),
            "F.dropout": race(lambda t: F.dropout(t, 1 / 3)),
            COPY: x.clone,
        },
        floors=(COPY,),
    )


def hashed(device: torch.device) -> Race:
    """Drop elements of a batch in training, each example by a mask of its own."""
    x = torch.randn(BATCH, UNITS, device=device)
    ours, dropout = (torch.compile(f) for f in (HashedPartition(3), lambda t: F.dropout(t, 1 / 3)))
    return Race(
        f"a mask for each of {BATCH} examples of {UNITS} units, compiled",
        {
            "HashedPartition": lambda: ours(x),
            "F.dropout": lambda: dropout(x),
            COPY: x.clone,
        },
        {"F.dropout": 20.0},
        (COPY,),
    )


BENCHMARKS = {
    "sampling-jittered": lambda device: counts(device, "jittered"),
    "sampling-systematic": lambda device: counts(device, "systematic"),
    "sampling-aliasing": aliasing,
    "partition-eager": lambda device: partition(device, compiled=False),
    "partition-compiled": lambda device: partition(device, compiled=True),
    "partition-hashed": hashed,
}
