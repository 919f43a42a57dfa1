r"""ReLU at the input of a layer instead of its output: the same network, cut at another place.

The talk writes a layer as :math:`a_{l,i}=\max\{0,\sum_j w_{l,j,i}a_{l-1,j}\}`.
A network is a chain of sums and ReLUs in turn, and where one link ends and the next begins is a
matter of words.
With the ReLU at the input, :math:`a_{l,i}=\sum_j w_{l,j,i}\max\{0,a_{l-1,j}\}`, a layer is linear
in its weights *and* in what it sums, which is what an integral over x needs.

Source: slide "Learning Integral Operator Kernels" of A. Keller's talk.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SUMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# These give the same before and after a ReLU: they copy, choose the largest, or scale by a factor
# that is not negative.
_PASS = (
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
)


class InputReLU(nn.Module):
    """A layer that takes the ReLU of its input before it sums.

    Parameters
    ----------
    layer
        Linear or convolutional.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, a: Tensor) -> Tensor:
        """Return the layer of max{0, a}."""
        return self.layer(F.relu(a))


def relu_to_input(model: nn.Sequential) -> nn.Sequential:
    """Move every ReLU of a plain stack to the input of the next layer that sums.

    Parameters
    ----------
    model
        A flat ``nn.Sequential``; its layers are shared with the result, not copied.

    Returns
    -------
    nn.Sequential
        Computes the same, bit for bit.
        A ReLU after the last layer stays where it is, for there is nobody to take it.

    Raises
    ------
    ValueError
        If something between a ReLU and the next layer does not commute with it.

    Examples
    --------
    >>> relu_to_input(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): InputReLU(
        (layer): Linear(in_features=2, out_features=1, bias=True)
      )
    )
    """
    layers: list[nn.Module] = []
    waiting = False  # a ReLU that has not found its layer yet
    for number, module in enumerate(model):
        if isinstance(module, nn.ReLU):
            waiting = True
        elif isinstance(module, _SUMS):
            layers.append(InputReLU(module) if waiting else module)
            waiting = False
        elif waiting and not isinstance(module, _PASS):
            raise ValueError(
                f"layer {number} ({type(module).__name__}) stands between a ReLU and the next "
                "layer and does not commute with it"
            )
        else:
            layers.append(module)
    return nn.Sequential(*layers, *([nn.ReLU()] if waiting else []))


def difference(model: nn.Sequential, x: Tensor) -> tuple[float, float]:
    """Return by how much the two forms of a network differ at x.

    Parameters
    ----------
    model
        See :func:`relu_to_input`; in evaluation mode.
    x
        A batch of inputs.

    Returns
    -------
    tuple of float
        Largest absolute difference of an output, and of a gradient of the sum of squared outputs.
    """
    parameters = list(model.parameters())
    both = []
    for net in (model, relu_to_input(model)):
        out = net(x)
        both.append((out, torch.autograd.grad(out.square().sum(), parameters)))
    (out, gradients), (other, others) = both
    worst = max(float((a - b).abs().max()) for a, b in zip(gradients, others, strict=True))
    return float((out - other).detach().abs().max()), worst
