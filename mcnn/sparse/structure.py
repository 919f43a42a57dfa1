r"""The structure of a sparse layer: its edges, sorted both ways, or the blocks it falls into.

Edges come from paths (:func:`edges_of_paths`) or from compressed sparse rows
(:func:`edges_of_rows`).

Between two layers of :math:`n` units, :math:`n` a power of two, :math:`nk` Sobol' paths of a power
of two :math:`k` are :math:`n/k` complete layers of :math:`k` inputs and :math:`k` outputs each,
with no edge between them: the units of a block are those that paths visit whose numbers differ by
elements of the two kernels of :mod:`mcnn.paths.sobol`.
Gathering the inputs of the blocks once, and scattering the outputs once, leaves products of small
full matrices, and each activation is read once instead of once an edge.
:func:`find_blocks` finds them in the edges themselves, whatever these come from.

Source: slides "Sampling Paths through Networks".
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Edges(NamedTuple):
    """Edges of a layer, sorted by output; all int32.

    Those of :func:`edges_of_paths` are sorted by input within each output.

    Parameters
    ----------
    inputs, outputs
        [edges], the units that an edge joins.
    starts
        [outputs + 1], where the edges of each output begin.
    order
        [edges], the numbers of the edges, sorted by input.
    outputs_by_input
        [edges], the outputs in that order.
    starts_by_input
        [inputs + 1], where the edges of each input begin in it.
    """

    inputs: Tensor
    outputs: Tensor
    starts: Tensor
    order: Tensor
    outputs_by_input: Tensor
    starts_by_input: Tensor


def edges_of_paths(
    paths: Tensor, in_features: int, out_features: int, merge: bool = True
) -> tuple[Edges, Tensor]:
    """Sort the edges that paths take through a layer.

    Parameters
    ----------
    paths
        Integers, [2, paths]: the input and the output of each.
    in_features, out_features
        Units of the layer.
    merge
        Whether paths on the same edge share it, or each has an edge of its own.

    Returns
    -------
    Edges
    Tensor
        int64 [paths], the edge of each path.

    Raises
    ------
    ValueError
        If the shape is another, or a unit is not one of the layer's.
    """
    if paths.dim() != 2 or len(paths) != 2 or paths.shape[1] == 0:
        raise ValueError(f"paths must be [2, paths], at least one, got {list(paths.shape)}")
    for units, name, n in zip(
        paths, ("inputs", "outputs"), (in_features, out_features), strict=True
    ):
        low, high = int(units.min()), int(units.max())
        if low < 0 or high >= n:
            raise ValueError(f"{name} of paths must be in 0 ... {n - 1}, got {low} ... {high}")
    key = paths[1].long() * in_features + paths[0]  # [paths]
    if merge:
        key, edge_of_path = key.unique(return_inverse=True)  # [edges], sorted
    else:
        key, sorted_paths = key.sort(stable=True)
        edge_of_path = torch.empty_like(sorted_paths)
        edge_of_path[sorted_paths] = torch.arange(len(key), device=key.device)
    inputs, outputs = (key % in_features).int(), (key // in_features).int()
    starts = _starts(outputs, out_features)
    return _sorted_both_ways(inputs, outputs, starts, in_features), edge_of_path


def edges_of_rows(starts: Tensor, inputs: Tensor, in_features: int) -> Edges:
    """Sort the edges that compressed sparse rows list.

    Parameters
    ----------
    starts
        int32 [outputs + 1]: row i has the entries ``starts[i]`` to ``starts[i + 1]`` of the list.
    inputs
        int32 [edges], the input of each edge; nothing is checked.
    in_features
        Inputs of the layer.

    Examples
    --------
    >>> starts, inputs = torch.tensor([0, 2, 3]).int(), torch.tensor([0, 1, 0]).int()
    >>> edges = edges_of_rows(starts, inputs, 2)
    >>> edges.outputs.tolist(), edges.order.tolist(), edges.starts_by_input.tolist()
    ([0, 0, 1], [0, 2, 1], [0, 2, 3])
    """
    units = torch.arange(len(starts) - 1, dtype=torch.int32, device=starts.device)
    # To say how many there will be avoids a device synchronisation.
    outputs = units.repeat_interleave(starts.diff(), output_size=len(inputs))  # [edges]
    return _sorted_both_ways(inputs, outputs, starts, in_features)


def turned(edges: Edges) -> Edges:
    """Return the layer the other way: inputs are outputs, and edges in the order of ``order``.

    Examples
    --------
    >>> edges, _ = edges_of_paths(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, 2)
    >>> [t.tolist() for t in turned(edges)[:2]]
    [[0, 0, 1], [0, 1, 1]]
    """
    order = edges.order.long()
    return Edges(
        edges.outputs_by_input,
        edges.inputs[order],
        edges.starts_by_input,
        _inverse(order).int(),
        edges.inputs,
        edges.starts,
    )


def _sorted_both_ways(inputs: Tensor, outputs: Tensor, starts: Tensor, in_features: int) -> Edges:
    by_input, order = inputs.sort(stable=True)  # [edges] each
    starts_by_input = _starts(by_input, in_features)
    return Edges(inputs, outputs, starts, order.int(), outputs[order], starts_by_input)


def _starts(units: Tensor, n: int) -> Tensor:
    """Return where each of n units begins in a sorted list: int32 [n + 1]."""
    # Not a sum of bincount, whose length compilers do not know.
    first = torch.arange(n + 1, dtype=units.dtype, device=units.device)
    return torch.searchsorted(units, first, out_int32=True)


def dense_matrix(weight: Tensor, edges: Edges, in_features: int) -> Tensor:
    """Return weights [edges, ...] as a matrix, [outputs, inputs, ...]; those of one edge add up."""
    outputs = edges.starts.shape[0] - 1
    matrix = weight.new_zeros(outputs * in_features, *weight.shape[1:])
    place = edges.outputs.long() * in_features + edges.inputs  # [edges]
    return matrix.index_add(0, place, weight).view(outputs, in_features, *weight.shape[1:])


class Blocks(NamedTuple):
    """Where the units of a layer stand in its blocks; all int64.

    Parameters
    ----------
    inputs
        [in_features], the input at each place; the first block comes first.
    input_places
        [in_features], the place of each input.
    outputs, output_places
        [out_features], the same of outputs.
    """

    inputs: Tensor
    input_places: Tensor
    outputs: Tensor
    output_places: Tensor


def find_blocks(edges: Edges) -> Blocks | None:
    """Return the blocks that a layer falls into, or None if it does not.

    Parameters
    ----------
    edges
        From :func:`edges_of_paths`.

    Returns
    -------
    Blocks or None
        All blocks have the same shape, every unit is in one, and there are several.

    Examples
    --------
    >>> from mcnn.paths import sample_paths
    >>> edges, _ = edges_of_paths(sample_paths([8, 8], 16), 8, 8)
    >>> sorted(find_blocks(edges).inputs.view(4, 2).sort(1).values.tolist())
    [[0, 4], [1, 5], [2, 6], [3, 7]]
    """
    fan_in, fan_out = edges.starts.diff(), edges.starts_by_input.diff()
    k_in, k_out = int(fan_in[0]), int(fan_out[0])
    if not (k_in and k_out) or (fan_in != k_in).any() or (fan_out != k_out).any():
        return None
    if len(fan_in) % k_out or len(fan_in) == k_out:
        return None
    rows = edges.inputs.view(len(fan_in), k_in)  # the inputs of each output, sorted
    outputs = rows[:, 0].sort(stable=True).indices  # [out_features]
    blocks = rows[outputs].view(-1, k_out, k_in)
    if (blocks != blocks[:, :1]).any() or (rows[:, 1:] == rows[:, :-1]).any():
        return None
    inputs = blocks[:, 0].flatten().long()  # [in_features]
    return Blocks(inputs, _inverse(inputs), outputs, _inverse(outputs))


def _inverse(order: Tensor) -> Tensor:
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)


def check_operands(
    x: Tensor, weight: Tensor, bias: Tensor | None, inputs: int, outputs: int, edges: int
) -> Tensor:
    """Check what a layer is multiplied with, and return ``x``, cast where autocast is on.

    Parameters
    ----------
    x
        [inputs, batch], floating point.
    weight
        [edges], the type of ``x``; with autocast ``x`` takes the type of ``weight``.
    bias
        [outputs] or None, the type of ``weight``.
    inputs, outputs, edges
        How many the layer has.

    Raises
    ------
    ValueError
        If a shape is another.
    TypeError
        If the types differ.
    """
    if x.dim() != 2 or x.shape[0] != inputs or weight.shape != (edges,):
        raise ValueError(
            f"x must be [{inputs}, batch] and weight [{edges}], got {list(x.shape)} and "
            f"{list(weight.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias must be [{outputs}], got {list(bias.shape)}")
    if bias is not None and bias.dtype != weight.dtype:
        raise TypeError(
            f"bias and weight must be of one type, got {bias.dtype} and {weight.dtype}: call .to()"
        )
    if x.dtype != weight.dtype:
        if not autocasts(x.device):
            raise TypeError(
                f"x and weight must be of one type, got {x.dtype} and {weight.dtype}: call .to()"
            )
        x = x.to(weight.dtype)
    return x


def is_batch_first(x: Tensor) -> bool:
    """Return whether a batch [units, batch] lies in memory example by example.

    As ``channels_last`` is for images: an order in memory, not of the indices.

    Examples
    --------
    >>> is_batch_first(torch.ones(5, 3).T), is_batch_first(torch.ones(3, 5))
    (True, False)
    """
    return not x.is_contiguous() and x.T.is_contiguous()


def laid_as(x: Tensor, y: Tensor) -> Tensor:
    """Return ``y`` [units, batch] in memory in the order of ``x``, copied if need be."""
    if not is_batch_first(x):
        return y.contiguous()
    return y if y.T.is_contiguous() else empty_as(x, y.shape[0]).copy_(y)


def empty_as(x: Tensor, units: int) -> Tensor:
    """Return memory for [units, batch] in the order of ``x``; no view, for users may change it."""
    batch = x.shape[1]
    return x.new_empty_strided((units, batch), (1, units) if is_batch_first(x) else (batch, 1))


def as_autocast(y: Tensor) -> Tensor:
    """Return an output in the type that autocast gives those of PyTorch's layers.

    The sums themselves are of the type of the weights.
    As in PyTorch, float64 stays; nothing is done where autocast is off.

    Examples
    --------
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     as_autocast(torch.ones(2)).dtype
    torch.bfloat16
    """
    if y.dtype == torch.float64 or not autocasts(y.device):
        return y
    return y.to(torch.get_autocast_dtype(y.device.type))


def autocasts(device: torch.device) -> bool:
    """Return whether autocast is on for a device; some have none, such as that of no device.

    Examples
    --------
    >>> autocasts(torch.device("cpu")), autocasts(torch.device("meta"))
    (False, False)
    """
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
