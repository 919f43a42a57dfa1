"""The ReLU at the output of a layer, or at the input of the next: by how much do they differ?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mcnn.integral.regroup import difference
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import uniforms

KINDS = ("linear", "convolutional")


@dataclass(frozen=True, kw_only=True)
class RegroupTrial(Trial):
    """A stack of random depth and width."""

    kind: str = "linear"
    dtype: str = "float32"


def run(trial: RegroupTrial, device: torch.device) -> dict:
    """Compare outputs and gradients of both forms on random inputs."""
    u = uniforms(trial.seed, torch.arange(32)).tolist()
    depth = 2 + int(6 * u[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(trial.seed)
        if trial.kind == "linear":
            widths = [1 + int(256 * v) for v in u[1 : depth + 2]]
            model, x = _linear(widths), torch.randn(64, widths[0])
        else:
            channels = [1 + int(16 * v) for v in u[1 : depth + 2]]
            model, x = _convolutional(channels), torch.randn(8, channels[0], 16, 16)
    dtype = getattr(torch, trial.dtype)
    out, gradient = difference(model.to(device, dtype), x.to(device, dtype))
    return {"depth": depth, "output": out, "gradient": gradient}


def _linear(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers)


def _convolutional(channels: Sequence[int]) -> nn.Sequential:
    """Convolutions, with max pooling between ReLU and the next layer after the first two."""
    layers: list[nn.Module] = []
    for i in range(len(channels) - 1):
        layers += [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i < 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * 16, 10))


def trials(profile: str, seeds: Sequence[int]) -> list[RegroupTrial]:
    """List both kinds of stacks in both precisions."""
    dtypes = ("float32", "float64") if profile == "full" else ("float32",)
    return [
        RegroupTrial(kind=kind, dtype=dtype, seed=seed)
        for kind in KINDS
        for dtype in dtypes
        for seed in seeds
    ]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the differences, one value for each stack."""
    readings: dict[str, list[float]] = {}
    for what in ("output", "gradient"):
        for r in records:
            readings.setdefault(f"{what}, {r.config.kind}", []).append(r.metrics[what])
    return readings


EXPERIMENT = Experiment(
    name="integral-relu",
    summary="the ReLU moved from the output of layers to the input of the next",
    trial=RegroupTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(5), "full": range(20)},
    measures={"integral-relu": measure},
    tolerance=0.0,
)
