"""A data set as tensors on the device that trains on it.

MNIST is 47 MB and CIFAR-10 is 184 MB as bytes, so a whole set fits beside the network.
Then a batch is one gather by index: no worker processes, no copies between processes, and on a GPU
no transfer.
Pixels stay ``uint8`` and become ``float32`` batch by batch, a quarter of the memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mcnn.errors import UsageError

_HELD_OUT = 5000  # key of the shuffle of Data.hold_out; another one is another validation set
SCALES = ("unit", "standard")


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the test part of a data set.

    Attributes
    ----------
    images
        uint8, [n, c, h, w].
    labels
        int64, [n], the index of the class.
    mean, std
        One number a channel, of the training images in [0, 1]: what the scale ``"standard"`` uses.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def part(self, index: Tensor | slice) -> "Split":
        """Return the split of some of the images, int64 [m] or a slice, with the same scale."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def inputs(self, index: Tensor | slice | None = None, scale: str = "unit") -> Tensor:
        """Return images as a network takes them.

        Parameters
        ----------
        index
            Which images, int64 [m] or a slice; all when ``None``.
        scale
            ``"unit"``: pixels in [0, 1]; ``"standard"``: mean 0 and variance 1 a channel over the
            training images.

        Returns
        -------
        Tensor
            float32, [m, c, h, w].

        Raises
        ------
        ValueError
            For an unknown scale.
        """
        check_scale(scale)
        x = (self.images if index is None else self.images[index]).float().div_(255)
        if scale == "standard":
            mean = torch.tensor(self.mean, device=self.device).view(-1, 1, 1)  # [c, 1, 1]
            std = torch.tensor(self.std, device=self.device).view(-1, 1, 1)
            x = x.sub_(mean).div_(std)
        return x

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        scale: str = "unit",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once, in batches.

        Parameters
        ----------
        batch_size
            Number of images; the last batch may hold fewer.
        generator
            Shuffles.
            It must be a CPU generator, so that every device sees the same order.
            Without one the images come in their own order.
        drop_last
            Leave out a last batch that is not full.
        scale
            See :meth:`inputs`.

        Yields
        ------
        tuple of Tensor
            Images, float32 [b, c, h, w], and labels, int64 [b].

        Raises
        ------
        ValueError
            For a batch size below one, a generator of another device, or an unknown scale.
        """
        for index in batch_indices(len(self), batch_size, generator, drop_last, self.device):
            yield self.inputs(index, scale), self.labels[index]


def check_scale(scale: str) -> None:
    """Raise ValueError unless the scale is one of :data:`SCALES`."""
    if scale not in SCALES:
        raise ValueError(f"no scale {scale!r}; there are: {', '.join(SCALES)}")


def batch_indices(
    n: int,
    batch_size: int,
    generator: torch.Generator | None,
    drop_last: bool,
    device: torch.device,
) -> Iterator[Tensor | slice]:
    """Return the indices of each batch: slices in order, or int64 tensors when shuffled."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    end = n - n % batch_size if drop_last else n
    batches = (slice(i, min(i + batch_size, end)) for i in range(0, end, batch_size))
    if generator is None:
        return batches
    if generator.device.type != "cpu":
        raise ValueError("generator must be a CPU generator: torch.Generator().manual_seed(seed)")
    order = torch.randperm(n, generator=generator).to(device)
    return (order[batch] for batch in batches)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: two splits and what is known of them.

    Attributes
    ----------
    name
        A key of :data:`mcnn.data.DATASETS`.
    train, test
        The two parts; ILSVRC12 may lack the first (``None``).
    classes
        The name of each class, in the order of the labels.
    mean, std
        Of the training images in [0, 1], one number a channel.
    fingerprint
        Names the exact tensors and their order: 16 hexadecimal digits of a SHA-256.
        It is that of the whole set, also where images are held out.
    validation
        Images of the training set that are held out, see :meth:`hold_out`; ``None`` without.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    validation: Split | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.test.shape

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.test.device

    def to(self, device: torch.device | str) -> "Data":
        """Return the data set on another device."""
        train, validation = (part and part.to(device) for part in (self.train, self.validation))
        return replace(self, train=train, test=self.test.to(device), validation=validation)

    def hold_out(self, images: int) -> "Data":
        """Take images out of the training set, to choose by: a method, a rate, when to stop.

        What is chosen by the test images is too good on them.
        The images are the last of the training set after a shuffle that depends on nothing but its
        size: the same for everybody, and those of a smaller number are among those of a larger one.
        They are not stratified: classes are held out by chance, as they come.
        Images that stay keep their order, and mean, deviation and fingerprint are still those of
        the whole set.

        Parameters
        ----------
        images
            How many, at least one and less than there are.

        Returns
        -------
        Data
            With ``validation``, and a ``train`` that has so many images less.

        Raises
        ------
        UsageError
            If there are no training images, not as many, or if some are held out already.

        Examples
        --------
        >>> from mcnn.data import load
        >>> digits = load("digits").hold_out(400)
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1037, 400, 360)
        """
        from mcnn.sampling import hash_bits  # brings SciPy, which loading does without

        if self.train is None:
            raise UsageError(
                f"{self.name} has no training images here to hold out a validation set"
            )
        if self.validation is not None:
            raise UsageError(f"{len(self.validation)} images of {self.name} are held out already")
        n = len(self.train)
        if not 0 < images < n:
            raise UsageError(
                f"validation must be 1 ... {n - 1} of the {n} training images of {self.name}, "
                f"got {images}"
            )
        order = hash_bits(_HELD_OUT, torch.arange(n)).argsort(stable=True)  # of any device
        parts = (index.sort().values.to(self.device) for index in order.split([n - images, images]))
        train, validation = (self.train.part(index) for index in parts)
        return replace(self, train=train, validation=validation)
