"""Errors counted in units in the last place: how many floating point numbers lie between."""

import torch
from torch import Tensor

# Bits of the significand, the leading one included, and exponent of the smallest positive number.
_FORMATS = {
    torch.float16: (11, -24),
    torch.bfloat16: (8, -133),
    torch.float32: (24, -149),
    torch.float64: (53, -1074),
}


def ulp(x: Tensor) -> Tensor:
    """Return the distance from ``|x|`` to the next larger number of its type.

    Parameters
    ----------
    x
        Floating point, finite, any shape.

    Returns
    -------
    Tensor
        float64, the shape of ``x``; positive, at zero the smallest positive number.

    Raises
    ------
    TypeError
        If ``x`` is not float16, bfloat16, float32 or float64.

    Examples
    --------
    >>> ulp(torch.tensor([1.0, 2.0])).log2().tolist()
    [-23.0, -22.0]
    """
    if x.dtype not in _FORMATS:
        raise TypeError(f"x must be a floating point tensor, got {x.dtype}")
    bits, smallest = _FORMATS[x.dtype]
    exponent = torch.frexp(x.double()).exponent  # |x| is in [2 ** (exponent - 1), 2 ** exponent)
    exponent = exponent.where(x != 0, torch.iinfo(torch.int32).min // 2)
    exponent = (exponent - bits).clamp_(min=smallest)
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)


def ulps(value: Tensor, truth: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return how far a value is from the truth, in ulp.

    Parameters
    ----------
    value, truth
        Same floating point type, shapes that broadcast.
    scale
        The number whose ulp is the unit; by default the truth.

    Returns
    -------
    Tensor
        float64; 0 where both are the same infinity, infinite where only one of them is, or the
        value is NaN.

    Examples
    --------
    >>> ulps(torch.tensor(1 + 2**-22), torch.tensor(1.0)).item()
    2.0
    """
    unit = ulp((truth if scale is None else scale).nan_to_num())
    error = (value.double() - truth.double()).abs() / unit
    return torch.where(value == truth, 0.0, error.nan_to_num(nan=torch.inf, posinf=torch.inf))
