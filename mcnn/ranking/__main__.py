"""Rank the models on a file of ratings: ``python -m mcnn.ranking ml-1m/ratings.dat``."""

import argparse
import sys
from collections.abc import Sequence

import torch

from mcnn.errors import McnnError, UsageError
from mcnn.ranking import GMF, Dot, Interactions, NeuMF, hit_rate, ranks, read
from mcnn.ranking.training import Recipe, epochs


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a dot product, GMF and NeuMF, and print what each ranks after each epoch.

    Parameters
    ----------
    arguments
        Of the command line; by default those of the process.

    Returns
    -------
    int
        Exit status: 2 where the file is not one of ratings, or an option is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m mcnn.ranking", description=__doc__)
    parser.add_argument("ratings", help="lines of user, item, rating and time, as MovieLens has")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay of the dot product")
    parser.add_argument("--factors", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        _rank(read(options.ratings), options)
    except (McnnError, ValueError) as error:  # the latter of seeds and of PyTorch
        print(f"mcnn.ranking: error: {error}", file=sys.stderr)
        return 2
    return 0


def _rank(data: Interactions, options: argparse.Namespace) -> None:
    """Train and print."""
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"there is no device {options.device!r} here: cpu always is") from None
    candidates = ~data.seen
    n = candidates.sum(1)
    hit_rate(torch.zeros_like(n), n)  # are there enough candidates? Say so before the training
    sizes = (data.users, data.items, options.factors)
    plain = Recipe(options.lr)
    models = {
        "dot": (Dot(*sizes, options.seed, 0.1), Recipe(options.lr, options.decay)),
        "GMF": (GMF(*sizes, options.seed), plain),
        "NeuMF": (NeuMF(*sizes, seed=options.seed), plain),
    }
    for model, _ in models.values():
        model.to(options.device)
    print("epoch  model   validation: among 99  among all   test: among 99  among all")
    generator = torch.Generator().manual_seed(options.seed)
    for epoch in epochs(
        list(models.values()),
        data,
        number=options.epochs,
        batch_size=options.batch_size,
        generator=generator,
    ):
        for name, (model, _) in models.items():
            scores = model.scores().cpu()
            found = []
            for item in (data.validation, data.test):
                rank = ranks(scores, item, candidates)
                found += [hit_rate(rank, n), hit_rate(rank, n, sampled=None)]
            print(
                f"{epoch:5}  {name:6}  {found[0]:21.4f}  {found[1]:9.4f}"
                f"  {found[2]:14.4f}  {found[3]:9.4f}"
            )


if __name__ == "__main__":
    sys.exit(main())
