"""The interface of sparse layers.

A sparse layer is made of edges, which join units, and of their weights.
How a class stores both is its own affair: :class:`mcnn.linear.SampledLinear` keeps compressed rows
of small integers, :class:`mcnn.paths.PathLinear` the paths and a number for each edge.
What follows from them is here, once.

:class:`SparseLayer` stands apart from :class:`SparseLinear` because units are channels in a
convolution (:class:`mcnn.paths.PathConv2d`): it has edges, a density and a dense form, too, but
neither features nor a sparse matrix.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from mcnn.sparse.autograd import product
from mcnn.sparse.backends.torch import silence_sparse_warning
from mcnn.sparse.structure import Edges, as_autocast, dense_matrix


class SparseLayer(nn.Module):
    """Units joined by weighted edges.

    A subclass defines :attr:`edges`, :attr:`n_weights`, :meth:`weights` and
    :meth:`adopt_structure`, sets ``bias``, and computes.

    Parameters
    ----------
    in_units, out_units
        Units, that is features or channels, before and behind the layer.

    Attributes
    ----------
    bias : Parameter or None
        [out_units].
    """

    bias: nn.Parameter | None

    def __init__(self, in_units: int, out_units: int) -> None:
        super().__init__()
        self.in_units, self.out_units = in_units, out_units

    @property
    def edges(self) -> Edges:
        """The edges, sorted both ways."""
        raise NotImplementedError

    @property
    def n_weights(self) -> int:
        """Number of edges."""
        raise NotImplementedError

    def weights(self) -> Tensor:
        """Return the weights of the edges, [edges, ...]."""
        raise NotImplementedError

    def adopt_structure(self, state: Mapping[str, Tensor], assign: bool = False) -> None:
        """Take the structure of a state that is about to be loaded, whatever the lengths of lists.

        Parameters
        ----------
        state
            The layer's own part of it; may be incomplete.
        assign
            Whether its tensors will take the place of the layer's, where they are.

        Raises
        ------
        ValueError
            If the structure is none of a layer of this size.
        """
        raise NotImplementedError

    @property
    def density(self) -> float:
        """Number of edges (with duplicates, if those are kept) over that of a full layer."""
        return self.n_weights / (self.in_units * self.out_units)

    def dense_weight(self) -> Tensor:
        """Return the weights as a matrix, [out_units, in_units, ...], zero where no edge is."""
        return dense_matrix(self.weights(), self.edges, self.in_units)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def real(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            if changed.is_complex():  # some kernels would go on, and others not
                raise TypeError(
                    f"a {type(self).__name__} is of real numbers, and cannot be {changed.dtype}: "
                    "make it dense first (to_dense), which can"
                )
            return changed

        return super()._apply(real, recurse)

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``."""
        return (
            f"{self.in_units}, {self.out_units}, n_weights={self.n_weights}, "
            f"bias={self.bias is not None}"
        )

    @torch.no_grad()
    def _filled(self, dense: type[nn.Module], *sizes: Any, **options: Any) -> Any:
        """Return a dense layer of PyTorch's with these weights."""
        weight, bias = self.dense_weight(), self.bias
        options |= {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
        layer = nn.utils.skip_init(dense, *sizes, **options)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        return layer.train(self.training)

    def _load_from_state_dict(
        self, state: Mapping[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any
    ) -> None:
        names = [name for name in state if name.startswith(prefix)]
        own = {name.removeprefix(prefix): state[name] for name in names}
        self.adopt_structure(own, bool(metadata.get("assign_to_params_buffers")))
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class SparseLinear(SparseLayer):
    """A linear layer of weighted edges, in place of :class:`torch.nn.Linear`.

    Its cost is in proportion to its edges.
    Activations that lie in memory unit by unit are multiplied as they lie, see
    :mod:`mcnn.sparse.autograd`; a stack of sparse layers that hands them on like that
    (:meth:`feature_major`) has nothing to turn, where :meth:`forward` takes and returns what
    :class:`torch.nn.Linear` does.
    """

    @property
    def in_features(self) -> int:
        """Units before the layer."""
        return self.in_units

    @property
    def out_features(self) -> int:
        """Units behind the layer."""
        return self.out_units

    def feature_major(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the output [out_features, batch], rectified if asked, of [in_features, batch].

        Raises
        ------
        ValueError
            If the shape of ``x`` is another.
        TypeError
            If its type is not that of the weights, and autocast is off.
        """
        return product(x, self.weights(), self.edges, self.bias, relu)

    def forward(self, input: Tensor) -> Tensor:
        """Return the output [..., out_features] of an input [..., in_features].

        Under autocast it is of autocast's type, as that of ``nn.Linear``; the sums are not.

        Raises
        ------
        ValueError, TypeError
            As :meth:`feature_major`.
        """
        shape = input.shape
        if not shape or shape[-1] != self.in_features:
            raise ValueError(f"the input must be [..., {self.in_features}], got {list(shape)}")
        flat = input if len(shape) == 2 else input.reshape(-1, self.in_features)
        y = as_autocast(self.feature_major(flat.T)).T.contiguous()  # [batch, out_features]
        return y if len(shape) == 2 else y.view(*shape[:-1], self.out_features)

    def to_dense(self) -> nn.Linear:
        """Return the same layer with a matrix of weights, zero where there is no edge."""
        return self._filled(nn.Linear, self.in_features, self.out_features)

    def to_csr(self) -> Tensor:
        """Return the weights as a sparse matrix [out_features, in_features] of compressed rows."""
        edges = self.edges
        place = torch.stack([edges.outputs, edges.inputs])  # [2, edges]
        shape = (self.out_features, self.in_features)
        values = self.weights().detach()
        silence_sparse_warning()
        return torch.sparse_coo_tensor(place, values, shape, check_invariants=True).to_sparse_csr()

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``, as ``nn.Linear`` does."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"n_weights={self.n_weights}, bias={self.bias is not None}"
        )
