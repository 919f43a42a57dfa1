"""Ranking with what strangers bring: damaged files, wrong shapes, ranks that cannot be."""

import math

import numpy as np
import pytest
import torch

from mcnn import ranking
from mcnn.errors import DataError, UsageError
from mcnn.ranking import interactions, negatives
from mcnn.ranking.__main__ import main
from mcnn.ranking.training import Recipe, epochs

torch.set_num_threads(1)
SCORES = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
HELD = torch.tensor([2, 2])
REST = torch.tensor([[True, True, False, True]] * 2)
ALL = torch.ones(2, 4, dtype=torch.bool)
LINES = ["1\t2\t3\t4", "1\t3\t3\t5", "1\t4\t3\t6", "1\t5\t3\t7"]
MADE = ranking.generated(10, 12, 4)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("l\t242\t3\t1", "invalid literal"),  # a letter in place of a digit is no heading
        ("1\t9\tx\t4", "could not convert"),
        ("1\t9\tnan\t4", "a rating is nan"),
        ("1\t9\t3\tinf", "infinity"),
        ("1\t9\t3\tnan", "NaN"),
        ("1\t9\t3", "missing"),
        ("1\t9\t3\t4\t1\t8\t3\t4", "given"),  # two lines in one
        ("99999999999999999999\t9\t3\t4", "Overflow"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_damaged_line_is_found_wherever_it_is(line, cause, place):
    with pytest.raises(DataError, match=cause):
        interactions.parse("\n".join([*LINES[:place], line, *LINES[place:]]))


@pytest.mark.parametrize("head", ["", "userId,movieId,rating,timestamp\n", "\ufeff"])
def test_a_heading_or_a_mark_costs_no_line(head):
    data = interactions.parse(head + "\n".join(LINES))
    assert (len(data.item), data.items) == (2, 4)


@pytest.mark.parametrize("text", ["", "\n\n", "userId,movieId,rating,timestamp\n"])
def test_nothing_is_no_file_of_ratings(text):
    with pytest.raises(DataError, match="no line"):
        interactions.parse(text)


def test_times_keep_all_of_their_digits():
    start = 2**60  # nanoseconds
    lines = [f"1 {item} 3 {start + item}" for item in (4, 3, 2, 1)]
    assert interactions.parse("\n".join(lines)).test.tolist() == [3]  # the last in time is item 4


def rate(rank, candidates, **options):
    return ranking.hit_rate(torch.tensor(rank), torch.tensor(candidates), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.ranks(SCORES, HELD, ALL), "among the candidates"),
        (lambda: ranking.ranks(SCORES, HELD[:1], REST), r"\[users\]"),
        (lambda: ranking.ranks(SCORES, HELD, REST.long() * 2), "must be bool"),
        (lambda: ranking.sampled_ranks(SCORES, HELD, ALL, 2, generator()), "among the candidates"),
        (lambda: ranking.sampled_ranks(SCORES, HELD, REST, 0, generator()), "one item at least"),
        (lambda: rate([50], [40], sampled=20), "at most the number"),
        (lambda: rate([-1], [40], sampled=None), "at least 0"),
        (lambda: rate([5], [40], sampled=0), "one item at least"),
        (lambda: rate([5], [40], sampled=-1), "one item at least"),
        (lambda: rate([5, 6], [400]), r"\[users\]"),
        (lambda: ranking.hit_rate(HELD[:0], HELD[:0], sampled=None), "one user at least"),
        (lambda: rate([5.5], [400], sampled=None), "an estimate has no metric"),
        (lambda: negatives.density(REST, torch.tensor([-5, 1, 1, 1])), "at least 0"),
        (lambda: negatives.density(REST, torch.tensor([5])), r"must be \[4\]"),
        (lambda: negatives.density(REST, torch.ones(4), math.nan), "power"),
        (lambda: negatives.density(REST.long() * 3), "must be bool"),
        (lambda: negatives.draw(negatives.density(REST), 0, generator()), "samples"),
        (lambda: negatives.draw(torch.full((1, 3), math.nan), 2, generator()), "density"),
        (lambda: negatives.draw(torch.zeros(1, 3), 2, generator()), "density"),
        (lambda: negatives.not_known(ALL, HELD[:1] - 2, generator()), "chosen every item"),
        (
            lambda: ranking.unbiased_rank(SCORES, HELD, HELD[:, None], negatives.density(REST)),
            "no probability",
        ),
        (
            lambda: ranking.unbiased_rank(SCORES, HELD, HELD[:, None][:, :0], SCORES),
            "m at least 1",
        ),
        (lambda: ranking.leave_one_out(HELD + 0.5, HELD, HELD), "integers"),
        (lambda: ranking.leave_one_out(HELD, HELD, HELD * math.nan), "not a number"),
        (lambda: ranking.generated(5, 4, 9), "cannot make 9 choices"),
        (lambda: ranking.generated(5, 9, 2), "cannot make 2 choices"),
        (lambda: ranking.Dot(0, 5), "at least 1"),
        (lambda: ranking.GMF(3, 5, 0), "1 number at least"),
        (lambda: ranking.MLP(3, 5, tower=()), "tower"),
        (lambda: ranking.MLP(3, 5, tower=(8, 0)), "tower"),
        (lambda: epochs([], MADE, generator=generator()), "no model"),
        (
            lambda: epochs(
                [(ranking.Dot(10, 12), Recipe())], MADE, batch_size=0, generator=generator()
            ),
            "batch_size",
        ),
    ],
)
def test_what_was_silently_wrong_is_one_line(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_numbers_may_be_numpys():
    i = np.int64
    assert torch.equal(ranking.generated(i(10), i(12), i(4), i(3), i(0)).seen, MADE.seen)
    sizes = (i(10), i(12), i(2))
    net = ranking.NeuMF(*sizes, tower=(i(8), i(4)), paths=i(16), seed=i(1))
    same = ranking.NeuMF(10, 12, 2, tower=(8, 4), paths=16, seed=1)
    assert torch.equal(net.scores(), same.scores())
    models = [(ranking.Dot(*sizes, seed=1), Recipe())]
    found = epochs(
        models, MADE, number=i(1), negatives=i(2), batch_size=i(8), generator=generator()
    )
    assert list(found) == [1]


@pytest.mark.parametrize(
    "option",
    [
        ("--device", "cud"),
        ("--seed", "-1"),
        ("--batch-size", "0"),
        ("--lr", "-1"),
        ("--factors", "0"),
    ],
)
def test_a_wrong_option_of_the_command_is_one_line(option, tmp_path, capsys):
    file = tmp_path / "ratings"
    many = "\n".join(f"{u}\t{i}\t3\t{i}" for u in range(30) for i in range(4 * u, 4 * u + 4))
    file.write_text(many)  # 120 items, of which each has chosen four
    assert main([str(file), *option]) == 2
    assert capsys.readouterr().err.startswith("mcnn.ranking: error: ")
