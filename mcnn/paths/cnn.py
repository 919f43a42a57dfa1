"""Convolutional networks of paths, plain and residual."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.paths.conv import PathConv2d
from mcnn.paths.generators import sample_paths
from mcnn.paths.layers import PathLinear
from mcnn.sampling import fold_in
from mcnn.seeds import layer_seed


class PathResidual(nn.Module):
    r"""A residual block of paths: :math:`a + g(\max\{0, f(a)\})`, two 3×3 convolutions f and g.

    Batch normalisation follows each convolution.

    Parameters
    ----------
    channels, hidden
        Before and behind the block, and between its convolutions.
    paths
        Number of paths to sample, or the paths: integers [3, paths].
    method, seed
        As of :func:`mcnn.paths.sample_paths`.
    options
        Of :class:`mcnn.paths.PathConv2d`.

    Examples
    --------
    >>> PathResidual(16, 16, paths=64)(torch.ones(2, 16, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        paths: int | Tensor,
        method: str = "sobol",
        seed: int | torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        seed = layer_seed(seed)
        with torch.device("cpu"):
            if not isinstance(paths, Tensor):
                paths = sample_paths((channels, hidden, channels), paths, method, seed)
            if paths.dim() != 2 or len(paths) != 3:
                raise ValueError(f"paths must be [3, paths], got {list(paths.shape)}")
            first, second = _seeds(seed, 2)
        self.body = nn.Sequential(
            *_normalised(channels, hidden, paths[:2], first, options),
            nn.ReLU(),
            *_normalised(hidden, channels, paths[1:], second, options),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the shape of the input [batch, channels, h, w]."""
        return x + self.body(x)


class PathCNN(nn.Sequential):
    """A convolutional network of paths that run through all of its layers.

    Each stage is a 3×3 convolution with batch normalisation and a ReLU, residual blocks, and max
    pooling over 2×2; the mean over what is left of the image goes into a linear layer.

    Parameters
    ----------
    channels
        Of the image and of each stage.
    classes
        Number of logits.
    paths
        Number of paths.
    method, seed
        As of :func:`mcnn.paths.sample_paths`.
    blocks
        Residual blocks of each stage.
    bias
        Whether the linear layer has one; those of convolutions are of the normalisation.
    options
        Of every :class:`mcnn.paths.PathConv2d` and of the :class:`mcnn.paths.PathLinear`:
        ``duplicates``, ``init``, ``sign``, ``fixed_signs``, ``kernel``, ``device``, ``dtype``.

    Raises
    ------
    ValueError
        As :func:`mcnn.paths.sample_paths`; for a negative number of blocks.

    Examples
    --------
    >>> net = PathCNN([3, 16, 32], 10, paths=256, blocks=1)
    >>> net(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        paths: int,
        method: str = "sobol",
        seed: int | torch.Generator | None = None,
        *,
        blocks: int = 0,
        bias: bool = True,
        **options: Any,
    ) -> None:
        if blocks < 0:
            raise ValueError(f"blocks must be at least 0, got {blocks}")
        seed = layer_seed(seed)
        stages = [n for n in channels[1:] for _ in range(1 + 2 * blocks)]
        widths = [channels[0], *stages, classes]
        with torch.device("cpu"):
            sampled = sample_paths(widths, paths, method, seed)  # [layers, paths]
            seeds = iter(_seeds(seed, len(widths)))
        at = 0  # the layer of paths that the next module begins with
        modules: list[nn.Module] = []
        for n in channels[1:]:
            modules += [*_normalised(widths[at], n, sampled[at : at + 2], next(seeds), options)]
            modules += [nn.ReLU()]
            at += 1
            for _ in range(blocks):
                own = sampled[at : at + 3]
                modules += [PathResidual(n, n, own, seed=next(seeds), **options), nn.ReLU()]
                at += 2
            modules += [nn.MaxPool2d(2)]
        ends = sampled[at : at + 2]
        last = PathLinear(widths[at], classes, ends, seed=next(seeds), bias=bias, **options)
        super().__init__(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def _normalised(
    inputs: int, outputs: int, paths: Tensor, seed: int, options: dict[str, Any]
) -> tuple[PathConv2d, nn.BatchNorm2d]:
    conv = PathConv2d(inputs, outputs, 3, paths, seed=seed, padding=1, bias=False, **options)
    norm = nn.BatchNorm2d(outputs, device=conv.weight.device, dtype=conv.weight.dtype)
    return conv, norm


def _seeds(seed: int, n: int) -> list[int]:
    return [fold_in(~seed, number) for number in range(n)]
