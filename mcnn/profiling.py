"""Counting what a computation does and holds, so that the numbers repeat exactly.

===================  ======================================================================
:class:`Work`        operations, and bytes read and written
:class:`PeakBytes`   the most bytes that tensors hold at once
:class:`SavedBytes`  the bytes that automatic differentiation keeps
===================  ======================================================================
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Of mcnn.sparse.ops: the sums that an edge takes part in, and whether rows of the batch are read
# once for each edge (or for each block, which is once).
_SUMS = {
    "path_sum": (1, True),
    "path_dot": (1, True),
    "path_grads": (2, True),
    "path_blocks": (1, False),
    "path_block_grads": (2, False),
}


class Work(TorchDispatchMode):
    """Count the operations and the bytes of all that PyTorch executes inside.

    A sum over edges takes two operations for each edge and example, a matrix product as many as
    PyTorch's own counter says, and anything else one for each number of its result.
    A byte counts whenever an operation reads or writes it; views are free.
    Sums over edges read a row of the batch for each edge, and one more for each unit if they have
    two rows to multiply; in blocks each row is read once.

    Attributes
    ----------
    operations, bytes
        So far.

    Examples
    --------
    >>> import torch
    >>> with Work() as work:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> work.operations, work.bytes
    (66, 176)
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        name = func._schema.name.split("::")[1]
        if name in _SUMS:
            self._count_sum(name, given, made)
        elif func._schema.is_mutable or not _all_views(made, given):
            flops = flop_registry.get(func.overloadpacket)
            size = sum(t.numel() for t in made)
            self.operations += size if flops is None else flops(*args, **kwargs, out_val=result)
            self.bytes += sum(t.numel() * t.element_size() for t in given + made)
        return result

    def _count_sum(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        sums, by_edge = _SUMS[name]
        batch = given[0].shape[1]
        weights = made[0] if name == "path_dot" else given[2 if sums == 2 else 1]  # [edges]
        products = weights.numel() * batch
        self.operations += 2 * sums * products
        self.bytes += sum(t.numel() * t.element_size() for t in given + made)
        if by_edge:  # all but one of these rows are read in place of a matrix of the batch
            rows = given[1 if name == "path_grads" else 0]
            self.bytes += (products - rows.numel()) * rows.element_size()


def _all_views(made: list[Tensor], given: list[Tensor]) -> bool:
    known = {t.untyped_storage().data_ptr() for t in given}
    return bool(made) and all(t.untyped_storage().data_ptr() in known for t in made)


class PeakBytes(TorchDispatchMode):
    """Count the bytes of the tensors that operations make, as long as somebody holds them.

    What was there before, such as inputs and parameters, does not count, and neither does what an
    operation needs only while it runs.

    Attributes
    ----------
    live
        Bytes held now.
    peak
        The most that were ever held.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1000)
    >>> with PeakBytes() as held:
    ...     y = x.sin().cos()
    >>> held.peak, held.live  # the sine and its cosine; the cosine
    (8000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and note what it made."""
        result = func(*args, **(kwargs or {}))
        given = {_storage(t)._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage(tensor)._cdata not in given | self._held:
                self._note(_storage(tensor))
        return result

    def _note(self, storage: Any) -> None:
        self._held.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        gone = weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        gone.atexit = False

    def _free(self, place: int, size: int) -> None:
        self._held.discard(place)
        self.live -= size


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


class SavedBytes(saved_tensors_hooks):
    """Count the bytes of the tensors that operations keep for their gradients.

    Each storage counts once, for as long as somebody keeps it.

    Parameters
    ----------
    exclude
        Tensors that are there anyway, such as the parameters.

    Attributes
    ----------
    live
        Bytes kept now.
    peak
        The most that were ever kept.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1000, requires_grad=True)
    >>> with SavedBytes() as saved:
    ...     y = x.sin().exp().sum()
    >>> saved.peak  # x for sin, and the result of exp
    8000
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        super().__init__(self._pack, self._unpack)
        self.live = self.peak = 0
        self._excluded = {_place(tensor) for tensor in exclude}
        self._holders = Counter()

    def __enter__(self) -> "SavedBytes":
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> "_Held":
        return _Held(tensor, self)

    @staticmethod
    def _unpack(held: "_Held") -> Tensor:
        return held.tensor

    def count(self, tensor: Tensor, change: int) -> None:
        """Note that one more (+1) or one less (-1) keeps a tensor."""
        place = _place(tensor)
        if place in self._excluded:
            return
        self._holders[place] += change
        first, gone = change > 0 and self._holders[place] == 1, self._holders[place] == 0
        if first or gone:
            self.live += change * tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.live)


class _Held:
    """A kept tensor; the counter learns when automatic differentiation lets it go."""

    def __init__(self, tensor: Tensor, counter: SavedBytes) -> None:
        # Detached: a result that knew its own operation would keep it alive, and so itself.
        self.tensor, self.counter = tensor.detach(), counter
        counter.count(tensor, 1)

    def __del__(self) -> None:
        self.counter.count(self.tensor, -1)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
