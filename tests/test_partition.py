"""Partitions: a register of maximal length, exact counts a cycle, a place in any network."""

import copy
import io
import itertools
import math
import os
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from mcnn.partition import DROPS, MAX_PARTS, SOURCES, DropoutPartition, part_labels, start_epoch
from mcnn.partition.lfsr import STRIDE, TAPS, lfsr_bits, multiply, states, tick
from mcnn.training import nets

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
PRIMES = {  # of 2**width - 1
    4: (3, 5),
    8: (3, 5, 17),
    16: (3, 5, 17, 257),
    32: (3, 5, 17, 257, 65537),
    64: (3, 5, 17, 257, 641, 65537, 6700417),
}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def cycle(layer, x, steps=None):
    """The outputs of a cycle, or of any number of steps: [steps, *x.shape]."""
    return torch.stack([layer(x) for _ in range(steps or layer.parts)])


# --- the register -------------------------------------------------------------------------------


def power_of_x(exponent, polynomial):
    """x**exponent modulo a polynomial over {0, 1}, both as bits."""
    result, base = 1, 2
    while exponent:
        if exponent & 1:
            result = product(result, base, polynomial)
        base = product(base, base, polynomial)
        exponent >>= 1
    return result


def product(a, b, polynomial):
    full = 0
    for place in range(b.bit_length()):
        if b >> place & 1:
            full ^= a << place
    while full.bit_length() >= polynomial.bit_length():
        full ^= polynomial << (full.bit_length() - polynomial.bit_length())
    return full


def is_primitive(polynomial, primes):
    period = 2 ** (polynomial.bit_length() - 1) - 1
    full = power_of_x(period, polynomial) == 1
    return full and all(power_of_x(period // q, polynomial) != 1 for q in primes)


@pytest.mark.parametrize("width", TAPS)
def test_taps_are_those_of_a_primitive_polynomial(width):
    primes = PRIMES[width]
    period = 2**width - 1
    assert math.prod(primes) == period
    assert is_primitive(1 + sum(2**tap for tap in TAPS[width]), primes)
    assert not is_primitive(1 + 2 ** (width // 2) + 2**width, primes), "a square is not"
    assert math.gcd(STRIDE, period) == 1, "numbers have the period of the register"


def test_taps_as_published():
    # XAPP 052, table 3
    assert TAPS[8] == (8, 6, 5, 4)
    assert TAPS[16] == (16, 15, 13, 4)
    assert TAPS[32] == (32, 22, 2, 1)
    assert TAPS[64] == (64, 63, 61, 60)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stride", [1, STRIDE])
@pytest.mark.parametrize("width", [4, 8, 16])
def test_small_registers_visit_every_state_but_zero(width, stride, device):
    period = 2**width - 1
    found = states(1, period + 1, width, stride, device)
    assert torch.equal(found[:-1].sort().values.cpu(), torch.arange(1, period + 1))
    assert found[-1] == found[0]


@given(data=st.data(), width=st.sampled_from(list(TAPS)), stride=st.integers(1, 70))
def test_jumps_are_many_ticks(data, width, stride):
    first = data.draw(st.integers(1, 2**width - 1))
    n = data.draw(st.integers(0, 20))
    expected, state = [], first
    for _ in range(n):
        expected.append(state)
        for _ in range(stride):
            state = tick(state, width)
    assert [x % 2**64 for x in states(first, n, width, stride).tolist()] == expected
    other = data.draw(st.integers(1, 2**width - 1))
    taps = 1 + sum(2**tap for tap in TAPS[width])
    assert multiply(first, other, width) == product(first, other, taps)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 50), st.integers(0, 50))
def test_numbers_have_a_place_in_the_sequence(seed, start, skip, n):
    whole = lfsr_bits(seed, start, skip + n)
    assert torch.equal(lfsr_bits(seed, start + skip, n), whole[skip:])


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_do_not_depend_on_the_device(device):
    assert torch.equal(lfsr_bits(3, 10**12, 1000, device).cpu(), lfsr_bits(3, 10**12, 1000))


def test_a_stride_that_is_no_power_of_two_hides_the_taps():
    def obeys_the_taps(s):
        return torch.equal(s[64:], s[63:-1] ^ s[61:-3] ^ s[60:-4] ^ s[:-64])

    assert obeys_the_taps(states(12345, 200, stride=1))
    assert obeys_the_taps(states(12345, 200, stride=64))
    assert not obeys_the_taps(states(12345, 200, stride=STRIDE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 3, 5), "no width 5; there are: 4, 8, 16, 32, 64"),
        ((0, 3, 8), r"first must be in 1 \.\.\. 2\*\*8 - 1, got 0"),
        ((256, 3, 8), "first must be in"),
        ((1, -1, 8), "n must be at least 0"),
        ((1, 3, 8, 0), "stride at least 1"),
    ],
)
def test_registers_that_are_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        states(*arguments)


# --- the parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@given(parts=st.integers(2, MAX_PARTS), seed=st.integers(0, 2**63 - 1), start=st.integers(0, 10**6))
def test_labels_are_the_floor_of_xi_times_parts(source, parts, seed, start):
    bits = SOURCES[source](seed, start, 20, "cpu").tolist()
    expected = [math.floor((b % 2**64 >> 32) / 2**32 * parts) for b in bits]
    labels = part_labels(20, parts, source=source, seed=seed, start=start)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == expected


@pytest.mark.parametrize("source", SOURCES)
@given(units=st.integers(1, 600), parts=st.integers(2, MAX_PARTS), seed=st.integers(0, 99))
def test_balanced_parts_differ_by_one(source, units, parts, seed):
    labels = part_labels(units, parts, balanced=True, source=source, seed=seed)
    sizes = labels.bincount(minlength=parts).tolist()
    assert sizes == [units // parts + (p < units % parts) for p in range(parts)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("parts", [2, 3, 9])
def test_labels_are_uniform_and_independent(source, parts):
    n = 60_000
    for seed in range(3):
        labels = part_labels(n, parts, source=source, seed=seed).long()
        for lag in (1, 2, 64):
            pairs = labels[:-lag] * parts + labels[lag:]
            counts = pairs[:: 2 * lag].bincount(minlength=parts**2)
            assert 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4
        other = part_labels(n, parts, source=source, seed=seed + 10).long()
        counts = (labels * parts + other).bincount(minlength=parts**2)
        assert 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4


@pytest.mark.parametrize("source", SOURCES)
def test_every_balanced_partition_is_as_likely(source):
    """Four units fall into two parts of two in six ways."""
    runs = 3000
    code = torch.tensor([8, 4, 2, 1])
    labels = torch.stack(
        [part_labels(4, 2, balanced=True, source=source, start=4 * run) for run in range(runs)]
    )
    counts = (labels.long() * code).sum(1).bincount(minlength=16)
    assert counts.count_nonzero() == 6
    assert 1e-4 < stats.chisquare(counts[counts > 0].numpy()).pvalue < 1 - 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_labels_do_not_depend_on_the_device(source, balanced, device):
    options = {"balanced": balanced, "source": source, "seed": 5}
    on_device = part_labels(1000, 7, device=device, **options)
    assert on_device.device.type == device
    assert torch.equal(on_device.cpu(), part_labels(1000, 7, **options))


# --- a cycle ------------------------------------------------------------------------------------

OPTIONS = {
    "parts": st.integers(2, 9),
    "drop": st.sampled_from(DROPS),
    "balanced": st.booleans(),
    "per_sample": st.booleans(),
    "source": st.sampled_from(list(SOURCES)),
    "seed": st.integers(0, 10**6),
}


@pytest.mark.parametrize("device", DEVICES)
@given(st.fixed_dictionaries(OPTIONS), st.sampled_from([(1,), (7,), (4, 3, 3)]))
def test_each_unit_takes_its_turn_once_a_cycle(device, options, units):
    layer = DropoutPartition(**options)
    kept = 1 if layer.drop == "keep-one" else layer.parts - 1
    x = torch.ones(5, *units, dtype=torch.float64, device=device)
    for number in range(1, 4):
        outputs = cycle(layer, x)  # [steps, 5, *units]
        assert torch.equal((outputs != 0).sum(0), torch.full_like(x, kept).long())
        survivors = outputs[outputs != 0]
        assert (survivors == layer.parts / kept).all()
        torch.testing.assert_close(outputs.mean(0), x, rtol=1e-15, atol=0)
        assert layer.numbers_drawn == number * math.prod(units)
        assert layer.labels.numel() * layer.labels.element_size() == math.prod(units)


@pytest.mark.parametrize("parts", [2, 3, 9])
@pytest.mark.parametrize("drop", DROPS)
def test_the_mean_of_a_linear_layer_over_a_cycle_is_the_dense_one(drop, parts):
    linear = nn.Linear(300, 40).double()
    x = normal(8, 300)
    layer = DropoutPartition(parts, drop, seed=1)
    outputs = torch.stack([linear(layer(x)) for _ in range(parts)])
    torch.testing.assert_close(outputs.mean(0), linear(x), rtol=1e-13, atol=1e-13)
    assert (outputs[0] - linear(x)).abs().max() > 0.01, "a single step is not"


def test_the_mean_gradient_over_a_cycle_is_the_dense_one():
    linear, x = nn.Linear(30, 4).double(), normal(8, 30)
    layer = DropoutPartition(4, seed=2)
    steps = sum(linear(layer(x)).sum() for _ in range(4)) / 4
    (found,) = torch.autograd.grad(steps, linear.weight)
    (dense,) = torch.autograd.grad(linear(x).sum(), linear.weight)
    torch.testing.assert_close(found, dense, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_pass_where_values_pass(drop, per_sample):
    x = normal(6, 5).requires_grad_()
    layer = DropoutPartition(3, drop, per_sample=per_sample)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)


def test_numbers_drawn_are_one_of_p_of_dropout_with_a_shared_mask():
    parts, units, cycles = 3, 50, 4
    layer = DropoutPartition(parts)
    cycle(layer, torch.ones(128, units), parts * cycles)
    # Dropout draws a number for each unit in each step, and nn.Dropout for each example besides.
    dropout = units * parts * cycles
    assert layer.numbers_drawn * parts == dropout


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(
    ("redraw", "changes"),
    [("cycle", [1, 2, 3, 4, 5]), ("epoch", [2, 4]), ("never", [])],
)
def test_when_parts_are_drawn(redraw, changes, balanced):
    layer = DropoutPartition(3, redraw=redraw, balanced=balanced)
    model = nn.Sequential(nn.Identity(), layer)
    x, labels = torch.ones(2, 40), []
    for step in range(18):  # six cycles
        if step in (0, 4, 5, 12):  # in the second cycle twice, and at the start of the fifth
            start_epoch(model)
        model(x)
        labels.append(layer.labels)
    for t in range(0, 18, 3):
        assert torch.equal(labels[t], labels[t + 1])
        assert torch.equal(labels[t], labels[t + 2])
    different = [c for c in range(1, 6) if not torch.equal(labels[3 * c], labels[3 * c - 1])]
    assert different == changes
    assert layer.numbers_drawn == 40 * (1 + len(changes))


@given(parts=st.integers(2, 9), batch=st.integers(1, 30), drop=st.sampled_from(DROPS))
def test_examples_of_a_batch_share_the_parts_evenly(parts, batch, drop):
    layer = DropoutPartition(parts, drop, per_sample=True, seed=batch)
    outputs = cycle(layer, torch.ones(batch, 20))  # [steps, batch, 20]
    chosen = (outputs == 0) if drop == "one" else (outputs != 0)
    a_unit = chosen.sum(1)  # [steps, 20]: in how many examples it was its turn
    assert a_unit.min() >= batch // parts
    assert a_unit.max() <= -(-batch // parts)
    assert (chosen.sum(0) == 1).all(), "once a cycle at each place in the batch"
    assert layer.numbers_drawn == 20
    for t, j in itertools.product(range(parts), range(batch)):
        assert torch.equal(chosen[t, j], layer.labels == (t + j) % parts)


def test_a_batch_of_p_copies_has_the_dense_mean_in_every_step():
    linear, x = nn.Linear(30, 4).double(), normal(1, 30)
    layer = DropoutPartition(5, per_sample=True)
    for _ in range(3):
        found = linear(layer(x.expand(5, -1))).mean(0, keepdim=True)
        torch.testing.assert_close(found, linear(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 5), (4, 6, 2, 3, 3)])
def test_whole_channels_are_dropped(shape, per_sample):
    options = {"per_sample": per_sample, "seed": 4}
    layer = DropoutPartition(3, channels=True, **options)
    plain = DropoutPartition(3, **options)
    for _ in range(6):
        y = layer(torch.ones(shape))
        channel = y.flatten(2)[..., :1] if len(shape) > 2 else y.unsqueeze(2)  # [4, 6, 1]
        assert (y.view(4, 6, -1) == channel).all()
        assert torch.equal(channel.squeeze(2), plain(torch.ones(4, 6)))
    assert layer.numbers_drawn == 2 * 6


def test_small_layers_have_empty_parts():
    x = torch.ones(1, 2)
    outputs = cycle(DropoutPartition(5, balanced=True), x)  # parts of 1, 1, 0, 0, 0 units
    assert (outputs == 0).sum((1, 2)).tolist() == [1, 1, 0, 0, 0]
    outputs = cycle(DropoutPartition(5, "keep-one", balanced=True), x)
    assert (outputs != 0).sum((1, 2)).tolist() == [1, 1, 0, 0, 0]


# --- in place of dropout ------------------------------------------------------------------------


def test_evaluation_passes_the_input_and_takes_no_step():
    layer, other = DropoutPartition(3, seed=7), DropoutPartition(3, seed=7)
    x = normal(2, 30)
    layer(x), other(x)
    assert layer.eval()(x) is x
    layer(torch.ones(3, 7)), layer(torch.ones(5))
    layer.train()
    for _ in range(4):
        assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_every_floating_type_has_the_same_masks(dtype, device):
    layer, reference = (DropoutPartition(3, seed=1) for _ in range(2))
    for _ in range(4):
        y = layer(torch.ones(2, 60, dtype=dtype, device=device))
        assert (y.dtype, y.device.type) == (dtype, device)
        expected = reference(torch.ones(2, 60, dtype=torch.float64))
        assert torch.equal(y.cpu(), expected.to(dtype))


def test_what_is_dropped_is_zero_whatever_it_was():
    x = torch.tensor([math.nan, math.inf, -1.0]).repeat(1, 20)
    layer = DropoutPartition(2)
    y = layer(x)
    dropped = layer.labels == 0
    assert y[:, dropped].eq(0).all()
    assert torch.equal(y[:, ~dropped].isfinite(), x[:, ~dropped].isfinite())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_seed_decides_and_nothing_global_is_touched(source, device):
    x = torch.ones(2, 100, device=device)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    outputs = cycle(DropoutPartition(3, source=source, seed=5), x, 7)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(1)
    assert torch.equal(cycle(DropoutPartition(3, source=source, seed=5), x, 7), outputs)
    assert not torch.equal(cycle(DropoutPartition(3, source=source, seed=6), x, 7), outputs)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    first, second = (DropoutPartition(3, seed=g) for g in generators)
    assert torch.equal(cycle(first, x), cycle(second, x))
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


# --- saving and loading -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("redraw", ["cycle", "epoch", "never"])
def test_a_checkpoint_resumes_in_mid_cycle(redraw, steps):
    x = torch.ones(3, 50)
    options = {"parts": 3, "redraw": redraw, "balanced": steps % 2 == 0}
    model = nn.Sequential(DropoutPartition(seed=3, **options))
    for step in range(steps):
        if step == 4:
            start_epoch(model)  # is still to come into effect where a checkpoint follows at once
        model(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    resumed = nn.Sequential(DropoutPartition(seed=99, **options))
    resumed(torch.ones(3, 7))  # has been elsewhere, with another number of units
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed[0].numbers_drawn == model[0].numbers_drawn
    for _ in range(7):
        assert torch.equal(resumed(x), model(x))
    assert resumed[0].numbers_drawn == model[0].numbers_drawn


def test_a_checkpoint_is_a_snapshot():
    layer, x = DropoutPartition(3), torch.ones(1, 50)
    layer(x)
    saved = layer.state_dict()
    expected = cycle(layer, x, 4)
    layer.load_state_dict(saved)
    assert torch.equal(cycle(layer, x, 4), expected)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_by_themselves(clone):
    layer, x = DropoutPartition(3), torch.ones(1, 50)
    layer(x)
    twin = clone(layer)
    expected = cycle(layer, x, 4)
    assert torch.equal(cycle(twin, x, 4), expected)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(cycle(twin, x, 4), cycle(layer, x, 4))


def test_checkpoints_of_dropout_load():
    dropout = nn.Sequential(nn.Linear(3, 3), nn.Dropout(1 / 3))
    model = nn.Sequential(nn.Linear(3, 3), DropoutPartition(3))
    model(torch.ones(1, 3))
    model.load_state_dict(dropout.state_dict())
    assert torch.equal(model[0].weight, dropout[0].weight)
    assert model[1].numbers_drawn == 3
    with pytest.raises(RuntimeError, match=r"Unexpected key.*1\._extra_state"):
        dropout.load_state_dict(model.state_dict())


def test_a_checkpoint_with_other_parts_is_refused():
    message = "the checkpoint has 4 parts and this layer 3"
    with pytest.raises(ValueError, match=message):
        DropoutPartition(3).load_state_dict(DropoutPartition(4).state_dict())


# --- compilers and many processes ---------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"per_sample": True}, {"drop": "keep-one"}])
def test_a_compiled_layer_has_the_same_masks(options):
    """One whole graph, and once it has its labels none is compiled again."""
    torch.compiler.reset()
    layer, reference = (DropoutPartition(3, seed=8, **options) for _ in range(2))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = normal(6, 40)
    for step in range(10):
        with torch.compiler.set_stance("fail_on_recompile" if step > 1 else "default"):
            assert torch.equal(compiled(x), reference(x))
        assert layer.numbers_drawn == reference.numbers_drawn
    assert torch.equal(layer(x), reference(x)), "goes on without the compiler"
    assert torch.equal(compiled(x[:4]), reference(x[:4])), "the last batch of an epoch is smaller"
    other = DropoutPartition(3, **options)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(compiled(x), other(x))


def test_code_is_generated_for_a_network_with_the_layer():
    torch.compiler.reset()
    try:
        torch.compile(lambda x: x + 1)(torch.ones(3))
    except RuntimeError as error:
        pytest.skip(f"no compiler for generated code: {error}")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), DropoutPartition(3), nn.Linear(40, 2))
    x = normal(6, 8, dtype=torch.float32)
    model(x)  # has its labels, so that one graph will do
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True)
    found, expected = (torch.stack([net(x) for _ in range(7)]) for net in (compiled, reference))
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()  # of steps whose labels have been drawn anew since
    expected.square().sum().backward()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def _process(rank, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), DropoutPartition(3, seed=2), nn.Linear(30, 1))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    labels = []
    for step in range(5):
        optimizer.zero_grad()
        parallel(normal(3, 4, seed=2 * step + rank, dtype=torch.float32)).square().sum().backward()
        optimizer.step()
        labels.append(model[1].labels)
    torch.save((labels, model.state_dict()), f"{folder}/{rank}")
    torch.distributed.barrier()
    os._exit(0)  # the threads of a group that is taken down may wait for each other for ever


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_parallel_processes_have_the_same_parts(tmp_path):
    # Spawned: threads of a GPU, or of autograd if another test has started some, do not fork.
    torch.multiprocessing.start_processes(_process, (str(tmp_path),), 2, start_method="spawn")
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert all(map(torch.equal, first[0], second[0]))
    assert not torch.equal(first[0][2], first[0][3]), "another cycle, other parts"
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


# --- in a network -------------------------------------------------------------------------------


def test_three_steps_of_lenet_drop_every_unit_once():
    torch.manual_seed(0)
    model = nets.build("lenet5")
    widths, layers = [], []
    for index in reversed([i for i, m in enumerate(model) if isinstance(m, nn.ReLU)][2:]):
        layers.insert(0, DropoutPartition(3, seed=index))
        widths.insert(0, model[index - 1].out_features)
        model.insert(index + 1, layers[0])
    assert widths == [120, 84]
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, x, y: seen.append((module, x[0], y)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = normal(16, 1, 28, 28, dtype=torch.float32), torch.arange(16) % 10
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for layer, width in zip(layers, widths, strict=True):
        masks = torch.stack([(layer.labels == t) for t in range(3)])
        assert torch.equal(masks.sum(0), torch.ones(width).long())
        for t, (_, before, after) in enumerate(s for s in seen if s[0] is layer):
            assert (after[:, masks[t]] == 0).all()
            torch.testing.assert_close(after[:, ~masks[t]], before[:, ~masks[t]] * 1.5)
        assert layer.numbers_drawn * 3 == 3 * width, "a third of one a unit and step"


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.5,), TypeError, r"parts must be an int, got 0\.5: P parts stand for dropout at a rate"),
        ((3.0,), TypeError, "parts must be an int"),
        ((True,), TypeError, "parts must be an int"),
        ((1,), ValueError, "parts must be at least 2, got 1: one part would be every unit"),
        ((0,), ValueError, "parts must be at least 2, got 0"),
        ((-3,), ValueError, "parts must be at least 2, got -3"),
        ((257,), ValueError, "parts must be at most 256, got 257: a label is one byte"),
        ((3, "all"), ValueError, "no drop 'all'; there are: one, keep-one"),
        ((3, "one", "step"), ValueError, "no redraw 'step'; there are: cycle, epoch, never"),
    ],
)
def test_layers_that_cannot_be(arguments, error, message):
    with pytest.raises(error, match=message):
        DropoutPartition(*arguments)


def test_sources_and_seeds_that_are_not_there():
    for make in (lambda **o: DropoutPartition(3, **o), lambda **o: part_labels(5, 3, **o)):
        with pytest.raises(ValueError, match="no source 'dice'; there are: lfsr, counter"):
            make(source="dice")
        with pytest.raises(ValueError, match="seed must be in"):
            make(seed=-1)
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        part_labels(0, 3)
    with pytest.raises(ValueError, match="start must be at least 0, got -1"):
        part_labels(5, 3, start=-1)
    with pytest.raises(TypeError, match=r"units must be an int, got float"):
        part_labels(5.0, 3)


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((5,), False, r"must be \[batch, units, \.\.\.\], not empty; got \[5\]"),
        ((5, 0), False, r"not empty; got \[5, 0\]"),
        ((), False, r"got \[\]"),
        ((5,), True, r"must be \[batch, channels, \.\.\.\], not empty; got \[5\]"),
    ],
)
def test_inputs_without_units(shape, channels, message):
    with pytest.raises(ValueError, match=message):
        DropoutPartition(3, channels=channels)(torch.ones(shape))


def test_other_inputs():
    layer = DropoutPartition(3)
    with pytest.raises(TypeError, match=r"floating point, got torch\.int64; call \.float\(\)"):
        layer(torch.ones(2, 3, dtype=torch.int64))
    layer(torch.ones(2, 120))
    with pytest.raises(ValueError, match="has 84 units, but the partition was drawn for 120: use"):
        layer(torch.ones(2, 84))
    assert (layer(torch.ones(2, 120)) == 0)[0].equal(layer.labels == 1), "that took no step"
    assert layer(torch.ones(0, 120)).shape == (0, 120)
    assert layer.numbers_drawn == 120


def test_repr_says_what_differs():
    assert repr(DropoutPartition(3, per_sample=True, seed=0)) == (
        "DropoutPartition(parts=3, drop='one', redraw='cycle', per_sample=True, "
        "source='lfsr', seed=0)"
    )
