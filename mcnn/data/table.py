"""What is known of each data set: sizes, classes, statistics, fingerprint, and where it comes from.

The fingerprints were computed from copies that were checked against what is published: the eight
files of MNIST and Fashion-MNIST by MD5, CIFAR-10 by the mean and the standard deviation of its
training pixels to twelve digits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcnn.data import ilsvrc12, readers
from mcnn.data.cache import cached


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read.

    Attributes
    ----------
    title
        As people write it.
    sizes
        Images to train and to test with.
    classes
        Names, in the order of the labels.
    mean, std
        Of the training images in [0, 1], one number a channel.
    fingerprint
        Of the published set; ``None`` where there is none to compare with.
    sources
        The folders it may be in, and who reads each.
    fetch
        Downloads it into a folder.
    remedy
        What to do about a missing set that cannot be downloaded.
    """

    title: str
    sizes: tuple[int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str | None
    sources: Mapping[str, Callable[[Path], Any]]
    fetch: Callable[[Path], object] | None = None
    remedy: str = ""


def _by_torchvision(name: str) -> Callable[[Path], object]:
    def fetch(place: Path) -> object:
        from torchvision import datasets

        return getattr(datasets, name)(place, download=True)

    return fetch


_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")

DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        title="scikit-learn's digits",
        sizes=(1437, 360),
        classes=_DIGITS,
        mean=(0.3049,),
        std=(0.3758,),
        fingerprint="351b834cfa0a579a",
        sources={"datasets": readers.digits},
        remedy="install scikit-learn again",
    ),
    "mnist": Dataset(
        title="MNIST",
        sizes=(60000, 10000),
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        fingerprint="fe45037cee07bcb7",
        sources={"MNIST": readers.idx},
        fetch=_by_torchvision("MNIST"),
    ),
    "fashion-mnist": Dataset(
        title="Fashion-MNIST",
        sizes=(60000, 10000),
        classes=_CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        fingerprint="1e5ad8062442a1ed",
        sources={"FashionMNIST": readers.idx},
        fetch=_by_torchvision("FashionMNIST"),
    ),
    "cifar10": Dataset(
        title="CIFAR-10",
        sizes=(50000, 10000),
        classes=("airplane", "automobile", *_ANIMALS, "ship", "truck"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        fingerprint="2130290afcdfba45",
        sources={
            "cifar-10-batches-py": readers.cifar10_batches,
            "cifar10": cached(readers.cifar10_folder),
        },
        fetch=_by_torchvision("CIFAR10"),
    ),
    "ilsvrc12": Dataset(
        title="ILSVRC12",
        sizes=(1281167, 50000),
        classes=(),  # named by the devkit that comes with it
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fingerprint=None,
        sources={"ilsvrc12": ilsvrc12.load},
        remedy=ilsvrc12.MISSING,
    ),
}
