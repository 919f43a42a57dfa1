"""Max pooling by ReLUs against PyTorch's: windows of all shapes, and inside networks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcnn import data, relu, training
from mcnn.experiments.relu.operands import DTYPES, SEEDS
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import nets

LENETS = ("lenet5", "lenet-wide")


@dataclass(frozen=True, kw_only=True)
class PoolTrial(Trial):
    """Windows at random over random images of a type, or a network, trained or as initialised."""

    net: str | None = None
    dataset: str | None = None
    dtype: str = "float32"
    windows: int = 100
    images: int = 8
    epochs: int = 1


def _run(trial: PoolTrial, device: torch.device) -> dict[str, Any]:
    return _run_windows(trial, device) if trial.net is None else _run_network(trial, device)


def _windows(count: int, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Return arguments of max pooling; every window has a tap inside images of 24 x 24."""

    def draw(low: int, high: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high + 1, (2,), generator=generator).tolist())

    for _ in range(count):
        kernel = draw(1, 7)
        yield {
            "kernel_size": kernel,
            "stride": draw(1, 4),
            "padding": tuple(min(k // 2, p) for k, p in zip(kernel, draw(0, 3), strict=True)),
            "dilation": draw(1, 3),
            "ceil_mode": draw(0, 1)[0] == 1,
        }


def _run_windows(trial: PoolTrial, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(trial.seed)
    names = ("wrong", "ulps", "ulps_a_level", "gradients", "tied_gradients")
    totals = {form: dict.fromkeys(names, 0) for form in relu.FORMS}
    outputs = pixels = tied_pixels = 0
    for window in _windows(trial.windows, generator):
        levels = sum(math.ceil(math.log2(k)) for k in window["kernel_size"])
        x = torch.randn((trial.images, 1, 24, 24), generator=generator, dtype=torch.float64)
        stepped = x.mul(2).round().to(DTYPES[trial.dtype]).to(device)  # has ties
        x = x.to(DTYPES[trial.dtype]).to(device)
        truth, largest = F.max_pool2d(x, **window), F.max_pool2d(x.abs(), **window)
        gradient = _gradient(x, F.max_pool2d, window)
        tied_gradient = _gradient(stepped, F.max_pool2d, window)
        outputs += truth.numel()
        pixels += int((gradient != 0).sum())
        tied_pixels += int((tied_gradient != 0).sum())
        for form, counts in totals.items():
            pool = partial(relu.max_pool2d, form=form)
            got = pool(x, **window)
            ulps = float(relu.ulps(got, truth, largest).max())
            counts["wrong"] += int((got != truth).sum())
            counts["ulps"] = max(counts["ulps"], ulps)
            counts["ulps_a_level"] = max(counts["ulps_a_level"], ulps / max(levels, 1))
            counts["gradients"] += _lost(gradient, _gradient(x, pool, window))
            counts["tied_gradients"] += _lost(tied_gradient, _gradient(stepped, pool, window))
    return {"outputs": outputs, "pixels": pixels, "tied_pixels": tied_pixels, "forms": totals}


def _gradient(x: Tensor, pool: Callable[..., Tensor], window: dict[str, Any]) -> Tensor:
    """Return the derivative of the sum of all outputs by the pixels, which are small integers."""
    x = x.clone().requires_grad_()
    pool(x, **window).sum().backward()
    return x.grad


def _lost(want: Tensor, got: Tensor) -> int:
    """Count the pixels that have a gradient and get another one."""
    return int(((want != 0) & (want != got)).sum())


def _run_network(trial: PoolTrial, device: torch.device) -> dict[str, Any]:
    if trial.dataset is None:
        model = nets.build(trial.net, seed=trial.seed).to(device)
        generator = torch.Generator().manual_seed(trial.seed)
        x = torch.randn((trial.images, 3, 224, 224), generator=generator).to(device)
        batches, labels = x.split(4), None
    else:
        dataset = data.load(trial.dataset, device=device)
        model = nets.build(trial.net, seed=trial.seed, shape=dataset.shape).to(device)
        training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed)
        batches, labels = dataset.test.inputs().split(1000), dataset.test.labels
    logits = _logits(model, batches)
    metrics: dict[str, Any] = {"images": len(logits), "forms": {}}
    if labels is not None:
        metrics["accuracy"] = float((logits.argmax(1) == labels).double().mean())
    for form in relu.FORMS:
        other = _logits(relu.replace_maxpool(model, form), batches)
        metrics["forms"][form] = {
            "predictions": int((other.argmax(1) != logits.argmax(1)).sum()),
            "logits": int((other != logits).sum()),
            "largest": float((other - logits).abs().max() / logits.abs().max()),
        }
    return metrics


@torch.no_grad()
def _logits(model: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    return torch.cat([model.eval()(x) for x in batches])  # [images, classes]


def _trials(profile: str, seeds: Sequence[int]) -> list[PoolTrial]:
    if profile == "fast":
        windows = [PoolTrial(seed=s, dtype=d, windows=10, images=4) for s in seeds for d in DTYPES]
        return windows + [PoolTrial(seed=s, net="lenet5", dataset="digits") for s in seeds]
    windows = [PoolTrial(seed=s, dtype=d) for s in seeds for d in DTYPES]
    trained = [PoolTrial(seed=s, net=n, dataset="mnist") for s in seeds for n in LENETS]
    return windows + trained + [PoolTrial(seed=s, net="alexnet") for s in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    windows = [r.metrics for r in records if r.config.net is None]
    networks = [r.metrics for r in records if r.config.net is not None]

    def pick(many: list[dict[str, Any]], form: str, name: str) -> list[float]:
        return [m["forms"][form][name] for m in many]

    ties = [m["forms"]["symmetric"]["tied_gradients"] / m["tied_pixels"] for m in windows]
    return {
        "exact form, wrong values": pick(windows, "exact", "wrong"),
        "exact form in networks, logits that differ": pick(networks, "exact", "logits"),
        "four terms, ulp of the larger magnitude a level": pick(
            windows, "symmetric", "ulps_a_level"
        ),
        "four terms, ulp of the larger magnitude": pick(windows, "symmetric", "ulps"),
        "four terms in networks, predictions that differ": pick(
            networks, "symmetric", "predictions"
        ),
        "exact form, gradients that differ": pick(windows, "exact", "tied_gradients"),
        "four terms, share of gradients that differ where ties abound": ties,
    }


EXPERIMENTS = [
    Experiment(
        name="relu-maxpool",
        summary="max pooling by ReLUs, windows of all shapes and inside networks",
        trial=PoolTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={"relu-maxpool": _measure},
        tolerance=0.01,
    ),
]
