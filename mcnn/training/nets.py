"""The networks of the talk, built from a name and a seed.

All of them take images, [b, c, h, w], and return one logit a class, [b, classes].
They are plain stacks: every ``Linear``, ``Conv2d``, ``MaxPool2d``, ``ReLU`` and ``Dropout`` is a
module of its own, so that a chapter can replace one kind by its own version of it.

==================  ============================================================================
``mlp``             fully connected; the talk's are 784/300/10 and 784/300/300/10
``lenet5``          convolutions with 6 and 16 filters, then 120/84 [1]_
``lenet-wide``      20 and 50 filters, then 500: the LeNet of Caffe's examples [2]_
``alexnet-cifar``   AlexNet's layers with 3x3 filters for 32x32 images
``alexnet``         AlexNet for 224x224 images [3]_, torchvision's
==================  ============================================================================

Layers are initialised as PyTorch does it: uniform in ±1/√n for n inputs, weights and biases.

References
----------
.. [1] Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document
   recognition. Proc. IEEE, 1998.
.. [2] Y. Jia et al.: Caffe: Convolutional architecture for fast feature embedding. ACM MM 2014.
.. [3] A. Krizhevsky: One weird trick for parallelizing convolutional neural networks.
   arXiv:1404.5997.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from mcnn.errors import DataError, naming_extra, unknown

Shape = tuple[int, int, int]


def mlp(widths: Sequence[int] = (784, 300, 10), bias: bool = True) -> nn.Sequential:
    """Return a fully connected network with ReLUs between its layers.

    Parameters
    ----------
    widths
        Pixels, hidden units, ..., classes: at least two numbers.
    bias
        Whether layers have one.

    Raises
    ------
    ValueError
        For fewer than two widths, or one below one.

    Examples
    --------
    >>> sum(p.numel() for p in mlp((784, 300, 10)).parameters())
    238510
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more positive numbers, got {tuple(widths)}")
    layers: list[nn.Module] = [nn.Flatten()]  # [b, c, h, w] -> [b, c h w]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # no ReLU on the logits


def lenet5(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """Return LeNet-5 with max pooling and ReLUs: 6 and 16 filters, then 120/84.

    As in the paper, images smaller than 32x32 are centred in a 32x32 field of zeros.

    Parameters
    ----------
    shape
        Channels, height and width of an image: square, at most 32x32.
    classes
        Number of logits.

    Raises
    ------
    ValueError
        For images that are not square, too large or of odd size.
    """
    return _lenet(shape, 32, (6, 16), (120, 84, classes))


def lenet_wide(shape: Shape = (1, 28, 28), classes: int = 10) -> nn.Sequential:
    """Return the wider LeNet of Caffe's examples: 20 and 50 filters, then 500.

    Unlike there, each convolution is followed by a ReLU, as in the talk's forward pass.
    28x28 and 32x32 images are taken as they are, smaller ones centred in 28x28 zeros.

    Parameters
    ----------
    shape
        Channels, height and width of an image: square, at most 32x32.
    classes
        Number of logits.

    Raises
    ------
    ValueError
        For images that are not square, too large or of odd size.
    """
    return _lenet(shape, max(28, shape[-1]), (20, 50), (500, classes))


def _lenet(
    shape: Shape, field: int, filters: tuple[int, int], widths: tuple[int, ...]
) -> nn.Sequential:
    c, h, w = shape
    if h != w or h > 32 or h % 2 or h < 2:
        raise ValueError(f"shape must be a square image of even size up to 32x32, got {h}x{w}")
    first, second = filters
    side = ((field - 4) // 2 - 4) // 2  # a 5x5 filter takes 4 off, pooling halves
    features = [
        nn.Conv2d(c, first, 5, padding=(field - h) // 2),  # 32 -> 28
        nn.ReLU(),
        nn.MaxPool2d(2),  # 28 -> 14
        nn.Conv2d(first, second, 5),  # 14 -> 10
        nn.ReLU(),
        nn.MaxPool2d(2),  # 10 -> 5
    ]
    return nn.Sequential(*features, *mlp((second * side * side, *widths)))


def alexnet_cifar(
    shape: Shape = (3, 32, 32), classes: int = 10, hidden: int = 4096, dropout: float = 0.5
) -> nn.Sequential:
    """Return AlexNet for 32x32 images, in the form common in CIFAR-10 collections.

    Its five convolutions have AlexNet's numbers of filters (64, 192, 384, 256, 256), all 3x3 so
    that something is left of a small image, the first with a stride of 2; then 4096/4096 as in
    AlexNet.

    Parameters
    ----------
    shape
        Channels, height and width of an image: multiples of 16.
    classes
        Number of logits.
    hidden
        Units of each of the two hidden fully connected layers.
    dropout
        Probability to drop an input of those two layers.

    Raises
    ------
    ValueError
        If height or width is no multiple of 16.
    """
    c, h, w = shape
    if h % 16 or w % 16 or min(h, w) < 16:
        raise ValueError(f"shape must have height and width in multiples of 16, got {h}x{w}")
    return nn.Sequential(
        nn.Conv2d(c, 64, 3, stride=2, padding=1),  # 32 -> 16
        nn.ReLU(),
        nn.MaxPool2d(2),  # 16 -> 8
        nn.Conv2d(64, 192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 8 -> 4
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),  # 4 -> 2
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(256 * (h // 16) * (w // 16), hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def alexnet(weights: str | None = None, classes: int = 1000, dropout: float = 0.5) -> nn.Module:
    """Return torchvision's AlexNet for 224x224 images.

    Parameters
    ----------
    weights
        ``"IMAGENET1K_V1"`` for the pretrained ones, which torchvision downloads and keeps.
    classes
        Number of logits; 1000 with pretrained weights.
    dropout
        Probability to drop an input of the two hidden fully connected layers.

    Raises
    ------
    DataError
        If the weights cannot be downloaded.
    ValueError
        For unknown weights, or a number of classes that they do not have.
    """
    with naming_extra():
        from torchvision import models  # takes seconds, and no other network needs it

    try:
        return models.alexnet(weights=weights, num_classes=classes, dropout=dropout)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the weights {weights} of AlexNet could not be had ({error}); "
            "connect to the network once, or put the file into $TORCH_HOME/hub/checkpoints"
        ) from error


NETS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "lenet-wide": lenet_wide,
    "alexnet-cifar": alexnet_cifar,
    "alexnet": alexnet,
}


def build(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """Return a freshly initialised network.

    Parameters
    ----------
    name
        A key of :data:`NETS`.
    seed
        Of the initial weights, the same on every device: they are drawn on the CPU.
        No global generator is advanced.
    options
        Passed on to the network's function.

    Raises
    ------
    UsageError
        For an unknown name.

    Examples
    --------
    >>> a, b = build("mlp", seed=1, widths=(64, 10)), build("mlp", seed=1, widths=(64, 10))
    >>> bool((a[1].weight == b[1].weight).all())
    True
    """
    if name not in NETS:
        raise unknown("network", name, NETS)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPUs' too
        return NETS[name](**options)
