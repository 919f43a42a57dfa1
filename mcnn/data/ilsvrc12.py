"""ILSVRC12 (ImageNet): 1.3 million photographs, decoded when they are needed.

The set is far too large to be resident, and may only be had from image-net.org, after registration.
:class:`PhotoSplit` offers what :class:`mcnn.data.split.Split` does, but for the tensor of all
images; a batch is decoded, resized and cropped as torchvision's pretrained weights expect it.
"""

import copy
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcnn.data.split import batch_indices, check_scale
from mcnn.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

MISSING = (
    "obtain ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar (to train, "
    "ILSVRC2012_img_train.tar too) from https://image-net.org, which asks for registration, and "
    "put them into ilsvrc12/ there; they are unpacked at first use"
)


def load(folder: Path) -> tuple["PhotoSplit | None", "PhotoSplit", tuple[str, ...]]:
    """Open the folder of torchvision's :class:`~torchvision.datasets.ImageNet`.

    Returns
    -------
    train
        ``None`` where only the validation images are there, which is all that testing needs.
    test
        The validation images.
    classes
        A name for each class.
    """
    from torchvision.datasets import ImageNet

    test = ImageNet(folder, split="val")
    has_train = any((folder / x).exists() for x in ("train", "ILSVRC2012_img_train.tar"))
    train = PhotoSplit(ImageNet(folder, split="train")) if has_train else None
    return train, PhotoSplit(test), tuple(names[0] for names in test.classes)


def fingerprint(*splits: "PhotoSplit | None") -> str:
    """Name a set by its files' names and labels: its pixels are 150 GB."""
    digest = hashlib.sha256()
    for split in splits:
        for path, label in split.photos.samples if split else ():
            digest.update(f"{Path(path).name} {label}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


class PhotoSplit:
    """A part of ILSVRC12; see :class:`mcnn.data.split.Split` for the interface.

    Parameters
    ----------
    photos
        Image files and their labels.
    device
        Where batches and labels are.
    """

    shape = (3, 224, 224)

    def __init__(self, photos: "ImageFolder", device: torch.device | str = "cpu") -> None:
        self.photos = photos
        self.labels = torch.tensor(photos.targets, device=device)  # [n]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches and labels are."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "PhotoSplit":
        """Return the split with another device for its batches."""
        return PhotoSplit(self.photos, device)

    def part(self, index: Tensor | slice) -> "PhotoSplit":
        """Return the split of some of the photographs, int64 [m] or a slice."""
        chosen = torch.arange(len(self))[index if isinstance(index, slice) else index.cpu()]
        photos = copy.copy(self.photos)
        photos.samples = [self.photos.samples[i] for i in chosen.tolist()]
        photos.targets = [label for _, label in photos.samples]
        return PhotoSplit(photos, self.device)

    def inputs(self, index: Tensor | slice | None = None, scale: str = "unit") -> Tensor:
        """Decode images; returns float32 [m, 3, 224, 224].

        Raises
        ------
        ValueError
            For an unknown scale.
        DataError
            For a file that is no readable image.
        """
        from torchvision.models import AlexNet_Weights

        check_scale(scale)
        transforms = AlexNet_Weights.IMAGENET1K_V1.transforms
        # Each scale is the pretrained weights' own crop, with their normalisation or without.
        transform = transforms(mean=(0, 0, 0), std=(1, 1, 1)) if scale == "unit" else transforms()

        def decode(i: int) -> Tensor:
            path, _ = self.photos.samples[i]
            try:
                return transform(self.photos.loader(path))
            except (OSError, SyntaxError) as error:  # what Pillow raises
                raise DataError(
                    f"{path} is no readable image ({error}); unpack it again"
                ) from error

        chosen = torch.arange(len(self), device=self.device)
        if index is not None:
            chosen = chosen[index]
        with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
            return torch.stack(list(pool.map(decode, chosen.tolist()))).to(self.device)

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        scale: str = "unit",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once; see :meth:`mcnn.data.split.Split.batches`."""
        for index in batch_indices(len(self), batch_size, generator, drop_last, self.device):
            yield self.inputs(index, scale), self.labels[index]
