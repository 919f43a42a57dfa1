"""Who chose what: choices of users among items, the last two of each user held out."""

import math
import operator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcnn.data import wheels
from mcnn.errors import DataError, UsageError
from mcnn.sampling import as_seed, fold_in

LEAST = 3  # choices of a user: one to learn from, one to validate, one to test
_MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"


@dataclass(frozen=True)
class Interactions:
    """Choices of users among items, split by time: *leave one out*.

    Attributes
    ----------
    users, items
        How many there are.
    user, item
        int64 [n], the pairs to learn from.
    validation, test
        int64 [users], the last choice of each user but one, and the last.
    seen
        bool [users, items], what was chosen at any time.
    """

    users: int
    items: int
    user: Tensor
    item: Tensor
    validation: Tensor
    test: Tensor
    seen: Tensor

    @property
    def known(self) -> Tensor:
        """What may be learned from, bool [users, items]."""
        known = torch.zeros(self.users, self.items, dtype=torch.bool)
        known[self.user, self.item] = True
        return known

    @property
    def popularity(self) -> Tensor:
        """How often each item occurs in what may be learned from, int64 [items]."""
        return torch.bincount(self.item, minlength=self.items)


def leave_one_out(user: Tensor, item: Tensor, time: Tensor) -> Interactions:
    """Split choices by time: the last of each user is for testing, the one before to validate.

    Parameters
    ----------
    user, item, time
        [n] each; any integers that name users and items. Of choices at the same time the order
        given counts; who has fewer than three is left out.

    Raises
    ------
    UsageError
        If the lengths differ, a pair occurs twice, nobody has three choices, users and items are
        no integers, or a time is not a number.

    Examples
    --------
    >>> chosen = torch.tensor([7, 8, 9, 5])
    >>> data = leave_one_out(torch.tensor([1, 1, 1, 2]), chosen, torch.tensor([0, 2, 1, 0]))
    >>> data.users, data.items, data.item.tolist(), data.test.tolist()
    (1, 3, [0], [1])
    """
    if not user.shape == item.shape == time.shape or user.dim() != 1:
        shapes = [list(x.shape) for x in (user, item, time)]
        raise UsageError(f"users, items and times must be lists of one length, got {shapes}")
    if user.is_floating_point() or item.is_floating_point():
        raise UsageError(f"users and items must be integers, got {user.dtype} and {item.dtype}")
    if bool(time.isnan().any()):
        raise UsageError("a time is not a number (NaN), and has no order")
    enough = torch.unique(user, return_inverse=True)[1]
    enough = (torch.bincount(enough) >= LEAST)[enough] if len(user) else enough.bool()
    if not enough.any():
        raise UsageError(f"nobody has {LEAST} choices: one to learn from and two to hold out")
    user, item, time = user[enough], item[enough], time[enough]
    names, user = torch.unique(user, return_inverse=True)
    kinds, item = torch.unique(item, return_inverse=True)
    order = torch.argsort(time, stable=True)
    order = order[torch.argsort(user[order], stable=True)]
    user, item = user[order], item[order]
    seen = torch.zeros(len(names), len(kinds), dtype=torch.bool)
    seen[user, item] = True
    if int(seen.sum()) != len(user):
        raise UsageError("a user has chosen an item twice: keep one of the two")
    last = torch.bincount(user).cumsum(0) - 1  # [users]
    learn = torch.ones(len(user), dtype=torch.bool)
    learn[last] = learn[last - 1] = False
    return Interactions(
        len(names), len(kinds), user[learn], item[learn], item[last - 1], item[last], seen
    )


def parse(text: str) -> Interactions:
    """Read lines of user, item, rating and time, with any of MovieLens' separators.

    A rating is a choice, however low: the source calls that implicit feedback.
    A first line without any number is a heading.

    Raises
    ------
    DataError
        If a line has something else in it, or there is none.
    """
    text = text.removeprefix("\ufeff")  # as some editors begin a file
    lines = [line.replace("::", "\t").replace(",", "\t").split() for line in text.splitlines()]
    lines = [line for line in lines if line]
    head = bool(lines) and not any(map(_is_number, lines[0]))
    if not lines[head:]:
        raise DataError("not ratings: there is no line of user, item, rating and time")
    try:
        columns = [_columns(*line) for line in lines[head:]]
        user, item, time = torch.tensor(columns, dtype=torch.int64).view(-1, 3).T
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"not ratings ({error}): lines of user, item, rating and time are read, with "
            "numbers for users and items"
        ) from None
    return leave_one_out(user, item, time)


def _columns(user: str, item: str, rating: str, time: str) -> list[int]:
    if not math.isfinite(float(rating)):
        raise ValueError(f"a rating is {rating}")
    return [int(user), int(item), int(time) if time.isdecimal() else int(float(time))]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read(path: Path | str) -> Interactions:
    """Read a file of ratings: ``u.data`` of MovieLens-100k, ``ratings.dat`` of 1M, a table.

    Raises
    ------
    DataError
        If there is no such file, or it is not one of ratings.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    return parse(text)


def movielens() -> Interactions:
    """Return MovieLens-100k: 943 users, 1682 movies, 100,000 ratings.

    Raises
    ------
    DataError
        If its wheel is not here, see :mod:`mcnn.data.wheels`: ``mcnn data movielens --download``.
    """
    return parse(wheels.read("movielens", _MEMBER).decode())


def generated(
    users: int = 200,
    items: int = 240,
    each: int = 20,
    factors: int = 3,
    seed: int | torch.Generator = 0,
) -> Interactions:
    """Return made-up choices: of the softmax of a popularity and a dot product, none twice.

    Parameters
    ----------
    users, items, each
        Their numbers, and how many choices each user makes.
    factors
        Of the dot product.
    seed
        Of all of it.

    Raises
    ------
    UsageError
        If there is no user, or nobody can make so many choices, three at least.
    """
    users, items, each, factors = map(operator.index, (users, items, each, factors))
    if users < 1 or factors < 0 or not LEAST <= each <= items:
        raise UsageError(
            f"{users} users cannot make {each} choices each among {items} items: give 1 user and "
            f"{LEAST} choices at least, and no more choices than items"
        )
    generator = torch.Generator().manual_seed(fold_in(as_seed(seed), 0))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    taste = normal(users, factors) @ normal(items, factors).T + normal(items)
    noise = -torch.rand(users, items, generator=generator, dtype=torch.float64).log()
    chosen = (taste - noise.log()).topk(each).indices  # Gumbel's way to draw without replacement
    mixed = chosen.gather(1, torch.rand(users, each, generator=generator).argsort(1))
    user = torch.arange(users).repeat_interleave(each)
    return leave_one_out(user, mixed.flatten(), torch.arange(each).repeat(users))
