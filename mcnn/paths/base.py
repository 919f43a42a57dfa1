"""What linear and convolutional layers of paths share: edges, their weights, and how they begin."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mcnn.checks import as_count
from mcnn.errors import UsageError, unknown
from mcnn.paths.generators import sample_paths
from mcnn.paths.parameter import exchange
from mcnn.sampling import as_seed, fold_in
from mcnn.seeds import layer_seed
from mcnn.sparse.layer import SparseLayer
from mcnn.sparse.structure import Blocks, Edges, edges_of_paths, find_blocks

DUPLICATES = ("merge", "keep")
INITS = ("dense", "realised", "constant")
SIGNS = ("random", "alternating")


class PathLayer(SparseLayer):
    """Units joined by the edges that paths take; see :class:`PathLinear` and :class:`PathConv2d`.

    Parameters
    ----------
    in_units, out_units
        Units, that is features or channels, before and behind the layer.
    filter_size
        Shape of the weight of an edge: ``()`` or ``(k, k)``.
    kernels
        What ``kernel`` may be.
    paths, method, seed, bias, duplicates, init, sign, fixed_signs, kernel, device, dtype
        As of :class:`PathLinear`.
    """

    def __init__(
        self,
        in_units: int,
        out_units: int,
        filter_size: tuple[int, ...],
        kernels: tuple[str, ...],
        paths: int | Tensor,
        method: str = "sobol",
        seed: int | torch.Generator | None = None,
        *,
        bias: bool = True,
        duplicates: str = "merge",
        init: str = "dense",
        sign: str = "random",
        fixed_signs: bool = False,
        kernel: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(as_count("inputs", in_units), as_count("outputs", out_units))
        for name, value, known in (
            ("duplicates", duplicates, DUPLICATES),
            ("init", init, INITS),
            ("sign", sign, SIGNS),
            ("kernel", kernel, kernels),
        ):
            if value not in known:
                raise unknown(name, value, known)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating point, got {dtype}")
        self.filter_size = filter_size
        self.duplicates, self.init, self.sign = duplicates, init, sign
        self._kernel = kernel
        device = torch.get_default_device() if device is None else torch.device(device)
        with torch.device("cpu"):  # drawn there, so that every device has the same
            seed = layer_seed(seed)
            if not isinstance(paths, Tensor):
                paths = sample_paths((self.in_units, self.out_units), paths, method, seed)
            edge_of_path = self._set_paths(paths.cpu())
            values = self._initial(edge_of_path, seed).to(dtype or torch.get_default_dtype())
            self.register_buffer("signs", _signs(values) if fixed_signs else None)
            self.weight = nn.Parameter(values.abs() if fixed_signs else values)
            zeros = torch.zeros(self.out_units, dtype=values.dtype)
            self.bias = nn.Parameter(zeros) if bias else None
        self.to(device)

    @property
    def edges(self) -> Edges:
        """The edges, sorted."""
        self._check_lists()
        return Edges(*(getattr(self, f"_{name}") for name in Edges._fields))

    @property
    def blocks(self) -> Blocks | None:
        """The blocks that the layer falls into, if it does."""
        if self._block_inputs is None:
            return None
        self._check_lists()
        return Blocks(*(getattr(self, f"_block_{name}") for name in Blocks._fields))

    @property
    def n_weights(self) -> int:
        """Number of edges."""
        return len(self._inputs)

    def weights(self) -> Tensor:
        """Return the weights of the edges, [edges, ...], signs included."""
        if self.signs is None:
            return self.weight
        # Not abs, whose derivative at zero is zero: a weight that begins there would stay.
        return torch.where(self.weight < 0, -self.weight, self.weight) * self.signs

    def edge_of_path(self) -> Tensor:
        """Return the number of the edge of each path, int64 [paths]."""
        merge = self.duplicates == "merge"
        return edges_of_paths(self.paths, self.in_units, self.out_units, merge)[1]

    @torch.no_grad()
    def replace_paths(
        self,
        paths: Tensor,
        origin: Tensor,
        seed: int | torch.Generator,
        scale: float = 1.0,
        optimizers: Sequence[Optimizer] | None = None,
    ) -> None:
        """Exchange the paths; the weight stays the same parameter, which optimisers go on training.

        Gradients, and what optimisers remember, follow the edges, see
        :mod:`mcnn.paths.parameter`.

        Parameters
        ----------
        paths
            Integers [2, paths].
        origin
            int64 [paths], which old path each one is, or -1 for a new one.
            Edges of old paths keep their weights.
        seed
            Of the weights of other edges.
        scale
            Factor of those; with 0 the layer computes what it did with the old paths that stay.
        optimizers
            Those that may have to follow; by default they are looked for.

        Raises
        ------
        UsageError
            If the weight is not the layer's own, or something cannot follow.
        """
        weight, old_edges = self._own_weight(), self.edge_of_path()
        before = self.paths
        edge_of_path = self._set_paths(paths.to(weight.device))
        source = edge_of_path.new_full((self.n_weights,), -1)  # [edges], the old edge of each
        kept = origin >= 0
        source[edge_of_path[kept]] = old_edges[origin[kept]]
        drawn = self._initial(edge_of_path.cpu(), as_seed(seed)).to(weight)
        signs = None if self.signs is None else _signs(drawn)
        fresh = (drawn if signs is None else drawn.abs()) * scale
        stays = source >= 0
        fresh[stays] = weight[source[stays]]
        self._exchange(before, weight, fresh, source, optimizers)
        if signs is not None:
            signs[stays] = self.signs[source[stays]]
            self.signs = signs

    def _exchange(self, before: Tensor, *arguments: Any) -> None:
        """Exchange the weights for those of new paths, or take back those before."""
        try:
            exchange(*arguments)
        except UsageError:
            self._set_paths(before)
            raise

    def _check_lists(self) -> None:
        """Refuse paths that a call brings without the lists of their edges, which no state has."""
        paths, inputs = self._listed
        if torch.compiler.is_compiling() or self.paths is paths or self._inputs is not inputs:
            return
        if torch._C._functorch.is_batchedtensor(self.paths) or torch.equal(self.paths, paths):
            return
        raise UsageError(
            "other paths were given without the lists of their edges: give functional_call all of "
            "dict(layer.named_buffers()) of their layer, too, or load the state"
        )

    def _own_weight(self) -> nn.Parameter:
        weight = self._parameters.get("weight")
        if weight is None:
            raise UsageError(
                "the weight is computed by something else, such as a parametrization or pruning: "
                "remove that before the paths change"
            )
        return weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        nowhere = self.paths.is_meta
        super()._apply(fn, recurse)
        if nowhere and not self.paths.is_meta:
            # What lies there is what the memory was before, and no number of a unit.
            for buffer in self.buffers():
                buffer.zero_()
        self._listed = self.paths, self._inputs
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._listed = self.paths, self._inputs

    @torch.inference_mode(False)  # what is trained later must not be made in that mode
    def _set_paths(self, paths: Tensor, device: torch.device | None = None) -> Tensor:
        """Take other paths and return the edge of each; the weights are not touched.

        The lists go to a device; they are made on that of the paths.
        """
        merge = self.duplicates == "merge"
        edges, edge_of_path = edges_of_paths(paths, self.in_units, self.out_units, merge)
        blocks = find_blocks(edges)
        if blocks is None and self._kernel == "blocks":
            raise ValueError("the layer does not fall into blocks: take kernel='auto'")
        device = paths.device if device is None else device
        self.register_buffer("paths", paths.int().to(device, copy=True))
        for name, tensor in edges._asdict().items():
            self.register_buffer(f"_{name}", tensor.to(device), persistent=False)
        for name in Blocks._fields:
            tensor = None if blocks is None else getattr(blocks, name).to(device)
            self.register_buffer(f"_block_{name}", tensor, persistent=False)
        self._listed = self.paths, self._inputs  # what belongs together
        return edge_of_path

    def _initial(self, edge_of_path: Tensor, seed: int) -> Tensor:
        """Draw weights on the CPU: float32 [edges, ...]."""
        outputs, starts = self._outputs.cpu(), self._starts.cpu()
        fan_in = torch.full_like(outputs, self.in_units)  # int32 [edges]
        if self.init == "realised":
            fan_in = starts.diff()[outputs]
        size = math.prod(self.filter_size)
        scale = (2 / (fan_in * size).float()).sqrt().view(-1, *[1] * len(self.filter_size))
        shape = (len(outputs), *self.filter_size)
        key = fold_in(seed, -1)  # not a layer's stream
        generator = torch.Generator().manual_seed(key)
        if self.init != "constant":
            return torch.randn(shape, generator=generator, dtype=torch.float32) * scale
        if self.sign == "random":
            return (torch.randint(2, shape, generator=generator) * 2 - 1) * scale
        number = torch.arange(len(edge_of_path))
        first = torch.full((len(outputs),), len(number))
        first.scatter_reduce_(0, edge_of_path, number, "amin")  # [edges]
        return (1 - first % 2 * 2).view_as(scale) * scale.expand(shape)

    def adopt_structure(self, state: Mapping[str, Tensor], assign: bool = False) -> None:
        """Take the paths of a state; weights of as many edges wait to be loaded."""
        paths = state.get("paths")
        if paths is None or paths.is_meta:
            return
        if paths.is_floating_point():  # as averages of states are
            if (paths != paths.round()).any():
                raise ValueError("the paths are averages of different ones: average one network's")
            paths = paths.int()
        same = not self.paths.is_meta and torch.equal(paths.cpu(), self.paths.cpu())
        weight, before = None if same else self._own_weight(), self.paths
        if weight is not None and "weight" not in state:
            raise UsageError(
                "the state has other paths than the layer, and no weights of theirs: load both, or "
                "leave the paths out"
            )
        # Also the same once more, for what a layer on no device was given may be anything.
        self._set_paths(paths, paths.device if assign else self.paths.device)
        if weight is None:
            return
        shape = (self.n_weights, *self.filter_size)
        self._exchange(before, weight, weight.new_zeros(shape))
        if self.signs is not None:
            self.signs = self.signs.new_ones(shape)

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``."""
        return f"{super().extra_repr()}, paths={self.paths.shape[1]}, kernel={self.kernel!r}"


def _signs(values: Tensor) -> Tensor:
    """Return 1 or -1, also where a value is zero."""
    return torch.ones_like(values).masked_fill_(values < 0, -1)
