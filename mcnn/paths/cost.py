"""Counting the work of a network as it runs, instead of deriving what it should be."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_SUMS = ("path_product", "path_sum", "path_dot")  # of mcnn.paths.product


class Work(TorchDispatchMode):
    """Count the operations and the bytes of all that PyTorch executes inside.

    A sum over edges takes two operations for each edge and example, a matrix product as many as
    PyTorch's own counter says, and anything else one for each number of its result.
    A byte counts whenever an operation reads or writes it; views are free.
    Sums over edges read rows of the batch once for each edge.

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
            self._count_sum(name, given, made[0])
        elif func._schema.is_mutable or not _all_views(made, given):
            flops = flop_registry.get(func.overloadpacket)
            size = sum(t.numel() for t in made)
            self.operations += size if flops is None else flops(*args, **kwargs, out_val=result)
            self.bytes += sum(t.numel() * t.element_size() for t in given + made)
        return result

    def _count_sum(self, name: str, given: list[Tensor], made: Tensor) -> None:
        x, _, index = given[:3]
        batch, edges = x.shape[1], index.numel()
        self.operations += 2 * edges * batch
        rows = 2 if name == "path_dot" else 1  # of the batch, for each edge
        self.bytes += (rows * edges * batch + edges + made.numel()) * x.element_size()
        self.bytes += edges * index.element_size()


def _all_views(made: list[Tensor], given: list[Tensor]) -> bool:
    known = {t.untyped_storage().data_ptr() for t in given}
    return bool(made) and all(t.untyped_storage().data_ptr() in known for t in made)
