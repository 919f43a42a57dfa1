"""Soft thresholding against PyTorch's, and which supports of sparse codes it finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcnn.errors import unknown
from mcnn.experiments.relu.operands import DTYPES, SEEDS, any_number, every_number, special_numbers
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.relu.rounding import ulps
from mcnn.relu.threshold import certain_atoms, certain_threshold, coherence, soft_threshold

DICTIONARIES = ("two bases", "random")


@dataclass(frozen=True, kw_only=True)
class ThresholdTrial(Trial):
    """A type, and how many of its numbers are tried; of 16 bits all."""

    dtype: str = "float32"
    numbers: int = 1_000_000
    thresholds: tuple[float, ...] = (0.0, 0.125, 1.0, 96.0)  # numbers of all types


@dataclass(frozen=True, kw_only=True)
class SupportTrial(Trial):
    """A dictionary of twice as many atoms as there are dimensions, and codes of some sizes."""

    dictionary: str = "two bases"
    dimensions: int = 256
    codes: int = 1000
    largest: int = 40


def run_threshold(trial: ThresholdTrial, device: torch.device) -> dict[str, Any]:
    """Return the largest differences in ulp, with both signs and with one."""
    dtype = DTYPES[trial.dtype]
    generator = torch.Generator().manual_seed(trial.seed)
    if dtype.itemsize == 2:
        x = every_number(dtype)
    else:
        x = torch.cat([any_number(trial.numbers, dtype, generator), special_numbers(dtype)])
    x = x.to(device)
    metrics: dict[str, Any] = {"numbers": len(x), "both": 0.0, "nonnegative": 0.0}
    for threshold in trial.thresholds:
        want = F.softshrink(x, threshold)
        pairs = {
            "both": (soft_threshold(x, threshold), want),
            "nonnegative": (soft_threshold(x, threshold, nonnegative=True), want.clamp(min=0)),
        }
        for name, pair in pairs.items():
            metrics[name] = max(metrics[name], float(ulps(*pair).max()))
    return metrics


def run_support(trial: SupportTrial, device: torch.device) -> dict[str, Any]:
    """Return the coherence, the bound, and the share of supports found for each number of atoms."""
    generator = torch.Generator().manual_seed(trial.seed)
    atoms = _dictionary(trial, generator).to(device)  # [n, m]
    mu = coherence(atoms)
    bound = certain_atoms(mu)
    shares = [
        _share(_codes(k, trial, generator).to(device), atoms) for k in range(1, trial.largest + 1)
    ]
    wrong = hostile = 0
    for k in range(1, bound + 1):
        # Up to the bound a threshold is known beforehand: the layer need not know the code.
        threshold = certain_threshold(mu, k)
        codes = _codes(k, trial, generator).to(device)
        wrong += _wrong(codes, atoms, threshold)
        hostile += _wrong(_hostile(k, atoms), atoms, threshold)
    return {
        "coherence": mu,
        "bound": bound,
        "wrong": wrong,
        "hostile": hostile,
        "shares": shares,
    }


def _dictionary(trial: SupportTrial, generator: torch.Generator) -> Tensor:
    n = trial.dimensions
    if trial.dictionary == "random":
        drawn = torch.randn(n, 2 * n, generator=generator, dtype=torch.float64)
        return drawn / drawn.norm(dim=0)
    if trial.dictionary != "two bases":
        raise unknown("dictionary", trial.dictionary, DICTIONARIES)
    place, frequency = torch.arange(n).double() + 0.5, torch.arange(n).double().unsqueeze(1)
    cosines = (math.pi / n * frequency * place).cos() * (2 / n) ** 0.5
    cosines[0] /= 2**0.5
    return torch.cat([torch.eye(n, dtype=torch.float64), cosines.T], 1)


def _codes(k: int, trial: SupportTrial, generator: torch.Generator) -> Tensor:
    """Return codes [codes, m] of k atoms each, with coefficients 1 or -1."""
    m = 2 * trial.dimensions
    places = torch.rand(trial.codes, m, generator=generator).topk(k).indices
    signs = torch.randint(2, places.shape, generator=generator).double() * 2 - 1
    return torch.zeros(trial.codes, m, dtype=torch.float64).scatter_(1, places, signs)


def _hostile(k: int, atoms: Tensor) -> Tensor:
    """Return a code [m, m] for each atom that is most like k others: their sum, signs aligned."""
    gram = (atoms.T @ atoms).fill_diagonal_(0)
    places = gram.abs().topk(k).indices
    return torch.zeros_like(gram).scatter_(1, places, gram.gather(1, places).sign())


def _wrong(codes: Tensor, atoms: Tensor, threshold: float) -> int:
    """Count the codes whose support one layer misses, with both signs."""
    found = soft_threshold(codes @ atoms.T @ atoms, threshold)
    return int(((found != 0) != (codes != 0)).any(1).sum())


def _share(codes: Tensor, atoms: Tensor) -> float:
    """Return the share of codes for which some threshold finds the support."""
    seen = (codes @ atoms.T @ atoms).abs()
    least = seen.masked_fill(codes == 0, math.inf).amin(1)
    return float((least > seen.masked_fill(codes != 0, 0).amax(1)).double().mean())


def _threshold_trials(profile: str, seeds: Sequence[int]) -> list[ThresholdTrial]:
    numbers = 1_000_000 if profile == "full" else 10_000
    return [ThresholdTrial(seed=s, dtype=name, numbers=numbers) for s in seeds for name in DTYPES]


def _support_trials(profile: str, seeds: Sequence[int]) -> list[SupportTrial]:
    size = {} if profile == "full" else {"dimensions": 64, "codes": 100, "largest": 16}
    return [SupportTrial(seed=s, dictionary=name, **size) for s in seeds for name in DICTIONARIES]


def _measure_threshold(records: Sequence[Record]) -> dict[str, list[float]]:
    return {
        "both signs": [r.metrics["both"] for r in records],
        "one ReLU": [r.metrics["nonnegative"] for r in records],
    }


def _measure_support(records: Sequence[Record]) -> dict[str, list[float]]:
    readings = {
        "wrong supports": [r.metrics["wrong"] for r in records],
        "wrong supports, hostile": [r.metrics["hostile"] for r in records],
    }
    for name in DICTIONARIES:
        found = [r.metrics for r in records if r.config.dictionary == name]
        readings[f"atoms found for certain, {name}"] = [m["bound"] for m in found]
        readings[f"atoms found in nine of ten codes, {name}"] = [
            sum(share >= 0.9 for share in m["shares"]) for m in found
        ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="relu-threshold",
        summary="soft thresholding as two ReLUs against PyTorch's",
        trial=ThresholdTrial,
        trials=_threshold_trials,
        run=run_threshold,
        seeds=SEEDS,
        measures={"relu-threshold": _measure_threshold},
        tolerance=0,
    ),
    Experiment(
        name="relu-support",
        summary="supports of sparse codes that thresholding finds, against the coherence bound",
        trial=SupportTrial,
        trials=_support_trials,
        run=run_support,
        seeds=SEEDS,
        measures={"relu-support": _measure_support},
        tolerance=0.02,
    ),
]
