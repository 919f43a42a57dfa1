r"""Dropout and drop-connect whose coins come from any source of numbers.

Dropout [1]_ leaves each unit out with probability t and scales the others by :math:`1/(1-t)`;
drop-connect [2]_ does so with each weight.
Both are coins :math:`[\xi\ge t]`, and the :math:`\xi` may be any numbers that are uniform one by
one.
For dropout an example of the batch is a point and a unit is a coordinate: with Sobol' points each
unit is dropped for the same share of the examples in every batch, where pseudo-random numbers only
do so on average.
For drop-connect the inputs of a layer are the points, its neurons the coordinates: each neuron
loses the same share of its weights.

Which point an input gets must change from step to step.
The first binary digit of a Sobol' point depends on the parity of a few bits of its number, however
the digits are scrambled.
If input j got the points j, j + n, j + 2n, ... of the sequence, for even n the first coordinate of
these would always be in the same half of the unit interval, and its weight would always be dropped
or never.
So the points of a step are dealt out in a random order.

Both layers are stateful: a training step draws the next numbers of the stream.
Activation checkpointing (``torch.utils.checkpoint``) repeats the step that it runs again, which is
none of its own.
The place in the stream is not part of a ``state_dict``; a layer that resumes there is
:class:`mcnn.partition.DropoutPartition`.

References
----------
.. [1] N. Srivastava et al.: Dropout: a simple way to prevent neural networks from overfitting.
   JMLR 2014.
.. [2] L. Wan et al.: Regularization of neural networks using DropConnect. ICML 2013. There each
   example has masks of its own; here a batch shares them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.checks import as_count
from mcnn.randomness.source import Stream, substream
from mcnn.recomputation import repeated
from mcnn.sampling import hash_bits
from mcnn.seeds import layer_seed


class Dropout(nn.Module):
    """Dropout for a layer of a known number of units.

    Parameters
    ----------
    units
        Size of the last dimension of what comes in.
    p
        Probability to drop a unit, 0 <= p < 1.
    source
        One of :data:`mcnn.randomness.SOURCES`.
    seed
        Of the masks: an integer, or a generator, which is advanced by one draw; by default from
        PyTorch's own, so that layers made alike differ.

    Raises
    ------
    ValueError
        For a probability out of range, an unknown source, or an input with other units.

    Notes
    -----
    The place in the stream of masks is no part of the state dict: a run that resumes from one draws
    other masks than it would have drawn, of the same distribution. To repeat them bit for bit, keep
    the module itself (``torch.save(module)``, or a deep copy).

    Examples
    --------
    >>> layer = Dropout(3, p=0.5, source="sobol")
    >>> layer(torch.ones(8, 3)).mean(0)
    tensor([1., 1., 1.])
    """

    def __init__(
        self,
        units: int,
        p: float = 0.5,
        source: str = "random",
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        units = as_count("units", units)
        self.units, self.p = units, _probability(p)
        self.coins = _Coins(source, units, seed)

    def forward(self, input: Tensor) -> Tensor:
        """Mask the input [..., units] in training, and return it as it is otherwise."""
        if input.ndim == 0 or input.shape[-1] != self.units:
            raise ValueError(
                f"the input must end in {self.units} units, got shape {tuple(input.shape)}"
            )
        if not self.training or self.p == 0 or input.numel() == 0:
            return input
        xi = self.coins(input.numel() // self.units, self)  # [examples, units]
        return input * _scaled(xi >= self.p, self.p, input).view(input.shape)

    def extra_repr(self) -> str:
        """Name the parameters in the module's representation."""
        return f"{self.units}, p={self.p}, source={self.coins.stream.source!r}"


class DropConnect(nn.Linear):
    """A linear layer that drops weights in training, other ones in each step.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As for :class:`torch.nn.Linear`; biases are not dropped.
    p
        Probability to drop a weight, 0 <= p < 1.
    source
        One of :data:`mcnn.randomness.SOURCES`.
    seed
        Of the masks: an integer, or a generator, which is advanced by one draw; by default from
        PyTorch's own, so that layers made alike differ.

    Raises
    ------
    ValueError
        For a probability out of range or an unknown source.

    Notes
    -----
    The place in the stream of masks is no part of the state dict: a run that resumes from one draws
    other masks than it would have drawn, of the same distribution. To repeat them bit for bit, keep
    the module itself (``torch.save(module)``, or a deep copy).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        source: str = "random",
        seed: int | torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.p = _probability(p)
        self.coins = _Coins(source, out_features, seed)

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        weight = self.weight
        if self.training and self.p > 0:
            xi = self.coins(self.in_features, self)  # [in, out]
            weight = weight * _scaled((xi >= self.p).T, self.p, weight)
        return F.linear(input, weight, self.bias)

    def extra_repr(self) -> str:
        """Name the parameters in the module's representation."""
        return f"{super().extra_repr()}, p={self.p}, source={self.coins.stream.source!r}"


class _Coins:
    """Points of a stream, those of each block dealt out in a random order."""

    def __init__(self, source: str, d: int, seed: int | torch.Generator | None) -> None:
        with torch.device("cpu"):
            seed = layer_seed(seed)
            self.stream = Stream(source, d, seed)
            self.seed, self.dealt = substream(seed, 1), 0

    def __call__(self, n: int, layer: nn.Module) -> Tensor:
        """Return the next n points for a layer, float64 [n, d], or those of the call it repeats."""
        if torch.compiler.is_compiling():
            return self._draw(n)
        now = self._state()
        before = repeated(layer, now)
        if before is None:
            return self._draw(n)
        try:
            self._resume(before)
            return self._draw(n)
        finally:
            self._resume(now)

    def _state(self) -> Tensor:
        return torch.cat([torch.tensor([self.dealt], device="cpu"), self.stream.state()])

    def _resume(self, state: Tensor) -> None:
        self.dealt = int(state[0])
        self.stream.resume(state[1:])

    def _draw(self, n: int) -> Tensor:
        with torch.device("cpu"):
            index = torch.arange(self.dealt, self.dealt + n)
            self.dealt += n
            return self.stream.draw(n)[hash_bits(self.seed, index).argsort()]


def _probability(p: float) -> float:
    if not 0 <= p < 1:
        raise ValueError(f"p must be in [0, 1), got {p}")
    return p


def _scaled(keep: Tensor, p: float, like: Tensor) -> Tensor:
    """Return what a tensor is to be multiplied by: zero, or one over the share that is kept."""
    return keep.to(like.device, like.dtype) / (1 - p)
