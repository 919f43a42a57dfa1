"""The data of the chapter's experiments by name."""

from mcnn.data import wheels
from mcnn.errors import unknown
from mcnn.ranking import Interactions, generated, movielens

RATINGS = ("movielens", "generated")


def load(name: str, seed: int) -> Interactions:
    """Return choices: MovieLens-100k, or made-up ones, which the seed draws."""
    if name not in RATINGS:
        raise unknown("ratings", name, RATINGS)
    return movielens() if name == "movielens" else generated(seed=seed)


def fingerprint(name: str) -> str:
    """Return what the wheel of the ratings is known by, or their name if they are made up."""
    return wheels.WHEELS[name].sha256[:16] if name in wheels.WHEELS else name
