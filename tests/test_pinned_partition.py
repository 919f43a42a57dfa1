"""Parts that must stay what they are: records and checkpoints hold nothing but their seeds."""

from itertools import pairwise

import pytest
import torch

from mcnn.partition import DropoutPartition, hashed, part_labels
from mcnn.partition.hashed import HashedPartition
from mcnn.partition.lfsr import STRIDE, lfsr_bits
from mcnn.sampling import hash_bits

LABELS = {  # twelve units from number 7 on, three parts, seed 5
    ("lfsr", False): [0, 2, 1, 1, 2, 1, 1, 0, 2, 1, 2, 1],
    ("lfsr", True): [1, 2, 2, 0, 1, 1, 0, 2, 0, 2, 0, 1],
    ("counter", False): [2, 2, 2, 2, 2, 2, 2, 2, 1, 0, 2, 2],
    ("counter", True): [1, 2, 1, 2, 0, 0, 1, 1, 0, 2, 0, 2],
}


@pytest.mark.parametrize(("source", "balanced"), LABELS)
def test_the_parts_of_a_seed(source, balanced):
    found = part_labels(12, 3, source=source, balanced=balanced, seed=5, start=7)
    assert found.tolist() == LABELS[source, balanced]


def test_the_register_is_that_of_the_integers():
    """Shift left, and where a bit falls out, flip those of x**64 + x**63 + x**61 + x**60 + 1."""
    state = int(hash_bits(5, torch.tensor(0))) % 2**64
    expected = []
    for _ in range(40):
        expected.append(state - (state >> 63) * 2**64)
        for _ in range(STRIDE):
            state = state << 1
            if state >> 64:
                state ^= 1 << 64 | 1 << 63 | 1 << 61 | 1 << 60 | 1
    for start in (0, 1, 7, 31):
        assert lfsr_bits(5, start, 40 - start).tolist() == expected[start:]


@pytest.mark.parametrize("source", ["lfsr", "counter"])
@pytest.mark.parametrize("drop", ["one", "keep-one"])
def test_a_layer_goes_through_the_stream_of_its_seed(source, drop):
    """Cycle k has the numbers from kn on, each once, and step t of it drops or keeps part t."""
    parts, n = 3, 10
    layer = DropoutPartition(parts, drop=drop, source=source, seed=6)
    for cycle in range(4):
        labels = part_labels(n, parts, source=source, seed=6, start=cycle * n)
        for turn in range(parts):
            y = layer(torch.ones(2, n))
            kept = labels != turn if drop == "one" else labels == turn
            scale = parts / (parts - 1) if drop == "one" else parts
            torch.testing.assert_close(y, kept.expand(2, n) * float(scale))
        assert layer.numbers_drawn == (cycle + 1) * n


@pytest.mark.parametrize("redraw", ["epoch", "never"])
def test_parts_that_stay_draw_nothing(redraw):
    layer = DropoutPartition(2, redraw=redraw, seed=6)
    for _ in range(5):
        layer(torch.ones(1, 8))
    layer.start_epoch()
    for _ in range(5):
        layer(torch.ones(1, 8))
    again = redraw == "epoch"
    assert layer.numbers_drawn == 8 * (1 + again)
    assert torch.equal(layer.labels, part_labels(8, 2, seed=6, start=8 * again))


def test_hashed_masks_of_a_seed():
    layer = HashedPartition(3, seed=4)
    dropped = [(layer(torch.ones(2, 6)) == 0).int().tolist() for _ in range(4)]
    assert dropped == [
        [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]],
        [[1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1]],
        [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]],
        [[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]],
    ]


def test_the_bounds_of_a_part_are_dropped_and_their_neighbours_are_not(monkeypatch):
    """That a hash hits a bound has a chance of 2**-32: here it does."""
    keys = torch.zeros(5, dtype=torch.int32)
    seen = []
    for part in range(3):
        state = torch.tensor([part, 4])
        bounds, _ = hashed._next_turn(state, 3, 1, 4, torch.device("cpu"))
        first, last = bounds.tolist()
        seen.append((first, last))
        bits = [max(first - 1, -(2**31)), first, last, min(last + 1, 2**31 - 1)]
        monkeypatch.setattr(hashed, "hash32", lambda _, b=bits: torch.tensor([b]).int())
        y = hashed._Drop.forward(torch.ones(1, 4), bounds, keys, 3)
        inside = [first <= b <= last for b in bits]
        assert (y == 0).flatten().tolist() == inside
    assert seen[0][0] == -(2**31)
    assert seen[2][1] == 2**31 - 1
    assert all(a[1] + 1 == b[0] for a, b in pairwise(seen)), "none twice"
