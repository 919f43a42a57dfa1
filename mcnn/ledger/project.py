"""Where the checkout is: records and claims live beside the package, not inside it."""

import os
from pathlib import Path

from mcnn.errors import UsageError

CLAIMS = "claims.yml"
# By these git takes another repository for that of the folder it is called in; hooks set some.
_OTHER = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_PREFIX"),
)
PROFILES = ("fast", "full")


def root() -> Path:
    """Return the folder that holds ``claims.yml``: this one, one above it, or the package's own.

    Raises
    ------
    UsageError
        Outside a checkout of the project.
    """
    beside_package = Path(__file__).resolve().parents[2]
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        here = beside_package
    for folder in (here, *here.parents, beside_package):
        if (folder / CLAIMS).is_file() and (folder / "mcnn").is_dir():
            return folder
    raise UsageError(f"no {CLAIMS} in {here} or above it: run this inside a checkout of the book")


def git_environment() -> dict[str, str]:
    """Return the environment in which git looks at the folder that it is called in."""
    return {name: value for name, value in os.environ.items() if name not in _OTHER}


def results_dir(profile: str) -> Path:
    """Return where records of a profile are kept: ``full`` is committed, the rest is not.

    The environment variable ``MCNN_RESULTS`` names another folder for those of ``full``.
    """
    if profile == "full" and os.environ.get("MCNN_RESULTS"):
        return Path(os.environ["MCNN_RESULTS"])
    return root() / ("results" if profile == "full" else "_build/results")
