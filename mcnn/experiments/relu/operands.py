"""Operands for identities that hold on paper: of every magnitude, and where rounding bites."""

import math

import torch
from torch import Tensor

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
SEEDS = {"fast": range(2), "full": range(5)}


def any_number(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return n numbers with random bits [n]: every exponent alike, infinities but no NaN."""
    integer = INTEGERS[dtype.itemsize]
    limits = torch.iinfo(integer)
    bits = torch.randint(limits.min, limits.max, (n,), generator=generator, dtype=integer)
    x = bits.view(dtype)
    return x.where(~x.isnan(), torch.inf)


def every_number(dtype: torch.dtype) -> Tensor:
    """Return all numbers of a type of 16 bits, infinities included, without NaN."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return x[~x.isnan()]


def special_numbers(dtype: torch.dtype) -> Tensor:
    """Return zeros, infinities, and numbers at the ends of the range and of the precision."""
    info = torch.finfo(dtype)
    tiny = info.smallest_normal * info.eps  # the smallest positive number
    numbers = [0.0, tiny, 3 * tiny, info.smallest_normal, 1.0, 1 + info.eps, 3.0, 1e4]
    numbers += [info.max, info.max * (1 - info.eps), info.max / 2, torch.inf]
    return torch.tensor([*numbers, *(-x for x in numbers)], dtype=dtype)


def hard_pairs(n: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pairs where sums of x and y may go wrong, about 3 n of them.

    One third has random bits, so the operands are far apart; in one third they are the same or
    neighbours; in one third they have opposite signs and at most as many binades between them as
    the type has bits, so that the smaller one is rounded but not lost.
    All pairs of special numbers come on top.
    """
    x, y = any_number(2 * n, dtype, generator).view(2, n)
    integer = INTEGERS[dtype.itemsize]
    steps = torch.randint(-4, 5, (n,), generator=generator, dtype=integer)
    near = (x.view(integer) + steps).view(dtype)
    near = near.where(~near.isnan(), torch.inf)
    reach = 2 - math.frexp(torch.finfo(dtype).eps)[1]
    gap = torch.randint(-reach, reach + 1, (n,), generator=generator)
    bits = torch.randint(-64, 65, (n,), generator=generator, dtype=integer)
    shifted = (-torch.ldexp(x.double(), gap.double()).to(dtype)).view(integer) + bits
    shifted = shifted.view(dtype)
    shifted = shifted.where(~shifted.isnan(), torch.inf)
    special = special_numbers(dtype)
    a, b = torch.meshgrid(special, special, indexing="ij")
    left = torch.cat([x, x, x, a.flatten()])
    right = torch.cat([y, near, shifted, b.flatten()])
    return left, right
