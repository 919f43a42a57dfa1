"""How many bytes automatic differentiation keeps: counted, so that they repeat exactly."""

from collections import Counter
from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


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
