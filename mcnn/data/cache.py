"""Decode slowly once: tensors kept in the user cache.

A file of the cache holds the decoded tensors, their fingerprint, and a signature of the files they
came from: paths, sizes and times of change.
If the sources have changed or the file is damaged, the tensors are decoded anew.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from platformdirs import user_cache_path

from mcnn.data.readers import Parts, fingerprint


def cached(read: Callable[[Path], Parts]) -> Callable[[Path], Parts]:
    """Let a reader keep what it decoded."""

    def reader(folder: Path) -> Parts:
        mark = signature(folder)
        file = _file(folder)
        parts = _load(file, mark)
        if parts is None:
            parts = read(folder)
            _save(file, mark, parts)
        return parts

    return reader


def signature(folder: Path) -> str:
    """Hash the paths, sizes and times of change of all files in a folder."""
    lines = []
    for path, _, names in os.walk(folder):
        for name in names:
            stat = os.stat(os.path.join(path, name))
            inside = os.path.relpath(path, folder)
            lines.append(f"{inside}/{name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def cache_path() -> Path:
    """Return the user's cache folder of this package."""
    return user_cache_path("mcnn", appauthor=False)


def _file(folder: Path) -> Path:
    source = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_path() / "decoded" / f"{folder.name}-{source}.pt"


def _load(file: Path, mark: str) -> Parts | None:
    """Return what a file holds, or nothing if it is missing, out of date or damaged."""
    try:
        content = torch.load(file, weights_only=True)
        parts = content["parts"]
        fresh = content["signature"] == mark and content["fingerprint"] == fingerprint(parts)
    except Exception:  # damage shows in many ways, and decoding anew mends all of them
        return None
    return parts if fresh else None


def _save(file: Path, mark: str, parts: Parts) -> None:
    """Write under another name and rename, so that no reader ever meets half a file."""
    content = {"signature": mark, "fingerprint": fingerprint(parts), "parts": parts}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
            try:
                torch.save(content, unfinished)
            except BaseException:
                os.unlink(unfinished.name)
                raise
        os.replace(unfinished.name, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        warnings.warn(f"decoded images are not kept: {error}", stacklevel=2)
