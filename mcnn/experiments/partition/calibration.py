r"""Is a network as sure as it is right? Averages over masks at test time.

A network that is trained with masks is many networks, one a mask, and at test time the mean of
their probabilities can be taken instead of a single pass without masks.
Which masks to average over is a choice of sample points:

========================  =======================================================================
``none``                  trained and tested without masks, the reference
``partition``             trained with partitions, tested with the P masks of a new one
``fixed partition``       one partition for all of training and for the test
``dropout``               trained with dropout of rate 1/P, tested with P random masks
``masksembles``           P fixed masks that overlap, in training each for a P-th of a batch [1]_
========================  =======================================================================

All but the first have as many masks in the mean as parts.

References
----------
.. [1] N. Durasov, T. Bagautdinov, P. Baque, P. Fua: Masksembles for uncertainty estimation.
   CVPR 2021.
.. [2] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On calibration of modern neural networks.
   ICML 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data, training
from mcnn.data import Split
from mcnn.experiments.partition.variance import Dropout
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.partition.layer import DropoutPartition
from mcnn.partition.model import cycle_outputs
from mcnn.sampling import uniforms
from mcnn.training import nets

KINDS = ("none", "partition", "fixed partition", "dropout", "masksembles")


@dataclass(frozen=True, kw_only=True)
class CalibrationTrial(Trial):
    """A perceptron trained with one kind of masks by Adam, cosine schedule."""

    dataset: str = "fashion-mnist"
    widths: tuple[int, ...] = (784, 256, 256, 10)
    kind: str = "partition"
    parts: int = 4
    scale: float = 2.0  # of Masksembles: how little its masks overlap
    epochs: int = 6
    lr: float = 1e-3


class Masksembles(nn.Module):
    """Some fixed masks, each for its share of a batch.

    Parameters
    ----------
    units, masks
        Number of units, and of masks.
    scale
        At least 1; the larger, the fewer units two masks share.
    seed
        Of the masks.
    """

    def __init__(self, units: int, masks: int, scale: float, seed: int) -> None:
        super().__init__()
        self.register_buffer("masks", mask_family(units, masks, scale, seed))  # [masks, units]
        self.only: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x [b, units], masked: rows in equal shares, or all by the mask ``only``."""
        if self.only is not None:
            return x * self.masks[self.only].to(x)
        share = torch.arange(len(x), device=x.device) * len(self.masks) // len(x)  # [b]
        return x * self.masks[share].to(x)


def mask_family(units: int, masks: int, scale: float, seed: int, tries: int = 10_000) -> Tensor:
    """Return binary masks that cover all units, bool [masks, units].

    Each mask chooses the same number m of about m times ``scale`` places; places that no mask chose
    are left out, and the number of those that stay has to be that of the units.

    Raises
    ------
    ValueError
        If no such masks were found.
    """
    m = round(units / (scale * (1 - (1 - 1 / scale) ** masks)))
    places = round(m * scale)
    for attempt in range(tries):
        xi = uniforms(seed * tries + attempt, torch.arange(masks * places)).view(masks, places)
        chosen = torch.zeros(masks, places, dtype=torch.bool)
        chosen.scatter_(1, xi.argsort(1)[:, :m], True)
        used = chosen.any(0)
        if int(used.sum()) == units:
            return chosen[:, used]
    raise ValueError(f"no {masks} masks of scale {scale} cover {units} units: change the scale")


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: how far confidence is from accuracy.

    Examples are put into bins of equal width by the largest of their probabilities; the distance
    between its mean and the accuracy is averaged over bins, each with the weight of its examples.

    Parameters
    ----------
    probabilities
        [n, classes].
    labels
        [n].
    bins
        How many.

    Examples
    --------
    >>> sure = torch.tensor([[0.8, 0.2]]).expand(10, 2)
    >>> round(calibration_error(sure, torch.tensor([0] * 6 + [1] * 4)), 6)
    0.2
    """
    confidence, guess = probabilities.double().max(1)
    right = (guess == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are open below
    gap = torch.zeros(bins, dtype=torch.float64, device=labels.device)
    return float(gap.index_add(0, place, right - confidence).abs().sum()) / len(labels)


def _layers(trial: CalibrationTrial) -> list[nn.Module]:
    """Return a layer of masks for each hidden layer."""
    layers: list[nn.Module] = []
    for i, n in enumerate(trial.widths[1:-1]):
        seed = 16 * trial.seed + i
        if trial.kind == "none":
            layers.append(nn.Identity())
        elif trial.kind == "dropout":
            layers.append(Dropout(1 / trial.parts, False, seed))
        elif trial.kind == "masksembles":
            layers.append(Masksembles(n, trial.parts, trial.scale, seed))
        else:
            redraw = "never" if trial.kind == "fixed partition" else "cycle"
            layers.append(DropoutPartition(trial.parts, redraw=redraw, seed=seed))
    return layers


class Masked(nn.Module):
    """A perceptron with masks on its hidden units, also at a test if told so."""

    def __init__(self, model: nn.Sequential, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.plain, self.layers = model, nn.ModuleList(layers)
        hidden = [i for i, m in enumerate(model) if isinstance(m, nn.ReLU)]
        self.after = dict(zip(hidden, range(len(hidden)), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, with masks when they train, or when there are only masks."""
        for i, module in enumerate(self.plain):
            x = module(x)
            if i in self.after:
                layer = self.layers[self.after[i]]
                use = layer.training or isinstance(layer, Masksembles)
                x = layer(x) if use else x
        return x


@torch.no_grad()
def _passes(model: Masked, split: Split, passes: int) -> Tensor:
    """Return the probabilities of every pass, [passes, n, classes]."""
    x = split.inputs(scale="standard")
    probabilities = []
    if model.training and isinstance(model.layers[0], DropoutPartition):
        return F.softmax(cycle_outputs(model, x), 2)
    for i in range(passes):
        for layer in model.layers:
            if isinstance(layer, Masksembles):
                layer.only = i
        probabilities.append(F.softmax(model(x), 1))
    return torch.stack(probabilities)


def _scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    chosen = probabilities.gather(1, labels.unsqueeze(1)).clamp(min=1e-12)
    return {
        "accuracy": float((probabilities.argmax(1) == labels).double().mean()),
        "nll": float(-chosen.log().double().mean()),
        "ece": calibration_error(probabilities, labels),
    }


def _run(trial: CalibrationTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = nets.build("mlp", seed=trial.seed, widths=trial.widths)
    masked = Masked(model, _layers(trial)).to(device)
    options: dict[str, Any] = {"optimizer": "adam", "lr": trial.lr, "scale": "standard"}
    training.fit(masked, dataset, epochs=trial.epochs, seed=trial.seed, **options)
    metrics: dict[str, Any] = {}
    if trial.kind != "masksembles":  # it has no pass without masks
        masked.eval()
        metrics["single"] = _scores(_passes(masked, dataset.test, 1)[0], dataset.test.labels)
    if trial.kind != "none":
        masked.train()
        each = _passes(masked, dataset.test, trial.parts)
        metrics["mean"] = _scores(each.mean(0), dataset.test.labels)
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[CalibrationTrial]:
    fast: dict[str, Any] = {}
    if profile == "fast":
        fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 15}
    return [CalibrationTrial(seed=seed, kind=kind, **fast) for seed in seeds for kind in KINDS]


def gains(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the scores of the others minus those of partitions, one value a seed."""
    by = {(r.config.seed, r.config.kind): r.metrics for r in records}
    seeds = sorted({seed for seed, _ in by})
    others = {
        "dropout": ("dropout", "mean"),
        "Masksembles": ("masksembles", "mean"),
        "a single pass, trained alike": ("partition", "single"),
        "a single pass, trained without masks": ("none", "single"),
    }
    readings = {}
    for score, title in (("ece", "calibration error"), ("nll", "negative log likelihood")):
        for name, (kind, how) in others.items():
            readings[f"{title}, {name}"] = [
                by[seed, kind][how][score] - by[seed, "partition"]["mean"][score] for seed in seeds
            ]
    return readings


SEEDS = {"fast": range(1), "full": range(5)}
EXPERIMENTS = [
    Experiment(
        name="partition-calibration",
        summary="calibration of means over P masks at test time",
        trial=CalibrationTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        tolerance=0.01,
    ),
]
