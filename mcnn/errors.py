"""The errors a user can cause, each one line: what is wrong, and what to do about it.

The command line prints the message after ``mcnn: error:`` and exits with status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_FEW = 12  # names that are read at a glance


class McnnError(Exception):
    """What a user can mend; the message names the cause and the remedy."""


class DataError(McnnError):
    """A data set is missing, damaged or not the one that was published."""


class RecordError(McnnError):
    """A record or a results folder cannot be read, trusted or written."""


class TrialError(McnnError):
    """Trials that failed; those that did not are recorded."""


class UsageError(McnnError, ValueError):
    """A name or an option that does not exist."""


def unknown(kind: str, name: object, known: Iterable[object]) -> UsageError:
    """Return the error for a name that does not exist, with those that do.

    Parameters
    ----------
    kind
        What it should be the name of.
    name
        The one that does not exist.
    known
        Those that do; of very many, only those that may have been meant are listed.

    Examples
    --------
    >>> print(unknown("method", "x", ["random", "sobol"]))
    no method 'x'; there are: random, sobol
    >>> print(unknown("method", "sobel", ["random", "sobol"]))
    no method 'sobel'; there are: random, sobol; did you mean sobol?
    >>> print(unknown("number", "21", map(str, range(20))))
    no number '21'; did you mean 2 or 1?
    """
    names = list(map(str, known))
    close = get_close_matches(str(name), names)
    hints = [] if close and len(names) > _FEW else [f"there are: {', '.join(names)}"]
    hints += [f"did you mean {' or '.join(close)}?"] if close else []
    return UsageError("; ".join([f"no {kind} {name!r}", *hints]))
