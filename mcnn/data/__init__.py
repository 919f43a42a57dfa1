"""The talk's data sets, found, checked and held as tensors.

A result is worth as much as the data it was made from.
So every set has a *fingerprint*, a hash of its images and labels in their order, that must be the
published one before anything is trained on it, and that every record carries.

===================  =========================================================================
``digits``           8x8 digits inside scikit-learn [1]_; nothing to fetch, the default
``mnist``            28x28 handwritten digits [2]_, in ``MNIST/raw``
``fashion-mnist``    28x28 articles of clothing [3]_, in ``FashionMNIST/raw``
``cifar10``          32x32 colour photographs [4]_, in ``cifar-10-batches-py`` as published, or in
                     ``cifar10/{train,test}/<class>/`` as images without loss (PNG, WebP)
``ilsvrc12``         photographs of 1000 classes [5]_, in ``ilsvrc12``, from image-net.org
===================  =========================================================================

A set is looked for in the folder that the environment variable ``MCNN_DATA`` names, then in the
user's cache, and downloaded only when asked.

References
----------
.. [1] E. Alpaydin, C. Kaynak: Optical recognition of handwritten digits. UCI, 1998.
.. [2] Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits. 1998.
.. [3] H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST. arXiv:1708.07747.
.. [4] A. Krizhevsky: Learning multiple layers of features from tiny images. 2009.
.. [5] O. Russakovsky et al.: ImageNet large scale visual recognition challenge. IJCV 2015.
"""

import importlib.util
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from mcnn.data import ilsvrc12, readers
from mcnn.data.cache import cache_path
from mcnn.data.split import SCALES, Data, Split
from mcnn.data.table import DATASETS, Dataset
from mcnn.errors import DataError, UsageError

__all__ = ["DATASETS", "SCALES", "Data", "Dataset", "Split", "Status", "download", "load", "status"]


def load(
    name: str,
    *,
    device: torch.device | str = "cpu",
    root: Path | str | None = None,
    download: bool = False,
    validation: int = 0,
) -> Data:
    """Return a data set, checked, on a device.

    Parameters
    ----------
    name
        A key of :data:`DATASETS`.
    device
        Where the tensors go.
    root
        The one folder to look in, instead of ``$MCNN_DATA`` and the user's cache.
    download
        Fetch the set if it is not there.
    validation
        Number of training images to hold out as ``.validation``, the same for everybody: see
        :meth:`Data.hold_out`.
        5,000 for whatever is chosen; none by default.

    Raises
    ------
    UsageError
        For an unknown name, or an impossible number of images to hold out.
    DataError
        If the set is missing, damaged, or not the published one.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.train.images.shape, digits.train.images.dtype
    (torch.Size([1437, 1, 8, 8]), torch.uint8)
    >>> x, y = next(digits.train.batches(16, torch.Generator().manual_seed(1)))
    >>> x.shape, x.dtype, y.shape
    (torch.Size([16, 1, 8, 8]), torch.float32, torch.Size([16]))
    """
    folder = _find(name, root)
    if folder is None:
        if not download:
            raise DataError(_missing(name, root))
        folder = _fetch(name, root)
    data = _read(name, folder)
    return (data.hold_out(validation) if validation else data).to(device)


def download(name: str, root: Path | str | None = None) -> Path:
    """Fetch a data set, check it, and return its folder; one that is whole is left as it is.

    It goes to ``root``, else to ``$MCNN_DATA``, else to the user's cache.

    Raises
    ------
    UsageError
        For an unknown name.
    DataError
        If it cannot be downloaded or written.
    """
    now = status(name, root)
    return now.folder if now.state == "ok" else _fetch(name, root)


@dataclass(frozen=True)
class Status:
    """What there is of a data set.

    Attributes
    ----------
    name
        A key of :data:`DATASETS`.
    state
        ``"ok"``, ``"missing"`` or ``"damaged"``.
    folder
        Where it was found, if it was.
    detail
        Sizes and fingerprint; or what is wrong, and what to do.
    """

    name: str
    state: str
    folder: Path | None
    detail: str

    def __str__(self) -> str:
        if self.state != "ok":
            return f"{self.name}: {self.state}. {self.detail}"
        return f"{self.name}: ok, {self.detail}, in {self.folder}"


def status(name: str, root: Path | str | None = None) -> Status:
    """Look for a data set and check all of it.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    folder = _find(name, root)
    if folder is None:
        return Status(name, "missing", None, _missing(name, root))
    try:
        data = _read(name, folder)
    except DataError as error:
        return Status(name, "damaged", folder, str(error))
    train = len(data.train) if data.train is not None else "no"
    shape = "x".join(map(str, data.test.shape))
    detail = f"{train} training and {len(data.test)} test images, {shape}"
    detail += f", fingerprint {data.fingerprint}"
    return Status(name, "ok", folder, detail)


def _places(name: str, root: Path | str | None) -> list[Path]:
    """Return the folders to look in, the first of which is also where downloads go."""
    if name not in DATASETS:
        raise UsageError(f"no data set {name!r}; there are: {', '.join(DATASETS)}")
    if name == "digits":
        return [Path(importlib.util.find_spec("sklearn").origin).parent]
    if root is not None:
        return [Path(root).expanduser()]
    chosen = os.environ.get("MCNN_DATA")
    return [Path(chosen).expanduser(), cache_path()] if chosen else [cache_path()]


def _find(name: str, root: Path | str | None) -> Path | None:
    places = _places(name, root)
    folders = (place / source for place in places for source in DATASETS[name].sources)
    # A download that failed leaves empty folders behind: those do not count.
    return next((f for f in folders if any(x.is_file() for x in f.rglob("*"))), None)


def _fetch(name: str, root: Path | str | None) -> Path:
    place = _places(name, root)[0]
    fetch = DATASETS[name].fetch
    if fetch is None:
        raise DataError(_missing(name, root))
    try:
        place.mkdir(parents=True, exist_ok=True)
        fetch(place)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{DATASETS[name].title} could not be downloaded to {place} ({_one_line(error)}); "
            "try again, or put it there by hand"
        ) from error
    folder = _find(name, place)
    _read(name, folder)
    return folder


def _remedy(name: str) -> str:
    by_command = f"run `mcnn data {name} --download`, or set MCNN_DATA to the folder that has it"
    return DATASETS[name].remedy or by_command


def _missing(name: str, root: Path | str | None) -> str:
    places = " or ".join(str(place) for place in _places(name, root))
    return f"{DATASETS[name].title} is not in {places}: {_remedy(name)}"


def _damaged(name: str, folder: Path, cause: object) -> DataError:
    known = DATASETS[name]
    first = "remove that folder, then " if known.fetch else ""
    return DataError(
        f"{known.title} in {folder} is damaged: {_one_line(cause)}; {first}{_remedy(name)}"
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _read(name: str, folder: Path) -> Data:
    known = DATASETS[name]
    try:
        if name == "ilsvrc12":
            train, test, classes = ilsvrc12.load(folder)
            mark = ilsvrc12.fingerprint(train, test)
        else:
            parts = known.sources[folder.name](folder)
            train, test = (Split(*pair, known.mean, known.std) for pair in parts)
            classes, mark = known.classes, readers.fingerprint(parts)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _damaged(name, folder, error) from error
    for split, size, part in zip((train, test), known.sizes, ("training", "test"), strict=True):
        if split is not None and len(split) != size:
            raise _damaged(name, folder, f"{len(split)} {part} images instead of {size}")
    if known.fingerprint not in (None, mark):
        raise _damaged(name, folder, f"its fingerprint is {mark}, not {known.fingerprint}")
    return Data(name, train, test, classes, known.mean, known.std, mark)
