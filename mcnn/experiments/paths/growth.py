r"""Networks that change while they are trained: by whole paths, and by single edges.

All networks have as many paths as do not have more than a share of the dense network's weights, or
as many edges, and train by one recipe from the same images in the same order:

- ``static``: paths that stay;
- ``alone``: only the first part of these paths, a smaller network;
- ``exchange``: every interval the weakest paths leave and the next of the sequence come
  (:func:`mcnn.paths.regrow`), a share of :math:`\frac{\alpha}{2}(1+\cos\frac{\pi t}{T})` of them at
  step t, until T, which is three quarters of the training, as SET and RigL do with edges;
- ``grow``: from a quarter of the paths to all of them at T, in equal steps
  (:func:`mcnn.paths.grow`);
- ``nested``: each step trains a random prefix of the paths, a quarter to all of them, and the one
  network is tested at several widths;
- ``set``, ``rigl``: edges are exchanged, from masks by Erdős and Rényi, as the papers have it, or
  (``from_paths``) from the edges of the paths, that is from the network of ``static``.

New edges begin with He's initial weights times ``scale``; those of SET and RigL with zero.
The momentum of edges that stay is kept.

No claim of the talk is decided by this.
What is reported, decided before the runs: the test accuracy, the distinct edges, the edges on no
way from an input to an output and the dangling units, before and after; differences of accuracy are
paired over seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.baselines.evolve import RigL, Set
from mcnn.baselines.masks import edges_of, erk_densities, random_mask, weights
from mcnn.experiments.paths.common import BATCH, RECIPE, fit_masked, network
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.export import to_dense_model
from mcnn.paths.generators import sample_paths
from mcnn.paths.graph import Graph
from mcnn.paths.growth import grow, regrow
from mcnn.paths.nets import PathMLP
from mcnn.paths.optimizer_state import migrate_optimizer_state

CHANGES = 14  # intervals of a training, at most three quarters of which end with a change
UNTIL = 0.75
PREFIXES = (0.25, 0.5, 1.0)  # of the paths, at which nested networks are tested

Change = Callable[[PathMLP, int], None]  # what is done to a network after a step of a number


@dataclass(frozen=True, kw_only=True)
class GrowthTrial(Trial):
    """A sparse network and how it changes.

    ``part`` is that of the paths for ``alone``; ``share`` is α for what exchanges; ``scale`` is
    that of the initial weights of new edges of paths.
    """

    dataset: str = "fashion-mnist"
    arm: str = "static"
    density: float = 0.05
    part: float = 1.0
    share: float = 0.0
    scale: float = 1.0
    from_paths: bool = False
    method: str = "uniform"
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 3


def _run(trial: GrowthTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    sizes = [n * m for n, m in zip(trial.widths, trial.widths[1:], strict=False)]
    number = paths_for(trial.widths, round(trial.density * sum(sizes)), trial.method, trial.seed)
    steps = trial.epochs * math.ceil(len(dataset.train) / BATCH)
    if trial.arm in ("set", "rigl"):
        return _by_edges(trial, dataset, number, steps)
    first = {"alone": trial.part, "grow": PREFIXES[0]}.get(trial.arm, 1.0)
    net = PathMLP(trial.widths, round(first * number), trial.method, trial.seed, device=device)
    before = _described(_graph(net))
    change: Change | None = None
    if trial.arm == "exchange":
        change = partial(_exchange, steps=steps, share=trial.share, scale=trial.scale)
    elif trial.arm == "grow":
        change = partial(_grow, steps=steps, paths=number, scale=trial.scale)
    trained = Nested(net, trial.seed) if trial.arm == "nested" else net
    on_step = change and partial(changed, change=change)
    options = {"epochs": trial.epochs, "batch_size": BATCH, "seed": trial.seed, **RECIPE}
    training.fit(trained, dataset, on_step=on_step, **options)
    result = {"paths": number, "before": before, "after": _described(_graph(net))}
    accuracy = [_accuracy(net, dataset, p) for p in PREFIXES] if trial.arm == "nested" else []
    whole = training.evaluate(net, dataset.test).accuracy
    return result | {"accuracy": whole, "accuracy_of_prefixes": accuracy}


def paths_for(widths: Sequence[int], total: int, method: str, seed: int) -> int:
    """Return how many paths have at most ``total`` distinct edges.

    Parameters
    ----------
    widths, method, seed
        As of :func:`mcnn.paths.sample_paths`.
    total
        Number of edges.
    """

    def distinct(n: int) -> int:
        return sum(Graph.of_paths(sample_paths(widths, n, method, seed), widths).unique)

    few, many = 1, total
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if distinct(middle) <= total else (few, middle)
    return few


def _graph(net: PathMLP) -> Graph:
    return Graph.of_paths(net.paths, net.widths)


def _described(graph: Graph) -> dict[str, Any]:
    unique = list(graph.unique)
    return {"edges": unique, "useless": sum(graph.useless), "dangling": sum(graph.dangling)}


# --- training by paths ----------------------------------------------------------------------------


class Nested(nn.Module):
    """A network of which every training step takes a random number of its first paths.

    Parameters
    ----------
    net
        Whose weights are trained; its paths stay.
    seed
        Of the numbers of paths, from a quarter to all of them.
    """

    def __init__(self, net: PathMLP, seed: int) -> None:
        super().__init__()
        self.net, self.first = net, first_paths(net)
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a part of the network, [batch, classes]."""
        paths = self.net.paths.shape[1]
        low = round(PREFIXES[0] * paths)
        few = int(torch.randint(low, paths + 1, (), generator=self.generator))
        return narrow(self.net, self.first, few, x)


def changed(step: training.Step, change: Change) -> None:
    """Change a network after a training step; the optimizer keeps what it knows of its edges."""
    with migrate_optimizer_state(step.optimizer, step.model):
        change(step.model, step.number)


def first_paths(net: PathMLP) -> list[Tensor]:
    """Return the first path on each edge, int64 [edges] for each layer."""
    firsts = []
    for layer in net.layers:
        edge = layer.edge_of_path()  # [paths]
        number = torch.arange(len(edge), device=edge.device)
        last = torch.full_like(layer.weight, len(edge), dtype=torch.int64)  # [edges]
        firsts.append(last.scatter_reduce(0, edge, number, "amin"))
    return firsts


def narrow(net: PathMLP, first: Sequence[Tensor], paths: int, x: Tensor) -> Tensor:
    """Return the logits of the network of the first paths alone, [batch, classes].

    Parameters
    ----------
    net
        Whose weights are used.
    first
        From :func:`first_paths`.
    paths
        How many.
    x
        Images.
    """
    names = [f"layers.{i}.weight" for i in range(len(first))]
    kept = {
        name: layer.weight * (number < paths)
        for name, layer, number in zip(names, net.layers, first, strict=True)
    }
    return torch.func.functional_call(net, kept, (x,))


def _accuracy(net: PathMLP, dataset: data.Data, part: float) -> float:
    first, few = first_paths(net), round(part * net.paths.shape[1])

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return narrow(net, first, few, x)

    return training.evaluate(Narrow(), dataset.test).accuracy


def _is_time(step: int, steps: int) -> bool:
    """Say whether to change something after a step, as SET and RigL do it."""
    return 0 < step < UNTIL * steps and step % max(1, steps // CHANGES) == 0


def _exchange(net: PathMLP, step: int, *, steps: int, share: float, scale: float) -> None:
    if _is_time(step, steps):
        now = share / 2 * (1 + math.cos(math.pi * step / (UNTIL * steps)))
        leaving = int(now * net.paths.shape[1])
        if leaving:
            regrow(net, leaving, scale)


def _grow(net: PathMLP, step: int, *, steps: int, paths: int, scale: float) -> None:
    if _is_time(step, steps):
        interval = max(1, steps // CHANGES)
        times = math.ceil(UNTIL * steps / interval) - 1  # how often it is time
        quarter = round(PREFIXES[0] * paths)
        wanted = quarter + (paths - quarter) * (step // interval) // times
        if wanted > net.paths.shape[1]:
            grow(net, wanted - net.paths.shape[1], scale)


# --- training by edges ----------------------------------------------------------------------------


def _by_edges(trial: GrowthTrial, dataset: data.Data, paths: int, steps: int) -> dict[str, Any]:
    net = PathMLP(trial.widths, paths, trial.method, trial.seed)
    total = sum(_graph(net).unique)
    if trial.from_paths:
        model = to_dense_model(net).to(dataset.device)
        masks = {name: w != 0 for name, w in weights(model).items()}
    else:
        model = network(trial.widths, trial.seed).to(dataset.device)
        shapes = {name: w.shape for name, w in weights(model).items()}
        sizes = [shape.numel() for shape in shapes.values()]
        numbers = edges_of(erk_densities(list(shapes.values()), total / sum(sizes)), sizes, total)
        masks = {
            name: random_mask(shape, n, trial.seed * 16 + i)
            for i, ((name, shape), n) in enumerate(zip(shapes.items(), numbers, strict=True))
        }
    before = _described(Graph.of_masks(list(masks.values())))
    often = {"steps": steps, "interval": max(1, steps // CHANGES), "until": UNTIL}
    kind = {"set": Set, "rigl": RigL}[trial.arm]
    masked = kind(model, masks, fraction=trial.share, seed=trial.seed, **often)
    accuracy = fit_masked(model, dataset, masked, trial.epochs, trial.seed)
    after = _described(Graph.of_masks(list(masked.masks.values())))
    result = {"paths": paths, "before": before, "after": after}
    return result | {"accuracy": accuracy, "accuracy_of_prefixes": []}


# --- trials ---------------------------------------------------------------------------------------


def _trials(profile: str, seeds: Sequence[int]) -> list[GrowthTrial]:
    arms: list[dict[str, Any]] = [
        {"arm": "static"},
        {"arm": "exchange", "share": 0.3},
        {"arm": "grow"},
        {"arm": "nested"},
        {"arm": "set", "share": 0.3},
        {"arm": "rigl", "share": 0.3},
    ]
    if profile == "fast":
        fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 8, "density": 0.1}
        return [GrowthTrial(seed=seed, **arm, **fast) for seed in seeds for arm in arms]
    arms += [
        {"arm": "set", "share": 0.3, "from_paths": True},
        {"arm": "rigl", "share": 0.3, "from_paths": True},
        {"arm": "alone", "part": 0.25},
        {"arm": "alone", "part": 0.5},
        {"arm": "exchange", "share": 0.1},
        {"arm": "exchange", "share": 0.5},
        {"arm": "exchange", "share": 0.3, "scale": 0.0},
    ]
    # Seed by seed, so that a run that is stopped has whole comparisons.
    return [
        GrowthTrial(seed=seed, density=density, **arm)
        for seed in seeds
        for density in (0.01, 0.05)
        for arm in arms
    ]


EXPERIMENTS = [
    Experiment(
        name="paths-growth",
        summary="paths that are exchanged, added or nested in training, beside SET and RigL",
        trial=GrowthTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        tolerance=0.01,
    ),
]
