"""A linear layer whose edges are those that paths take."""

import torch
from torch import Tensor, nn

from mcnn.paths.base import PathLayer
from mcnn.sparse.autograd import DENSE_FROM, dense_matrix, dense_product, product
from mcnn.sparse.blocks import BLOCKS_FROM, block_product
from mcnn.sparse.ops import silence_sparse_warning

KERNELS = ("auto", "gather", "blocks", "dense")


class PathLinear(PathLayer):
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
        ``"gather"`` goes through the edges, see :mod:`mcnn.sparse.autograd`; ``"blocks"`` through
        the complete blocks that the layer falls into, see :mod:`mcnn.sparse.blocks`; ``"dense"``
        through a matrix with zeros in it.
        ``"auto"`` takes blocks where there are any with
        :data:`mcnn.sparse.blocks.BLOCKS_FROM` units or more, else a matrix from a share of
        :data:`mcnn.sparse.autograd.DENSE_FROM` of all possible edges on.
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
        What the paths come to, see :mod:`mcnn.sparse.autograd`.

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
        super().__init__(
            in_features,
            out_features,
            (),
            KERNELS,
            paths,
            method,
            seed,
            bias=bias,
            duplicates=duplicates,
            init=init,
            sign=sign,
            fixed_signs=fixed_signs,
            kernel=kernel,
            device=device,
            dtype=dtype,
        )

    @property
    def in_features(self) -> int:
        """Units before the layer."""
        return self.in_units

    @property
    def out_features(self) -> int:
        """Units behind the layer."""
        return self.out_units

    @property
    def kernel(self) -> str:
        """How the product is computed."""
        if self._kernel != "auto":
            return self._kernel
        larger = max(self.in_features, self.out_features)  # its blocks have the shorter side
        if self._block_inputs is not None and len(self._inputs) >= BLOCKS_FROM * larger:
            return "blocks"
        return "dense" if self.density >= DENSE_FROM else "gather"

    def feature_major(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the output [out_features, batch], rectified if asked, of [in_features, batch]."""
        if self.kernel == "blocks":
            return block_product(x, self.weights(), self.blocks, self.bias, relu)
        multiply = dense_product if self.kernel == "dense" else product
        return multiply(x, self.weights(), self.edges, self.bias, relu)

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
        values = self.weights().detach()
        silence_sparse_warning()
        return torch.sparse_coo_tensor(place, values, shape, check_invariants=True).to_sparse_csr()
