"""What signs and magnitudes of initial weights are worth to networks of paths.

Weights begin with He's normal numbers or all with one magnitude, and with a sign for each edge: at
random, alternating with the number of the path that takes the edge first, or all positive.
Signs are free, or stay as they are for the whole training, so that a sign is one bit to store or
nothing at all.

Alternating signs look harmless, and with Sobol' paths they are not: the first digit of the first
dimension of the sequence is the parity of the number of the path, up to its random shift.
The pixels have that dimension (:func:`mcnn.paths.sobol_dimensions`), so all edges of a pixel have
one sign, and neighbouring rows that make up half of the image have the same, up to the shift.

No claim of the talk is decided by this.
What is reported, decided before the runs: the test accuracy of each kind, and its differences, with
pairs of one seed, from free normal weights and, for alternating, from random signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data, training
from mcnn.experiments.paths.common import BATCH, RECIPE
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.nets import PathMLP

# Name: options of a layer of paths, and whether signs are made positive.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "normal, free": ({}, False),
    "normal, fixed signs": ({"fixed_signs": True}, False),
    "constant, random signs, free": ({"init": "constant"}, False),
    "constant, random signs": ({"init": "constant", "fixed_signs": True}, False),
    "constant, alternating signs": (
        {"init": "constant", "fixed_signs": True, "sign": "alternating"},
        False,
    ),
    "constant, positive": ({"init": "constant", "fixed_signs": True}, True),
}


@dataclass(frozen=True, kw_only=True)
class SignsTrial(Trial):
    """A network of paths and how its weights begin, one of :data:`KINDS`."""

    dataset: str = "mnist"
    method: str = "sobol"
    kind: str = "normal, free"
    per_pixel: int = 1
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 2


def _run(trial: SignsTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    net = make(trial).to(device)
    one_sided = one_sided_units(net)
    training.fit(net, dataset, epochs=trial.epochs, batch_size=BATCH, seed=trial.seed, **RECIPE)
    return {
        "accuracy": training.evaluate(net, dataset.test).accuracy,
        "edges": [layer.weight.numel() for layer in net.layers],
        "one_sided": one_sided,
    }


def make(trial: SignsTrial) -> PathMLP:
    """Return the network of a trial before it is trained."""
    options, positive = KINDS[trial.kind]
    paths = trial.per_pixel * trial.widths[0]
    net = PathMLP(trial.widths, paths, trial.method, trial.seed, **options)
    if positive:
        for layer in net.layers:
            layer.signs.fill_(1)
    return net


def one_sided_units(net: PathMLP) -> list[float]:
    """Return, for each layer but the last, the share of its units whose edges have one sign.

    The edges are those to the next layer, and only units with several of them count.
    """
    shares = []
    for layer in net.layers:
        positive = (layer.weights().detach() > 0).double()
        inputs = layer.edges.inputs.long()
        fan_out = positive.new_zeros(layer.in_features)
        above = fan_out.index_add(0, inputs, positive)
        fan_out = fan_out.index_add(0, inputs, torch.ones_like(positive))
        one_sided = ((above == 0) | (above == fan_out))[fan_out > 1].double()
        shares.append(float(one_sided.mean()) if len(one_sided) else 0.0)
    return shares


def _trials(profile: str, seeds: Sequence[int]) -> list[SignsTrial]:
    options: dict[str, Any] = {}
    kinds, grid = list(KINDS), (1, 4, 16)
    if profile == "fast":
        options = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 12}
        kinds = ["normal, free", "constant, random signs", "constant, alternating signs"]
        grid = (8,)
    # Seed by seed, so that a run that is stopped has whole comparisons.
    return [
        SignsTrial(seed=seed, method=method, kind=kind, per_pixel=n, **options)
        for seed in seeds
        for n in grid
        for method in ("sobol", "uniform")
        for kind in kinds
    ]


EXPERIMENTS = [
    Experiment(
        name="paths-signs",
        summary="signs of the weights of networks of paths: free, fixed, alternating, positive",
        trial=SignsTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        tolerance=0.01,
    ),
]
