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

Least squares on cosines makes each of these statements exact; networks trained by gradient descent
show how far they carry.

Source: slide "Learning from Noisy Samples" of A. Keller's talk; J. Lehtinen et al.: Noise2Noise
(ICML 2018).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.errors import unknown
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


def fit_networks(
    y: Tensor,
    targets: Tensor,
    at: Tensor,
    generator: torch.Generator,
    hidden: int = 32,
    steps: int = 400,
    lr: float = 0.01,
    loss: str = "squared",
) -> Tensor:
    """Fit small networks, one for each set of targets, and return what they predict.

    All start from the same weights and differ in their targets alone.
    They are trained side by side, as one batch of matrix products.

    Parameters
    ----------
    y
        [n, d] float64.
    targets
        [n, k], a column for each network.
    at
        [m, d] float64, where they are asked afterwards.
    generator
        Of the initial weights, on the CPU.
    hidden
        Units of the two hidden layers.
    steps
        Of Adam on all targets at once, the rate falling to zero along a cosine.
    lr
        Rate of the first step.
    loss
        ``"squared"``, whose minimiser is the mean, or ``"absolute"``, whose minimiser is the
        median, which noisy targets do not share with clean ones.

    Returns
    -------
    Tensor
        [m, k].

    Raises
    ------
    ValueError
        For an unknown loss.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    k, parameters = targets.shape[1], []
    for inputs, outputs in pairwise((y.shape[1], hidden, hidden, 1)):
        weight = torch.randn(inputs, outputs, dtype=y.dtype, generator=generator) / inputs**0.5
        parameters += [weight.to(y.device).repeat(k, 1, 1), y.new_zeros(k, 1, outputs)]
    for p in parameters:
        p.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        # Adam scales each parameter for itself, so the sum over networks couples none of them.
        (k * LOSSES[loss](_networks(parameters, y), targets)).backward()
        optimizer.step()
        schedule.step()
    return _networks(parameters, at).detach()


def _networks(parameters: Sequence[Tensor], y: Tensor) -> Tensor:
    """Return the outputs of k networks with two hidden layers: [n, d] to [n, k]."""
    w1, b1, w2, b2, w3, b3 = parameters
    h = torch.tanh(y @ w1 + b1)  # [k, n, hidden]
    h = torch.tanh(h @ w2 + b2)
    return (h @ w3 + b3).squeeze(2).T


def _uniform_like(y: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(y.shape, dtype=y.dtype, device=generator.device, generator=generator)
    return u.to(y.device)
