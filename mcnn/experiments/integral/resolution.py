"""A classifier of digits trained with few nodes, evaluated with any number of them.

Its two layers have a continuum of neurons, of which training sees 64 or 256 at a time: the same
ones throughout (``redraw`` false), or new ones in every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mcnn import data, training
from mcnn.integral.kernels import Fourier, Readout
from mcnn.integral.layer import ClassBias, CosineBias, IntegralLayer, IntegralNet
from mcnn.ledger.experiment import Experiment, Trial


@dataclass(frozen=True, kw_only=True)
class ResolutionTrial(Trial):
    """A training with some number of nodes, and the numbers and kinds of nodes to evaluate with."""

    dataset: str = "mnist"
    nodes: int = 256
    redraw: bool = True
    frequencies: int = 8
    epochs: int = 6
    lr: float = 0.01
    resolutions: tuple[int, ...] = (16, 64, 256, 1024, 4096, 16384)
    kinds: tuple[str, ...] = ("random", "jittered", "sobol")


def network(frequencies: int, nodes: int, seed: int, classes: int = 10) -> IntegralNet:
    """Return image -> function on the square -> function on the square -> logits."""
    g = torch.Generator().manual_seed(seed)
    f = frequencies
    hidden = [IntegralLayer(Fourier(2, 2, f, g), seed=0, bias=CosineBias(2, f)) for _ in range(2)]
    readout = IntegralLayer(Readout(2, classes, f, g), seed=0, bias=ClassBias(classes))
    return IntegralNet([*hidden, readout], classes, "jittered", nodes, seed)


def run(trial: ResolutionTrial, device: torch.device) -> dict:
    """Train, then return the test accuracy for every kind and number of nodes."""
    digits = data.load(trial.dataset).to(device)
    net = network(trial.frequencies, trial.nodes, trial.seed).to(device)
    rows = training.fit(
        net,
        digits,
        epochs=trial.epochs,
        optimizer="adam",
        lr=trial.lr,
        seed=trial.seed,
        on_step=(lambda step: net.draw(trial.nodes, "jittered")) if trial.redraw else None,
    )
    metrics = {"as trained": training.evaluate(net, digits.test).accuracy, "loss": rows[-1]["loss"]}
    for kind in trial.kinds:
        metrics[kind] = []
        for n in trial.resolutions:
            net.draw(n, kind)
            # One row is as long as the number of nodes: few images at a time when they are many.
            batch = max(50, min(1000, 2**20 // n))
            metrics[kind].append(training.evaluate(net, digits.test, batch_size=batch).accuracy)
    return metrics


def trials(profile: str, seeds: Sequence[int]) -> list[ResolutionTrial]:
    """List trainings with fixed and with redrawn nodes, 64 and 256 of them."""
    small = {
        "dataset": "digits",
        "frequencies": 6,
        "epochs": 10,
        "resolutions": (16, 64, 256, 1024),
        "kinds": ("jittered",),
    }
    size = small if profile == "fast" else {}
    return [
        ResolutionTrial(nodes=nodes, redraw=redraw, seed=seed, **size)
        for nodes in ((64,) if profile == "fast" else (64, 256))
        for redraw in (True, False)
        for seed in seeds
    ]


EXPERIMENT = Experiment(
    name="integral-mnist",
    summary="a classifier of integral layers, evaluated at other resolutions",
    trial=ResolutionTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(2), "full": range(5)},
    tolerance=1e-3,
)
