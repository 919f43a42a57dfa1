"""Checks of numbers that users give: how many of something, and how much."""

import math
import operator
from typing import SupportsIndex


def as_count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """Return how many there are of something, as an int; integers of NumPy count like Python's.

    Parameters
    ----------
    name
        Of the argument, for the message.
    value
        Any integer; a bool is none.
    least
        What it must not be below.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is less.

    Examples
    --------
    >>> import numpy
    >>> as_count("samples", numpy.int64(3))
    3
    >>> as_count("samples", True)
    Traceback (most recent call last):
        ...
    TypeError: samples must be an int, got bool
    """
    try:
        if "bool" in str(getattr(value, "dtype", type(value).__name__)):  # tensors of one, too
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_positive(name: str, value: float) -> None:
    """Refuse what is no positive, finite number; a bool is none.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not positive or not finite.

    Examples
    --------
    >>> check_positive("bits", 0.0)
    Traceback (most recent call last):
        ...
    ValueError: bits must be positive and finite, got 0.0
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        positive = 0 < value < math.inf
    except TypeError:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not positive:
        raise ValueError(f"{name} must be positive and finite, got {value}")
