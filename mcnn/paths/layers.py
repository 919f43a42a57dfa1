"""A linear layer whose edges are those that paths take."""

from typing import Any

import torch
from torch import Tensor, nn

from mcnn.paths.blocks import BLOCKS_FROM, Blocks, block_product, find_blocks
from mcnn.paths.generators import sample_paths
from mcnn.paths.product import (
    DENSE_FROM,
    Edges,
    dense_matrix,
    dense_product,
    edges_of_paths,
    product,
)
from mcnn.sampling import as_seed, hash_bits

DUPLICATES = ("merge", "keep")
INITS = ("dense", "realised", "constant")
SIGNS = ("random", "alternating")
KERNELS = ("auto", "gather", "blocks", "dense")


class PathLinear(nn.Module):
    r"""A linear layer with an edge for each path, in place of :class:`torch.nn.Linear`.

    Parameters
    ----------
    in_features, out_features
        Units before and behind the layer.
    paths
        Number of paths to sample, or the paths: integers [2, paths], input and output of each.
    method
        One of :data:`mcnn.paths.METHODS`.
    seed
        Of the paths and of the initial weights, an integer or a generator, which is advanced by one
        draw.
    bias
        Whether outputs have one, at first zero.
    duplicates
        ``"merge"``: paths on the same edge share its weight. ``"keep"``: each has its own.
    init
        Standard deviation of the normal initial weights: :math:`\sqrt{2/n}` (He's), with n the
        units before the layer (``"dense"``) or the edges into the unit (``"realised"``);
        ``"constant"``: all have the magnitude :math:`\sqrt{2/n}` of ``"dense"``.
    sign
        Of constant weights: ``"random"``, or ``"alternating"`` with the number of the path.
    fixed_signs
        Train magnitudes only: the weight is its sign at the start times the absolute value of the
        parameter.
    kernel
        ``"gather"`` goes through the edges, see :mod:`mcnn.paths.product`; ``"blocks"`` through
        the complete blocks that the layer falls into, see :mod:`mcnn.paths.blocks`; ``"dense"``
        through a matrix with zeros in it.
        ``"auto"`` takes blocks where there are any with
        :data:`mcnn.paths.blocks.BLOCKS_FROM` units or more, else a matrix from a share of
        :data:`mcnn.paths.product.DENSE_FROM` of all possible edges on.
    device, dtype
        Of the parameters.

    Attributes
    ----------
    weight : Parameter
        [edges], sorted by output and within it by input.
    bias : Parameter or None
        [out_features].
    paths : Tensor
        int32 [2, paths], saved with the weights: a checkpoint brings its own paths.
    edges : Edges
        What the paths come to.
    kernel : str
        The one in use.

    Raises
    ------
    ValueError
        For an unknown choice, paths that are not of this layer, or the kernel ``"blocks"`` for a
        layer that does not fall into blocks.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".

    Examples
    --------
    >>> layer = PathLinear(64, 32, paths=256)
    >>> layer(torch.ones(2, 64)).shape, layer.weight.shape
    (torch.Size([2, 32]), torch.Size([256]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
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
        super().__init__()
        for name, value, known in (
            ("duplicates", duplicates, DUPLICATES),
            ("init", init, INITS),
            ("sign", sign, SIGNS),
            ("kernel", kernel, KERNELS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        seed = as_seed(seed)
        if not isinstance(paths, Tensor):
            paths = sample_paths((in_features, out_features), paths, method, seed)
        self.in_features, self.out_features = in_features, out_features
        self.duplicates, self.fixed_signs, self._kernel = duplicates, fixed_signs, kernel
        edge_of_path = self._set_paths(paths.to("cpu"))
        values = self._initial(edge_of_path, init, sign, seed).to(
            dtype or torch.get_default_dtype()
        )
        self.register_buffer("signs", values.sign() if fixed_signs else None)
        self.weight = nn.Parameter(values.abs() if fixed_signs else values)
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=values.dtype)) if bias else None
        self.register_load_state_dict_pre_hook(_take_paths)
        self.to(device)

    def _set_paths(self, paths: Tensor) -> Tensor:
        """Take other paths and return the edge of each; the weights are not touched."""
        merge = self.duplicates == "merge"
        edges, edge_of_path = edges_of_paths(paths, self.in_features, self.out_features, merge)
        self.register_buffer("paths", paths.int())
        for name, tensor in edges._asdict().items():
            self.register_buffer(f"_{name}", tensor, persistent=False)
        blocks = find_blocks(edges)
        if blocks is None and self._kernel == "blocks":
            raise ValueError("the layer does not fall into blocks: take kernel='auto'")
        for name in Blocks._fields:
            tensor = None if blocks is None else getattr(blocks, name)
            self.register_buffer(f"_block_{name}", tensor, persistent=False)
        return edge_of_path

    def _initial(self, edge_of_path: Tensor, init: str, sign: str, seed: int) -> Tensor:
        """Draw the weights [edges], on the CPU, so that every device has the same."""
        n = torch.full_like(self._outputs, self.in_features)  # [edges]
        if init == "realised":
            n = self._starts.diff()[self._outputs]
        scale = (2 / n).sqrt()
        key = int(hash_bits(seed, torch.tensor(-1))) & (2**63 - 1)  # not a layer's stream
        generator = torch.Generator().manual_seed(key)
        if init != "constant":
            return torch.randn(len(n), generator=generator) * scale
        if sign == "random":
            return (torch.randint(2, (len(n),), generator=generator) * 2 - 1) * scale
        number = torch.arange(len(edge_of_path))
        first = torch.full((len(n),), len(number)).scatter_reduce_(0, edge_of_path, number, "amin")
        return (1 - first % 2 * 2) * scale

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
    def kernel(self) -> str:
        """How the product is computed."""
        if self._kernel != "auto":
            return self._kernel
        larger = max(self.in_features, self.out_features)  # its blocks have the shorter side
        if self._block_inputs is not None and len(self._inputs) >= BLOCKS_FROM * larger:
            return "blocks"
        share = len(self._inputs) / (self.in_features * self.out_features)
        return "dense" if share >= DENSE_FROM else "gather"

    def weights(self) -> Tensor:
        """Return the weights of the edges, [edges], signs included."""
        return self.weight if self.signs is None else self.weight.abs() * self.signs

    def feature_major(self, x: Tensor) -> Tensor:
        """Return the output [out_features, batch] of an input [in_features, batch]."""
        if self.kernel == "blocks":
            y = block_product(x, self.weights(), self.blocks)  # [out_features, batch]
        else:
            multiply = dense_product if self.kernel == "dense" else product
            y = multiply(x, self.weights(), self.edges)  # [out_features, batch]
        return y if self.bias is None else y + self.bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [..., out_features] of an input [..., in_features]."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"the input must be [..., {self.in_features}], got {list(x.shape)}")
        flat = x.reshape(-1, self.in_features)  # [batch, in_features]
        y = self.feature_major(flat.T.contiguous())
        return y.T.reshape(*x.shape[:-1], self.out_features)

    def to_dense(self) -> nn.Linear:
        """Return the same layer with a matrix of weights, zero where there is no edge."""
        options = {"device": self.weight.device, "dtype": self.weight.dtype}
        bias = self.bias is not None
        dense = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, bias, **options)
        with torch.no_grad():
            dense.weight.copy_(dense_matrix(self.weights(), self.edges, self.in_features))
            if bias:
                dense.bias.copy_(self.bias)
        return dense

    def to_csr(self) -> Tensor:
        """Return the weights as a sparse matrix [out_features, in_features] of compressed rows."""
        place = torch.stack([self._outputs, self._inputs])  # [2, edges]
        shape = (self.out_features, self.in_features)
        return torch.sparse_coo_tensor(place, self.weights().detach(), shape).to_sparse_csr()

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``."""
        return (
            f"{self.in_features}, {self.out_features}, paths={self.paths.shape[1]}, "
            f"edges={len(self._inputs)}, kernel={self.kernel!r}, bias={self.bias is not None}"
        )


def _take_paths(module: PathLinear, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make a layer that loads a checkpoint one of the checkpoint's paths."""
    paths = state.get(f"{prefix}paths")
    if paths is None or torch.equal(paths.cpu(), module.paths.cpu()):
        return
    device = module.weight.device
    module._set_paths(paths.to(device))
    edges = len(module._inputs)
    module.weight = nn.Parameter(module.weight.new_zeros(edges))
    if module.signs is not None:
        module.signs = module.signs.new_ones(edges)
