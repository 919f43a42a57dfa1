"""Complaints that the functions of this idea share."""

from collections.abc import Iterable

from torch import Tensor

from mcnn.errors import unknown


def check_floating(**tensors: Tensor) -> None:
    """Raise TypeError unless all are floating point tensors of one type."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a floating point tensor, got {kind}")
    kinds = {x.dtype for x in tensors.values()}
    if len(kinds) > 1:
        listed = " and ".join(f"{name} {x.dtype}" for name, x in tensors.items())
        raise TypeError(f"operands must be of one type, got {listed}; convert one with .to(...)")


def check_form(form: str, known: Iterable[str]) -> str:
    """Return the form, or raise ValueError if there is no such."""
    if form not in known:
        raise unknown("form", form, known)
    return form
