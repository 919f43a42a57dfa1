"""Is f(x) the linear system's A x + b, in networks of torchvision, to rounding?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import interpreter
from mcnn.errors import naming_extra
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

SEEDS = {"fast": range(1), "full": range(10, 15)}
MEASURED = {"difference": "f(x) minus A x + b", "adjoint": "uᵀ(A v) minus (Aᵀu)ᵀv"}


@dataclass(frozen=True, kw_only=True)
class IdentityTrial(Trial):
    """A network of torchvision, drawn at random, and square images of this side."""

    net: str = "resnet18"
    side: int = 32
    images: int = 2


def network(name: str, seed: int) -> nn.Module:
    """Return a network of float64 with weights, shifts and statistics that no term escapes."""
    with naming_extra():
        from torchvision import models

    def vgg() -> nn.Module:
        features = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=False)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
        return nn.Sequential(features, *head)

    def mobilenet_hardswish() -> nn.Module:
        return models.mobilenet_v2(width_mult=0.5, num_classes=10)

    made: dict[str, Callable[[], nn.Module]] = {
        "resnet18": lambda: models.resnet18(num_classes=10),
        "vgg11": vgg,
        "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=10),
        "mobilenet_v2, hardswish": mobilenet_hardswish,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = made[name]()
        if name.endswith("hardswish"):
            _exchange(model)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # statistics of the images below, and of nothing else
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
        model.train()
        with torch.no_grad():
            model(torch.randn(16, 3, 32, 32))  # so that normalised layers have statistics to use
    return model.double().eval()


def _exchange(model: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(parent, name, nn.Hardswish())


NETS = ("resnet18", "vgg11", "mobilenet_v2", "mobilenet_v2, hardswish")


@torch.no_grad()
def run(trial: IdentityTrial, device: torch.device) -> dict[str, Any]:
    """Return the differences, relative to the largest output and to the size of the products."""
    model = network(trial.net, trial.seed).to(device)
    generator = torch.Generator().manual_seed(trial.seed)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)

    x = draw((trial.images, 3, trial.side, trial.side))
    y = model(x)
    system = interpreter.linear(model, x)
    u, v = draw(y.shape), draw(x.shape)
    forth, back = system.matvec(v), system.rmatvec(u)
    difference = (system.matvec(x) + system.bias - y).abs().max() / y.abs().max()
    adjoint = ((u * forth).sum() - (back * v).sum()).abs() / (u.norm() * forth.norm())
    return {
        "difference": float(difference),
        "adjoint": float(adjoint),
        "bias": float(system.bias.norm() / y.norm()),
        "outputs": system.shape[0],
        "inputs": system.shape[1],
    }


def trials(profile: str, seeds: Sequence[int]) -> list[IdentityTrial]:
    """List every network for each seed."""
    return [IdentityTrial(net=net, seed=seed) for seed in seeds for net in NETS]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the differences of each network, one value per seed."""
    return {
        f"{label}, {net}": [r.metrics[name] for r in records if r.config.net == net]
        for name, label in MEASURED.items()
        for net in NETS
    }


EXPERIMENTS = [
    Experiment(
        name="interpreter-identity",
        summary="networks of torchvision against their linear systems, forwards and backwards",
        trial=IdentityTrial,
        trials=trials,
        run=run,
        seeds=SEEDS,
        measures={"interpreter-identity": measure},
        tolerance=1.0,  # bias and rounding; the claim looks at rounding alone
    ),
]
