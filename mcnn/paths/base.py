"""What linear and convolutional layers of paths share: edges, their weights, and how they begin."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mcnn.paths.generators import sample_paths
from mcnn.sampling import as_seed, fold_in
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
        seed: int | torch.Generator = 0,
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
        super().__init__(in_units, out_units)
        for name, value, known in (
            ("duplicates", duplicates, DUPLICATES),
            ("init", init, INITS),
            ("sign", sign, SIGNS),
            ("kernel", kernel, kernels),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        seed = as_seed(seed)
        if not isinstance(paths, Tensor):
            paths = sample_paths((in_units, out_units), paths, method, seed)
        self.filter_size = filter_size
        self.duplicates, self.init, self.sign = duplicates, init, sign
        self._kernel = kernel
        edge_of_path = self._set_paths(paths.cpu())
        # Drawn on the CPU, so that every device has the same.
        values = self._initial(edge_of_path, seed).to(dtype or torch.get_default_dtype())
        self.register_buffer("signs", values.sign() if fixed_signs else None)
        self.weight = nn.Parameter(values.abs() if fixed_signs else values)
        self.bias = nn.Parameter(torch.zeros(out_units, dtype=values.dtype)) if bias else None
        self.to(device)

    @property
    def edges(self) -> Edges:
        """The edges, sorted."""
        return Edges(*(getattr(self, f"_{name}") for name in Edges._fields))

    @property
    def blocks(self) -> Blocks | None:
        """The blocks that the layer falls into, if it does."""
        if self._block_inputs is None:
            return None
        return Blocks(*(getattr(self, f"_block_{name}") for name in Blocks._fields))

    @property
    def n_weights(self) -> int:
        """Number of edges."""
        return len(self._inputs)

    def weights(self) -> Tensor:
        """Return the weights of the edges, [edges, ...], signs included."""
        return self.weight if self.signs is None else self.weight.abs() * self.signs

    def edge_of_path(self) -> Tensor:
        """Return the number of the edge of each path, int64 [paths]."""
        merge = self.duplicates == "merge"
        return edges_of_paths(self.paths, self.in_units, self.out_units, merge)[1]

    @torch.no_grad()
    def replace_paths(
        self, paths: Tensor, origin: Tensor, seed: int | torch.Generator, scale: float = 1.0
    ) -> None:
        """Exchange the paths; the weights become a new parameter, unknown to any optimiser.

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
        """
        device, old = self.weight.device, self.weights()
        old_edges = self.edge_of_path()
        edge_of_path = self._set_paths(paths.to(device))
        fresh = self._initial(edge_of_path.cpu(), as_seed(seed)).to(old) * scale
        kept = origin >= 0
        fresh[edge_of_path[kept]] = old[old_edges[origin[kept]]]
        if self.signs is not None:
            self.signs = fresh.sign()
            fresh = fresh.abs()
        self.weight = nn.Parameter(fresh)

    def _set_paths(self, paths: Tensor) -> Tensor:
        """Take other paths and return the edge of each; the weights are not touched."""
        merge = self.duplicates == "merge"
        edges, edge_of_path = edges_of_paths(paths, self.in_units, self.out_units, merge)
        blocks = find_blocks(edges)
        if blocks is None and self._kernel == "blocks":
            raise ValueError("the layer does not fall into blocks: take kernel='auto'")
        self.register_buffer("paths", paths.int())
        for name, tensor in edges._asdict().items():
            self.register_buffer(f"_{name}", tensor, persistent=False)
        for name in Blocks._fields:
            tensor = None if blocks is None else getattr(blocks, name)
            self.register_buffer(f"_block_{name}", tensor, persistent=False)
        return edge_of_path

    def _initial(self, edge_of_path: Tensor, seed: int) -> Tensor:
        """Draw weights on the CPU: float32 [edges, ...]."""
        outputs, starts = self._outputs.cpu(), self._starts.cpu()
        fan_in = torch.full_like(outputs, self.in_units)  # [edges]
        if self.init == "realised":
            fan_in = starts.diff()[outputs]
        size = math.prod(self.filter_size)
        scale = (2 / (fan_in * size)).sqrt().view(-1, *[1] * len(self.filter_size))
        shape = (len(outputs), *self.filter_size)
        key = fold_in(seed, -1)  # not a layer's stream
        generator = torch.Generator().manual_seed(key)
        if self.init != "constant":
            return torch.randn(shape, generator=generator) * scale
        if self.sign == "random":
            return (torch.randint(2, shape, generator=generator) * 2 - 1) * scale
        number = torch.arange(len(edge_of_path))
        first = torch.full((len(outputs),), len(number))
        first.scatter_reduce_(0, edge_of_path, number, "amin")  # [edges]
        return (1 - first % 2 * 2).view_as(scale) * scale.expand(shape)

    def adopt_structure(self, state: Mapping[str, Tensor]) -> None:
        """Take the paths of a state; weights of as many edges wait to be loaded."""
        paths = state.get("paths")
        if paths is None or torch.equal(paths.cpu(), self.paths.cpu()):
            return
        self._set_paths(paths.to(self.weight.device))
        shape = (self.n_weights, *self.filter_size)
        self.weight = nn.Parameter(self.weight.new_zeros(shape))
        if self.signs is not None:
            self.signs = self.signs.new_ones(shape)

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``."""
        return f"{super().extra_repr()}, paths={self.paths.shape[1]}, kernel={self.kernel!r}"
