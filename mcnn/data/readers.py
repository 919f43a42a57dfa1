"""From the files of a data set to tensors.

Each reader takes the folder that holds the files and returns the training and the test part as
pairs of images, uint8 [n, c, h, w], and labels, int64 [n].
torchvision and scikit-learn take seconds to import, so they are imported where they are used.
What damaged files make them raise, :func:`mcnn.data.load` turns into one clear line.

CIFAR-10 exists as the original batches and as an image folder, and a folder has no order of its
own.
So its images are put into an order that only depends on what they show: :func:`by_content` sorts
them by a hash.
The same seed then gives the same batches whichever files were read.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

Pair = tuple[Tensor, Tensor]
Parts = tuple[Pair, Pair]


def idx(folder: Path) -> Parts:
    """Read the four idx files of MNIST or Fashion-MNIST from ``<folder>/raw``."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    def read(part: str, content: str, reader: Callable[[str], Tensor]) -> Tensor:
        file = folder / "raw" / f"{part}-{content}-ubyte"
        try:
            return reader(str(file))
        except OSError:
            raise
        except Exception as error:  # torchvision asserts, indexes and reshapes without a check
            raise ValueError(f"{file} is no complete idx file ({error!r})") from error

    def pair(part: str) -> Pair:
        images = read(part, "images-idx3", read_image_file)  # [n, 28, 28]
        return images.unsqueeze(1), read(part, "labels-idx1", read_label_file)

    return pair("train"), pair("t10k")


def digits(folder: Path) -> Parts:
    """Return the handwritten digits that scikit-learn ships; the folder is its own.

    The grey levels 0 ... 16 become 0 ... 255.
    The 1797 images are sorted by content, which shuffles them; the last 360 are the test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    images, labels = by_content(
        torch.from_numpy(grey).unsqueeze(1), torch.from_numpy(bunch.target).long()
    )
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def cifar10_batches(folder: Path) -> Parts:
    """Read the original ``cifar-10-batches-py``; torchvision checks the files' MD5."""
    from torchvision.datasets import CIFAR10

    def read(train: bool) -> Pair:
        part = CIFAR10(folder.parent, train=train)
        images = torch.from_numpy(part.data).movedim(-1, 1).contiguous()  # [n, 3, 32, 32]
        return by_content(images, torch.tensor(part.targets))

    return read(True), read(False)


def cifar10_folder(folder: Path) -> Parts:
    """Read an image folder ``{train,test}/<class>/*``: 60,000 images take some seconds."""
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image

    def read(part: str) -> Pair:
        files = ImageFolder(folder / part)
        images = torch.empty(len(files), 3, 32, 32, dtype=torch.uint8)
        samples = tqdm(
            files.samples, desc=f"decode {folder.name}/{part}", disable=None, leave=False
        )
        for i, (path, _) in enumerate(samples):
            try:
                image = decode_image(path, ImageReadMode.RGB)  # [3, 32, 32]
            except (OSError, RuntimeError) as error:
                raise ValueError(f"{path} is truncated or no image") from error
            if image.shape != (3, 32, 32):
                raise ValueError(f"{path} has shape {tuple(image.shape)} instead of (3, 32, 32)")
            images[i] = image
        return by_content(images, torch.tensor(files.targets))

    return read("train"), read("test")


def by_content(images: Tensor, labels: Tensor) -> Pair:
    """Sort images by the SHA-256 of their label and bytes: any order in, one order out."""
    rows = images.reshape(len(images), -1).numpy()
    digests = [
        hashlib.sha256(bytes([label]) + row.tobytes()).digest()
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]
    order = torch.tensor(sorted(range(len(digests)), key=digests.__getitem__), dtype=torch.int64)
    return images[order], labels[order]


def fingerprint(parts: Parts) -> str:
    """Name tensors by 16 hexadecimal digits of the SHA-256 of their shapes and bytes, in order."""
    digest = hashlib.sha256()
    for images, labels in parts:
        digest.update(str(tuple(images.shape)).encode())
        digest.update(images.contiguous().numpy())
        digest.update(labels.to(torch.uint8).numpy())
    return digest.hexdigest()[:16]
