"""Partitions from a hash: each element once a cycle, the same everywhere, as if at random."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from mcnn.partition import native
from mcnn.partition.hashed import HashedPartition, _keys, drop_part, hash32

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
CPU = torch.device("cpu")


def parts_of(parts, examples, units, cycle=0, seed=0):
    """The straightforward form, in Python's integers: floor(xi P) for each element."""
    keys = _keys(seed, cycle, examples, units, CPU).tolist()

    def mixed(z):
        z = (z ^ z >> 16) * 0x7FEB352D % 2**32
        z = (z ^ z >> 15) * 0x846CA68B % 2**32
        return z ^ z >> 16

    signed_zero = 2**31  # the bits are signed, the least of them stand for 0
    return torch.tensor(
        [
            [((mixed((a ^ b) % 2**32) ^ signed_zero) * parts) >> 32 for b in keys[examples:]]
            for a in keys[:examples]
        ]
    )


def masks(shape, parts, steps, seed=0, device="cpu"):
    """Whether elements are dropped: bool [steps, *shape]."""
    x = torch.ones(shape, device=device)
    return torch.stack([drop_part(x, parts, step, seed) == 0 for step in steps])


@given(
    st.integers(2, 256),
    st.sampled_from([(1, 1), (5,), (3, 7), (2, 3, 2, 2)]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**12),
)
def test_each_element_is_dropped_exactly_once_a_cycle(parts, shape, seed, cycle):
    found = masks(shape, parts, range(cycle * parts, (cycle + 1) * parts), seed)
    assert (found.sum(0) == 1).all()


@given(st.integers(2, 256), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_an_element_is_dropped_when_it_is_its_turn(parts, seed, step):
    turn = parts_of(parts, 3, 7, cycle=step // parts, seed=seed)
    assert torch.equal(masks((3, 7), parts, [step], seed)[0], turn == step % parts)


def test_bits_at_the_borders_of_a_part_belong_to_one_part():
    """The hash is a bijection: keys that hash to the first and the last bits of each part."""
    for parts in (2, 3, 7, 256):
        borders = [-(-p * 2**32 // parts) for p in range(parts)]
        edge = {(b + d) % 2**32 for b in borders for d in (-1, 0, 1)}
        turns = sorted((b * parts >> 32) for b in edge)
        for part in range(parts):
            state = torch.tensor([part, 0])
            bounds, _ = torch.ops.mcnn.next_turn(state, parts, 1, 1, CPU)
            first, last = (bounds.long() + 2**31).tolist()
            assert sum(first <= b <= last for b in edge) == turns.count(part)
            assert state.tolist() == [part + 1, 0]


def test_survivors_are_scaled():
    x = torch.arange(1.0, 13).view(2, 6)
    y = drop_part(x, 4, 2)
    assert torch.equal(y, torch.where(y == 0, 0, x * (4 / 3)))
    mean = torch.stack([drop_part(x.double(), 4, step) for step in range(4)]).mean(0)
    torch.testing.assert_close(mean, x.double(), rtol=1e-15, atol=0)


# --- the quality of the numbers -----------------------------------------------------------------


def independent(a, b, parts):
    """Pairs of parts are as frequent as they would be by chance."""
    counts = (a.flatten() * parts + b.flatten()).bincount(minlength=parts**2)
    return 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4


def turns(shape, parts, cycle=0, seed=0):
    steps = range(cycle * parts, (cycle + 1) * parts)
    return masks(shape, parts, steps, seed).to(torch.uint8).argmax(0)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_parts_are_uniform_and_independent(parts):
    shape = (256, 512)
    one = turns(shape, parts)
    for lag in (1, 2, 3, 64, 256):
        start = torch.arange(512 - lag) // lag % 2 == 0  # pairs that do not overlap
        assert independent(one[:, :-lag][:, start], one[:, lag:][:, start], parts), "units"
        if lag < 256:
            start = torch.arange(256 - lag) // lag % 2 == 0
            assert independent(one[:-lag][start], one[lag:][start], parts), "examples"
    assert independent(one, turns(shape, parts, cycle=1), parts), "cycles"
    assert independent(one, turns(shape, parts, seed=1), parts), "seeds"


def test_sums_over_units_and_examples_are_binomial():
    dropped = masks((512, 512), 3, [5])[0]
    for dim in (0, 1):
        z = (dropped.sum(dim) - 512 / 3) / (512 * 2 / 9) ** 0.5
        assert stats.chi2(512).cdf(float((z**2).sum())) == pytest.approx(0.5, abs=0.4999)


def test_rectangles_of_elements_are_independent():
    """Two examples and two units: their keys cancel, and their parts are independent still."""
    one = turns((512, 512), 2).bool()
    parity = one[::2, ::2] ^ one[1::2, ::2] ^ one[::2, 1::2] ^ one[1::2, 1::2]
    assert abs(float(parity.double().mean()) - 0.5) < 4 * 0.5 / 256


def test_one_bit_of_the_input_flips_half_of_the_output():
    z = torch.arange(20_000, dtype=torch.int32) * 214013
    for bit in range(32):
        flipped = hash32(z) ^ hash32(z ^ (1 << bit if bit < 31 else -(2**31)))
        share = torch.stack([(flipped >> k & 1).double().mean() for k in range(32)])
        assert (share - 0.5).abs().max() < 0.05
    assert hash32(z).unique().numel() == len(z)


# --- tensors of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_depend_on_the_place_alone(dtype, device):
    x = torch.ones(6, 4, 5, dtype=dtype, device=device)
    expected = masks((6, 4, 5), 3, range(4))
    before = torch.get_rng_state()
    for step in range(4):
        y = drop_part(x, 3, step)
        assert (y.dtype, y.device) == (x.dtype, x.device)
        assert torch.equal((y == 0).cpu(), expected[step])
        assert torch.equal((drop_part(x[:2], 3, step) == 0).cpu(), expected[step, :2])
        strided = torch.ones(6, 5, 4, dtype=dtype, device=device).mT
        assert torch.equal((drop_part(strided, 3, step) == 0).cpu(), expected[step])
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_pass_where_elements_did():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: drop_part(t, 3, 7), x)
    assert torch.autograd.gradgradcheck(lambda t: drop_part(t, 3, 7).sin(), x)
    drop_part(x, 3, 7).sum().backward()
    assert torch.equal(x.grad, drop_part(torch.ones_like(x), 3, 7))


@pytest.mark.parametrize(("dtype", "numbers"), [(torch.float32, 2), (torch.float64, 64 + 100 + 2)])
def test_nothing_of_the_size_of_the_batch_is_saved_for_the_backward_pass(dtype, numbers):
    saved = []

    def count(t):
        saved.append(t.numel())
        return t

    x = torch.randn(64, 100, dtype=dtype, requires_grad=True)
    layer = HashedPartition(3)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        y = layer(x)
    for _ in range(4):  # later steps and cycles leave what was saved alone
        layer(x)
    y.sum().backward()
    assert sum(saved) == numbers
    assert torch.equal(x.grad == 0, y == 0)


@given(
    st.integers(2, 256),
    st.sampled_from([(1,), (5,), (3, 7), (2, 3, 4, 5), (40, 33)]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**12),
)
@pytest.mark.skipif(not native.available(), reason="needs a C compiler")
def test_the_loop_drops_what_operators_do(parts, shape, seed, step):
    x = torch.linspace(-1, 2, math.prod(shape)).view(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: False)
        expected = drop_part(x, parts, step, seed)
    assert torch.equal(drop_part(x, parts, step, seed), expected)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler")
def test_threads_share_the_examples():
    x, before = torch.randn(300, 4096), torch.get_num_threads()
    expected = drop_part(x, 3, 7)
    torch.set_num_threads(2)
    try:
        assert torch.equal(drop_part(x, 3, 7), expected)
    finally:
        torch.set_num_threads(before)


def test_the_operators_keep_the_rules_of_operators():
    tests = ("test_schema", "test_faketensor")
    turn = torch.tensor([4, 0])
    torch.library.opcheck(torch.ops.mcnn.hashed_turn, (turn,), test_utils=tests)
    x = torch.randn(3, 4)
    torch.library.opcheck(torch.ops.mcnn.drop_hashed, (x, turn, 3), test_utils=tests)


# --- the layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_the_layer_takes_a_step_a_call_in_training(device):
    layer = HashedPartition(4, seed=3)
    x = torch.randn(3, 8, device=device)
    for step in range(9):
        assert layer.step == step
        assert torch.equal(layer(x), drop_part(x, 4, step, seed=3))
        layer.eval()
        assert layer(x) is x
        layer.train()
    assert repr(layer) == "HashedPartition(parts=4, seed=3)"


def test_the_state_is_two_integers_and_resumes():
    layer, x = HashedPartition(3, seed=5), torch.ones(2, 50)
    for _ in range(4):
        layer(x)
    state = layer.state_dict()
    assert state["_extra_state"].tolist() == [4, 5]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    other, copied = HashedPartition(3), copy.deepcopy(layer)
    other.load_state_dict(torch.load(buffer))
    for _ in range(4):
        y = layer(x)
        assert torch.equal(y, other(x))
        assert torch.equal(y, copied(x))
    assert state["_extra_state"].tolist() == [4, 5], "what was saved does not move"


def test_checkpoints_with_dropout_load():
    model = nn.Sequential(nn.Linear(3, 3), HashedPartition(2))
    model.load_state_dict(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).state_dict())
    assert model[1].step == 0


def test_a_generator_gives_the_seed():
    generator = torch.Generator().manual_seed(1)
    a, b = (HashedPartition(2, seed=generator) for _ in range(2))
    assert a.get_extra_state()[1] != b.get_extra_state()[1]


def test_a_compiled_layer_has_the_same_masks():
    """One whole graph, compiled once for all steps, forward and backward."""
    torch.compiler.reset()
    layer, reference = HashedPartition(3, seed=2), HashedPartition(3, seed=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for step in range(7):
        x, other = (torch.linspace(1, 2, 60).view(3, 20).requires_grad_() for _ in range(2))
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            y = compiled(x)
        assert torch.equal(y, reference(other))
        y.sum().backward()
        assert torch.equal(x.grad == 0, y == 0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: HashedPartition(1), ValueError, "at least 2"),
        (lambda: HashedPartition(257), ValueError, "at most 256"),
        (lambda: HashedPartition(0.5), TypeError, "parts must be an int"),
        (lambda: HashedPartition(2, seed=-1), ValueError, "seed"),
        (lambda: HashedPartition(2)(torch.ones(2, 2).int()), TypeError, "floating point"),
        (lambda: HashedPartition(2)(torch.tensor(1.0)), ValueError, "batch"),
        (lambda: drop_part(torch.ones(2), 2, -1), ValueError, "step must be at least 0"),
        (lambda: drop_part(torch.ones(2), 2, 0, seed=2**63), ValueError, "seed"),
    ],
)
def test_bad_calls_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
