"""A generative network on the plane, trained and sampled with latents of every source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.randomness.gan import energy_distance, latent, ring, train_gan
from mcnn.randomness.source import SOURCES, numbers, substream
from mcnn.stats import slope

_SIZES = {"full": tuple(4**k for k in range(3, 8)), "fast": tuple(4**k for k in range(3, 6))}
_TRAINED = ("random", "sobol", "lattice")
_JUDGED = 4096  # samples whose distance to the data is taken
FUNCTIONS = ("smooth", "indicator")


@dataclass(frozen=True, kw_only=True)
class GanTrial(Trial):
    """How long the network is trained, and how many samples are drawn from it how often."""

    steps: int = 1500
    batch_size: int = 256
    samples: tuple[int, ...] = _SIZES["full"]
    randomisations: int = 32
    reference: int = 2**18


def run(trial: GanTrial, device: torch.device) -> dict[str, Any]:
    """Return distances to the data for each source in training, and errors for each in sampling."""
    metrics: dict[str, Any] = {"distance": {}, "error": {}, "slope": {}}
    data = ring(_JUDGED, substream(trial.seed, 1)).to(device)
    networks = {}
    for source in _TRAINED:
        networks[source] = train_gan(
            trial.steps, trial.batch_size, source, trial.seed, device=device
        )
        xi = numbers(_JUDGED, 2, "random", substream(trial.seed, 2))
        with torch.no_grad():
            samples = networks[source](latent(xi, device))
        metrics["distance"][source] = energy_distance(samples, data)
    metrics["distance"]["the data themselves"] = energy_distance(
        ring(_JUDGED, substream(trial.seed, 3)).to(device), data
    )
    network = networks["random"]
    exact = _means(network, numbers(trial.reference, 2, "sobol", substream(trial.seed, 4)), device)
    for source in (*SOURCES, "jittered"):
        errors = []
        for n in trial.samples:
            means = [
                _means(network, numbers(n, 2, source, substream(trial.seed, 10 + r)), device)
                for r in range(trial.randomisations)
            ]
            errors.append((torch.stack(means) - exact).square().mean(0).sqrt())  # [functions]
        for i, name in enumerate(FUNCTIONS):
            values = [float(e[i]) for e in errors]
            metrics["error"].setdefault(name, {})[source] = values
            metrics["slope"].setdefault(name, {})[source] = slope(trial.samples, values)
    return metrics


@torch.no_grad()
def _means(network: nn.Module, xi: Tensor, device: torch.device) -> Tensor:
    """Return the expectations of the two functions of :data:`FUNCTIONS`, float64 [2]."""
    x = network(latent(xi, device)).double()  # [n, 2]
    smooth = x[:, 0] + x.square().sum(1)
    indicator = (x[:, 0] > 0.5).double()
    return torch.stack([smooth, indicator], 1).mean(0)


def trials(profile: str, seeds: Sequence[int]) -> list[GanTrial]:
    """List a trial for each seed."""
    fast = {"steps": 200, "samples": _SIZES["fast"], "randomisations": 8, "reference": 2**14}
    return [GanTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes of the errors of samples, and distances to the data after training."""
    readings = {
        f"slope, {function}, {source}": [r.metrics["slope"][function][source] for r in records]
        for function in FUNCTIONS
        for source in (*SOURCES, "jittered")
    }
    for source in _TRAINED:
        readings[f"distance to the data, {source}"] = [
            r.metrics["distance"][source] for r in records
        ]
        if source != "random":
            readings[f"distance to the data, {source} minus random"] = [
                r.metrics["distance"][source] - r.metrics["distance"]["random"] for r in records
            ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-gan",
        summary="a generative network on the plane, its latents from every source",
        trial=GanTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(10)},
        measures={"randomness-gan": measure},
        tolerance=0.05,
    ),
]
