"""Text that is always at hand: sources of Python's standard library, as characters.

The modules are single files in every Python from 3.11 on.
Their text differs a little from version to version, so whoever uses it records its fingerprint.
"""

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcnn.errors import DataError

TRAIN = (
    "argparse",
    "ast",
    "calendar",
    "cmd",
    "codecs",
    "configparser",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "dis",
    "doctest",
    "enum",
    "ftplib",
    "functools",
    "gettext",
    "imaplib",
    "inspect",
    "ipaddress",
    "mailbox",
    "optparse",
    "pdb",
    "pickle",
    "platform",
    "pprint",
    "random",
    "smtplib",
    "socket",
    "subprocess",
    "tarfile",
    "tempfile",
    "threading",
    "trace",
    "traceback",
    "turtle",
    "typing",
)
TEST = ("csv", "fractions", "heapq", "shutil", "statistics", "textwrap", "uuid")
CHARACTERS = 97  # line feed, the 95 printable ones of ASCII, and one for all others


@dataclass(frozen=True)
class Text:
    """Characters to train on and to test with, int64 [n], and a hash of both."""

    train: Tensor
    test: Tensor
    fingerprint: str


def load(device: torch.device | str = "cpu", limit: int | None = None) -> Text:
    """Read the modules.

    Parameters
    ----------
    device
        Where the tensors go.
    limit
        The number of characters of each part, from its beginning; all by default.

    Raises
    ------
    DataError
        If a module has no source here.

    Examples
    --------
    >>> text = load(limit=1000)
    >>> text.train.shape, int(text.train.max()) < CHARACTERS
    (torch.Size([1000]), True)
    """
    train, test = _read(TRAIN)[:limit], _read(TEST)[:limit]
    digest = hashlib.sha256(bytes(train) + b"\0" + bytes(test)).hexdigest()[:16]
    parts = (torch.tensor(list(part), dtype=torch.int64, device=device) for part in (train, test))
    return Text(*parts, digest)


def _read(modules: tuple[str, ...]) -> bytes:
    folder = Path(sysconfig.get_path("stdlib"))
    try:
        texts = [(folder / f"{name}.py").read_text(encoding="utf-8") for name in modules]
    except OSError as error:
        raise DataError(
            f"the standard library has no source here ({error}): use a Python that comes with it"
        ) from error
    return bytes(encode("\n".join(texts)))


def encode(text: str) -> list[int]:
    """Return the numbers of characters: 0 for a line feed, 96 for what is not ASCII.

    Examples
    --------
    >>> encode("a ~é"), encode(chr(10))
    ([66, 1, 95, 96], [0])
    """
    return [0 if c == "\n" else ord(c) - 31 if " " <= c <= "~" else 96 for c in text]
