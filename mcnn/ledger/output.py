"""Output that fails nobody: to a reader who has left, to no reader, in a poor encoding.

The exit status says what was done, not whether somebody read of it.
"""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# What the ledger prints beyond ASCII, for terminals and files that can take no more.
_PLAIN = {
    **{"±": "+-", "…": "...", "≤": "<=", "≥": ">=", "×": "x", "−": "-", "–": "-", "—": "-"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "≈": "~", "∑": "sum", "²": "^2", "→": "->"},
    **{"δ": "delta", "λ": "lambda", "α": "alpha", "ξ": "xi", "ω": "omega", "·": "*", "ä": "ae"},
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


codecs.register_error("mcnn.plain", _plain)


class _Stream:
    """A text stream that goes on when its reader has left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def robust() -> Iterator[None]:
    """Print to what standard output and error are, whatever they are."""
    before = sys.stdout, sys.stderr
    streams = []
    for stream in before:
        if stream is None:  # closed by who started this
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif (getattr(stream, "encoding", None) or "utf-8").lower() not in ("utf-8", "utf8"):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="mcnn.plain")
        streams.append(_Stream(stream))
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            with suppress(ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
