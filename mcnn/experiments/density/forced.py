"""Up to how many samples trained layers are ternary, and what it costs to force more of them so.

Systematic samples of a row hit no weight twice as long as S max|w| <= |w|_1.
Beyond that bound weights are integers, and cutting the counts back to -1, 0 and 1 forces them to be
ternary; with ever more samples every weight is hit, and what is forced is binary, sign(w).

Scales of forced rows are those of the least squared error, as ternary and binary weight networks
have them: the most that one scale for each row can do.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, density, training
from mcnn.baselines import rounding
from mcnn.experiments.density.common import FAST_DATASET, FAST_WIDTHS, SEEDS
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import nets

Change = Callable[[Tensor], Tensor]  # of the weights of a layer, [rows, inputs]


@dataclass(frozen=True, kw_only=True)
class ForcedTrial(Trial):
    """A network, how it is trained, and the samples of each row as fractions of its inputs."""

    dataset: str = "mnist"
    net: str = "mlp"
    widths: tuple[int, ...] = (784, 300, 10)
    epochs: int = 5
    lr: float = 0.05
    scale: str = "unit"
    fractions: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
    samplings: int = 2


def _run(trial: ForcedTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    shape = {"widths": trial.widths} if trial.net == "mlp" else {"shape": dataset.shape}
    model = nets.build(trial.net, seed=trial.seed, **shape).to(device)
    options = {"epochs": trial.epochs, "lr": trial.lr, "scale": trial.scale, "seed": trial.seed}
    training.fit(model, dataset, **options)

    def accuracy(change: Change) -> float:
        changed = _changed(model, change)
        return training.evaluate(changed, dataset.test, scale=trial.scale).accuracy

    def sampled(make: Callable[[Tensor, int], Tensor]) -> list[float]:
        return [accuracy(lambda w, s=seed: make(w, s)) for seed in range(trial.samplings)]

    def at(fraction: float, finish: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
        def make(w: Tensor, seed: int) -> Tensor:
            samples = max(1, round(fraction * w.shape[1]))
            return finish(density.sample_counts(w, samples, "systematic", seed=seed), w)

        return sampled(make)

    return {
        "dense": accuracy(lambda w: w),
        "layers": {name: describe(rows(m.weight)) for name, m in _layers(model).items()},
        "limit": sampled(at_limit),
        "own limits": sampled(at_own_limits),
        "integers": [at(f, density.dequantize) for f in trial.fractions],
        "ternary": [at(f, lambda c, w: rescaled(c.sign(), w)) for f in trial.fractions],
        "ternary, scale kept": at(1.0, _cut),
        "binary": accuracy(lambda w: rescaled(w.sign(), w)),
        "threshold": accuracy(_threshold),
    }


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def rows(weight: Tensor) -> Tensor:
    """Return the weights of a layer, one neuron or filter a row: [rows, inputs]."""
    return weight.detach().flatten(1)


def _changed(model: nn.Module, change: Change) -> nn.Module:
    changed = copy.deepcopy(model)
    for module in _layers(changed).values():
        module.weight.data.copy_(change(rows(module.weight)).view_as(module.weight))
    return changed


def limits(w: Tensor) -> Tensor:
    """Return the most samples S for which each row is ternary: S max|w| <= |w|_1.

    Parameters
    ----------
    w
        [rows, inputs].

    Returns
    -------
    Tensor
        int64 [rows], at least 1.

    Examples
    --------
    >>> limits(torch.tensor([[0.5, -0.25, 0.25], [1.0, 1.0, -1.0]]))
    tensor([2, 3])
    """
    w = w.double().abs()
    return (w.sum(1) / w.amax(1)).long()


def describe(w: Tensor) -> dict[str, Any]:
    """Return the inputs of a layer and quantiles of its rows' limits: least, median, most."""
    limit = limits(w).sort().values
    least, median, most = (int(limit[i]) for i in (0, len(limit) // 2, -1))
    return {"inputs": w.shape[1], "least": least, "median": median, "most": most}


def at_limit(w: Tensor, seed: int) -> Tensor:
    """Sample a layer as often as all of its rows stay ternary."""
    counts = density.sample_counts(w, int(limits(w).min()), "systematic", seed=seed)
    return density.dequantize(counts, w)


def at_own_limits(w: Tensor, seed: int) -> Tensor:
    """Sample each row as often as it stays ternary itself."""
    result = torch.empty_like(w)
    limit = limits(w)
    for samples in limit.unique().tolist():
        of = limit == samples
        counts = density.sample_counts(w[of], samples, "systematic", seed=seed)
        result[of] = density.dequantize(counts, w[of])
    return result


def rescaled(codes: Tensor, w: Tensor) -> Tensor:
    """Give each row of codes the scale of the least squared distance to the weights.

    Parameters
    ----------
    codes, w
        [rows, inputs].

    Examples
    --------
    >>> w = torch.tensor([[3.0, -1.0, 0.5]])
    >>> rescaled(torch.tensor([[1, -1, 0]]), w)
    tensor([[ 2., -2.,  0.]])
    """
    codes = codes.to(w)
    scale = (codes * w).sum(1) / codes.square().sum(1).clamp(min=1)  # [rows]
    return codes * scale[:, None]


def _cut(counts: Tensor, w: Tensor) -> Tensor:
    samples = counts.abs().sum(1, keepdim=True).clamp(min=1)  # [rows, 1]
    return counts.sign() * w.abs().sum(1, keepdim=True) / samples


def _threshold(w: Tensor) -> Tensor:
    codes, _ = rounding.ternary(w)
    return rescaled(codes, w)


def _trials(profile: str, seeds: Sequence[int]) -> list[ForcedTrial]:
    if profile == "fast":
        fast = {"dataset": FAST_DATASET, "widths": FAST_WIDTHS, "epochs": 20}
        return [ForcedTrial(seed=seed, **fast) for seed in seeds]
    lenet = {"dataset": "cifar10", "net": "lenet5", "epochs": 3, "lr": 0.02}
    lenet["scale"] = "standard"
    return [
        trial
        for seed in seeds
        for trial in (ForcedTrial(seed=seed), ForcedTrial(seed=seed, **lenet))
    ]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return what ternary and binary weights lose, and the limits as shares of the inputs."""
    readings: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        readings.setdefault(name, []).append(value)

    for r in records:
        m, about = r.metrics, r.config.dataset
        whole = r.config.fractions.index(1.0)  # as many samples as inputs
        integers = _mean(m["integers"][whole])
        note(f"{about}: at the limit minus integers", _mean(m["limit"]) - integers)
        note(f"{about}: forced to ternary minus integers", _mean(m["ternary"][whole]) - integers)
        note(f"{about}: forced to binary minus integers", m["binary"] - integers)
        note(f"{about}: each row at its limit minus integers", _mean(m["own limits"]) - integers)
        kept = _mean(m["ternary, scale kept"])
        note(f"{about}: forced to ternary, scale kept, minus integers", kept - integers)
        note(f"{about}: ternary by a threshold minus integers", m["threshold"] - integers)
        note(f"{about}: integers minus the full network", integers - m["dense"])
        for number, layer in enumerate(m["layers"].values(), 1):
            note(
                f"{about}: limit of layer {number} over its inputs",
                layer["least"] / layer["inputs"],
            )
    return readings


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


EXPERIMENTS = [
    Experiment(
        name="density-forced",
        summary="trained layers at the limit of ternary weights, and forced to be ternary beyond",
        trial=ForcedTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={"density-ternary-forced": _measure},
        tolerance=0.02,
    ),
]
