"""Predators and prey: cycles that the mean field damps and the noise sustains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.kinetics import Network, noise
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in
from mcnn.stats import slope

EVERY = 0.25  # units of time between two looks
BEFORE = 100.0  # ten times as long as a spiral of the mean field takes to shrink by e


@dataclass(frozen=True, kw_only=True)
class CyclesTrial(Trial):
    """Runs in volumes of several sizes, each long enough for many cycles."""

    volumes: tuple[int, ...] = (250, 500, 1000)
    looks: int = 4096
    runs: int = 8


def predator_prey(volume: float) -> Network:
    """Return predators A that feed on prey B, which has room for five per unit of volume."""
    reactions = {"A -> 0": 1.0, "B -> 2 B": 1.0, "2 B -> B": 0.2, "A + B -> 2 A": 1.0}
    return Network(reactions, volume)


def power(counts: Tensor, volume: float, window: int = 512) -> tuple[Tensor, Tensor]:
    """Return angular frequencies [n] and the power of concentrations [n, species], times V.

    Parameters
    ----------
    counts
        [runs, looks, species], every :data:`EVERY` units of time.
    volume
        V.
    window
        Looks that are transformed together, under a Hann window.
    """
    x = counts.double() / volume
    x = x - x.mean((0, 1))
    pieces = x.unfold(1, window, window // 2)  # [runs, pieces, species, window]
    hann = torch.hann_window(window, dtype=torch.float64)
    lines = torch.fft.rfft(pieces * hann).abs().square().mean((0, 1)).T  # [n, species]
    omega = 2 * math.pi * torch.fft.rfftfreq(window, EVERY, dtype=torch.float64)
    return omega, lines * EVERY / hann.square().sum() * volume


def _run(trial: CyclesTrial, device: torch.device) -> dict[str, Any]:
    rest = noise.fixed_point(predator_prey(1), torch.tensor([0.8, 1.0]))
    theory = noise.covariance(predator_prey(1), rest).diagonal()
    times = BEFORE + EVERY * torch.arange(trial.looks)
    swings, relative = [], []
    for volume in trial.volumes:
        network = predator_prey(volume)
        start = (rest * volume).round()
        counts = network.ssa(start, times, trial.runs, fold_in(trial.seed, volume))
        variance = counts.double().flatten(0, 1).var(0) / volume  # [species]
        swings.append(float((variance / volume).sum()))
        relative.append(float((variance / theory).mean()))
    omega, lines = power(counts, trial.volumes[-1])
    peak = int(lines[1:, 0].argmax()) + 1
    expected = noise.spectrum(predator_prey(1), rest, omega)[:, 0]
    return {
        "variance over theory": relative,
        "slope": slope(trial.volumes, swings),
        "omega": omega.tolist(),
        "power": lines[:, 0].tolist(),
        "theory": expected.tolist(),
        "peak over slow": float(lines[peak, 0] / lines[1:4, 0].mean()),
        "peak": float(omega[peak]),
        "peak of theory": float(omega[int(expected.argmax())]),
        "mean field": _left(),
    }


def _left() -> float:
    """Return how much of a swing the mean field has left when the looks begin."""
    network = predator_prey(1000)
    rest = noise.fixed_point(network, torch.tensor([0.8, 1.0])) * 1000
    off = network.mean_field([1000, 1200], torch.linspace(BEFORE, BEFORE + 10, 101)) - rest
    return float(off.abs().max() / 200)


def _trials(profile: str, seeds: Sequence[int]) -> list[CyclesTrial]:
    options = {} if profile == "full" else {"volumes": (100, 200), "looks": 1024, "runs": 4}
    return [CyclesTrial(seed=seed, **options) for seed in seeds]


def _measure(recorded: Sequence[Record]) -> dict[str, list[float]]:
    def each(name: str) -> list[float]:
        return [r.metrics[name] for r in recorded]

    return {
        "power at the peak over slow power": each("peak over slow"),
        "variance over theory": [r.metrics["variance over theory"][-1] for r in recorded],
        "slope of the variance against volume": each("slope"),
        # Equal for all seeds, but for rounding, which is no spread.
        "what the mean field has left": [float(f"{v:.6g}") for v in each("mean field")],
        "frequency of the peak over theory": [
            r.metrics["peak"] / r.metrics["peak of theory"] for r in recorded
        ],
    }


EXPERIMENT = Experiment(
    name="kinetics-cycles",
    summary="noise, spectrum and volume of predator-prey cycles that the mean field damps",
    trial=CyclesTrial,
    trials=_trials,
    run=_run,
    seeds={"fast": range(1), "full": range(5)},
    measures={"kinetics-cycles": _measure},
    tolerance=1e-6,
)
