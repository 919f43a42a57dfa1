"""Networks whose layers share paths from the inputs to the outputs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.paths.generators import METHODS, sample_paths
from mcnn.paths.layers import PathLinear
from mcnn.sampling import fold_in
from mcnn.seeds import layer_seed
from mcnn.sparse.structure import as_autocast


class PathMLP(nn.Module):
    """A multilayer perceptron made of paths, with ReLUs between its layers.

    Parameters
    ----------
    widths
        Inputs, hidden units, ..., outputs: at least two numbers.
    paths
        Number of paths to sample, or the paths: integers [layers, paths].
    method, seed
        As of :func:`mcnn.paths.sample_paths`; the seed also draws the initial weights.
        By default it comes from PyTorch's own generator, as for :class:`mcnn.paths.PathLinear`.
    options
        Of every :class:`mcnn.paths.PathLinear`: ``bias``, ``duplicates``, ``init``, ``sign``,
        ``fixed_signs``, ``kernel``, ``device``, ``dtype``.

    Attributes
    ----------
    layers : ModuleList
        Of :class:`mcnn.paths.PathLinear`.
    method, seed
        What the paths were sampled with; the method is None if they were given.
        A checkpoint brings its own, so that what is loaded goes on with its sequence.
    sampled : Tensor
        How many paths of that sequence were used so far.

    Raises
    ------
    ValueError
        If the paths do not fit the widths, and as :func:`mcnn.paths.sample_paths` does.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".
    Activations are [units, batch] from end to end, see :mod:`mcnn.sparse.autograd`.

    Examples
    --------
    >>> net = PathMLP([784, 300, 300, 10], paths=784)
    >>> net(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        widths: Sequence[int],
        paths: int | Tensor,
        method: str = "sobol",
        seed: int | torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        seed = layer_seed(seed)
        given = isinstance(paths, Tensor)
        device = torch.get_default_device() if (d := options.get("device")) is None else d
        with torch.device("cpu"):
            if not given:
                paths = sample_paths(widths, paths, method, seed)
            if paths.dim() != 2 or len(paths) != len(widths):
                raise ValueError(f"paths must be [{len(widths)}, paths], got {list(paths.shape)}")
            seeds = [fold_in(~seed, i) for i in range(len(widths) - 1)]
        # The seed and the number of the method, or -1; saved, as is the number that comes next, for
        # a network that grew may go on after loading.
        number = -1 if given else list(METHODS).index(method)
        self.register_buffer("sequence", torch.tensor([seed, number], device=device))
        self.register_buffer("sampled", torch.tensor(paths.shape[1], device=device))
        self.layers = nn.ModuleList(
            PathLinear(n, m, paths[i : i + 2], seed=seeds[i], **options)
            for i, (n, m) in enumerate(pairwise(widths))
        )
        self.register_load_state_dict_pre_hook(_fill_in_sequence)

    @property
    def seed(self) -> int:
        """What the paths were sampled with."""
        return int(self.sequence[0])

    @property
    def method(self) -> str | None:
        """How the paths were sampled; None if they were given."""
        number = int(self.sequence[1])
        return None if number < 0 else list(METHODS)[number]

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each layer."""
        return (self.layers[0].in_features, *(layer.out_features for layer in self.layers))

    @property
    def paths(self) -> Tensor:
        """The paths, int32 [layers, paths]."""
        first = self.layers[0].paths[:1]
        return torch.cat([first, *(layer.paths[1:] for layer in self.layers)])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [batch, outputs] for inputs [batch, ...]; both may have no batch.

        Raises
        ------
        ValueError, TypeError
            For inputs of another size, or of another type than the weights.
        """
        inputs = self.layers[0].in_features
        if x.dim() == 1 and len(x) == inputs:
            return self(x.unsqueeze(0)).squeeze(0)
        if x.dim() < 2 or x.shape[1:].numel() != inputs:
            raise ValueError(f"an example must have {inputs} numbers, got {list(x.shape)}")
        a = x.flatten(1).T.contiguous()  # [inputs, batch]
        for layer in self.layers[:-1]:
            a = layer.feature_major(a, relu=True)  # [units, batch]
        return as_autocast(self.layers[-1].feature_major(a)).T.contiguous()


def _fill_in_sequence(module: PathMLP, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Let checkpoints load that do not name their sequence."""
    if f"{prefix}sampled" in state_dict:
        state_dict.setdefault(f"{prefix}sequence", module.sequence)
