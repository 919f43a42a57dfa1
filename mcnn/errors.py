"""The errors a user can cause, each one line: what is wrong, and what to do about it.

The command line prints the message after ``mcnn: error:`` and exits with status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class McnnError(Exception):
    """What a user can mend; the message names the cause and the remedy."""


class DataError(McnnError):
    """A data set is missing, damaged or not the one that was published."""


class RecordError(McnnError):
    """A record or a results folder cannot be read, trusted or written."""


class TrialError(McnnError):
    """Trials that failed; those that did not are recorded."""


class UsageError(McnnError):
    """A name or an option that does not exist."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist, with what may have been meant.

    Examples
    --------
    >>> print(unknown("method", "sobel", ["random", "sobol"]))
    no method 'sobel'; did you mean sobol?
    >>> print(unknown("method", "x", ["random", "sobol"]))
    no method 'x'; there are: random, sobol
    """
    known = list(known)
    close = get_close_matches(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
    return UsageError(f"no {kind} {name!r}; {hint}")
