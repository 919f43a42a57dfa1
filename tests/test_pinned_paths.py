"""Paths that must stay what they are: records and checkpoints hold nothing but their seeds."""

import pytest
import torch
from test_pinned_sampling import CKN

from mcnn.paths import METHODS, generators, sample_paths
from mcnn.paths.compress import _starts
from mcnn.sampling import fold_in, hash_bits

FIRST = {  # [4, 6, 3], eight paths from number 3 on, seed 2
    "uniform": [[1, 3, 0, 1, 1, 3, 0, 1], [0, 4, 1, 3, 1, 1, 5, 4], [2, 1, 0, 2, 2, 1, 0, 1]],
    "pixel": [[3, 0, 1, 2, 3, 0, 1, 2], [0, 4, 1, 3, 1, 1, 5, 4], [2, 1, 0, 2, 2, 1, 0, 1]],
    "backward": [[1, 3, 0, 1, 1, 3, 0, 1], [0, 4, 1, 3, 1, 1, 5, 4], [0, 1, 2, 0, 1, 2, 0, 1]],
    "bidirectional": [
        *([3, 0, 1, 2, 3, 0, 1, 2], [0, 4, 1, 3, 1, 1, 5, 4], [0, 1, 2, 1, 0, 2, 2, 0]),
    ],
    "permutation": [[2, 2, 3, 1, 0, 2, 0, 3], [5, 3, 0, 5, 1, 2, 4, 0], [0, 1, 2, 1, 0, 2, 2, 0]],
    "sobol": [[0, 3, 1, 2, 0, 3, 1, 2], [2, 0, 4, 2, 0, 1, 3, 4], [2, 1, 0, 2, 1, 0, 1, 2]],
    "lattice": [[2, 0, 2, 1, 3, 3, 1, 0], [1, 2, 5, 0, 3, 4, 1, 2], [2, 0, 1, 1, 0, 2, 0, 1]],
}
SEED = 2


@pytest.mark.parametrize("method", METHODS)
def test_the_first_paths_of_a_seed(method):
    assert sample_paths([4, 6, 3], 8, method, seed=SEED, start=3).tolist() == FIRST[method]


def backwards(x):
    """The 32 bits of a number in reverse, as text has them."""
    return int(f"{x:032b}"[::-1], 2)


def test_bits_are_reversed():
    several = [1 << place for place in range(32)]  # one bit shows each step and each mask
    several += [0, 2**32 - 1, 0x12345678, 0xDEADBEEF, 12345]
    found = generators._reversed(torch.tensor(several)).tolist()
    assert found == [backwards(x) for x in several]


def test_uniform_units_are_the_low_word_of_the_hash_in_fixed_point():
    widths, n = (5, 1 << 20), 200
    found = sample_paths(widths, n, "uniform", seed=SEED)
    for number, units in enumerate(widths):
        bits = hash_bits(fold_in(SEED, number), torch.arange(n)).tolist()
        assert found[number].tolist() == [b % 2**32 * units // 2**32 for b in bits]


def test_lattice_units_are_ranks_of_shifted_multiples():
    """In blocks of the width, of radical inverses times the component of the layer."""
    widths, blocks = [12] * len(CKN), 3
    found = sample_paths(widths, 12 * blocks, "lattice", seed=SEED)
    for number, z in enumerate(CKN):
        key = fold_in(SEED, number)
        turn = int(hash_bits(key, torch.tensor(-1))) % 12
        for block in range(blocks):
            place = range(12 * block, 12 * block + 12)
            x = [(backwards(i) * z + key) % 2**32 for i in place]
            units = [(sorted(x).index(value) + turn) % 12 for value in x]
            assert found[number, list(place)].tolist() == units


def test_permutations_are_ranks_of_hashes():
    found = sample_paths([6, 6], 12, "permutation", seed=SEED)
    for number in range(2):
        key = fold_in(SEED, number)
        turn = int(hash_bits(key, torch.tensor(-1))) % 6
        for first in (0, 6):
            x = hash_bits(key, torch.arange(first, first + 6)).tolist()
            units = [(sorted(x).index(value) + turn) % 6 for value in x]
            assert found[number, first : first + 6].tolist() == units


def test_walks_back_start_at_random_or_by_turns():
    """Independent ones as dice fall, all others as evenly as can be."""
    cpu = torch.device("cpu")
    even = _starts(1003, 10, "jittered", 1, cpu)
    assert even.tolist() == [101] * 3 + [100] * 7
    counts = torch.stack([_starts(1000, 10, "iid", seed, cpu) for seed in range(300)])
    assert (counts.sum(1) == 1000).all()
    chi2 = ((counts - 100.0) ** 2 / 100).sum(1)  # of nine degrees of freedom
    assert abs(chi2.mean() - 9) < 4 * (18 / 300) ** 0.5
