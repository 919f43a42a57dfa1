r"""Noise2Noise: learning to restore images from pairs of noisy ones.

Of an image x there are two independent noisy copies, :math:`\mathbb E[y|x]=\mathbb E[z|x]=x`.
The squared error :math:`\mathbb E\,(f(y)-z)^2` is that of clean targets plus a variance that
f does not change: both have the same minimiser, :math:`f(y)=\mathbb E[x|y]`.

Source: slide "Explore algorithms linear in time and space", which refers to J. Lehtinen et al.:
Noise2Noise, learning image restoration without clean data (ICML 2018).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGMA = 25 / 255  # of Gaussian noise
PHOTONS = 30.0  # that a white pixel receives on average


def gaussian(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise of deviation :data:`SIGMA` to pixels in [0, 1], any shape."""
    noise = torch.randn(x.shape, generator=generator, device=generator.device)
    return x + SIGMA * noise.to(x)


def poisson(x: Tensor, generator: torch.Generator) -> Tensor:
    """Count photons, :data:`PHOTONS` times x on average, and divide by that number."""
    counts = torch.poisson(PHOTONS * x.to(generator.device), generator=generator)
    return (counts / PHOTONS).to(x)


NOISES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "gaussian": gaussian,
    "poisson": poisson,
}


class Denoiser(nn.Module):
    """Convolutions of 3×3 with ReLUs between them, which predict what is to be added.

    Parameters
    ----------
    channels
        Of the layers inside.
    layers
        How many convolutions, at least two.
    seed
        Of the initial weights.

    Raises
    ------
    ValueError
        For fewer than two layers.

    Examples
    --------
    >>> Denoiser()(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    def __init__(self, channels: int = 32, layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}")
        widths = [1, *[channels] * (layers - 1), 1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            stack: list[nn.Module] = []
            for i in range(layers):
                stack += [nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*stack[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return restored images, of the shape of the noisy ones [b, 1, h, w]."""
        return x + self.body(x)


def learn(
    model: Denoiser,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int = 32,
    crop: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train in place on pairs of images, by Adam on the squared error of random crops.

    Parameters
    ----------
    model
        Takes and returns [b, 1, crop, crop].
    inputs, targets
        [n, 1, h, w], pairs; the targets may be noisy.
    steps, batch_size, crop, lr
        Steps of crops of so many pixels a side; the rate falls to zero along a cosine.
    seed
        Of the crops; the same for other targets.

    Raises
    ------
    ValueError
        If the pairs do not match or are smaller than a crop.
    """
    n, _, h, w = inputs.shape
    if inputs.shape != targets.shape or min(h, w) < crop:
        raise ValueError(
            f"inputs and targets must be pairs of at least {crop}x{crop}, "
            f"got {list(inputs.shape)} and {list(targets.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pairs = torch.cat([inputs, targets], 1)  # [n, 2, h, w]
    for _ in range(steps):
        which = torch.randint(n, (batch_size,), generator=generator).to(pairs.device)
        top = int(torch.randint(h - crop + 1, (), generator=generator))
        left = int(torch.randint(w - crop + 1, (), generator=generator))
        batch = pairs[which, :, top : top + crop, left : left + crop]  # [b, 2, crop, crop]
        loss = F.mse_loss(model(batch[:, :1]), batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def psnr(restored: Tensor, clean: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB, of pixels in [0, 1], over all images.

    Examples
    --------
    >>> psnr(torch.tensor([0.75, 0.25]), torch.tensor([0.25, 0.75]))  # -20 log10 of a half
    6.020599913279624
    """
    return -10 * math.log10(float(F.mse_loss(restored.double(), clean.double())))
