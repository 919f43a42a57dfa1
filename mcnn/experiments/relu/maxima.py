"""The maximum of two as a network of ReLUs: every form, every type, all pairs of 16 bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import relu
from mcnn.experiments.relu.operands import DTYPES, SEEDS, every_number, hard_pairs
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

HALF = ("float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class MaxTrial(Trial):
    """A type, and pairs: ``"hard"`` ones by the seed, or a part of ``"all"`` there are.

    Part i of ``parts`` takes every ``parts``-th number, from the i-th on, as first operand.
    """

    dtype: str = "float32"
    pairs: str = "hard"
    count: int = 300_000
    part: int = 0
    parts: int = 32


def _run(trial: MaxTrial, device: torch.device) -> dict[str, Any]:
    if trial.pairs == "all":
        return _run_all(trial, device)
    dtype = DTYPES[trial.dtype]
    generator = torch.Generator().manual_seed(trial.seed)
    x, y = (z.to(device) for z in hard_pairs(trial.count, dtype, generator))
    truth, larger = torch.maximum(x, y), torch.maximum(x.abs(), y.abs())
    safe = larger <= torch.finfo(dtype).max / 4
    metrics: dict[str, Any] = {"pairs": len(x), "safe": int(safe.sum()), "forms": {}}
    for form in relu.FORMS:
        got = relu.maximum(x, y, form)
        metrics["forms"][form] = {
            "wrong": int((got != truth).sum()),
            "nan": int(got.isnan().sum()),
            "ulps": float(relu.ulps(got, truth, larger)[safe].max()),
        }
    metrics["bits"] = _bits(dtype, device, generator)
    return metrics


def _bits(
    dtype: torch.dtype, device: torch.device, generator: torch.Generator, count: int = 20_000
) -> dict[str, list[float]]:
    """Return for each form the fewest correct bits of max{x, y} if |x| is about 2**gap |y|.

    x is negative and so never the maximum, but its rounding errors are.
    """
    precision = round(1 - torch.tensor(torch.finfo(dtype).eps).log2().item())
    bits: dict[str, list[float]] = {"gap": list(range(-4, precision + 5))}
    for form in relu.FORMS:
        bits[form] = []
        for gap in bits["gap"]:
            y, x = 1 + torch.rand((2, count), generator=generator, dtype=torch.float64)
            x = (-(2.0 ** (gap - precision // 2)) * x).to(dtype).to(device)
            y = (2.0 ** -(precision // 2) * y).to(dtype).to(device)
            error = relu.maximum(x, y, form).double().sub(y.double()).abs() / y.double()
            worst = max(float(error.max()), 2.0**-precision)
            bits[form].append(max(0.0, -torch.tensor(worst).log2().item()))
    return bits


def _run_all(trial: MaxTrial, device: torch.device) -> dict[str, Any]:
    numbers = every_number(DTYPES[trial.dtype]).to(device)
    first = numbers[trial.part :: trial.parts]
    wrong = torch.zeros(len(relu.FORMS), dtype=torch.int64, device=device)
    for x in first.split(64 if device.type == "cuda" else 8):
        truth = torch.maximum(x[:, None], numbers)  # [some, all]
        for i, form in enumerate(relu.FORMS):
            wrong[i] += (relu.maximum(x[:, None], numbers, form) != truth).sum()
    counts = dict(zip(relu.FORMS, wrong.tolist(), strict=True))
    return {
        "pairs": len(first) * len(numbers),
        "forms": {form: {"wrong": count} for form, count in counts.items()},
    }


def _trials(profile: str, seeds: Sequence[int]) -> list[MaxTrial]:
    full = profile == "full"
    count = 300_000 if full else 5_000
    hard = [MaxTrial(seed=s, dtype=name, count=count) for s in seeds for name in DTYPES]
    chosen = [(part, 32) for part in range(32)] if full else [(seed, 4096) for seed in seeds]
    return hard + [
        MaxTrial(dtype=name, pairs="all", count=0, part=part, parts=parts)
        for name in HALF
        for part, parts in chosen
    ]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    hard = [r.metrics for r in records if r.config.pairs == "hard"]
    every = [r.metrics for r in records if r.config.pairs == "all"]
    wrong = sum(m["forms"]["symmetric"]["wrong"] for m in every)
    return {
        "four terms, ulp of the larger magnitude": [m["forms"]["symmetric"]["ulps"] for m in hard],
        "exact form, wrong results": [m["forms"]["exact"]["wrong"] for m in hard],
        "exact form, wrong results in all pairs of 16 bits": [
            m["forms"]["exact"]["wrong"] for m in every
        ],
        "one ReLU, ulp of the larger magnitude": [m["forms"]["skip"]["ulps"] for m in hard],
        "four terms, share of wrong results in all pairs of 16 bits": [
            wrong / sum(m["pairs"] for m in every)
        ],
    }


EXPERIMENTS = [
    Experiment(
        name="relu-max",
        summary="forms of the maximum of two, on hard pairs and on all pairs of 16 bits",
        trial=MaxTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={"relu-max": _measure},
        tolerance=0,
    ),
]
