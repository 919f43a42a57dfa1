"""A hidden layer of which a tenth is computed for each image, against the same layer without gates.

Rates and penalties of each arm were chosen on images that are held out of the training set
(``validation=5000``), with other seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data, gates
from mcnn.errors import unknown
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

PLAIN = ("ungated", "small")  # as many units as there are, or as are on
GATED = ("noisy-rectifier", "smooth-times-stochastic", "straight-through", "score")


@dataclass(frozen=True, kw_only=True)
class GatedTrial(Trial):
    """A network, how its gates learn, and how hard they are held to their share."""

    dataset: str = "mnist"
    arm: str = "straight-through"
    hidden: int = 1024
    gates: int = 32
    share: float = 0.1
    epochs: int = 6
    batch_size: int = 256
    lr: float = 0.3
    gater_lr: float = 0.3
    penalty: float = 30.0
    balance: float = 0.01
    validation: int = 0


class GatedNet(nn.Module):
    """A hidden layer with its gates, or without, and a layer for the classes."""

    def __init__(self, pixels: int, classes: int, trial: GatedTrial) -> None:
        super().__init__()
        if trial.arm not in (*PLAIN, *GATED):
            raise unknown("arm", trial.arm, (*PLAIN, *GATED))
        self.gated = trial.arm in GATED
        hidden = round(trial.hidden * trial.share) if trial.arm == "small" else trial.hidden
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(trial.seed)
            if self.gated:
                unit = gates.UNITS[0] if trial.arm == "score" else trial.arm
                full = trial.arm == "straight-through"
                self.first: nn.Module = gates.GatedBlock(
                    pixels, hidden, trial.gates, unit, trial.share, full, seed=trial.seed
                )
            else:
                self.first = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
            self.last = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, *xi: Tensor) -> Tensor:
        """Return logits [b, classes] of images [b, pixels], gates sampled with ``xi`` if given."""
        return self.last(self.first(x, *xi))


def run(trial: GatedTrial, device: torch.device) -> dict[str, Any]:
    """Return the errors of a trained network, and which share of its gates is on."""
    dataset = data.load(trial.dataset, device=device)
    if trial.validation:
        dataset = dataset.hold_out(trial.validation)
    test = dataset.validation if dataset.validation is not None else dataset.test
    net = GatedNet(dataset.train.images[0].numel(), len(dataset.classes), trial).to(device)
    losses = _train(net, dataset.train, trial)
    return {"loss": losses} | _evaluate(net, test, trial)


def _train(net: GatedNet, split: data.Split, trial: GatedTrial) -> list[float]:
    """Train in place; return the mean cross entropy of each epoch."""
    # A loop of its own: the loss has a penalty of the gates, and one arm needs it image by image.
    gater = list(net.first.gater.parameters()) if net.gated else []
    others = [p for p in net.parameters() if all(p is not q for q in gater)]
    groups = [{"params": others}, *([{"params": gater, "lr": trial.gater_lr}] if gater else [])]
    optimizer = torch.optim.SGD(groups, trial.lr, 0.9)
    steps = trial.epochs * math.ceil(len(split) / trial.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(trial.seed)
    noise = torch.Generator().manual_seed(trial.seed + 1)
    baseline = gates.RunningBaseline()
    curve = []
    for _ in range(trial.epochs):
        total = 0.0
        for x, y in split.batches(trial.batch_size, order):
            xi = torch.rand(len(x), trial.gates, generator=noise).to(x.device)
            value, losses = _objective(net, x.flatten(1), y, xi, trial, baseline)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += float(losses.sum())
        curve.append(total / len(split))
    return curve


def _objective(
    net: GatedNet,
    x: Tensor,
    y: Tensor,
    xi: Tensor,
    trial: GatedTrial,
    baseline: gates.RunningBaseline,
) -> tuple[Tensor, Tensor]:
    """Return what is differentiated, and the cross entropies [b] in it."""
    if not net.gated:
        losses = F.cross_entropy(net(x), y, reduction="none")
        return losses.mean(), losses.detach()
    if trial.arm == "score":
        a = net.first.gater(x)
        p = net.first.probability = a.sigmoid()
        h = (xi < p).to(a.dtype)
        losses = F.cross_entropy(net.last(F.relu(net.first.layer(x, h))), y, reduction="none")
        # One draw an image, with the baseline that draws of the past suggest.
        log_p = h * a - F.softplus(a)  # [b, gates]
        score = (losses.detach().unsqueeze(1) - baseline.value) * log_p
        value = (losses + score.sum(1)).mean()
        baseline.update((h - p).detach(), losses.detach())
    else:
        losses = F.cross_entropy(net(x, xi), y, reduction="none")
        value = losses.mean()
    on = net.first.probability.mean(0)  # [gates]
    value = value + trial.penalty * (on.mean() - trial.share).square()
    return value + trial.balance * (on - trial.share).square().sum(), losses.detach()


@torch.no_grad()
def _evaluate(net: GatedNet, split: data.Split, trial: GatedTrial) -> dict[str, float]:
    """Return errors and shares, with gates that are sampled, and with those that are not."""
    net.eval()
    x = split.inputs().flatten(1)

    def error(*xi: Tensor) -> float:
        return float((net(x, *xi).argmax(1) != split.labels).double().mean())

    if not net.gated:
        return {"error": error(), "share": 1.0}
    found = {"error": error(), "share": net.first.share}
    noise = torch.Generator().manual_seed(trial.seed + 2)
    xi = torch.rand(len(x), trial.gates, generator=noise).to(x.device)
    found["sampled error"] = error(xi)
    return found | {"sampled share": net.first.share}


# What was chosen for each arm.
CHOSEN: dict[str, dict[str, Any]] = {
    "ungated": {"lr": 0.2},
    "small": {"lr": 0.2},
    "straight-through": {},
    "noisy-rectifier": {"lr": 0.1, "gater_lr": 0.1},
    "smooth-times-stochastic": {},
    "score": {"lr": 0.2, "gater_lr": 0.02},
}
# The cheap families are run at ``fast`` only: a verdict rests on the first three.
LISTED = {"fast": tuple(CHOSEN), "full": tuple(CHOSEN)[:3]}


def trials(profile: str, seeds: Sequence[int]) -> list[GatedTrial]:
    """List a trial for each arm and seed."""
    fast = {"dataset": "digits", "hidden": 256, "gates": 16, "epochs": 12, "batch_size": 32}
    size = {} if profile == "full" else fast
    return [
        GatedTrial(seed=s, arm=arm, **(CHOSEN[arm] | size))
        for s in seeds
        for arm in LISTED[profile]
    ]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return errors, differences to the network without gates, and shares of gates that are on."""
    arms = [arm for arm in CHOSEN if any(r.config.arm == arm for r in records)]
    by = {arm: {r.config.seed: r.metrics for r in records if r.config.arm == arm} for arm in arms}
    seeds = [s for s in by["ungated"] if all(s in by[arm] for arm in arms)]

    def minus(arm: str, key: str, other: str) -> list[float]:
        return [by[arm][s][key] - by[other][s]["error"] for s in seeds]

    readings = {f"error, {arm}": [by[arm][s]["error"] for s in seeds] for arm in arms}
    readings["error, small minus ungated"] = minus("small", "error", "ungated")
    for arm in (arm for arm in arms if arm in GATED):
        for prefix in ("", "sampled "):
            for other in PLAIN:
                name = f"{prefix}error, {arm} minus {other}"
                readings[name] = minus(arm, f"{prefix}error", other)
            name = f"{prefix}share of gates on, {arm}"
            readings[name] = [by[arm][s][f"{prefix}share"] for s in seeds]
    return readings


EXPERIMENTS = [
    Experiment(
        name="gates-mnist",
        summary="a hidden layer with a tenth of its gates on, against the layer without gates",
        trial=GatedTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"gates-mnist": measure, "gates-small": measure},
        tolerance=0.01,
    ),
]
