r"""How much of an image one Gabor function explains, and where it would lie.

A Gabor function is a wave under a bell,

.. math:: \exp\Bigl(-\frac{u^2}{2\sigma^2}-\frac{v^2}{2(\gamma\sigma)^2}\Bigr)\cos(2\pi fu+\phi),

with :math:`u` across the stripes and :math:`v` along them: oriented, of one band of frequencies,
and at one place.
For each place, direction, frequency and width the cosine and the sine span a plane, and an image
has a part in it.
The share of the image's energy in the best plane of a fixed dictionary is the measure here.
It needs no search and is the same each time.

The widths are :math:`\sigma=0.35/f` and :math:`0.56/f`, bands of about 1.7 octaves and one, as
those of simple cells are.

Any image has *some* part in the best of thousands of planes, small images more than large ones.
So a share says nothing by itself; it is compared with that of a control of the same size.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mcnn.errors import UsageError

_DIRECTIONS = 8
_WIDTHS = (0.35, 0.56)  # sigma times frequency
_LENGTHS = (1.0, 1.6)  # along the stripes over across
_NOTHING = 1e-24  # share of the power that is rounding


class GaborFit(NamedTuple):
    """The best Gabor function of each image.

    Attributes
    ----------
    explained
        Share of the image's energy, float64 [n].
    angle
        Direction across the stripes, in radians from the horizontal, [n].
    frequency
        In cycles per pixel, [n].
    image
        The function itself, with the phase and the size that fit, [n, height, width].
    """

    explained: Tensor
    angle: Tensor
    frequency: Tensor
    image: Tensor


@lru_cache(maxsize=8)
def dictionary(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the planes of all Gabor functions of a size.

    Parameters
    ----------
    height, width
        Of the images, at least 3.

    Returns
    -------
    planes
        float64 [K, 2, height * width], an orthonormal pair for each plane.
    angle, frequency
        float64 [K].

    Raises
    ------
    UsageError
        For smaller images.
    """
    if min(height, width) < 3:
        raise UsageError(f"a Gabor function needs 3 x 3 pixels at least, got {height} x {width}")
    side = max(height, width)
    lowest = 1 / side  # one wave in the image
    octaves = int(2 * math.log2(0.4 / lowest)) + 1
    frequencies = [lowest * 2 ** (k / 2) for k in range(octaves)]
    every = max(1, round(side / 8))  # centres, about eight along the longer side
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )  # fmt: skip
    y, x = y.flatten(), x.flatten()
    cy, cx = torch.meshgrid(
        torch.arange(0, height, every) + (every - 1) / 2,
        torch.arange(0, width, every) + (every - 1) / 2,
        indexing="ij",
    )
    dy, dx = y - cy.flatten()[:, None].double(), x - cx.flatten()[:, None].double()  # [centres, hw]
    planes, angles, bands = [], [], []
    for k in range(_DIRECTIONS):
        angle = k * math.pi / _DIRECTIONS
        u, v = (
            dx * math.cos(angle) + dy * math.sin(angle),
            dy * math.cos(angle) - dx * math.sin(angle),
        )
        for f in frequencies:
            for width_ in _WIDTHS:
                for length in _LENGTHS:
                    sigma = width_ / f
                    bell = torch.exp(-(u**2 + (v / length) ** 2) / (2 * sigma**2))
                    wave = 2 * math.pi * f * u
                    pair = torch.stack(
                        [bell * wave.cos(), bell * wave.sin()], 1
                    )  # [centres, 2, hw]
                    planes.append(_orthonormal(pair))
                    angles += [angle] * len(pair)
                    bands += [f] * len(pair)
    as_double = {"dtype": torch.float64}
    return torch.cat(planes), torch.tensor(angles, **as_double), torch.tensor(bands, **as_double)


def _orthonormal(pair: Tensor) -> Tensor:
    """Make both vectors of each pair [n, 2, d] units at right angles; one may vanish."""
    tiny = 1e-12
    a = pair[:, 0] / pair[:, 0].norm(dim=1, keepdim=True).clamp(min=tiny)
    b = pair[:, 1] - (pair[:, 1] * a).sum(1, keepdim=True) * a
    size = b.norm(dim=1, keepdim=True)
    b = torch.where(size > 1e-6, b / size.clamp(min=tiny), 0.0)
    return torch.stack([a, b], 1)


def gabor_fit(images: Tensor) -> GaborFit:
    """Fit one Gabor function to each image.

    Parameters
    ----------
    images
        [n, height, width], not zero.

    Returns
    -------
    GaborFit
        Shares of energy, directions, frequencies, and the functions.

    Raises
    ------
    UsageError
        For another shape, or an image that is zero or not finite.

    Examples
    --------
    >>> y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    >>> wave = torch.exp(-((x - 4) ** 2 + (y - 4) ** 2) / 8) * torch.cos(1.5 * (x - 4))
    >>> fit = gabor_fit(wave[None])
    >>> bool(fit.explained > 0.9), float(fit.angle)
    (True, 0.0)
    """
    if images.dim() != 3:
        raise UsageError(f"images must be [n, height, width], got {tuple(images.shape)}")
    flat = images.flatten(1).double().cpu()
    energy = flat.square().sum(1)  # [n]
    if not (energy.isfinite().all() and (energy > 0).all()):
        raise UsageError("an image without energy, or with NaN or infinity, has no fit")
    planes, angles, bands = dictionary(*images.shape[1:])
    parts = torch.einsum("kpd,nd->nkp", planes, flat)  # [n, K, 2]
    explained, best = (parts.square().sum(2) / energy[:, None]).max(1)
    chosen = parts[torch.arange(len(flat)), best]  # [n, 2]
    image = torch.einsum("np,npd->nd", chosen, planes[best])
    return GaborFit(explained, angles[best], bands[best], image.view(images.shape))


def phase_shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give images random phases: the same frequencies and directions, but at no place.

    Parameters
    ----------
    images
        [..., height, width].
    generator
        Of the CPU.

    Returns
    -------
    Tensor
        Real images of the same amplitude at every frequency, the mean included.

    Raises
    ------
    UsageError
        For whole numbers, which cannot hold the result.

    Examples
    --------
    >>> x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> y = phase_shuffled(x, torch.Generator().manual_seed(1))
    >>> bool(torch.allclose(torch.fft.fft2(x).abs(), torch.fft.fft2(y).abs(), atol=1e-5))
    True
    """
    if not images.is_floating_point():
        raise UsageError(f"images must be floating point, got {images.dtype}")
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
    spectrum, random = torch.fft.fft2(images), torch.fft.fft2(noise)
    phases = random / random.abs()  # of a real image, so that the result is real
    phases[..., 0, 0] = 1  # the mean stays
    return torch.fft.ifft2(spectrum * phases).real.to(images.dtype)


def orientation(images: Tensor) -> Tensor:
    r"""Return how much the power of each image prefers a direction, from 0 to 1.

    .. math:: \Bigl|\sum P(k)\,e^{2i\theta(k)}\Bigr|\Big/\sum P(k)

    over all frequencies :math:`k` but zero, at angle :math:`\theta(k)`.

    Parameters
    ----------
    images
        [n, height, width].

    Raises
    ------
    UsageError
        For an image that is constant, or not finite: it has no direction.

    Examples
    --------
    >>> stripes = torch.cos(torch.arange(8.0) * torch.pi / 2).expand(1, 8, 8)
    >>> round(float(orientation(stripes)), 6)
    1.0
    """
    power = torch.fft.fft2(images.double()).abs().square()
    total = power.sum((-2, -1))
    power[..., 0, 0] = 0
    if not bool((power.sum((-2, -1)) > _NOTHING * total).all()):
        raise UsageError("an image that is constant, or with NaN or infinity, has no direction")
    fy, fx = _frequencies(images)
    turn = torch.exp(2j * torch.atan2(fy, fx))
    return (power * turn).sum((-2, -1)).abs() / power.sum((-2, -1))


def band(images: Tensor) -> Tensor:
    """Return the largest share of the power of each image that lies within one octave.

    Parameters
    ----------
    images
        [n, height, width], the mean included in the power.

    Raises
    ------
    UsageError
        For an image that is zero, not finite, or a single pixel.

    Examples
    --------
    >>> stripes = torch.cos(torch.arange(8.0) * torch.pi / 2).expand(1, 8, 8)
    >>> round(float(band(stripes)), 6)
    1.0
    """
    power = torch.fft.fft2(images.double()).abs().square()
    fy, fx = _frequencies(images)
    total = power.sum((-2, -1))
    if not bool((total > 0).all() and total.isfinite().all()) or fx.numel() < 2:
        raise UsageError("an image that is zero, not finite, or a single pixel has no band")
    radius = (fy**2 + fx**2).sqrt()  # [h, w]
    shares = [
        (power * ((radius >= low) & (radius < 2 * low))).sum((-2, -1))
        for low in radius[radius > 0].unique()
    ]
    return torch.stack(shares).amax(0) / total


def _frequencies(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    fy = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].expand(height, width)
    fx = torch.fft.fftfreq(width, dtype=torch.float64)[None].expand(height, width)
    return fy, fx
