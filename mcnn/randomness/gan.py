r"""A generative adversarial network on the plane, fed with any source of numbers.

A generator G maps latent points :math:`z\in[0,1)^2` to samples, a discriminator D tells samples of
the data from those of G, and the two are trained against each other [1]_:

.. math:: \max_D\; E_x\log\sigma(D(x))+E_z\log\bigl(1-\sigma(D(G(z)))\bigr),\qquad
          \max_G\; E_z\log\sigma(D(G(z))).

Once trained, G is the inverse of a distribution function in more than one dimension: a map that
turns uniform numbers into samples.
An expectation over the samples is an integral over the unit square,
:math:`E f(G(z))=\int f(G(z))\,dz`, and any points that integrate well may take the place of random
latents.

The data are the ring of Gaussians that such networks are often shown on.

References
----------
.. [1] I. Goodfellow et al.: Generative adversarial nets. NIPS 2014.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.randomness.source import Stream, normals, numbers, substream

MODES = 8
SPREAD = 0.15
"""Standard deviation of each Gaussian; their centres lie on the unit circle."""

_SLOPE = 0.2  # of the leaky ReLUs


def ring(n: int, seed: int = 0) -> Tensor:
    """Return n independent samples of the ring of Gaussians, float32 [n, 2]."""
    angle = (numbers(n, 1, "random", substream(seed, 0)) * MODES).floor() * 2 * math.pi / MODES
    centre = torch.cat([angle.cos(), angle.sin()], 1)
    return (centre + SPREAD * normals(n, 2, "random", substream(seed, 1))).float()


def perceptron(hidden: int = 64, outputs: int = 2, seed: int = 0) -> nn.Sequential:
    """Return a network of two hidden layers on the plane; its weights come from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, outputs),
        )


def train_gan(
    steps: int = 2000,
    batch_size: int = 256,
    source: str = "random",
    seed: int = 0,
    lr: float = 1e-3,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Train a generator on the ring.

    Parameters
    ----------
    steps
        Of the generator, each after one of the discriminator.
    batch_size
        Samples of the data, and of the generator, in a step.
    source
        Of the latent points, one of :data:`mcnn.randomness.SOURCES`.
    seed
        Of everything random.
        Two sources with the same seed start from the same networks and see the same data.
    lr
        Learning rate of Adam, falling to zero along a half cosine.
    device
        Where to train.

    Returns
    -------
    nn.Sequential
        The generator: maps latents in [0, 1)^2, scaled to [-1, 1)^2, to samples.
    """
    generator = perceptron(outputs=2, seed=substream(seed, 0) % 2**32).to(device)
    judge = perceptron(outputs=1, seed=substream(seed, 1) % 2**32).to(device)
    latents = Stream(source, 2, substream(seed, 2))
    betas = (0.5, 0.999)
    optimisers = [torch.optim.Adam(m.parameters(), lr, betas) for m in (judge, generator)]
    rates = [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps) for o in optimisers]
    data = ring(steps * batch_size, substream(seed, 3)).view(steps, batch_size, 2).to(device)
    for x in data:
        z = [latent(latents.draw(batch_size), device) for _ in range(2)]
        fake = judge(generator(z[0]).detach())
        loss = F.softplus(-judge(x)).mean() + F.softplus(fake).mean()
        _step(optimisers[0], loss)
        _step(optimisers[1], F.softplus(-judge(generator(z[1]))).mean())
        for rate in rates:
            rate.step()
    return generator


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def latent(xi: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return points of the unit square, [n, 2], as a generator takes them: in [-1, 1)^2."""
    return (2 * xi - 1).to(device, torch.float32)


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Return the energy distance of two sets of samples [1]_.

    :math:`2E|x-y|-E|x-x'|-E|y-y'|`, zero if and only if the distributions are the same; the pairs
    of a sample with itself are left out, so that it is unbiased, and may be negative.

    Parameters
    ----------
    x, y
        [n, d] and [m, d], at least two each.

    References
    ----------
    .. [1] G. J. Székely, M. L. Rizzo: Energy statistics: a class of statistics based on distances.
       J. Stat. Plan. Inference, 2013.
    """
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum().double() / (n * (n - 1))
    within = within + torch.cdist(y, y).sum().double() / (m * (m - 1))
    return float(2 * torch.cdist(x, y).double().mean() - within)
