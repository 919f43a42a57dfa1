"""A convolution whose edges, from channel to channel, are those that paths take."""

import operator
from itertools import product as pairs
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.errors import unknown
from mcnn.paths.base import PathLayer
from mcnn.sparse.autograd import product
from mcnn.sparse.structure import as_autocast

KERNELS = ("auto", "gather", "dense")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
# On a CPU, a convolution with zeros in it is faster from this share of all edges on; the copies of
# the input that the gather makes cost as much as so many more edges into each channel.
DENSE_FROM = 0.35
COPIES = 40


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    """Return a number for each of the two directions, vertical and horizontal."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise ValueError(f"{name} must be one or two integers, got {value}")
    sides = operator.index(sides[0]), operator.index(sides[1])
    if min(sides) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return sides


class PathConv2d(PathLayer):
    r"""A convolution with a filter for each path, in place of :class:`torch.nn.Conv2d`.

    Units are channels: an edge convolves a channel of the input with its own filter and adds the
    result to a channel of the output.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and behind the layer.
    kernel_size
        Sides k×l of the filters: an integer, or a pair.
    paths, method, seed
        As of :class:`mcnn.paths.PathLinear`, with channels for units.
    stride, padding, dilation, padding_mode
        As of :class:`torch.nn.Conv2d`; the padding may be ``"valid"`` or, with a stride of one,
        ``"same"``.
    groups
        Must be 1: paths join channels as groups would.
    options
        Of :class:`mcnn.paths.PathLinear`, but for two: the n of ``init`` is k l times as large, and
        ``kernel`` is ``"gather"``, which goes through the edges for each of the k l places of a
        filter, ``"dense"``, which is PyTorch's convolution with zeros in it, or ``"auto"``, which
        takes the first where it was faster: from 128 channels on, below 4 to 25 % of all edges.

    Attributes
    ----------
    weight : Parameter
        [edges, k, l], sorted by output and within it by input.

    Raises
    ------
    ValueError
        As :class:`mcnn.paths.PathLinear`, and for a size, stride or padding out of range.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".

    Examples
    --------
    >>> layer = PathConv2d(16, 32, 3, paths=64, padding=1)
    >>> layer(torch.zeros(2, 16, 8, 8)).shape, layer.weight.shape
    (torch.Size([2, 32, 8, 8]), torch.Size([64, 3, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        paths: int | Tensor,
        method: str = "sobol",
        seed: int | torch.Generator | None = None,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        **options: Any,
    ) -> None:
        if groups != 1:
            raise ValueError(
                "a convolution of paths has no groups: keep nn.Conv2d there (paths join channels "
                "as groups would)"
            )
        if padding_mode not in PADDING_MODES:
            raise unknown("padding_mode", padding_mode, PADDING_MODES)
        shape = _pair("kernel_size", kernel_size, 1)
        stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise unknown("padding", padding, ("valid", "same"))
            if padding == "same" and stride != (1, 1):
                raise ValueError("padding='same' needs a stride of 1")
        else:
            padding = _pair("padding", padding, 0)
        super().__init__(in_channels, out_channels, shape, KERNELS, paths, method, seed, **options)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.padding_mode = padding_mode

    @property
    def kernel(self) -> str:
        """How the convolution is computed."""
        if self._kernel != "auto":
            return self._kernel
        fan_in = len(self._inputs) / self.out_units
        return "dense" if fan_in + COPIES >= DENSE_FROM * self.in_units else "gather"

    def forward(self, input: Tensor) -> Tensor:
        """Return the output [batch, out_channels, h', w'] of an input [batch, channels, h, w].

        As with ``nn.Conv2d``, both may be without a batch.
        """
        if input.dim() == 3 and input.shape[0] == self.in_units:
            return self(input.unsqueeze(0)).squeeze(0)
        (k, n), (down, across) = self.filter_size, self.dilation
        left, right, top, bottom = self._margins()
        height, width = down * (k - 1) + 1, across * (n - 1) + 1  # of the places that a filter sees
        least = max(1, height - top - bottom), max(1, width - left - right)
        small = input.dim() != 4 or input.shape[2] < least[0] or input.shape[3] < least[1]
        if small or input.shape[1] != self.in_units:
            raise ValueError(
                f"the input must be [batch, {self.in_units}, h, w] with sides of at least "
                f"{least[0]} and {least[1]}, got {list(input.shape)}"
            )
        if self.kernel == "dense":
            padding = self.padding
            if self.padding_mode != "zeros":
                input, padding = self._padded(input), 0
            w, bias = self.dense_weight(), self.bias
            return F.conv2d(input, w, bias, self.stride, padding, self.dilation)
        padded = self._padded(input).transpose(0, 1)  # [in_channels, batch, ...]
        b = input.shape[0]  # not len, which would fix the batch of what is exported
        h = (padded.shape[2] - height) // self.stride[0] + 1
        w = (padded.shape[3] - width) // self.stride[1] + 1
        weights, edges = self.weights(), self.edges
        y: Tensor | float = 0.0
        for i, j in pairs(range(k), range(n)):
            rows = slice(i * down, i * down + self.stride[0] * h, self.stride[0])
            columns = slice(j * across, j * across + self.stride[1] * w, self.stride[1])
            shifted = padded[:, :, rows, columns].reshape(self.in_units, -1)
            y = y + product(shifted, weights[:, i, j], edges)  # [out_channels, batch h' w']
        y = y.view(self.out_units, b, h, w).transpose(0, 1)
        if self.bias is not None:
            y = y + self.bias.view(-1, 1, 1)
        y = as_autocast(y)
        rows = input.is_contiguous() or not input.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.contiguous_format if rows else torch.channels_last)

    def _margins(self) -> tuple[int, int, int, int]:
        """Return how wide the padding is: left, right, top, bottom."""
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":  # what is left over goes to the far end, as in PyTorch
            down, across = (
                d * (k - 1) for d, k in zip(self.dilation, self.filter_size, strict=True)
            )
            return across // 2, across - across // 2, down // 2, down - down // 2
        down, across = self.padding
        return across, across, down, down

    def _padded(self, input: Tensor) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(input, self._margins(), mode)

    def to_dense(self) -> nn.Conv2d:
        """Return the same layer with all filters, zero where there is no edge."""
        sizes = (self.in_units, self.out_units, self.filter_size)
        names = ("stride", "padding", "dilation", "padding_mode")
        return self._filled(nn.Conv2d, *sizes, **{name: getattr(self, name) for name in names})

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``."""
        usual = {"padding": (0, 0), "dilation": (1, 1), "padding_mode": "zeros"}
        sizes = {"kernel_size": self.filter_size, "stride": self.stride}
        sizes |= {k: v for k in usual if (v := getattr(self, k)) != usual[k]}
        return ", ".join([super().extra_repr(), *(f"{k}={v!r}" for k, v in sizes.items())])
