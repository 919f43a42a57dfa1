r"""What paths make of a network, as a graph.

A path that is kept whole cannot end in the middle of a network, and so neither can an edge or a
unit that it uses.
Edges chosen one by one can: a unit with an edge in and none out, or the reverse, *dangles*.
Its edges are stored, multiplied and trained for nothing.

:class:`Graph` counts this, and what else the choice of the paths decides:

- *collisions*, paths that share an edge with an earlier one;
- *coverage*, the share of units that are used at all;
- *reach*, the units of the last layer that an input can have an effect on;
- *components* that nothing connects;
- the *spectral gap* of a layer, :math:`1-\sigma_2`, where :math:`\sigma_1=1\ge\sigma_2\ge\ldots`
  are the singular values of :math:`D_{out}^{-1/2}AD_{in}^{-1/2}`, the adjacency matrix divided by
  degrees: a random walk forth and back through the layer forgets its start at the rate
  :math:`\sigma_2^2`, and a gap of zero means separate components;
- the *effective rank* of a layer [1]_, :math:`\exp(-\sum_ip_i\ln p_i)` with
  :math:`p_i=\sigma_i/\sum_j\sigma_j`, of the adjacency matrix itself.

Source: slides "Sampling Paths through Networks".

References
----------
.. [1] O. Roy, M. Vetterli: The effective rank: a measure of effective dimensionality.
   EUSIPCO 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """The distinct edges of a layered network, and what they connect.

    Attributes
    ----------
    widths
        Units of each layer.
    edges
        One tensor a pair of neighbouring layers: int64 [2, edges] on the CPU, inputs and outputs,
        without duplicates.
    paths
        Number of paths that it was made of, or None.

    Examples
    --------
    >>> graph = Graph.of_paths(torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 2]]), [2, 2, 3])
    >>> graph.unique, graph.collisions, graph.coverage
    ((3, 2), (0, 1), (1.0, 1.0, 0.6666666666666666))
    """

    widths: tuple[int, ...]
    edges: tuple[Tensor, ...]
    paths: int | None = None

    @classmethod
    def of_paths(cls, paths: Tensor, widths: Sequence[int]) -> "Graph":
        """Take the edges of paths.

        Parameters
        ----------
        paths
            Integers [layers, paths], from :func:`mcnn.paths.sample_paths`.
        widths
            Units of each layer.

        Raises
        ------
        ValueError
            If there are not as many layers as widths, or a unit is not in its layer.
        """
        if paths.dim() != 2 or len(paths) != len(widths):
            raise ValueError(f"paths must be [{len(widths)}, paths], got {list(paths.shape)}")
        edges = []
        for pair, (n, m) in zip(pairwise(paths.cpu().long()), pairwise(widths), strict=True):
            inputs, outputs = pair
            if min(int(inputs.min()), int(outputs.min())) < 0 or (inputs.max() >= n) | (
                outputs.max() >= m
            ):
                raise ValueError(f"paths visit units that layers of {n} and {m} do not have")
            key = (outputs * n + inputs).unique()  # [edges]
            edges.append(torch.stack([key % n, key // n]))
        return cls(tuple(widths), tuple(edges), paths.shape[1])

    @classmethod
    def of_masks(cls, masks: Sequence[Tensor]) -> "Graph":
        """Take the edges where masks, [outputs, inputs] one a layer, are not zero."""
        widths = (masks[0].shape[1], *(len(mask) for mask in masks))
        edges = (mask.cpu().nonzero().T.flip(0).contiguous() for mask in masks)
        return cls(widths, tuple(edges))

    @property
    def unique(self) -> tuple[int, ...]:
        """Distinct edges of each layer."""
        return tuple(edges.shape[1] for edges in self.edges)

    @property
    def density(self) -> tuple[float, ...]:
        """Share of all possible edges, for each layer."""
        sizes = (n * m for n, m in pairwise(self.widths))
        return tuple(edges / size for edges, size in zip(self.unique, sizes, strict=True))

    @property
    def collisions(self) -> tuple[int, ...]:
        """Paths that share an edge with an earlier one, for each layer.

        Raises
        ------
        ValueError
            If the graph was not made of paths.
        """
        if self.paths is None:
            raise ValueError("only paths collide: make the graph with Graph.of_paths")
        return tuple(self.paths - edges for edges in self.unique)

    @cached_property
    def fan_in(self) -> tuple[Tensor, ...]:
        """Edges into each unit, int64 [units], for all layers but the first."""
        return tuple(
            torch.bincount(edges[1], minlength=n)
            for edges, n in zip(self.edges, self.widths[1:], strict=True)
        )

    @cached_property
    def fan_out(self) -> tuple[Tensor, ...]:
        """Edges out of each unit, int64 [units], for all layers but the last."""
        return tuple(
            torch.bincount(edges[0], minlength=n)
            for edges, n in zip(self.edges, self.widths[:-1], strict=True)
        )

    @property
    def coverage(self) -> tuple[float, ...]:
        """Share of the units of each layer that have an edge."""
        return tuple(float(used.double().mean()) for used in self._used())

    def _used(self) -> list[Tensor]:
        n_in, n_out = torch.zeros(self.widths[0]), torch.zeros(self.widths[-1])
        pairs = zip((n_in, *self.fan_in), (*self.fan_out, n_out), strict=True)
        return [(a > 0) | (b > 0) for a, b in pairs]

    @property
    def dangling(self) -> tuple[int, ...]:
        """Units of each hidden layer with edges on one side only."""
        pairs = zip(self.fan_in[:-1], self.fan_out[1:], strict=True)
        return tuple(int(((a > 0) != (b > 0)).sum()) for a, b in pairs)

    @property
    def useless(self) -> tuple[int, ...]:
        """Edges of each layer that lie on no path from an input to an output."""
        fed = [torch.ones(self.widths[0], dtype=torch.bool)]  # [units]: some input has an effect
        for (inputs, outputs), n in zip(self.edges, self.widths[1:], strict=True):
            fed.append(_marked(outputs[fed[-1][inputs]], n))
        heard = [torch.ones(self.widths[-1], dtype=torch.bool)]  # [units]: some output hears it
        for (inputs, outputs), n in zip(self.edges[::-1], self.widths[-2::-1], strict=True):
            heard.append(_marked(inputs[heard[-1][outputs]], n))
        ends = zip(self.edges, fed, heard[-2::-1], strict=False)
        return tuple(int((~(a[i] & b[j])).sum()) for (i, j), a, b in ends)

    @cached_property
    def reach(self) -> Tensor:
        """Units of the last layer that each input can have an effect on, int64 [inputs]."""
        reached = sparse.eye_array(self.widths[0], dtype=np.float32, format="csr")
        for matrix in self.matrices():
            reached = matrix @ reached  # [units, inputs]
            reached.data[:] = 1
        return torch.from_numpy(np.diff(reached.tocsc().indptr).astype(np.int64))

    @property
    def components(self) -> int:
        """Parts of the network that no edge connects; units without an edge do not count."""
        shift = np.cumsum((0, *self.widths))
        pairs = [
            np.stack([i.numpy() + a, j.numpy() + b])
            for (i, j), (a, b) in zip(self.edges, pairwise(shift[:-1]), strict=True)
        ]
        tails, heads = np.concatenate(pairs, axis=1)
        size = int(shift[-1])
        matrix = sparse.coo_array((np.ones(len(tails)), (tails, heads)), shape=(size, size))
        number, _ = csgraph.connected_components(matrix, directed=False)
        return number - sum(int((~used).sum()) for used in self._used())

    def matrices(self) -> list[sparse.csr_array]:
        """Return the adjacency matrix of each layer, float32 [outputs, inputs]."""
        return [
            sparse.csr_array((np.ones(e.shape[1], np.float32), (e[1], e[0])), shape=(m, n))
            for e, (n, m) in zip(self.edges, pairwise(self.widths), strict=True)
        ]

    @property
    def spectral_gap(self) -> tuple[float, ...]:
        """One minus the second singular value of each layer, divided by its degrees."""
        gaps = []
        for matrix, n_in, n_out in zip(self.matrices(), self.fan_out, self.fan_in, strict=True):
            rows, columns = (d.double().clamp(min=1).rsqrt() for d in (n_out, n_in))
            normal = torch.from_numpy(matrix.toarray()).double() * rows[:, None] * columns
            values = torch.linalg.svdvals(normal)
            gaps.append(max(0.0, 1 - float(values[1])) if len(values) > 1 else 1.0)
        return tuple(gaps)

    @property
    def effective_rank(self) -> tuple[float, ...]:
        """Exponential of the entropy of the singular values of each layer."""
        ranks = []
        for matrix in self.matrices():
            values = torch.linalg.svdvals(torch.from_numpy(matrix.toarray()).double())
            share = values / values.sum()
            ranks.append(float(torch.special.entr(share).sum().exp()))
        return tuple(ranks)


def _marked(units: Tensor, n: int) -> Tensor:
    """Return which of n units occur, bool [n]."""
    return torch.zeros(n, dtype=torch.bool).index_fill_(0, units, True)
