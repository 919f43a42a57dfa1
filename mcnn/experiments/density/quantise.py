"""Ways to make weights small without training again, at equal entropy, with inputs and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, density, training
from mcnn.baselines import gpfq, rounding
from mcnn.data import wheels
from mcnn.experiments.density import baselines, mobile, networks, pitch, sentences, text
from mcnn.experiments.density.networks import Recipe
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.modelwise import Report

Score = Callable[[nn.Module], float]
Way = Callable[[nn.Module, float, Tensor, int], tuple[nn.Module, Report]]
_BATCH = 250
LEFT = 0.99  # of what the full network is worth
NEAR = 0.3  # bits a weight
OURS = "sampled, sequential"  # which stands for sampling
INSTEAD = "sampled"  # where rows are too long to follow a path


def _sampled(model: nn.Module, k: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    return density.quantize(model, fraction=k, method="systematic", layers=_known, seed=seed)


def _budget(model: nn.Module, bits: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    options = {"method": "systematic", "layers": _known, "seed": seed}
    return density.quantize(model, bits=bits, calibrate=inputs, **options)


def _correlated(
    model: nn.Module, bits: float, inputs: Tensor, seed: int
) -> tuple[nn.Module, Report]:
    options = {"method": "systematic", "layers": _known, "seed": seed, "order": "correlated"}
    return density.quantize(model, bits=bits, calibrate=inputs, **options)


def _sequential(model: nn.Module, k: float, inputs: Tensor, seed: int) -> tuple[nn.Module, Report]:
    options = {"layers": _known, "seed": seed, "sequential": True}
    return density.quantize(model, fraction=k, calibrate=inputs, **options)


def _nearest(model: nn.Module, bits: float, *_: Any) -> tuple[nn.Module, Report]:
    rule = lambda w, seed: rounding.nearest(w, int(bits), "mse")  # noqa: E731
    return rounding.quantize(model, rule, _known)


def _known(name: str, module: nn.Module) -> bool:
    """Say which layers take part: linear ones and convolutions, in every way the same."""
    return isinstance(module, nn.Linear | nn.Conv2d)


# What a setting is, and how often it is drawn: samples a weight, or bits of a code or budget.
WAYS: dict[str, tuple[str, Way]] = {
    "sampled": ("samples", _sampled),
    "sampled, budget by sensitivity": ("budget", _budget),
    "sampled, budget, correlated order": ("budget", _correlated),
    "sampled, sequential": ("samples", _sequential),
    "nearest": ("bits", _nearest),
    "nearest, calibrated": (
        "bits",
        lambda m, b, x, seed: gpfq.quantize(m, int(b), x, _known, feedback=False),
    ),
    "greedy path following": ("bits", lambda m, b, x, seed: gpfq.quantize(m, int(b), x, _known)),
}


@dataclass(frozen=True, kw_only=True)
class QuantiseTrial(Trial):
    """A network, how it was trained, and the settings in which it is quantised.

    ``net`` is one of :mod:`mcnn.experiments.density.networks`, ``"mobile"``, or one that others
    have trained, without a data set: ``"crepe-full"``, ``"crepe-tiny"``, ``"minilm"``.
    ``size`` is the number of test images, lines of 64 characters, tones or sentences,
    ``calibration`` that of those from the training set, or of other ones, that are calibrated on;
    ``ways`` are those of :data:`WAYS` that are taken.
    """

    net: str = "resnet"
    dataset: str | None = "cifar10"
    width: int = 8
    epochs: int = 2
    validation: int = 5000
    samples: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    budget: tuple[float, ...] = (1.0, 1.5, 2.5, 3.5)
    bits: tuple[int, ...] = (2, 3, 4, 5)
    calibration: int = 250
    size: int = 1000
    ways: tuple[str, ...] = tuple(WAYS)


def prepared(trial: QuantiseTrial, device: torch.device) -> tuple[nn.Module, Tensor, Score, str]:
    """Return the network, inputs to calibrate on, how to score one, and a mark of what is no set.

    The score is accuracy, bits a character, raw pitch accuracy, or the mean cosine to the
    embeddings of the network itself.
    """
    if trial.dataset is None:
        return _without_set(trial, device)
    options = {name: getattr(trial, name) for name in ("net", "dataset", "width", "epochs", "seed")}
    loaded = data.load(trial.dataset, device=device, validation=trial.validation)
    test = loaded.test.part(slice(trial.size))

    def score(changed: nn.Module) -> float:
        return training.evaluate(changed, test, scale="standard", batch_size=_BATCH).accuracy

    known = loaded.train.inputs(slice(trial.calibration), scale="standard")
    maker = mobile if trial.net == "mobile" else networks
    return maker.trained(Recipe(**options), loaded), known, score, loaded.fingerprint


def _without_set(
    trial: QuantiseTrial, device: torch.device
) -> tuple[nn.Module, Tensor, Score, str]:
    seed = 2 * trial.seed  # tests have even seeds and calibration odd ones
    if trial.net == "transformer":
        source = text.load(device)
        options = {name: getattr(trial, name) for name in ("net", "width", "epochs", "seed")}
        model = networks.trained(Recipe(dataset="stdlib", **options), source)
        characters = source.test[: trial.size * model.context + 1]
        known = source.train[: trial.calibration * model.context].view(-1, model.context)
        score = lambda m: networks.bits_per_character(m, characters, _BATCH)  # noqa: E731
        return model, known, score, source.fingerprint
    if trial.net == "minilm":
        model = sentences.load().to(device)
        halves = (text.TRAIN[::2], text.TRAIN[1::2])  # no module has sentences for both
        known, test = (
            sentences.encoded(half, number, seed).to(device)
            for half, number in zip(halves, (trial.calibration, trial.size), strict=True)
        )
        with torch.no_grad():
            wanted = model(test)
        mark = wheels.WHEELS["minilm"].sha256[:16]
        return model, known, lambda m: sentences.cosine(m, test, wanted), mark
    model = pitch.load(trial.net.removeprefix("crepe-")).to(device)
    frames, cents = (x.to(device) for x in pitch.tones(trial.size, seed))
    known, _ = pitch.tones(trial.calibration, seed + 1)
    mark = wheels.WHEELS["crepe"].sha256[:16]
    return model, known.to(device), lambda m: pitch.accuracy(m, frames, cents), mark


def _run(trial: QuantiseTrial, device: torch.device) -> dict[str, Any]:
    model, inputs, score, mark = prepared(trial, device)
    metrics: dict[str, Any] = {"float": score(model), "fingerprint": mark}
    for name in trial.ways:
        kind, way = WAYS[name]
        rows = []
        for setting in getattr(trial, kind):
            changed, report = way(model, setting, inputs, trial.seed)
            cost = baselines._cost(report.layers)
            row = {"setting": setting, "score": score(changed), "kept": cost["kept"]}
            rows.append(row | {"bits": cost["entropy"], "packed": cost["bits"]})
        metrics[name] = rows
    return metrics


# --- what is measured -----------------------------------------------------------------------------


def left(record: Record, row: dict[str, Any]) -> float:
    """Return the share of accuracy that is left, or the bits a character before over after."""
    share = row["score"] / record.metrics["float"]
    return 1 / share if record.config.net == "transformer" else share


def bits_needed(record: Record, name: str, kind: str = "bits") -> float:
    """Return the bits a weight at which a way leaves 99 %, interpolated between its settings.

    The bits of the largest setting, where none leaves as much: then more are needed.
    """
    points = sorted((row[kind], left(record, row)) for row in record.metrics[name])
    for (low, worse), (high, better) in pairwise(points):
        if worse < LEFT <= better:
            return low + (high - low) * (LEFT - worse) / (better - worse)
    return points[0][0] if points[0][1] >= LEFT else points[-1][0]


def reached(record: Record, name: str) -> bool:
    """Whether a way leaves 99 % at some setting."""
    return max(left(record, row) for row in record.metrics[name]) >= LEFT


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    ways = [name for name in WAYS if all(name in r.metrics for r in records)]
    differences = {
        f"{other} less {name}": [
            bits_needed(record, other) - bits_needed(record, name) for record in records
        ]
        for name in ways
        for other in ways
        if name.startswith("sampled") and other != name
    }
    needed = {f"bits, {name}": [bits_needed(r, name) for r in records] for name in ways}
    return differences | needed


def _measure_all(records: Sequence[Record]) -> dict[str, list[float]]:
    """Count the networks of each seed: where sampling needs fewer bits, and is near the best."""
    fewer, near = [], []
    for seed in sorted({r.config.seed for r in records}):
        own = [r for r in records if r.config.seed == seed]
        bits = [{name: bits_needed(r, name) for name in r.config.ways} for r in own]
        name = [OURS if OURS in x else INSTEAD for x in bits]
        sampled = [x[way] for way, x in zip(name, bits, strict=True)]
        rounded = [min(v for way, v in x.items() if way.startswith("nearest")) for x in bits]
        best = [min(x.values()) for x in bits]
        ours = [reached(r, way) for r, way in zip(own, name, strict=True)]
        wins = zip(ours, sampled, rounded, strict=True)
        fewer.append(sum(yes and a < b for yes, a, b in wins))
        closes = zip(ours, sampled, best, strict=True)
        near.append(sum(yes and a <= b + NEAR for yes, a, b in closes))
    return {"networks with fewer bits": fewer, "networks near the best": near}


MLP = {"net": "mlp", "dataset": "mnist", "width": 300, "epochs": 5}
MOBILE = {"net": "mobile", "width": 16}
_NO_SET = {"dataset": None, "width": 0, "epochs": 0, "validation": 0}
TEXT = _NO_SET | {"net": "transformer", "width": 128, "epochs": 1000, "size": 512}
TEXT |= {"calibration": 64}
TINY = _NO_SET | {"net": "crepe-tiny", "calibration": 100, "size": 300}
TINY |= {"samples": (0.5, 1.0), "budget": (1.5, 2.5), "bits": (2, 3)}
# Filters of 65,536 inputs: what runs the network layer by layer would take a quarter of an hour.
FULL = TINY | {"net": "crepe-full", "samples": (0.25, 0.5, 1.0), "calibration": 1, "size": 200}
FULL |= {"ways": ("sampled", "nearest")}
MINILM = _NO_SET | {"net": "minilm", "calibration": 32, "size": 100}
MINILM |= {"samples": (2.0, 4.0, 8.0), "bits": (4, 5, 6)}
MINILM |= {"ways": ("sampled", "sampled, sequential", "nearest", "greedy path following")}
NETS = (MLP, {}, MOBILE, TEXT, TINY, FULL, MINILM)


def _trials(profile: str, seeds: Sequence[int]) -> list[QuantiseTrial]:
    if profile == "full":
        return [QuantiseTrial(seed=seed, **net) for seed in seeds for net in NETS]
    brief = {"samples": (0.5, 2.0), "budget": (2.0,), "bits": (2, 4), "calibration": 200}
    digits = {"dataset": "digits", "epochs": 3, "validation": 287, "size": 360}
    nets = ({"net": "mlp", "width": 64}, {"width": 4})
    return [QuantiseTrial(seed=seed, **digits, **brief, **net) for seed in seeds for net in nets]


EXPERIMENTS = [
    Experiment(
        name="density-quantise",
        summary="sampling, rounding and path following at equal entropy, with inputs and without",
        trial=QuantiseTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        measures={
            "density-quantise-mlp": _measure,
            "density-quantise-resnet": _measure,
            "density-quantise-mobile": _measure,
            "density-quantise-text": _measure,
            "density-quantise-pitch": _measure,
            "density-quantise-sentences": _measure,
            "density-quantise-networks": _measure_all,
        },
        tolerance=0.02,
    ),
]
