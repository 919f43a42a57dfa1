r"""Learning a function from noisy samples of the integral that defines it.

The values :math:`f(y)=\int w(x,y)\max\{0,a(x)\}\,dx` are wanted for all y, and each would cost an
integral.
But the squared error :math:`\mathbb E\,(\hat f(y)-T)^2` of a noisy target T is smallest at
:math:`\hat f(y)=\mathbb E[T|y]`.
So a *single* sample :math:`T=w(X,y)\max\{0,a(X)\}` of the integrand serves as a target: the noise
has mean zero, and the minimiser is that of clean targets.
What noise costs is spread.
For N targets that are means of m samples with variance :math:`\sigma^2` each, and p parameters,
the fit is off by about :math:`\sigma^2 p/(Nm)`, the *excess error*.

Least squares on cosines makes each of these statements exact; :class:`Perceptron` regression shows
that they carry over to a network trained by gradient descent.

Source: slide "Learning from Noisy Samples" of A. Keller's talk; J. Lehtinen et al.: Noise2Noise
(ICML 2018).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.integral.kernels import cosines
from mcnn.integral.ridge import CosineProduct, Ridge

LOSSES = {"squared": F.mse_loss, "absolute": F.l1_loss}


def sample_targets(ridge: Ridge, y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return noisy targets: means of samples of the integrand, independent for each y.

    Parameters
    ----------
    ridge
        Defines the integral, see :class:`mcnn.integral.ridge.Ridge`.
    y
        [n, d] float64.
    samples
        Per target, at least 1.
    generator
        Of the samples.

    Returns
    -------
    Tensor
        [n] float64, whose expectation is ``ridge.exact(y)``.

    Raises
    ------
    ValueError
        For fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    total = torch.zeros_like(y[:, 0])
    for _ in range(samples):
        total += integrand(ridge, _uniform_like(y, generator), y)
    return total / samples


def integrand(ridge: Ridge, x: Tensor, y: Tensor) -> Tensor:
    """Return w(x, y) max{0, a(x)} for pairs of points [..., n, d], as [..., n]."""
    w = (1 + 0.5 * torch.cos(torch.pi * (x - y))).prod(-1)
    return w * F.relu(ridge(x))


def sample_variance(ridge: Ridge, y: Tensor, side: int = 64) -> Tensor:
    """Return the variance of one sample of the integrand at each y.

    Parameters
    ----------
    ridge
        Of two dimensions at most.
    y
        [n, d] float64.
    side
        Midpoints in each dimension of the grid that computes the second moment.

    Returns
    -------
    Tensor
        [n] float64.
    """
    d = y.shape[1]
    one = (torch.arange(side, dtype=y.dtype, device=y.device) + 0.5) / side
    x = torch.cartesian_prod(*[one] * d).view(-1, d)  # [side**d, d]
    w = CosineProduct(d)(x, y)  # [side**d, n]
    second = (w * F.relu(ridge(x)).unsqueeze(1)).square().mean(0)
    return second - ridge.exact(y).square()


def least_squares(y: Tensor, targets: Tensor, frequencies: int) -> Tensor:
    """Fit cosines by least squares and return the fit at the places of the targets.

    Parameters
    ----------
    y
        [n, d].
    targets
        [n, ...]; further axes are separate fits.
    frequencies
        In each dimension; the fit has ``frequencies**d`` parameters.

    Returns
    -------
    Tensor
        The shape of ``targets``.

    Raises
    ------
    ValueError
        If there are fewer targets than parameters.
    """
    features = cosines(y, frequencies)  # [n, p]
    if len(y) < features.shape[1]:
        raise ValueError(
            f"{features.shape[1]} parameters need as many targets, got {len(y)}: "
            "give more targets or fewer frequencies"
        )
    fit = torch.linalg.lstsq(features, targets.reshape(len(y), -1)).solution
    return (features @ fit).view_as(targets)


def predicted_excess(y: Tensor, variance: Tensor, frequencies: int) -> float:
    """Return the expected excess error of :func:`least_squares` for noise of known variance.

    Parameters
    ----------
    y
        [n, d].
    variance
        [n], of each target.
    frequencies
        In each dimension.

    Returns
    -------
    float
        Mean over y of the squared distance to the fit of clean targets.
        It is the mean of the variance times the leverage of each y: p/n times the variance, if
        that is the same everywhere.
    """
    q, _ = torch.linalg.qr(cosines(y, frequencies))  # [n, p], orthonormal columns
    return float((q.square().sum(1) * variance).mean())


def train_network(
    y: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    hidden: int = 32,
    steps: int = 1000,
    lr: float = 0.01,
    loss: str = "squared",
) -> nn.Module:
    """Fit a small network to targets by Adam on all of them at once.

    Parameters
    ----------
    y
        [n, d] float64.
    targets
        [n] float64.
    generator
        Of the initial weights; the same state gives the same start for clean and noisy targets.
    hidden
        Units of the two hidden layers.
    steps
        Of Adam, the rate falling to zero along a cosine.
    lr
        Rate of the first step.
    loss
        ``"squared"``, whose minimiser is the mean, or ``"absolute"``, whose minimiser is the
        median, which noisy targets do not share with clean ones.

    Returns
    -------
    nn.Module
        From [n, d] to [n, 1].

    Raises
    ------
    ValueError
        For an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; there are: {', '.join(LOSSES)}")
    d = y.shape[1]
    net = nn.Sequential(
        nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
    ).to(y)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                start = torch.randn(layer.weight.shape, dtype=y.dtype, generator=generator)
                layer.weight.copy_(start / layer.in_features**0.5)
                layer.bias.zero_()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        LOSSES[loss](net(y).squeeze(1), targets).backward()
        optimizer.step()
        schedule.step()
    return net


def _uniform_like(y: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(y.shape, dtype=y.dtype, device=generator.device, generator=generator)
    return u.to(y.device)
