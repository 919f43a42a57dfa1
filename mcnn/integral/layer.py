r"""A layer with a continuum of neurons: an integral operator whose kernel is learned.

Let the number of neurons of a layer grow and number them by a point :math:`x` of the unit cube
instead of an integer.
The sum becomes an integral,

.. math:: a_l(y) = \int w_l(x,y)\,\max\{0,a_{l-1}(x)\}\,dx + b_l(y) ,

and the weights become a kernel, which has as many parameters as we give it, not as many as there
are pairs of neurons.
To compute with it, the integral has to be sampled: n nodes :math:`x_i` with weights
:math:`\omega_i` turn it into :math:`\sum_i\omega_i\,w_l(x_i,y)\max\{0,a_{l-1}(x_i)\}`, which is a
layer with n neurons again.
But now n is a choice of the moment: the same kernel serves any number of nodes of any kind.

Source: slide "Learning Integral Operator Kernels" of A. Keller's talk.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.integral.kernels import Kernel, cosines
from mcnn.integral.sampled import Sampled
from mcnn.sampling import fold_in
from mcnn.seeds import layer_seed


class IntegralLayer(Sampled):
    """The layer a(y) = ∫ w(x, y) max{0, a(x)} dx + b(y), the integral sampled at n nodes.

    Parameters
    ----------
    kernel
        Any :class:`mcnn.integral.kernels.Kernel`; it may be a formula without parameters.
    points
        Kind of nodes, a name in ``mcnn.integral.RULES``.
    n
        Number of nodes.
    seed
        Of the nodes; by default from PyTorch's generator, so that layers made alike differ.
    bias
        Adds b(y) after the integral; any module from [m, outputs] to [m].
    dtype, device
        Of the nodes; by default those of the parameters of the kernel and the bias, else PyTorch's.

    Raises
    ------
    ValueError
        For nodes that do not exist or are not where the parameters are, or inputs whose shape does
        not fit the nodes.

    Notes
    -----
    Only the parameters of the kernel are in the ``state_dict``.
    The nodes are not: draw them as many and as often as the accuracy asks for.

    Examples
    --------
    >>> from mcnn.integral.kernels import Fourier
    >>> layer = IntegralLayer(Fourier(1, 2, frequencies=4), n=64)
    >>> values = torch.sin(9 * layer.x[:, 0]).unsqueeze(0)  # a function at the nodes, [1, 64]
    >>> layer(values, torch.rand(10, 2)).shape  # the next function, at 10 points of the square
    torch.Size([1, 10])
    """

    def __init__(
        self,
        kernel: Kernel,
        points: str = "jittered",
        n: int = 256,
        seed: int | torch.Generator | None = None,
        bias: nn.Module | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(kernel, bias, points, n, seed, dtype, device)

    def forward(self, a: Tensor, y: Tensor) -> Tensor:
        """Return the layer's output at y.

        Parameters
        ----------
        a
            [b, n], b functions at the nodes ``self.x``, before their ReLU.
        y
            [m, outputs], where the result is wanted; for a readout the classes, int64 [m].

        Returns
        -------
        Tensor
            [b, m].
        """
        if a.ndim != 2 or a.shape[1] != len(self.x):
            raise ValueError(
                f"a must hold functions at the layer's {len(self.x)} nodes, [b, {len(self.x)}], "
                f"got {list(a.shape)}: evaluate them at layer.x"
            )
        out = self.kernel.integrate(self.weights * F.relu(a), self.x, y)
        return out if self.bias is None else out + self.bias(y)


class CosineBias(nn.Module):
    """A smooth function b(y), zero at first: a series of cosines.

    Parameters
    ----------
    outputs
        Dimension of y.
    frequencies
        In each dimension.
    """

    def __init__(self, outputs: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.weight = nn.Parameter(torch.zeros(frequencies**outputs))

    def forward(self, y: Tensor) -> Tensor:
        """Return b at y: [m, outputs] to [m]."""
        return cosines(y, self.frequencies) @ self.weight


class ClassBias(nn.Module):
    """A number for each class.

    Parameters
    ----------
    classes
        How many.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes))

    def forward(self, y: Tensor) -> Tensor:
        """Return the numbers of classes y: int64 [m] to [m]."""
        return self.weight[y]


def picture(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return images as functions on the unit square, bilinear between the centres of pixels.

    Parameters
    ----------
    images
        [b, 1, h, w].

    Returns
    -------
    callable
        From points [n, 2], first axis along the width, to values [b, n].

    Examples
    --------
    >>> f = picture(torch.tensor([[[[0.0, 1.0]]]]))  # dark on the left, bright on the right
    >>> f(torch.tensor([[0.25, 0.5], [0.5, 0.5], [0.9, 0.5]])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be [b, 1, h, w], got {list(images.shape)}")

    def sample(x: Tensor) -> Tensor:
        grid = (2 * x - 1).expand(len(images), 1, -1, -1)  # [b, 1, n, 2] in [-1, 1]
        values = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return values[:, 0, 0]  # [b, n]

    return sample


class IntegralNet(nn.Module):
    """A stack of integral layers that classifies images, seen as functions on the unit square.

    Parameters
    ----------
    layers
        The output dimension of each is the input dimension of the next; the first takes points of
        the square, the last is a readout.
    classes
        Number of logits.
    points, n
        Kind and number of the nodes of every layer.
    seed
        Of the nodes.

    Notes
    -----
    Call :meth:`draw` after every step of training, and each step sees new samples of the
    integrals: the network can then only learn the integrals.
    With one set of nodes for all of training it may learn the nodes instead.
    """

    def __init__(
        self,
        layers: Sequence[IntegralLayer],
        classes: int,
        points: str = "jittered",
        n: int = 256,
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.classes = classes
        self.seed = layer_seed(seed)
        self.draws = 0
        self.draw(n, points)

    def draw(self, n: int, points: str) -> None:
        """Replace the nodes of all layers by n new ones each."""
        for layer in self.layers:
            with torch.device("cpu"):
                seed = fold_in(self.seed, self.draws)
            layer.draw(n, points, seed)
            self.draws += 1

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, classes] of images [b, 1, h, w]."""
        a = picture(images)(self.layers[0].x)  # [b, n]
        for layer, after in zip(self.layers[:-1], self.layers[1:], strict=True):
            a = layer(a, after.x)
        return self.layers[-1](a, torch.arange(self.classes, device=a.device))
