"""What a layer with gates executes, and how long it takes, against the share of gates that is on.

Gates are drawn with the probability wanted, as a trained network would have them; layers with and
without gates take turns, and each time is the median over the rounds.
It is the time that the process computed, not the time on the clock: others may use the machine.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import gates
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.profiling import Work
from mcnn.stats import slope


@dataclass(frozen=True, kw_only=True)
class CostTrial(Trial):
    """Sizes of the layer, and the shares of its gates that are on."""

    inputs: int = 784
    hidden: int = 2048
    classes: int = 10
    gates: int = 32
    batch_size: int = 256
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    rounds: int = 15


class _Net(nn.Module):
    """A hidden layer, gated or not, and one for the classes, with the optimizer of both."""

    def __init__(self, trial: CostTrial, gated: bool, device: torch.device) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(trial.seed)
            self.first: nn.Module = (
                gates.GatedLinear(trial.inputs, trial.hidden, trial.gates, seed=trial.seed)
                if gated
                else nn.Linear(trial.inputs, trial.hidden)
            )
            self.last = nn.Linear(trial.hidden, trial.classes)
        self.to(device)
        self.optimizer = torch.optim.SGD(self.parameters(), 1e-3, 0.9)

    def hidden(self, *x: Tensor) -> Tensor:
        return F.relu(self.first(*x))

    def step(self, y: Tensor, *x: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.last(self.hidden(*x)), y).backward()
        self.optimizer.step()


def run(trial: CostTrial, device: torch.device) -> dict[str, Any]:
    """Return operations and seconds of the layer and of a training step, for each share."""
    generator = torch.Generator().manual_seed(trial.seed)
    x = torch.rand(trial.batch_size, trial.inputs, generator=generator).to(device)
    y = torch.randint(trial.classes, (trial.batch_size,), generator=generator).to(device)
    wanted = torch.rand(trial.batch_size, trial.gates, generator=generator)
    given: dict[str, tuple[Tensor, ...]] = {"ungated": (x,)}
    for share in trial.shares:
        given[str(share)] = (x, (wanted < share).float().to(device))
    nets = {key: _Net(trial, key != "ungated", device) for key in ("ungated", "gated")}
    metrics: dict[str, Any] = {
        "share": [float(given[str(share)][1].mean()) for share in trial.shares]
    }
    seconds: dict[str, list[float]] = {key: [] for key in given}
    for _ in range(trial.rounds + 1):  # the first makes what is made once
        for key, inputs in given.items():
            net = nets["ungated" if key == "ungated" else "gated"]
            seconds[key].append(_seconds(net, y, inputs, device))
    operations = {}
    for key, inputs in given.items():
        net = nets["ungated" if key == "ungated" else "gated"]
        with Work() as work:
            net.first(*inputs).sum().backward()
        operations[key] = work.operations
    shares = [str(share) for share in trial.shares]
    metrics["operations"] = [operations[key] for key in shares]
    metrics["operations, ungated"] = operations["ungated"]
    metrics["seconds"] = [statistics.median(seconds[key][1:]) for key in shares]
    metrics["seconds, ungated"] = statistics.median(seconds["ungated"][1:])
    return metrics


def _seconds(net: _Net, y: Tensor, inputs: tuple[Tensor, ...], device: torch.device) -> float:
    """Return the seconds that the processor, or the GPU, spends on a training step."""
    clock = time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        clock = time.perf_counter
    start = clock()
    net.step(y, *inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def trials(profile: str, seeds: Sequence[int]) -> list[CostTrial]:
    """List a trial for each seed."""
    fast = {"hidden": 512, "gates": 16, "batch_size": 128, "shares": (0.1, 0.4), "rounds": 3}
    return [CostTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes in the active share, and times over those without gates."""
    found = [(r.metrics, r.config.shares.index(0.1)) for r in records]
    readings = {
        "operations against active share, slope": [
            slope(m["share"], m["operations"]) for m, _ in found
        ],
        "operations at a tenth, over ungated": [
            m["operations"][i] / m["operations, ungated"] for m, i in found
        ],
        "time of a training step at a tenth, over ungated": [
            m["seconds"][i] / m["seconds, ungated"] for m, i in found
        ],
    }
    for i, share in enumerate(records[0].config.shares):
        readings[f"time of a training step at {share}, over ungated"] = [
            m["seconds"][i] / m["seconds, ungated"] for m, _ in found
        ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="gates-cost",
        summary="operations and time of a layer against the share of its gates that is on",
        trial=CostTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"gates-cost": measure, "gates-time": measure},
        tolerance=1.0,  # a second more or less; operations are large and whole
    ),
]
