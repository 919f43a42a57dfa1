"""Files of sealed lines: each appended in one go, each whole or not there.

A file is JSON lines, each with a digest of itself.
Lines of text rather than a database: git keeps and compares them, they merge, and anyone can read
them; what a database would give beside that, is small.

* *Appending costs the same however long the file is.* What keys it holds is remembered between
  appends; only what others appended since is read.
* *A kill at any moment loses no finished line.* A line is written, then synced; what a kill or a
  power cut leaves half written is the last line without its end: readers pass over it, and the
  next writer, who holds the lock and so knows that nobody is at it, cuts it off.
* *An error on the way*, such as a full disk, cuts off what was written of the new lines.
* Only replacing a line writes the file anew, beside the old one, which then gives way at once.
"""

import errno
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from mcnn.errors import RecordError

# 1: without a number; the digest is of the content with its keys sorted.
# 2: the digest is of the line as it stands, so that it is checked without writing the line anew.
FORMAT = 2
PATIENCE = 10.0  # seconds in which another writer is done, or is said to be waited for

_END = re.compile(rb', "digest": "([0-9a-f]{64})"\}$')
_KEY = re.compile(
    rb'\{"format": 2, "experiment": "[^"\\]*", "profile": "\w+", "hash": "([0-9a-f]{16})", '
)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODE = json.JSONDecoder(parse_constant=_no_number).decode
SORTED = json.JSONEncoder(sort_keys=True).encode


def decode(text: bytes) -> Any:
    """Return what a line says, unchecked."""
    return _DECODE(text.decode())


def digest(line: dict[str, Any]) -> str:
    """Return the digest of a line, over everything but the digest itself."""
    content = {k: v for k, v in line.items() if k != "digest"}
    text = json.dumps(content, sort_keys="format" not in line)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(line: dict[str, Any]) -> dict[str, Any]:
    """Return the line with its format and digest, as it will read back from its file.

    Raises
    ------
    RecordError
        If a metric is NaN or infinite, or not plain JSON; the message says which.
    """
    try:
        unfit = _unfit(line, "")
    except RecursionError:
        unfit = "it is nested too deeply"
    if unfit:
        raise RecordError(f"cannot be recorded: {unfit}; only finite numbers, text, lists and such")
    content = {k: v for k, v in line.items() if k not in ("format", "digest")}
    line = json.loads(json.dumps({"format": FORMAT} | content, allow_nan=False))
    return line | {"digest": digest(line)}


def _unfit(value: Any, place: str) -> str | None:
    """Return the place of the first value that is not plain JSON, with the value, if any is."""
    if isinstance(value, dict):
        parts = [(f"{place}.{k}".lstrip("."), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{place}[{i}]", v) for i, v in enumerate(value)]
    else:
        plain = isinstance(value, str | int | None) or (
            isinstance(value, float) and isfinite(value)
        )
        return None if plain else f"{place} is {value!r:.60}"
    return next(filter(None, (_unfit(v, p) for p, v in parts)), None)


def parse(text: bytes) -> dict[str, Any]:
    """Turn a line of a file into what was sealed.

    Raises
    ------
    RecordError
        If it is damaged or altered, or of a format that is not known here.
    """
    try:
        line = decode(text)
    except (ValueError, RecursionError):
        raise RecordError("damaged: not a whole JSON line") from None
    if not isinstance(line, dict) or "digest" not in line:
        raise RecordError("damaged: not a record")
    if line.get("format", 1) not in (1, FORMAT):
        raise RecordError(f"of format {line['format']!r:.20}, made by a newer version: update mcnn")
    try:
        whole = _sealed(text) or line["digest"] == digest(line)
    except RecursionError:
        raise RecordError("damaged: nested too deeply") from None
    if not whole:
        raise RecordError("altered: its digest does not fit its content")
    return line


def _sealed(text: bytes) -> bytes | None:
    """Return the digest of a line of format 2 that stands as it was written, else None."""
    end = _END.search(text)
    if not end or not text.startswith(b'{"format": 2, '):
        return None
    content = hashlib.sha256(text[: end.start()])
    content.update(b"}")
    return end[1] if content.hexdigest().encode() == end[1] else None


def key(line: dict[str, Any]) -> str:
    """Return what may stand in a file once.

    A trial's hash; of a run that speaks against a record, that record; a note has only its digest.
    """
    return str(line.get("against", line.get("hash", line["digest"])))


def _name(text: bytes) -> tuple[str, str] | None:
    """Return key and digest of a line in a file; a damaged line has none and is kept as it is."""
    if sealed := _sealed(text):
        if (found := _KEY.match(text)) and b'"against"' not in text:
            return found[1].decode(), sealed[:16].decode()
        if b'"hash"' not in text and b'"against"' not in text:
            return sealed.decode(), sealed[:16].decode()
    try:
        line = parse(text)
    except RecordError:
        return None
    return key(line), str(line["digest"])[:16]


def _torn(text: bytes) -> bool:
    """Whether the end of a file, which no line feed follows, is half a line."""
    try:
        parse(text)
    except RecordError as error:
        return "not a whole" in str(error)
    return False


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, but for half a line at its end.

    Raises
    ------
    RecordError
        If the file is there and cannot be read.
    """
    try:
        with os.fdopen(_open(file, os.O_RDONLY), "rb") as content:
            for number, text in enumerate(content, start=1):
                whole = text.endswith(b"\n")
                text = text.strip()
                if text and (whole or not _torn(text)):
                    yield number, text
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from None


def _open(file: Path, flags: int) -> int:
    """Open a file, and nothing else: to read a pipe or a device may never end."""
    handle = os.open(file, flags | getattr(os, "O_NONBLOCK", 0), 0o644)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no plain file")


@dataclass
class _Index:
    """The keys of a file up to where it was read: whole lines alone."""

    state: tuple[int, int] = (0, 0)  # device and inode: another file of this name is read anew
    end: int = 0
    last: bytes = b""  # what stands before the end
    places: dict[str, tuple[int, int, str]] = field(default_factory=dict)  # with the digest

    def read(self, handle: int) -> bytes:
        """Read what was appended since; return half a line, or a line without end, after it."""
        status = os.fstat(handle)
        state = (status.st_dev, status.st_ino)
        same = self.end <= status.st_size and self._before(handle) == self.last
        if state != self.state or not same:
            self.state, self.end, self.last, self.places = state, 0, b"", {}
        rest = b""
        with os.fdopen(os.dup(handle), "rb") as content:
            content.seek(self.end)
            for text in content:
                if not text.endswith(b"\n"):
                    rest = text
                    break
                self.add(_name(text.strip()), len(text))
        self.last = self._before(handle)
        return rest

    def add(self, name: tuple[str, str] | None, length: int) -> None:
        if name is not None:
            self.places[name[0]] = (self.end, length, name[1])
        self.end += length

    def _before(self, handle: int) -> bytes:
        length = min(self.end, 128)
        return os.pread(handle, length, self.end - length)


_indexes: dict[Path, _Index] = {}


def find(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Return which of these keys a file holds now, with the beginning of the digest of each."""
    index = _indexes.setdefault(file.absolute(), _Index())
    try:
        handle = _open(file, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RecordError(f"cannot read {file}: {error.strerror}") from None
    try:
        rest = index.read(handle).strip()
        last = dict([found] if rest and (found := _name(rest)) else [])
    finally:
        os.close(handle)
    held = {name: index.places[name][2] for name in names if name in index.places}
    return held | {name: last[name] for name in names if name in last}


def append(new: Iterable[dict[str, Any]], file: Path, *, overwrite: bool = False) -> int:
    """Add sealed lines to a file at once.

    Parameters
    ----------
    new
        Records or notes, sealed.
    file
        Made if it is not there.
    overwrite
        What happens to a record whose hash is in the file already: the old one goes, or the new.

    Returns
    -------
    int
        How many were added.

    Raises
    ------
    RecordError
        If the folder cannot be written or the disk is full, or a line would not read back; the
        file is then as it was.
    """
    from filelock import FileLock  # which who only reads can do without

    texts = {key(line): json.dumps(line).encode() + b"\n" for line in new}
    if not texts:
        return 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(FileLock(file.parent / ".lock")):
            for orphan in file.parent.glob(f".{file.name}.*"):
                orphan.unlink()  # left by a kill: whoever holds the lock is the only writer
            return _append(texts, file, overwrite)
    except (OSError, NotImplementedError) as error:  # the latter of a system without locks
        raise RecordError(
            f"cannot write {file}: {getattr(error, 'strerror', None) or error}; "
            "what it held is untouched, run again once it can be written"
        ) from None


@contextmanager
def _only_writer(lock: Any) -> Iterator[None]:
    """Hold a lock, and say so when another one keeps it: it may have been stopped half-way."""
    try:
        lock.acquire(timeout=PATIENCE)
    except TimeoutError:
        print(
            f"mcnn: waiting for another program that holds {lock.lock_file}; "
            "if it was suspended, let it go on or end it",
            file=sys.stderr,
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _append(texts: dict[str, bytes], file: Path, overwrite: bool) -> int:
    index = _indexes.setdefault(file.absolute(), _Index())
    created = not file.exists()
    handle = _open(file, os.O_RDWR | os.O_CREAT)
    try:
        rest = index.read(handle)
        if rest and not _torn(rest.strip()):  # only the end of the line is gone
            _write(handle, b"\n", index.end + len(rest))
            index.read(handle)
        held = texts.keys() & index.places.keys()
        if not overwrite:
            texts = {name: text for name, text in texts.items() if name not in held}
        names = {name: _name(text.strip()) for name, text in texts.items()}
        for name, read in names.items():
            if read is None:  # it was sealed as json does not write it, or with a key twice
                raise RecordError(f"{name:.16} would not read back as it was sealed: run it again")
        if held and overwrite:
            _replace(texts, held, handle, index, file)
            return len(texts)
        _write(handle, b"".join(texts.values()), index.end)
        for name, text in texts.items():
            index.add(names[name], len(text))
        index.last = index._before(handle)
    except BaseException:
        if created and not os.fstat(handle).st_size:
            os.unlink(file)
        raise
    finally:
        os.close(handle)
    if created:
        _sync_folder(file.parent)
    return len(texts)


def _write(handle: int, content: bytes, end: int) -> None:
    """Write at the end of what is whole, all or nothing, and see it safe on the disk."""
    os.ftruncate(handle, end)
    try:
        os.lseek(handle, end, os.SEEK_SET)
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
    except BaseException:
        _cut(handle, end)
        raise
    try:
        os.fsync(handle)
    except OSError:  # not Ctrl-C: what is whole, and may have been read, stays
        _cut(handle, end)
        raise


def _cut(handle: int, end: int) -> None:
    with suppress(OSError):
        os.ftruncate(handle, end)


def _replace(
    texts: dict[str, bytes], held: Iterable[str], handle: int, index: _Index, file: Path
) -> None:
    """Write the file anew, without the old lines of these keys and with the new ones at its end."""
    with os.fdopen(os.dup(handle), "rb") as old:  # a single system call reads 2 GiB at most
        old.seek(0)
        content = old.read(index.end)
    kept, start = [], 0
    for place, length, _ in sorted(index.places[name] for name in held):
        kept.append(content[start:place])
        start = place + length
    replace_file(file, b"".join([*kept, content[start:], *texts.values()]))


def replace_file(file: Path, content: bytes) -> None:
    """Write a file as a whole: a kill or a full disk leaves the old one or the new one.

    Its mode stays as it is, and a link goes on pointing where it did.
    """
    file = Path(os.path.realpath(file))
    mode = file.stat().st_mode & 0o7777 if file.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, mode)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """See it safe on the disk that a file of this name is there; not every system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
