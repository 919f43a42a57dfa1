"""The errors a user can cause, each one line: what is wrong, and what to do about it.

The command line prints the message after ``mcnn: error:`` and exits with status 2.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec

_FEW = 12  # names that are read at a glance

# Who needs more than the library does, and the modules that come with that extra.
EXTRAS = {
    "data": ("platformdirs", "sklearn", "torchvision"),
    "figures": ("cycler", "matplotlib"),
    "ledger": ("filelock", "pydantic", "yaml"),
    "cluster": ("dask", "distributed"),
    "onnx": ("onnx", "onnxscript"),
}


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


class MissingExtraError(UsageError, ImportError):
    """A package is missing that an extra of this one brings."""


@contextmanager
def naming_extra() -> Iterator[None]:
    """Import inside of this what an extra brings; if it is missing, the error names the extra.

    Raises
    ------
    MissingExtraError
        For a module of :data:`EXTRAS`; other modules are missing as ever.

    Examples
    --------
    >>> with naming_extra():
    ...     raise ModuleNotFoundError(name="yaml")
    Traceback (most recent call last):
        ...
    mcnn.errors.MissingExtraError: no module yaml, an extra: pip install '.[ledger]' in a checkout
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        for extra, modules in EXTRAS.items():
            if module in modules:
                text = f"no module {module}, an extra: pip install '.[{extra}]' in a checkout"
                raise MissingExtraError(text) from error
        raise


def require(extra: str) -> None:
    """Find out before the work begins whether an extra is installed.

    Raises
    ------
    MissingExtraError
        If it is not.
    """
    with naming_extra():
        for module in EXTRAS[extra]:
            if find_spec(module) is None:
                raise ModuleNotFoundError(name=module)


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
