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
# On a CPU, a convolution with zeros in it is faster from this share of all edges on; the copies of
# the input that the gather makes cost as much as so many more edges into each channel.
DENSE_FROM = 0.35
COPIES = 40


def _side(name: str, value: int | tuple[int, int]) -> int:
    """Return one number for both directions."""
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ValueError(f"{name} must be the same in both directions, got {value}")
    return operator.index(sides[0])


class PathConv2d(PathLayer):
    r"""A convolution with a k×k filter for each path, in place of :class:`torch.nn.Conv2d`.

    Units are channels: an edge convolves a channel of the input with its own filter and adds the
    result to a channel of the output.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and behind the layer.
    kernel_size
        Side k of the filters, an integer, or a pair of the same.
    paths, method, seed
        As of :class:`mcnn.paths.PathLinear`, with channels for units.
    stride, padding
        As of :class:`torch.nn.Conv2d`, equal in both directions; the padding may be ``"valid"`` or,
        with an odd kernel size and a stride of one, ``"same"``.
    options
        Of :class:`mcnn.paths.PathLinear`, but for two: the n of ``init`` is k² times as large, and
        ``kernel`` is ``"gather"``, which goes through the edges for each of the k² places of a
        filter, ``"dense"``, which is PyTorch's convolution with zeros in it, or ``"auto"``, which
        takes the first where it was faster: from 128 channels on, below 4 to 25 % of all edges.

    Attributes
    ----------
    weight : Parameter
        [edges, k, k], sorted by output and within it by input.

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
        **options: Any,
    ) -> None:
        for name, usual in (("groups", 1), ("dilation", 1), ("padding_mode", "zeros")):
            if name in options and options.pop(name) != usual:
                raise ValueError(
                    f"a convolution of paths has no {name}: keep nn.Conv2d there (paths join "
                    "channels as groups would)"
                )
        kernel_size, stride = _side("kernel_size", kernel_size), _side("stride", stride)
        if padding == "same" and (kernel_size % 2 == 0 or stride > 1):
            raise ValueError("padding='same' needs an odd kernel_size and a stride of 1")
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise unknown("padding", padding, ("valid", "same"))
            padding = kernel_size // 2 if padding == "same" else 0
        padding = _side("padding", padding)
        if kernel_size < 1 or stride < 1 or padding < 0:
            raise ValueError(
                "kernel_size and stride must be at least 1 and padding at least 0, "
                f"got {kernel_size}, {stride} and {padding}"
            )
        shape = (kernel_size, kernel_size)
        super().__init__(in_channels, out_channels, shape, KERNELS, paths, method, seed, **options)
        self.stride, self.padding = stride, padding

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
        k = self.filter_size[0]
        smallest = k - 2 * self.padding
        if input.dim() != 4 or input.shape[1] != self.in_units or min(input.shape[2:]) < smallest:
            raise ValueError(
                f"the input must be [batch, {self.in_units}, h, w] with sides of at least "
                f"{max(1, smallest)}, got {list(input.shape)}"
            )
        if self.kernel == "dense":
            return F.conv2d(input, self.dense_weight(), self.bias, self.stride, self.padding)
        b, _, h, w = input.shape
        h, w = ((side + 2 * self.padding - k) // self.stride + 1 for side in (h, w))
        padded = F.pad(input, [self.padding] * 4).transpose(0, 1)  # [in_channels, batch, ...]
        weights, edges = self.weights(), self.edges
        y: Tensor | float = 0.0
        for i, j in pairs(range(k), range(k)):
            rows = slice(i, i + self.stride * h, self.stride)
            columns = slice(j, j + self.stride * w, self.stride)
            shifted = padded[:, :, rows, columns].reshape(self.in_units, -1)
            y = y + product(shifted, weights[:, i, j], edges)  # [out_channels, batch h' w']
        y = y.view(self.out_units, b, h, w).transpose(0, 1)
        if self.bias is not None:
            y = y + self.bias.view(-1, 1, 1)
        y = as_autocast(y)
        rows = input.is_contiguous() or not input.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.contiguous_format if rows else torch.channels_last)

    def to_dense(self) -> nn.Conv2d:
        """Return the same layer with all filters, zero where there is no edge."""
        sizes = (self.in_units, self.out_units, self.filter_size)
        return self._filled(nn.Conv2d, *sizes, stride=self.stride, padding=self.padding)
