"""The errors a user can cause, each one line: what is wrong, and what to do about it.

The command line prints the message after ``mcnn: error:`` and exits with status 2.
"""


class McnnError(Exception):
    """What a user can mend; the message names the cause and the remedy."""


class DataError(McnnError):
    """A data set is missing, damaged or not the one that was published."""


class RecordError(McnnError):
    """A record or a results folder cannot be read, trusted or written."""


class UsageError(McnnError):
    """A name or an option that does not exist."""
