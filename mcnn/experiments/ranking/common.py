"""The data of the chapter's experiments by name."""

from mcnn.errors import unknown
from mcnn.ranking import Interactions, generated, movielens

DATASETS = ("movielens", "generated")


def load(name: str, seed: int) -> Interactions:
    """Return choices: MovieLens-100k, or made-up ones, which the seed draws."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return movielens() if name == "movielens" else generated(seed=seed)
