"""A network that doubles the size of images: are its singular vectors waves at one place?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data, interpreter
from mcnn.errors import naming_extra
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

_SIDE = 32  # of large images
_GREY = (0.299, 0.587, 0.114)  # luminance of red, green and blue
MEASURES = {
    "gabor": "explained by one Gabor function",
    "orientation": "orientation",
    "band": "share of one octave",
}


@dataclass(frozen=True, kw_only=True)
class WaveletTrial(Trial):
    """Images to learn from, how long, and how many images and singular vectors are looked at."""

    source: str = "cifar10"
    train: int = 10000
    width: int = 16
    epochs: int = 3
    batch_size: int = 32
    lr: float = 2e-3
    images: int = 8
    vectors: int = 32


class Doubling(nn.Module):
    """Repeat each pixel twice along both axes, and add what convolutions make of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.details = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double height and width of grey images, [b, 1, h, w]."""
        return F.interpolate(x, scale_factor=2, mode="nearest") + self.details(x)


def network(width: int, seed: int) -> Doubling:
    """Return a freshly initialised network."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Doubling(width)


def large_images(source: str, count: int) -> tuple[Tensor, Tensor]:
    """Return grey images to learn from and others to look at, float32 [n, 1, 32, 32], 0 to 1.

    ``cifar10``, or ``sklearn``: pieces of the two photographs that come with scikit-learn.
    """
    if source == "cifar10":
        dataset = data.load(source)
        parts = (dataset.train.part(slice(count)), dataset.test.part(slice(1000)))
        train, test = (_grey(part.inputs()) for part in parts)
        return train, test
    with naming_extra():
        from sklearn.datasets import load_sample_images
    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    grey = _grey(photographs.movedim(-1, 1).float() / 255)  # [2, 1, h, w]
    pieces = grey.unfold(2, _SIDE, _SIDE).unfold(3, _SIDE, _SIDE).reshape(-1, 1, _SIDE, _SIDE)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))
    return pieces[order[64:]], pieces[order[:64]]


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)


def small(x: Tensor) -> Tensor:
    """Halve the size: means of two by two pixels."""
    return F.avg_pool2d(x, 2)


def fit(model: nn.Module, images: Tensor, trial: WaveletTrial) -> float:
    """Learn to undo the halving; return the last epoch's squared error."""
    steps = trial.epochs * -(-len(images) // trial.batch_size)
    optimizer = torch.optim.Adam(model.parameters(), trial.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(trial.seed)
    for _ in range(trial.epochs):
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(trial.batch_size):
            x = images[index]
            loss = F.mse_loss(model(small(x)), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
    return total / len(images)


def run(trial: WaveletTrial, device: torch.device) -> dict[str, Any]:
    """Return how wave-like singular vectors are, at images and at controls."""
    train, test = (part.to(device) for part in large_images(trial.source, trial.train))
    model = network(trial.width, trial.seed).to(device)
    before = network(trial.width, trial.seed).double().to(device)
    loss = fit(model, train, trial)
    with torch.no_grad():
        error = F.mse_loss(model(small(test)), test)
        plain = F.interpolate(small(test), scale_factor=2, mode="bicubic")
        metrics: dict[str, Any] = {
            "loss": loss,
            "error": float(error),
            "bicubic": float(F.mse_loss(plain, test)),
        }
    model = model.double()
    generator = torch.Generator().manual_seed(trial.seed)
    chosen = torch.randperm(len(test), generator=generator)[: trial.images]
    x = small(test[chosen]).double()
    right = _vectors(model, x, trial.vectors)
    arms = {
        "image": right,
        "shuffled vectors": interpreter.phase_shuffled(right, generator),
        "shuffled image": _vectors(model, interpreter.phase_shuffled(x, generator), trial.vectors),
        "untrained": _vectors(before, x, trial.vectors),
        "noise": torch.randn(right.shape, generator=generator, dtype=torch.float64),
    }
    for name, images in arms.items():
        metrics[name] = {
            "gabor": float(interpreter.gabor_fit(images).explained.mean()),
            "orientation": float(interpreter.orientation(images).mean()),
            "band": float(interpreter.band(images).mean()),
        }
    return metrics


def _vectors(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """Return the first right singular vectors at each image, [images * count, h, w]."""
    return torch.cat(
        [interpreter.linear(model, image[None]).svd(count).right[:, 0, 0] for image in x]
    )


def trials(profile: str, seeds: Sequence[int]) -> list[WaveletTrial]:
    """List a trial for each seed."""
    fast = {"source": "sklearn", "train": 456, "width": 8, "epochs": 10, "images": 2, "vectors": 16}
    return [WaveletTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return what singular vectors at images have more than each control."""
    found = {}
    for name, label in MEASURES.items():
        for arm in ("shuffled vectors", "noise", "shuffled image", "untrained"):
            if arm == "shuffled vectors" and name != "gabor":
                continue  # the same spectrum
            found[f"{label}, image minus {arm}"] = [
                r.metrics["image"][name] - r.metrics[arm][name] for r in records
            ]
        found[f"{label}, image"] = [r.metrics["image"][name] for r in records]
    return found


EXPERIMENTS = [
    Experiment(
        name="interpreter-wavelets",
        summary="singular vectors of a network that doubles images, against shuffled phases",
        trial=WaveletTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(10, 15)},
        measures={"interpreter-wavelets": measure},
        tolerance=0.1,
    ),
]
