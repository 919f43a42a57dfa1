r"""A fully connected layer that keeps and multiplies only the weights that were sampled.

Unit :math:`i` has the inputs :math:`j\in J_i`, and computes

.. math:: y_i=s_i\sum_{j\in J_i}c_{i,j}\,a_j+b_i

with integer counts :math:`c_{i,j}` and one scale :math:`s_i`, which is
:math:`\|w_i\|_1/S` for :math:`S` samples of a trained neuron.
The lists :math:`J_i` stand end to end, as in compressed sparse rows.

The sums go through :mod:`mcnn.sparse`, with the counts for weights; the scale is one factor for
each unit, so it is multiplied to the sums.
For these the lists as they stand are enough.
A gradient with respect to the inputs needs the edges sorted by input as well: those lists are made
when it is first asked for, and kept, at 12 bytes a weight.
"""

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.checks import as_count
from mcnn.density import sample_counts
from mcnn.errors import UsageError, unknown
from mcnn.linear.wiring import METHODS, sample_connections, signs
from mcnn.seeds import layer_seed
from mcnn.sparse.autograd import is_transformed, product
from mcnn.sparse.backends.torch import epilogue
from mcnn.sparse.layer import SparseLinear
from mcnn.sparse.structure import Edges, check_operands, edges_of_rows

_LISTS = ("starts", "inputs", "counts")  # their lengths depend on the samples
_BACKWARD = ("outputs", "order", "outputs_by_input", "starts_by_input")  # made when first needed
_COUNTS = (torch.int8, torch.int16, torch.int32)


class SampledLinear(SparseLinear):
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
        _check_lists(in_features, starts, inputs, counts)
        _check_units(len(starts) - 1, scale=scale, bias=bias)
        super().__init__(in_features, len(starts) - 1)
        for name, value in zip(_LISTS, (starts, inputs, counts), strict=True):
            self.register_buffer(name, value)
        for name in _BACKWARD:
            self.register_buffer(f"_{name}", None, persistent=False)
        self._sorted: tuple[Tensor, Tensor] | None = None  # what belongs together
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
            It is not changed; what is frozen in it is so in the result.
        samples
            S, for each neuron: no neuron keeps more weights than that.
        method, order, seed
            As in :func:`mcnn.density.sample_counts`, whose errors these are.

        Raises
        ------
        UsageError
            For a layer on no device, whose weights are not known.
        """
        samples = as_count("samples", samples)
        w = linear.weight.detach()  # [out_features, in_features]
        if w.is_meta:
            raise UsageError(
                "the layer is on no device (meta), and which weights are sampled depends on them: "
                "load it first"
            )
        counts = sample_counts(w, samples, method, order=order, seed=seed)
        scale = (w.double().abs().sum(1) / samples).to(w.dtype)  # [out_features]
        bias = None if linear.bias is None else linear.bias.detach().clone()
        layer = cls.from_counts(counts, scale, bias)
        layer.scale.requires_grad_(linear.weight.requires_grad)  # what was frozen stays so
        if bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer

    @classmethod
    def random(
        cls,
        in_features: int,
        out_features: int,
        fan_in: int,
        method: str = "jittered",
        seed: int | torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
            The same seed gives the same layer on every device; by default it comes from PyTorch's
            generator, so that layers made alike differ.
        device, dtype
            Of the layer, and of its scale and bias; by default PyTorch's.

        Raises
        ------
        ValueError
            For a number below one, more inputs than there are, or an unknown method.
        """
        in_features = as_count("in_features", in_features)
        out_features = as_count("out_features", out_features)
        fan_in = as_count("fan_in", fan_in, 0)
        if not 1 <= fan_in <= in_features:
            raise ValueError(f"fan_in must be in 1 ... in_features = {in_features}, got {fan_in}")
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        _check_size(out_features * fan_in)
        device = torch.get_default_device() if device is None else device
        dtype = torch.get_default_dtype() if dtype is None else dtype
        with torch.device("cpu"):  # drawn there, so that every device has the same
            seed = layer_seed(seed)
            starts = torch.arange(out_features + 1, dtype=torch.int32) * fan_in
            inputs = sample_connections(in_features, out_features, fan_in, method, seed).flatten()
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

    @property
    def edges(self) -> Edges:
        """The edges, sorted both ways; nothing is kept that was not there."""
        if self._order is None or self._are_others():
            return edges_of_rows(self.starts, self.inputs, self.in_features)
        return Edges(
            self.inputs,
            self._outputs,
            self.starts,
            self._order,
            self._outputs_by_input,
            self._starts_by_input,
        )

    @property
    def weight(self) -> Tensor:
        """The weights as a matrix [out_features, in_features], made anew at each access.

        Modules that read the weight of a layer instead of calling it, as attention does with its
        last one, work with it; they multiply by the matrix.
        """
        return self.dense_weight()

    def weights(self) -> Tensor:
        """Return the weights of the edges, counts times scales, [n_w]."""
        fan_in = self.starts.diff()
        return self.counts * self.scale.repeat_interleave(fan_in, output_size=self.n_weights)

    def feature_major(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the output [out_features, batch], rectified if asked, of [in_features, batch]."""
        counts = self.counts.to(self.scale.dtype)  # [n_w]
        sizes = (self.in_features, self.out_features, self.n_weights)
        x = check_operands(x, counts, self.bias, *sizes)
        if is_transformed():
            y = product(x, counts, self.edges) * self.scale[:, None]
            return epilogue(y, self.bias, relu)
        if x.requires_grad and torch.is_grad_enabled():
            self._keep_backward_lists()
            y = product(x, counts, self.edges)
        else:
            y = torch.ops.mcnn.path_sum(x, counts, self.inputs, self.starts)
        y = y.mul_(self.scale[:, None])  # in place: the sums are needed no more
        if self.bias is not None:
            y = y.add_(self.bias[:, None])
        return y.relu_() if relu else y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        nowhere = self.starts.is_meta
        super()._apply(fn, recurse)
        if nowhere and not self.starts.is_meta:
            # What lies there is what the memory was before, and no number of a unit.
            for buffer in self.buffers():
                buffer.zero_()
        self._sorted = None if self._order is None else (self.inputs, self._order)
        return self

    def _keep_backward_lists(self) -> None:
        if self._order is None:
            edges = self.edges
            for name in _BACKWARD:
                setattr(self, f"_{name}", getattr(edges, name))
            self._sorted = self.inputs, self._order

    def _are_others(self) -> bool:
        """Return whether a call brings lists of its own, as ``torch.func.functional_call`` does."""
        if torch.compiler.is_compiling() or self._sorted is None:
            return False
        inputs, order = self._sorted
        return self.inputs is not inputs and self._order is order

    @torch.inference_mode(False)  # what is trained later must not be made in that mode
    def adopt_structure(self, state: Mapping[str, Tensor], assign: bool = False) -> None:
        """Make room for the lists of a state, and check them."""
        if any(name not in state for name in _LISTS):
            return  # loading goes on to say what is missing
        lists = {name: _whole(name, state[name]) for name in _LISTS}
        _check_lists(self.in_features, **lists)
        if len(lists["starts"]) != len(self.starts):
            return  # a layer of another size, as loading goes on to say
        for name, value in lists.items():
            setattr(self, name, torch.empty_like(value, device=self.inputs.device))
        for name in _BACKWARD:
            setattr(self, f"_{name}", None)


def _check_lists(in_features: int, starts: Tensor, inputs: Tensor, counts: Tensor) -> None:
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


def _whole(name: str, values: Tensor) -> Tensor:
    """Return integers, also where they became floating point, as in averages of states."""
    if not values.is_floating_point() or values.is_meta:
        return values
    if (values != values.round()).any():
        raise ValueError(f"{name} are averages of different ones: average one layer's states")
    return _narrow(values) if name == "counts" else values.int()


def _check_units(units: int, **values: Tensor | None) -> None:
    for name, value in values.items():
        if value is not None and (value.ndim != 1 or len(value) != units):
            shape = tuple(value.shape)
            raise ValueError(f"{name} must be [out_features] = [{units}], got {shape}")


def _check_size(weights: int) -> None:
    if weights >= 2**31:
        raise ValueError(f"a layer must have less than 2**31 weights, got {weights}")


def _narrow(counts: Tensor) -> Tensor:
    """Return integers in the narrowest type that holds them."""
    largest = int(counts.abs().max()) if len(counts) else 0
    return counts.to(next(t for t in _COUNTS if largest <= torch.iinfo(t).max))
