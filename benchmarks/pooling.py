"""Max pooling as a network of ReLUs, in place of PyTorch's own."""

import torch
from torch import nn

from benchmarks.measure import Race, Work
from mcnn.relu import MaxPool2d


def pooled(device: torch.device, shape: tuple[int, ...], window: tuple[int, int, int]) -> Race:
    """Pool as a user does: gradients by ``backward()``."""
    x = torch.randn(shape, device=device, requires_grad=True)  # [b, channels, height, width]
    ours, peer = MaxPool2d(*window), nn.MaxPool2d(*window)
    gradient = torch.randn_like(peer(x.detach()))

    def step(layer: nn.Module) -> Work:
        def run() -> None:
            x.grad = None
            layer(x).backward(gradient)

        return run

    return Race(
        f"max pooling of {'×'.join(map(str, shape))} numbers, kernel {window[0]}, "
        f"stride {window[1]}, padding {window[2]}",
        {"ReLUs, exact": step(ours), PEER: step(peer)},
        {PEER: 1 / 1.5},
    )


PEER = "nn.MaxPool2d"
BENCHMARKS = {
    "relu-pool": lambda device: pooled(device, (64, 64, 32, 32), (2, 2, 0)),
    "relu-pool-resnet": lambda device: pooled(device, (16, 64, 112, 112), (3, 2, 1)),
}
