"""The hashes of the code and the files behind it, kept until a file of the package changes.

They are kept beside the compiled modules, and as those: whoever cannot write there computes them
each time.
"""

import atexit
import hashlib
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from mcnn.ledger.code import Code


def _key(roots: tuple[str, ...], outside: str) -> str:
    return " ".join((*roots, outside) if outside else roots)


class Kept:
    """The hashes of what experiments reach in a version of the source, and its files.

    Parameters
    ----------
    code
        The source.
    file
        Where they are kept from one process to the next.
    """

    def __init__(self, code: Code, file: Path) -> None:
        self._code, self._file = code, file
        self._state = self._now()
        self._new = False
        self._hashes: dict[str, str] = {}
        self._files: dict[str, list[str]] = {}  # in the folder of the package
        self._read()

    def hash(self, roots: tuple[str, ...], outside: str = "") -> str:
        """Return :meth:`mcnn.ledger.code.Code.hash`.

        Parameters
        ----------
        roots
            What it starts from.
        outside
            Tells versions of the roots apart that are no part of the package.
        """
        key = _key(roots, outside)
        if key not in self._hashes:
            self._hashes[key] = self._code.hash(roots)
            self._write_later()
        return self._hashes[key]

    def files(self, roots: tuple[str, ...], outside: str = "") -> list[Path]:
        """Return :meth:`mcnn.ledger.code.Code.files` of all that the roots reach."""
        key, root = _key(roots, outside), self._code.root
        if key not in self._files:
            found = self._code.files(self._code.closure(roots))
            inside = [f.relative_to(root) if f.is_relative_to(root) else f for f in found]
            self._files[key] = [file.as_posix() for file in inside]
            self._write_later()
        return [root / name for name in self._files[key]]  # a whole path stays as it is

    def _write_later(self) -> None:
        if not self._new:
            atexit.register(self.write)
        self._new = True

    def _now(self) -> str:
        """Return a hash of all files of the package, byte by byte."""
        digest = hashlib.sha256()
        for path in sorted((self._code.root / self._code.package).rglob("*.*")):
            if "__pycache__" not in path.parts and path.is_file():
                content = path.read_bytes()
                name = path.relative_to(self._code.root).as_posix()
                digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def _read(self) -> None:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["state"] == self._state:
                hashes = {str(key): str(value) for key, value in kept["hashes"].items()}
                files = {str(key): list(map(str, names)) for key, names in kept["files"].items()}
                self._hashes, self._files = hashes, files

    def write(self) -> None:
        """Keep what was found, unless a file was edited since, perhaps before it was read."""
        with suppress(OSError):
            if sys.dont_write_bytecode or self._now() != self._state:
                return
            self._file.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                kept = {"state": self._state, "hashes": self._hashes, "files": self._files}
                json.dump(kept, out)
            os.replace(name, self._file)
