"""Counting the work of a network as it runs, instead of deriving what it should be."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Of mcnn.paths.sums and mcnn.paths.blocks: the sums that an edge takes part in, and whether rows
# of the batch are read once for each edge (or for each block, which is once).
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
