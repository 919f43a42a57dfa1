"""Operations, bytes and time of one layer against its width, at constant fan-in.

Widths and kinds of layers take turns, and each time is the median over the rounds.
It is the time that the process computed, not the time on the clock: others may use the machine.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.linear import SampledLinear
from mcnn.profiling import PeakBytes
from mcnn.stats import slope


@dataclass(frozen=True, kw_only=True)
class CostTrial(Trial):
    """Widths to go through, as powers of two, and how often."""

    batch: int = 64
    fan_in: int = 32
    powers: tuple[int, ...] = tuple(range(10, 21))
    dense_powers: tuple[int, ...] = (10, 11, 12, 13)
    rounds: int = 7


SAMPLED = ("jittered", "rotated")
QUANTITIES = ("operations", "bytes", "peak bytes", "log2 seconds")
# The widths 2**p of a fit: all, those whose activations fit into a processor's own cache, and
# those that fit into none.
RANGES = {"": (10, 20), ", up to 2^13": (10, 13), ", from 2^17": (17, 20)}


@torch.no_grad()
def _run_cost(trial: CostTrial, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(trial.seed)
    inputs = {  # unit by unit, as a layer before would have left them
        p: torch.randn(2**p, trial.batch, generator=generator).to(device).T for p in trial.powers
    }
    work = [(kind, p) for kind in (*SAMPLED, "dense") for p in powers(trial, kind)]
    layers = {key: _layer(*key, trial, device) for key in work}
    metrics: dict[str, Any] = {
        kind: {quantity: [] for quantity in QUANTITIES} for kind in (*SAMPLED, "dense")
    }
    for (kind, p), layer in layers.items():
        held = sum(t.numel() * t.element_size() for t in layer.state_dict().values())
        with PeakBytes() as made:
            layer(inputs[p])
        metrics[kind]["operations"].append(2 * _weights(layer) * trial.batch)
        metrics[kind]["bytes"].append(held)
        metrics[kind]["peak bytes"].append(held + 4 * inputs[p].numel() + made.peak)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in work}
    for _ in range(trial.rounds):
        for kind, p in work:
            seconds[kind, p].append(_seconds(layers[kind, p], inputs[p], device))
    for (kind, _), values in seconds.items():
        metrics[kind]["log2 seconds"].append(math.log2(statistics.median(values)))
    return metrics


def powers(trial: CostTrial, kind: str) -> tuple[int, ...]:
    """Return the widths of a kind of layer, as powers of two."""
    return trial.powers if kind in SAMPLED else trial.dense_powers


def _layer(kind: str, power: int, trial: CostTrial, device: torch.device) -> nn.Module:
    n = 2**power
    if kind in SAMPLED:
        return SampledLinear.random(n, n, trial.fan_in, kind, seed=trial.seed, device=device)
    layer = nn.Linear(n, n, device=device)
    generator = torch.Generator().manual_seed(trial.seed)
    layer.weight.copy_(torch.randn(n, n, generator=generator).div_(n**0.5))
    layer.bias.zero_()
    return layer


def _weights(layer: nn.Module) -> int:
    return layer.n_weights if isinstance(layer, SampledLinear) else layer.weight.numel()


def _seconds(layer: nn.Module, x: Tensor, device: torch.device) -> float:
    """Return the seconds that the processor, or the GPU, spends on one call."""
    calls = max(1, 2**21 // _weights(layer))  # a small layer is done sooner than clocks tell
    if device.type != "cuda":
        start = time.process_time()
        for _ in range(calls):
            layer(x)
        return (time.process_time() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        layer(x)
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000 / calls


def _trials(profile: str, seeds: Sequence[int]) -> list[CostTrial]:
    if profile == "fast":
        small = {"powers": (10, 11, 12, 13, 14), "dense_powers": (10, 11), "rounds": 3}
        return [CostTrial(seed=seed, **small) for seed in seeds]
    return [CostTrial(seed=seed, batch=batch) for seed in seeds for batch in (64, 1)]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the slopes of logarithms, one value for each seed."""
    readings: dict[str, list[float]] = {}
    for record in records:
        trial = record.config
        for kind in (*SAMPLED, "dense"):
            for quantity, values in record.metrics[kind].items():
                log = quantity.startswith("log2 ")
                values = [2.0**v for v in values] if log else values
                for label, (low, high) in RANGES.items():
                    points = zip(powers(trial, kind), values, strict=True)
                    chosen = [(2.0**p, v) for p, v in points if low <= p <= high]
                    if len(chosen) > 1 and (log or not label):
                        about = f"{quantity.removeprefix('log2 ')}, {kind}"
                        about += ", batch 1" if trial.batch == 1 else ""
                        rate = slope(*zip(*chosen, strict=True))
                        readings.setdefault(about + label, []).append(rate)
    return readings


EXPERIMENTS = [
    Experiment(
        name="linear-cost",
        summary="operations, bytes and seconds of a layer against its width, at constant fan-in",
        trial=CostTrial,
        trials=_trials,
        run=_run_cost,
        seeds={"fast": range(1), "full": range(5)},
        measures={"linear-cost": _measure, "linear-cost-count": _measure},
        # Bytes and operations are whole numbers, which must not differ at all; a time may by a
        # factor of three, for it is another machine's, or a busy one's.
        tolerance=1.6,
    ),
]
