"""Training small networks: how they are fed, in which layout, and many of them at once."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.measure import Race
from mcnn import training
from mcnn.data import Data, Split
from mcnn.training import ensemble, nets

IMAGES, BATCH = 8192, 128


class _Images(torch.utils.data.Dataset):
    """Images as torchvision's MNIST hands them out: a PIL image, transformed one by one."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels.tolist()
        self.to_picture, self.to_tensor = transforms.ToPILImage(), transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.to_tensor(self.to_picture(self.images[i])), self.labels[i]


def epoch(device: torch.device, net: str, goal: float) -> Race:
    """Train for an epoch of made-up images of the size of MNIST's."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    split = Split(images.to(device), labels.to(device), (0.5,), (0.29,))
    loader = DataLoader(_Images(images, labels), BATCH, shuffle=True)
    model = nets.build(net).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def train(batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        for x, y in batches:
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Race(
        f"an epoch of {net} on {IMAGES} images of 28×28, in batches of {BATCH}",
        {
            "mcnn.data": lambda: train(split.batches(BATCH, generator)),
            "DataLoader of torchvision": lambda: train(loader),
        },
        {"DataLoader of torchvision": goal},
    )


def layout(device: torch.device, net: str) -> Race:
    """Take a training step in each layout and precision."""
    x = torch.randn(BATCH, 3, 32, 32, device=device)
    y = torch.randint(10, (BATCH,), device=device)

    def step(channels_last: bool, half: bool) -> nn.Module:
        where = torch.channels_last if channels_last else torch.contiguous_format
        model = nets.build(net, shape=(3, 32, 32)).to(device, memory_format=where)
        images = x.contiguous(memory_format=where)

        def run() -> None:
            model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = F.cross_entropy(model(images), y)
            loss.backward()

        return run

    return Race(
        f"a training step of {net} on {BATCH} images of 3×32×32",
        {
            "channels last, bfloat16": step(True, True),
            "channels last": step(True, False),
            "bfloat16": step(False, True),
            "as it is": step(False, False),
        },
    )


def together(device: torch.device, net: str) -> Race:
    """Train networks side by side, and one after the other."""
    on_gpu = device.type == "cuda"
    count, steps, epochs = (64, 32, 4) if on_gpu else (16, 4, 1)
    images = torch.randint(256, (steps * BATCH, 1, 28, 28), dtype=torch.uint8, device=device)
    split = Split(images, torch.randint(10, (len(images),), device=device), (0.5,), (0.5,))
    data = Data("made up", split, split, tuple("0123456789"), (0.5,), (0.5,), "")
    models = [nets.build(net, seed=s).to(device) for s in range(count)]
    options = {"epochs": epochs, "batch_size": BATCH, "lr": 0.01}

    def alone() -> None:
        for seed, model in enumerate(models):
            training.fit(model, data, seed=seed, **options)

    baseline = "one after the other"
    return Race(
        f"training {count} networks {net} on {len(images)} images of 28×28, batch {BATCH}",
        {
            "side by side": lambda: ensemble.fit(models, data, seeds=range(count), **options),
            baseline: alone,
        },
        {baseline: 30.0} if on_gpu else {},
    )


BENCHMARKS = {
    "training-mlp": lambda device: epoch(device, "mlp", 2.5),
    "training-lenet5": lambda device: epoch(device, "lenet5", 1.5),
    "training-replicas-mlp": lambda device: together(device, "mlp"),
    "training-replicas-lenet5": lambda device: together(device, "lenet5"),
    "training-layout-lenet5": lambda device: layout(device, "lenet5"),
    "training-layout-lenet-wide": lambda device: layout(device, "lenet-wide"),
}
