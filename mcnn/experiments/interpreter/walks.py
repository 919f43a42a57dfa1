"""Backward walks through a trained network, and samples of its weights, as estimates of A and b."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, interpreter, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in
from mcnn.stats import slope
from mcnn.training import nets

KINDS = {"folded": True, "by layer": False}
DECIDED = ("held", "by the samples")


@dataclass(frozen=True, kw_only=True)
class WalkTrial(Trial):
    """A network to train, numbers of walks, and how often weights are sampled."""

    dataset: str = "mnist"
    widths: tuple[int, ...] = (784, 64, 32, 10)
    epochs: int = 1
    walks: tuple[int, ...] = tuple(4**k for k in range(3, 9))
    repeats: int = 8
    images: int = 64
    samples: int = 64
    draws: int = 1000


def run(trial: WalkTrial, device: torch.device) -> dict[str, Any]:
    """Return errors of walks against their exact variance, and biases of sampled weights."""
    dataset = data.load(trial.dataset, device=device)
    model = nets.build("mlp", seed=trial.seed, widths=trial.widths).to(device)
    training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed)
    model = model.double().eval()
    x = dataset.test.inputs(slice(trial.images)).double()
    return {
        "walks": _walks(model, x[trial.seed % trial.images][None], trial),
        "samples": _samples(model, x, trial),
    }


def _walks(model: nn.Sequential, x: Tensor, trial: WalkTrial) -> dict[str, Any]:
    system = interpreter.linear(model, x)
    output = int(system.output.argmax())
    row = system.matrix()[output]
    exact = torch.cat([row, system.bias[0, output, None]])  # [inputs + 1]
    metrics = {}
    for name, fold in KINDS.items():
        variance = interpreter.variance(model, x, output, fold)
        errors = []
        for k, walks in enumerate(trial.walks):
            squares = 0.0
            for r in range(trial.repeats):
                seed = fold_in(fold_in(trial.seed, k), r)
                found = interpreter.walk(model, x, output, walks, fold, seed)
                error = torch.cat([found[0], found[1][None]]) - exact
                squares += float(error.square().sum()) / trial.repeats
            errors.append(squares**0.5 / float(exact.norm()))
        expected = [(variance / n) ** 0.5 / float(exact.norm()) for n in trial.walks]
        ratios = [(e / t) ** 2 for e, t in zip(errors, expected, strict=True)]
        metrics[name] = {
            "error": errors,
            "expected": expected,
            "ratio": sum(ratios) / len(ratios),
            "slope": slope(trial.walks, errors),
        }
    return metrics


@torch.no_grad()
def _samples(model: nn.Sequential, x: Tensor, trial: WalkTrial) -> dict[str, float]:
    """Sample all weights; return how far the mean output is off, in squared standard errors.

    One is what an unbiased estimate has in the mean.
    """
    linears = [m for m in model if isinstance(m, nn.Linear)]
    generator = torch.Generator().manual_seed(trial.seed)
    exact, gates = _forward([m.weight for m in linears], linears, x)
    outputs: dict[str, list[Tensor]] = {name: [] for name in DECIDED}
    for _ in range(trial.draws):
        weights = [_sampled(m.weight, trial.samples, generator) for m in linears]
        outputs["held"].append(_forward(weights, linears, x, gates)[0])
        outputs["by the samples"].append(_forward(weights, linears, x)[0])
    metrics = {}
    for name, drawn in outputs.items():
        y = torch.stack(drawn)  # [draws, images, classes]
        off = (y.mean(0) - exact).square() / (y.var(0) / trial.draws)
        metrics[name] = float(off.mean())
    return metrics


def _sampled(weight: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Replace each row by counts of independent samples of its density: unbiased."""
    size = weight.abs()
    index = torch.multinomial(size.cpu(), samples, replacement=True, generator=generator)
    index = index.to(weight.device)
    one = torch.ones_like(index, dtype=weight.dtype)
    counts = torch.zeros_like(weight).scatter_add_(1, index, one)
    return weight.sign() * counts * size.sum(1, keepdim=True) / samples


def _forward(
    weights: Sequence[Tensor],
    linears: Sequence[nn.Linear],
    x: Tensor,
    gates: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run the stack with other weights, and with gates that were decided before, if given."""
    z, decided = x.flatten(1), []
    for number, (weight, module) in enumerate(zip(weights, linears, strict=True)):
        z = z @ weight.T + module.bias
        if number < len(linears) - 1:
            decided.append((z > 0).to(z.dtype) if gates is None else gates[number])
            z = z * decided[-1]
    return z, decided


def trials(profile: str, seeds: Sequence[int]) -> list[WalkTrial]:
    """List a trial for each seed."""
    fast: dict[str, Any] = {
        "dataset": "digits",
        "widths": (64, 32, 16, 10),
        "walks": tuple(4**k for k in range(3, 8)),
        "samples": 16,
        "draws": 300,
    }
    return [WalkTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure_walks(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes, and squared errors over what the variance of a walk says."""
    found = {
        f"slope, {name}": [r.metrics["walks"][name]["slope"] for r in records] for name in KINDS
    }
    return found | {
        f"squared error over variance, {name}": [r.metrics["walks"][name]["ratio"] for r in records]
        for name in KINDS
    }


def measure_samples(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return how far the mean output of sampled weights is off, in squared standard errors."""
    return {f"decisions {name}": [r.metrics["samples"][name] for r in records] for name in DECIDED}


EXPERIMENTS = [
    Experiment(
        name="interpreter-walks",
        summary="backward walks and sampled weights as estimates of a network's linear system",
        trial=WalkTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(10, 15)},
        measures={"interpreter-walks": measure_walks, "interpreter-held": measure_samples},
        tolerance=0.2,
    ),
]
