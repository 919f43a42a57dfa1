r"""Models that score a user and an item: by a dot product, or by a network.

All have embeddings :math:`p_u` of users and :math:`q_i` of items, normal with a deviation of .01 at
first unless said otherwise, and return the logit of the probability that u chooses i.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.errors import UsageError
from mcnn.paths import PathMLP
from mcnn.sampling import fold_in
from mcnn.seeds import layer_seed

TOWER = (64, 32, 16, 8)  # of the paper, for 8 predictive factors
_SPREAD = 0.01  # of the paper's embeddings at first
_PAIRS = 1 << 17  # scored at a time


class Ranker(nn.Module):
    """What all models share: the score of every pair.

    Attributes
    ----------
    users, items
        How many there are.
    """

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = operator.index(users), operator.index(items)
        if min(self.users, self.items) < 1:
            raise UsageError(f"users and items must be at least 1, got {users} and {items}")

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Return the logits of all pairs, [users, items]."""
        item = torch.arange(self.items, device=next(self.parameters()).device)
        some = max(1, _PAIRS // self.items)
        rows = []
        for user in torch.arange(self.users, device=item.device).split(some):
            pairs = (user.repeat_interleave(len(item)), item.repeat(len(user)))
            rows.append(self(*pairs).view(len(user), -1))
        return torch.cat(rows)


class Dot(Ranker):
    r"""A dot product with biases, :math:`b+b_u+b_i+p_u\cdot q_i`: matrix factorisation.

    Parameters
    ----------
    users, items, factors
        How many there are.
    seed
        Of the embeddings: an integer or a generator; by default from PyTorch's own.
    spread
        Standard deviation of the embeddings at first.

    Examples
    --------
    >>> Dot(3, 5, factors=2, seed=0).scores().shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        users: int,
        items: int,
        factors: int = 8,
        seed: int | torch.Generator | None = None,
        spread: float = _SPREAD,
    ) -> None:
        super().__init__(users, items)
        seed = layer_seed(seed)
        self.user = _embedding(users, factors, seed, 0, spread)
        self.item = _embedding(items, factors, seed, 1, spread)
        self.user_bias = nn.Embedding.from_pretrained(torch.zeros(users, 1), freeze=False)
        self.item_bias = nn.Embedding.from_pretrained(torch.zeros(items, 1), freeze=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits [b] of users [b] and items [b]."""
        product = (self.user(user) * self.item(item)).sum(1)
        return product + (self.user_bias(user) + self.item_bias(item)).squeeze(1) + self.bias


class GMF(Ranker):
    r"""Generalised matrix factorisation: :math:`h\cdot(p_u\odot q_i)+b`, with a weight per factor.

    Parameters
    ----------
    users, items, factors, seed
        As of :class:`Dot`.

    Notes
    -----
    Source: He et al., Neural collaborative filtering. With :math:`h=1` it is the dot product.
    """

    def __init__(
        self, users: int, items: int, factors: int = 8, seed: int | torch.Generator | None = None
    ) -> None:
        super().__init__(users, items)
        seed = layer_seed(seed)
        self.user = _embedding(users, factors, seed, 0)
        self.item = _embedding(items, factors, seed, 1)
        self.last = _linear(factors, 1, seed, 2)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits [b] of users [b] and items [b]."""
        return self.last(self.user(user) * self.item(item)).squeeze(1)


class MLP(Ranker):
    r"""A tower of ReLU layers over both embeddings, side by side, and a weight per output of it.

    Parameters
    ----------
    users, items
        How many there are.
    tower
        Widths, the first of which is that of both embeddings together; one number is no layer, and
        then the score is a sum of one number of the user and one of the item.
    paths
        If given, the tower is a :class:`mcnn.paths.PathMLP` of so many paths.
    seed
        As of :class:`Dot`.

    Raises
    ------
    UsageError
        If the first width is odd, or a number is below one.

    Examples
    --------
    >>> net = MLP(3, 5, tower=(8, 4), seed=0)
    >>> net(torch.tensor([0, 2]), torch.tensor([4, 1])).shape
    torch.Size([2])
    """

    def __init__(
        self,
        users: int,
        items: int,
        tower: Sequence[int] = TOWER,
        paths: int | None = None,
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__(users, items)
        seed = layer_seed(seed)
        self.user, self.item = _halves(users, items, tower, seed)
        self.tower = _tower(tower, paths, seed)
        self.last = _linear(tower[-1], 1, seed, 2)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits [b] of users [b] and items [b]."""
        x = self.tower(torch.cat([self.user(user), self.item(item)], 1))
        return self.last(x).squeeze(1)


class NeuMF(Ranker):
    r"""Neural matrix factorisation: :class:`GMF` and :class:`MLP` beside each other.

    Each has its own embeddings; what both have made of them goes through one linear layer.

    Parameters
    ----------
    users, items, factors
        As of :class:`GMF`.
    tower, paths, seed
        As of :class:`MLP`.

    Notes
    -----
    Source: He et al., Neural collaborative filtering; without its pre-training.

    Examples
    --------
    >>> sum(p.numel() for p in NeuMF(943, 1682).parameters())
    107761
    """

    def __init__(
        self,
        users: int,
        items: int,
        factors: int = 8,
        tower: Sequence[int] = TOWER,
        paths: int | None = None,
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__(users, items)
        seed = layer_seed(seed)
        self.gmf_user = _embedding(users, factors, seed, 0)
        self.gmf_item = _embedding(items, factors, seed, 1)
        self.user, self.item = _halves(users, items, tower, seed)
        self.tower = _tower(tower, paths, seed)
        self.last = _linear(factors + tower[-1], 1, seed, 2)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits [b] of users [b] and items [b]."""
        product = self.gmf_user(user) * self.gmf_item(item)
        x = self.tower(torch.cat([self.user(user), self.item(item)], 1))
        return self.last(torch.cat([product, x], 1)).squeeze(1)


class PathTower(nn.Module):
    """Layers of paths, each with a ReLU behind it."""

    def __init__(self, widths: Sequence[int], paths: int, seed: int) -> None:
        super().__init__()
        # As a matrix with zeros in it: layers this small gain nothing from their sparsity.
        self.net = PathMLP(widths, paths, seed=seed, kernel="dense")

    def forward(self, x: Tensor) -> Tensor:
        """Return [b, last width] of [b, first width]."""
        return F.relu(self.net(x))


def _embedding(
    count: int, size: int, seed: int, stream: int, spread: float = _SPREAD
) -> nn.Embedding:
    if operator.index(size) < 1:
        raise UsageError(f"an embedding needs 1 number at least, got {size}")
    generator = torch.Generator().manual_seed(fold_in(seed, stream))
    return nn.Embedding.from_pretrained(
        spread * torch.randn(count, size, generator=generator), freeze=False
    )


def _halves(users: int, items: int, tower: Sequence[int], seed: int) -> tuple[nn.Embedding, ...]:
    if not tower or min(tower) < 1:
        raise UsageError(f"tower must be widths of at least 1, got {list(tower)}")
    if tower[0] % 2:
        raise UsageError(
            f"half of the tower's {tower[0]} inputs are the user's: give an even number"
        )
    half = tower[0] // 2
    return _embedding(users, half, seed, 3), _embedding(items, half, seed, 4)


def _linear(inputs: int, outputs: int, seed: int, stream: int) -> nn.Linear:
    """Return a layer with Glorot's uniform weights and no bias at first, as the paper's has."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    generator = torch.Generator().manual_seed(fold_in(seed, stream))
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _tower(widths: Sequence[int], paths: int | None, seed: int) -> nn.Module:
    if paths is not None:
        return PathTower(widths, paths, fold_in(seed, 5))
    layers: list[Any] = []
    for n in range(len(widths) - 1):
        layers += [_linear(widths[n], widths[n + 1], seed, 6 + n), nn.ReLU()]
    return nn.Sequential(*layers)
