"""The most bytes that a computation holds at once: counted, so that they repeat exactly."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
