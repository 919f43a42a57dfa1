"""Noise2Noise on images: noisy targets against clean ones, with many images and with few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mcnn import data
from mcnn.integral.restore import NOISES, Denoiser, learn, psnr
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

TARGETS = ("clean", "noisy")


@dataclass(frozen=True, kw_only=True)
class PairsTrial(Trial):
    """Training images, each with one noisy input and one target, and who learns from them.

    Images are drawn by the seed from those of the training set that are not held out.
    """

    dataset: str = "cifar10"
    noise: str = "gaussian"
    images: int = 5000
    channels: int = 32
    layers: int = 3
    steps: int = 400
    crop: int = 16
    lr: float = 2e-3
    tested: int = 500
    validation: int = 5000


def run(trial: PairsTrial, device: torch.device) -> dict:
    """Return the PSNR on test images: as they are, and restored by either network."""
    dataset = data.load(trial.dataset, device=device, validation=trial.validation)
    generator = torch.Generator().manual_seed(trial.seed)
    chosen = torch.randperm(len(dataset.train), generator=generator)[: trial.images].to(device)
    noise = NOISES[trial.noise]
    clean = _grey(dataset.train.inputs(chosen))  # [n, 1, h, w]
    inputs, noisy = noise(clean, generator), noise(clean, generator)
    test = _grey(dataset.test.inputs(slice(trial.tested)))
    seen = noise(test, generator)
    metrics = {"noisy images": psnr(seen, test)}
    for name, targets in zip(TARGETS, (clean, noisy), strict=True):
        model = Denoiser(trial.channels, trial.layers, trial.seed).to(device)
        options = {"steps": trial.steps, "crop": trial.crop, "lr": trial.lr, "seed": trial.seed}
        learn(model, inputs, targets, **options)
        with torch.no_grad():
            metrics[name] = psnr(torch.cat([model(x) for x in seen.split(100)]), test)
    return metrics


def _grey(x: torch.Tensor) -> torch.Tensor:
    return x.mean(1, keepdim=True)


def trials(profile: str, seeds: Sequence[int]) -> list[PairsTrial]:
    """List both noises and both numbers of images for each seed."""
    small = {}
    if profile == "fast":
        small = {"dataset": "digits", "channels": 16, "steps": 200, "crop": 8, "lr": 4e-3}
        small |= {"tested": 300, "validation": 200}
    numbers = (1000, 10) if small else (5000, 20)
    return [
        PairsTrial(seed=seed, noise=noise, images=n, **small)
        for seed in seeds
        for noise in NOISES
        for n in numbers
    ]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return what noisy targets lose, and what restoring gains, in dB."""
    readings: dict[str, list[float]] = {}
    for r in records:
        about, m = f"{r.config.noise}, {r.config.images} images", r.metrics
        readings.setdefault(f"{about}: noisy minus clean", []).append(m["noisy"] - m["clean"])
        gain = m["noisy"] - m["noisy images"]
        readings.setdefault(f"{about}: gain of noisy targets", []).append(gain)
    return readings


EXPERIMENT = Experiment(
    name="integral-noise2noise",
    summary="restoring images, learned from pairs of noisy ones and from clean targets",
    trial=PairsTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(5)},
    measures={"integral-noise2noise": measure},
    tolerance=0.05,
)
