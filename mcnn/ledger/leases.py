"""Leases on trials: several drivers on one folder of records share the work.

A driver takes a trial by making a file for it, which only one can, and touches the file for as long
as it is alive.
A file that nobody touched for a while, or that is of the future because a clock was set back, is
free to take; at once, if its process was on this machine and has ended.
The folder is ``.leases`` beside the records.
Without it (a file system that cannot, a folder that somebody removes) work may be done twice, and
nothing worse: records are kept apart by their hash.
"""

import os
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

EXPIRES = 60.0  # seconds after the last touch
BEAT = 10.0  # seconds between touches


_WHO = "{} {} {}"


def _host() -> str:
    return platform.node().replace(" ", "-") or "?"


def _started(pid: int) -> str:
    """Return when a process of this machine was started, which tells it from others of its id."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        if sys.platform == "linux":
            return "ended"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "ended"
    except OSError:
        pass
    return "?"


class Leases:
    """The leases of one driver; a context that gives them all back.

    Parameters
    ----------
    folders
        Those of the records that will be written.
    """

    def __init__(self, *folders: Path) -> None:
        self._held: set[Path] = set()
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._folders = {folder / ".leases" for folder in folders}

    def take(self, folder: Path, key: str) -> bool:
        """Take the lease of a trial, unless another driver has it."""
        file = folder / ".leases" / key
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._make(file)
            except FileExistsError:
                if not self._expired(file):
                    return False
                # Of several who find it expired, one alone moves it away.
                old = file.with_name(f".{key}.{os.getpid()}")
                os.rename(file, old)
                os.unlink(old)
                self._make(file)
        except (FileNotFoundError, FileExistsError):
            return False  # another one was faster
        except OSError:
            return True  # no leases here: rather twice than never
        with self._lock:
            self._held.add(file)
        return True

    @staticmethod
    def _make(file: Path) -> None:
        """Make a lease that says whose it is; FileExistsError if there is one.

        It appears with what it says: else a driver that is killed in between leaves one that is
        nobody's, and the next driver leaves the trial to it.
        """
        who = _WHO.format(_host(), os.getpid(), _started(os.getpid()))
        new = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
        new.write_text(who)
        try:
            os.link(new, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(file, "x", encoding="utf-8") as out:
                out.write(who)
        finally:
            new.unlink()

    def _expired(self, file: Path) -> bool:
        """Whether its process has ended, or nobody touches it, by the clock of the file system."""
        told = file.read_text(encoding="utf-8", errors="replace")
        host, pid, started = (*told.split(), "", "", "")[:3]
        if host == _host() and pid.isdecimal() and started != _started(int(pid)):
            return True
        now = file.with_name(f".now-{os.getpid()}")
        now.touch()
        age = now.stat().st_mtime - file.stat().st_mtime
        now.unlink()
        return abs(age) > EXPIRES  # or the clock was set back since the last touch

    def give_back(self, folder: Path, key: str) -> None:
        """Give a lease back: the trial is recorded, or will not be."""
        file = folder / ".leases" / key
        with self._lock:
            held = file in self._held
            self._held.discard(file)
        if held:
            with suppress(OSError):
                file.unlink()

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            with self._lock:
                held = list(self._held)
            for file in held:
                with suppress(OSError):
                    os.utime(file)

    def start(self) -> None:
        """Begin to touch what is held; after workers were forked, which want no other thread."""
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for file in list(self._held):
            self.give_back(file.parent.parent, file.name)
        for folder in self._folders:
            with suppress(OSError):
                folder.rmdir()  # unless another driver has leases
