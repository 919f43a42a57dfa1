"""A linear layer whose edges are those that paths take."""

import torch
from torch import Tensor

from mcnn.paths.base import PathLayer
from mcnn.sparse.autograd import BLOCKS_FROM, DENSE_FROM, block_product, dense_product
from mcnn.sparse.layer import SparseLinear

KERNELS = ("auto", "gather", "blocks", "dense")


class PathLinear(PathLayer, SparseLinear):
    r"""A linear layer with an edge for each path, in place of :class:`torch.nn.Linear`.

    Paths, edges and weights are those of a :class:`mcnn.paths.base.PathLayer`, what is done with
    them that of a :class:`mcnn.sparse.layer.SparseLinear`.

    Parameters
    ----------
    in_features, out_features
        Units before and behind the layer.
    paths
        Number of paths to sample, or the paths: integers [2, paths], input and output of each.
    method
        One of :data:`mcnn.paths.METHODS`.
    seed
        Of the paths and of the initial weights: an integer, or a generator, which is advanced by
        one draw; by default from PyTorch's own, so that layers made alike differ and
        ``torch.manual_seed`` governs them.
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
        the complete blocks that the layer falls into, see
        :func:`mcnn.sparse.structure.find_blocks`; ``"dense"`` through a matrix with zeros in it.
        ``"auto"`` takes blocks where there are any with
        :data:`mcnn.sparse.autograd.BLOCKS_FROM` units or more, else a matrix from a share of
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
    edges : mcnn.sparse.structure.Edges
        What the paths come to.

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
        if self.kernel == "dense":
            return dense_product(x.contiguous(), self.weights(), self.edges, self.bias, relu)
        return super().feature_major(x, relu)
