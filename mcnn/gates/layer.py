"""A layer in blocks that computes a block only for those examples whose gate is on."""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mcnn.errors import UsageError
from mcnn.gates.units import UNITS, on_probability, sample
from mcnn.seeds import layer_seed


class GatedLinear(nn.Module):
    """A linear layer whose outputs come in blocks, each switched on or off for each example.

    A block is multiplied by its gate; where that is zero it is not computed, neither forward nor
    backward.
    The price is that a gate that is off gets the gradient zero, whatever a block would have said.

    Parameters
    ----------
    in_features, out_features
        As those of ``torch.nn.Linear``.
    gates
        Number of blocks, a divisor of ``out_features``.
    bias
        Whether there is one; it is switched off with its block.
    seed
        Of the initial weights, uniform in ±1/√in_features as PyTorch has them; ``None`` draws one
        from its generator.
    device, dtype
        Of the parameters.

    Attributes
    ----------
    weight
        [gates, out_features / gates, in_features].
    bias
        [gates, out_features / gates], or ``None``.

    Raises
    ------
    UsageError
        If a size is below one, or the blocks are not of equal size.

    Notes
    -----
    Source: Y. Bengio, N. Léonard, A. Courville: Estimating or propagating gradients through
    stochastic neurons for conditional computation. arXiv:1308.3432.

    Examples
    --------
    >>> layer = GatedLinear(3, 4, gates=2, seed=0)
    >>> y = layer(torch.ones(1, 3), torch.tensor([[0.0, 1.0]]))
    >>> y.shape, y[0, :2].tolist()
    (torch.Size([1, 4]), [0.0, 0.0])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        gates: int,
        bias: bool = True,
        *,
        seed: int | torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = (in_features, out_features, gates)
        in_features, out_features, gates = map(operator.index, sizes)  # NumPy's, too
        if min(in_features, out_features, gates) < 1:
            raise UsageError(
                f"sizes must be at least 1, got in_features={in_features}, "
                f"out_features={out_features}, gates={gates}"
            )
        if out_features % gates:
            raise UsageError(
                f"{out_features} outputs do not make {gates} equal blocks: "
                "choose gates that divide out_features"
            )
        self.in_features, self.out_features, self.gates = in_features, out_features, gates
        shape = (gates, out_features // gates, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        made = torch.empty(shape[:2], device=device, dtype=dtype) if bias else None
        self.bias = None if made is None else nn.Parameter(made)
        generator = torch.Generator().manual_seed(layer_seed(seed))
        bound = 1 / math.sqrt(in_features)
        with torch.no_grad():
            for parameter in self.parameters():
                drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn.mul_(2).sub_(1).mul_(bound))

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs, zero in blocks that are off.

        Parameters
        ----------
        x
            [b, in_features].
        gates
            [b, gates], of any value. Under ``torch.autocast`` the blocks are computed in the
            precision of the weights.

        Returns
        -------
        Tensor
            [b, out_features].

        Raises
        ------
        UsageError
            For shapes that do not fit.
        """
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise UsageError(f"x must be [b, {self.in_features}], got {list(x.shape)}")
        if gates.shape != (len(x), self.gates):
            raise UsageError(f"gates must be [{len(x)}, {self.gates}], got {list(gates.shape)}")
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(self.weight.dtype)
        gates = gates.to(self.weight.dtype)
        on = gates.detach().T != 0  # [gates, b]
        block, row = on.nonzero(as_tuple=True)  # of all pairs that are on, block by block
        sizes = on.sum(1).tolist()
        return _Blocks.apply(x, gates[row, block], self.weight, self.bias, row, block, sizes)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"gates={self.gates}, bias={self.bias is not None}"
        )


class _Blocks(torch.autograd.Function):
    """The products of a layer in blocks, for the pairs of an example and a block that are on.

    By hand, because automatic differentiation would make a gradient of all weights for each block.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [b, in]
        scale: Tensor,  # [pairs]
        weight: Tensor,  # [gates, block, in]
        bias: Tensor | None,  # [gates, block]
        row: Tensor,  # [pairs], of x
        block: Tensor,  # [pairs], ascending
        sizes: list[int],  # [gates], of pairs
    ) -> Tensor:
        rows = x[row]  # [pairs, in]
        made = rows.new_empty(len(row), weight.shape[1])  # [pairs, block]
        for gate, part in _parts(sizes):
            torch.mm(rows[part], weight[gate].T, out=made[part])
        if bias is not None:
            made += bias[block]
        y = made.new_zeros(len(x), len(weight), weight.shape[1])
        y[row, block] = made * scale.unsqueeze(1)
        ctx.save_for_backward(rows, scale, weight, row, block, made)
        ctx.sizes, ctx.examples, ctx.biased = sizes, len(x), bias is not None
        return y.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, weight, row, block, made = ctx.saved_tensors
        grad = grad.view(-1, *weight.shape[:2])[row, block]  # [pairs, block]
        by_scale = (grad * made).sum(1)
        grad = grad * scale.unsqueeze(1)
        by_weight = torch.zeros_like(weight)
        for gate, part in _parts(ctx.sizes):
            torch.mm(grad[part].T, rows[part], out=by_weight[gate])
        by_bias = by_x = None
        if ctx.biased:
            by_bias = grad.new_zeros(weight.shape[:2]).index_add_(0, block, grad)
        if ctx.needs_input_grad[0]:
            by_rows = torch.empty_like(rows)
            for gate, part in _parts(ctx.sizes):
                torch.mm(grad[part], weight[gate], out=by_rows[part])
            by_x = rows.new_zeros(ctx.examples, rows.shape[1]).index_add_(0, row, by_rows)
        return by_x, by_scale, by_weight, by_bias, None, None, None


def _parts(sizes: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield each gate that is on for somebody, with its part of the pairs."""
    start = 0
    for gate, size in enumerate(sizes):
        if size:
            yield gate, slice(start, start + size)
        start += size


class GatedBlock(nn.Module):
    r"""A hidden layer of ReLUs with the small network that decides which of its blocks compute.

    Gates are sampled while training; in ``eval`` mode those are on that are on more often than not,
    with the value that they have without noise.

    Parameters
    ----------
    in_features, out_features, gates
        As those of :class:`GatedLinear`.
    unit
        One of :data:`mcnn.gates.UNITS`.
    on
        The share of gates that is on at the start.
    full
        Whether training computes blocks that are off, too, so that their gates hear what they would
        have said: of use to straight-through only, the other units pass nothing on when off.
    seed
        Of the initial weights; ``None`` draws one from PyTorch's generator.

    Attributes
    ----------
    gater
        ``torch.nn.Linear``: the pre-activations of the gates.
    layer
        The :class:`GatedLinear`.
    probability
        [b, gates] of the last call: how probable it was that each gate is on, differentiable.
    share
        Which share of the gates was on in the last call; 0 of an empty batch.

    Raises
    ------
    UsageError
        For an unknown unit, a share that is not between 0 and 1, or sizes as above.

    Examples
    --------
    >>> block = GatedBlock(8, 16, gates=4, seed=0)
    >>> block(torch.ones(2, 8)).shape, block.probability.shape
    (torch.Size([2, 16]), torch.Size([2, 4]))
    """

    probability: Tensor
    share: float

    def __init__(
        self,
        in_features: int,
        out_features: int,
        gates: int,
        unit: str = UNITS[1],
        on: float = 0.5,
        full: bool = False,
        *,
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        on_probability(torch.zeros(1), unit)  # knows the names
        if not 0 < on < 1:
            raise UsageError(f"on must be between 0 and 1, got {on}")
        seed = layer_seed(seed)
        self.unit, self.full = unit, full
        self.layer = GatedLinear(in_features, out_features, gates, seed=seed)
        self.gater = nn.Linear(in_features, gates)
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            drawn = torch.rand(self.gater.weight.shape, generator=generator)
            self.gater.weight.copy_((2 * drawn - 1) / math.sqrt(in_features))
            p = on**2 if unit == "smooth-times-stochastic" else on
            self.gater.bias.fill_(math.log(p / (1 - p)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the graph of the last call, which can be neither copied nor saved."""
        state = self.__dict__.copy()
        if "probability" in state:
            state["probability"] = state["probability"].detach()
        return state

    def forward(self, x: Tensor, xi: Tensor | None = None) -> Tensor:
        """Return the activations, zero in blocks that are off.

        Parameters
        ----------
        x
            [b, in_features].
        xi
            [b, gates] in [0, 1), what the gates are sampled with; without it they are drawn from
            PyTorch's generator in training, and not sampled in ``eval`` mode.

        Returns
        -------
        Tensor
            [b, out_features].
        """
        a = self.gater(x)  # [b, gates]
        self.probability = on_probability(a, self.unit)
        if xi is None:
            xi = torch.rand_like(a) if self.training else torch.full_like(a, 0.5)
        g = sample(a, xi, self.unit)
        self.share = float((g.detach() != 0).to(torch.float64).mean()) if len(g) else 0.0
        if not (self.full and self.training):
            return F.relu(self.layer(x, g))
        weight, bias = self.layer.weight.flatten(0, 1), self.layer.bias.flatten()
        y = F.relu(F.linear(x, weight, bias))  # [b, out_features]
        return (y.unflatten(1, (-1, y.shape[1] // g.shape[1])) * g.unsqueeze(2)).flatten(1)
