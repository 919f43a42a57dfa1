"""Check slowly once: what ``mcnn data`` found to be whole, as long as no file has changed.

Only the report remembers: whoever loads a data set has all of it checked each time.
"""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mcnn.data.cache import signature


def remembered(key: str, folder: Path, memory: Path, check: Callable[[], str]) -> str:
    """Return what a check says of a folder, or said before if its files are the same.

    Parameters
    ----------
    key
        What the check depends on beside the files.
    folder
        It is the same if the paths, sizes and times of change of its files are.
    memory
        File in which that is kept; where it cannot be, each check is done.
    check
        Says what it found; what it raises is not remembered.
    """
    key = f"{key} {folder.resolve()} {signature(folder)}"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    if not isinstance(known.get(key), str):
        known[key] = check()
        with suppress(OSError):
            _write(memory, json.dumps(known))
    return known[key]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(name, file)
