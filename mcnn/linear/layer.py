r"""A fully connected layer that keeps and multiplies only the weights that were sampled.

Unit :math:`i` has the inputs :math:`j\in J_i`, and computes

.. math:: y_i=s_i\sum_{j\in J_i}c_{i,j}\,a_j+b_i

with integer counts :math:`c_{i,j}` and one scale :math:`s_i`, which is
:math:`\|w_i\|_1/S` for :math:`S` samples of a trained neuron.
The lists :math:`J_i` stand end to end, as in compressed sparse rows.

Why activations lie with one unit's values for the whole batch side by side: every weight then adds
a contiguous row of numbers to another, whatever the input it picks.
That is what :func:`torch.nn.functional.embedding_bag` does.
Layers hand this order on to each other, so that only the first one has to transpose its input.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.density import sample_counts
from mcnn.errors import unknown
from mcnn.linear.wiring import METHODS, signs, wire
from mcnn.sampling import as_seed

_LISTS = ("starts", "inputs", "counts")  # their lengths depend on the samples
_COUNTS = (torch.int8, torch.int16, torch.int32)


class SampledLinear(nn.Module):
    """A linear layer of integer counts at the inputs that were sampled.

    Parameters
    ----------
    in_features
        Number of inputs.
    starts
        int32, [out_features + 1]: unit i has the entries ``starts[i]`` to ``starts[i + 1]`` of the
        two lists that follow.
    inputs
        int32, [n_w]: the input of each weight, in 0 ... in_features - 1.
    counts
        int8, int16 or int32, [n_w]: how often it was sampled, with its sign.
    scale
        Floating point, [out_features]: what a count of one stands for.
    bias
        Floating point, [out_features], or none.

    Raises
    ------
    TypeError, ValueError
        If types, shapes or ranges are others.

    Notes
    -----
    ``scale`` and ``bias`` are parameters, and can be trained; the lists are buffers.
    A state is loaded whatever the lengths of its lists, so a layer is brought back without the one
    that it was sampled from: build any layer of the same size, and load the state into it.

    Source: slides "Neural Networks linear in Time and Space" and "Simulating Discrete Densities".

    Examples
    --------
    >>> layer = SampledLinear.from_linear(nn.Linear(1000, 50), samples=20)
    >>> layer(torch.ones(8, 1000)).shape, layer.n_weights <= 50 * 20
    (torch.Size([8, 50]), True)
    """

    def __init__(
        self,
        in_features: int,
        starts: Tensor,
        inputs: Tensor,
        counts: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check(in_features, starts, inputs, counts, scale, bias)
        self.in_features, self.out_features = in_features, len(starts) - 1
        for name, value in zip(_LISTS, (starts, inputs, counts), strict=True):
            self.register_buffer(name, value)
        self.scale = nn.Parameter(scale)
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def from_counts(
        cls, counts: Tensor, scale: Tensor, bias: Tensor | None = None
    ) -> "SampledLinear":
        """Keep the counts that are not zero.

        Parameters
        ----------
        counts
            Integers, [out_features, in_features], as from :func:`mcnn.density.sample_counts`.
        scale, bias
            As for the layer.
        """
        unit, inputs = counts.nonzero(as_tuple=True)  # [n_w] each, unit by unit
        hit = torch.bincount(unit, minlength=len(counts))  # [out_features]
        _check_size(len(inputs))
        starts = F.pad(hit.cumsum(0), (1, 0)).int()
        kept = counts[unit, inputs]
        return cls(counts.shape[1], starts, inputs.int(), _narrow(kept), scale, bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        samples: int,
        method: str = "jittered",
        order: str = "stored",
        seed: int | torch.Generator = 0,
    ) -> "SampledLinear":
        """Sample the weights of each neuron of a trained layer; its bias stays exact.

        Parameters
        ----------
        linear
            It is not changed.
        samples
            S, for each neuron: no neuron keeps more weights than that.
        method, order, seed
            As in :func:`mcnn.density.sample_counts`, whose errors these are.
        """
        w = linear.weight.detach()  # [out_features, in_features]
        counts = sample_counts(w, samples, method, order=order, seed=seed)
        scale = (w.double().abs().sum(1) / samples).to(w.dtype)  # [out_features]
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls.from_counts(counts, scale, bias)

    @classmethod
    def random(
        cls,
        in_features: int,
        out_features: int,
        fan_in: int,
        method: str = "jittered",
        seed: int | torch.Generator = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "SampledLinear":
        r"""Return an untrained layer with a given number of inputs for each unit.

        No matrix of all weights is ever formed: time and memory are those of the result.
        Signs are random, the scale is :math:`\sqrt{2/k}` for k inputs, which keeps the variance of
        activations from layer to layer behind a ReLU, and biases are zero.

        Parameters
        ----------
        in_features, out_features
            Number of inputs and of units.
        fan_in
            k, at most ``in_features``.
        method
            How the inputs are sampled, see :mod:`mcnn.linear.wiring`: ``"jittered"`` or
            ``"rotated"``.
        seed
            The same seed gives the same layer on every device.
        device, dtype
            Of the layer, and of its scale and bias.

        Raises
        ------
        ValueError
            For a number below one, more inputs than there are, or an unknown method.
        """
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 1 <= fan_in <= in_features:
            raise ValueError(f"fan_in must be in 1 ... in_features = {in_features}, got {fan_in}")
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        _check_size(out_features * fan_in)
        seed = as_seed(seed)
        starts = torch.arange(out_features + 1, dtype=torch.int32) * fan_in
        inputs = wire(in_features, out_features, fan_in, method, seed).flatten()
        scale = torch.full((out_features,), (2 / fan_in) ** 0.5, dtype=dtype)
        bias = torch.zeros(out_features, dtype=dtype)
        counts = signs(out_features, fan_in, seed).flatten()
        return cls(in_features, starts, inputs, counts, scale, bias).to(device)

    @property
    def n_weights(self) -> int:
        """Number of weights, n_w."""
        return len(self.inputs)

    @property
    def n_bytes(self) -> int:
        """Bytes of all lists and parameters."""
        tensors = [*self.buffers(), *self.parameters()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., in_features] to [..., out_features], dtype of ``x``.

        Raises
        ------
        ValueError
            If the last dimension of ``x`` is no ``in_features``.
        """
        if x.shape[-1] != self.in_features:
            shape = tuple(x.shape)
            raise ValueError(f"x must be [..., {self.in_features}], got shape {shape}")
        a = x.reshape(-1, self.in_features).T  # [in_features, b]
        # Contiguous, and with a last stride of one also if b = 1: else a slow path is taken.
        a = a.flatten().view(a.shape)
        y = F.embedding_bag(
            self.inputs,
            a,
            self.starts,
            mode="sum",
            per_sample_weights=self.counts.to(a.dtype),  # [n_w]
            include_last_offset=True,
        )  # [out_features, b]
        y = y.mul_(self.scale[:, None])
        if self.bias is not None:
            y = y.add_(self.bias[:, None])
        return y.T.reshape(*x.shape[:-1], self.out_features)

    def dense(self) -> Tensor:
        """Return the weights as a matrix, [out_features, in_features], zeros included."""
        unit = torch.arange(self.out_features, device=self.inputs.device)
        unit = unit.repeat_interleave(self.starts.diff())  # [n_w]
        w = self.scale.new_zeros(self.out_features, self.in_features)
        return w.index_put((unit, self.inputs.long()), self.counts * self.scale[unit])

    def extra_repr(self) -> str:
        """Say the sizes, as ``nn.Linear`` does."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"n_weights={self.n_weights}, bias={self.bias is not None}"
        )

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in _LISTS:
            if (found := state.get(prefix + name)) is not None and len(found):
                setattr(self, name, torch.empty_like(found, device=self.inputs.device))
        super()._load_from_state_dict(state, prefix, *rest)


def _check(
    in_features: int,
    starts: Tensor,
    inputs: Tensor,
    counts: Tensor,
    scale: Tensor,
    bias: Tensor | None,
) -> None:
    if starts.dtype != torch.int32 or inputs.dtype != torch.int32:
        raise TypeError(f"starts and inputs must be int32, got {starts.dtype} and {inputs.dtype}")
    if counts.dtype not in _COUNTS:
        raise TypeError(f"counts must be int8, int16 or int32, got {counts.dtype}")
    if starts.ndim != 1 or len(starts) < 2:
        raise ValueError(f"starts must be [out_features + 1], got shape {tuple(starts.shape)}")
    if inputs.ndim != 1 or inputs.shape != counts.shape:
        shapes = f"{tuple(inputs.shape)} and {tuple(counts.shape)}"
        raise ValueError(f"inputs and counts must be lists of the same length, got {shapes}")
    if starts[0] != 0 or starts[-1] != len(inputs) or (starts.diff() < 0).any():
        raise ValueError(f"starts must grow from 0 to {len(inputs)}, the number of weights")
    if len(inputs) and not 0 <= inputs.min() <= inputs.max() < in_features:
        raise ValueError(f"inputs must be in 0 ... in_features - 1 = {in_features - 1}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and (value.ndim != 1 or len(value) != len(starts) - 1):
            shape = tuple(value.shape)
            raise ValueError(f"{name} must be [out_features] = [{len(starts) - 1}], got {shape}")


def _check_size(weights: int) -> None:
    if weights >= 2**31:
        raise ValueError(f"a layer must have less than 2**31 weights, got {weights}")


def _narrow(counts: Tensor) -> Tensor:
    """Return integers in the narrowest type that holds them."""
    largest = int(counts.abs().max()) if len(counts) else 0
    return counts.to(next(t for t in _COUNTS if largest <= torch.iinfo(t).max))
