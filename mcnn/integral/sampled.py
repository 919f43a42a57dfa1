"""What layers that integrate have in common: nodes, which are drawn, and drawn again."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from mcnn.integral.kernels import Kernel
from mcnn.integral.nodes import nodes, place
from mcnn.seeds import layer_seed


class Sampled(nn.Module):
    """A layer with a kernel, and nodes where its integral is sampled.

    The nodes are in no ``state_dict``, so a layer that was made on no device (``device="meta"``)
    draws them when it comes to one, be it with the parameters that a state assigns.

    Parameters
    ----------
    kernel
        Its dimension is that of the nodes.
    bias
        Another function with parameters, or none.
    points, n, seed
        Nodes, see :func:`mcnn.integral.nodes`; the seed is by default from PyTorch's generator.
    dtype, device
        Of the nodes; by default those of the parameters of the kernel and the bias, else PyTorch's.
    """

    x: Tensor
    weights: Tensor

    def __init__(
        self,
        kernel: Kernel,
        bias: nn.Module | None,
        points: str,
        n: int,
        seed: int | torch.Generator | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.bias = bias
        device, dtype = place(kernel, bias, device=device, dtype=dtype)
        x = torch.empty(0, kernel.inputs, device=device, dtype=dtype)
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("weights", x.new_empty(0), persistent=False)
        self.draw(n, points, seed)
        self.register_load_state_dict_post_hook(_follow)

    def draw(self, n: int, points: str, seed: int | torch.Generator | None = None) -> None:
        """Replace the nodes, on the same device and in the same precision."""
        self._drawn = n, points, layer_seed(seed)
        where = (self.x.device, self.x.dtype)
        with torch.device("cpu"):
            self.x, self.weights = nodes(n, self.kernel.inputs, *self._drawn[1:], *where)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        nowhere = self.x.is_meta
        super()._apply(fn, recurse)
        if nowhere and not self.x.is_meta:  # what lies there is what the memory was before
            self.draw(*self._drawn)
        return self


def _follow(layer: Sampled, _: Any) -> None:
    """Draw the nodes of a layer on no device where the parameters are that a state assigned."""
    own = next((p for p in layer.parameters() if p.is_floating_point()), None)
    if layer.x.is_meta and own is not None and not own.is_meta:
        layer.x = own.new_empty(0, layer.kernel.inputs)
        layer.draw(*layer._drawn)
