"""Numbers from every source, and what takes them: weights, orders and masks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcnn import sampling
from mcnn.randomness import (
    ORDERS,
    SOURCES,
    DropConnect,
    Dropout,
    Stream,
    epoch_order,
    initialise_,
    normals,
    numbers,
    substream,
)
from mcnn.randomness.source import _lattice

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
LOW_DISCREPANCY = ("sobol", "lattice")
F64 = torch.float64


# --- sources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@given(n=st.integers(1, 70), d=st.integers(1, 12), seed=st.integers(0, 2**63 - 1))
def test_numbers_are_in_the_unit_cube_and_follow_the_seed(source, n, d, seed):
    x = numbers(n, d, source, seed)
    assert x.shape == (n, d)
    assert x.dtype == F64
    assert ((x >= 0) & (x < 1)).all()
    assert torch.equal(x, numbers(n, d, source, seed))
    assert not torch.equal(x, numbers(n, d, source, seed ^ 1))


@pytest.mark.parametrize("source", SOURCES)
def test_each_number_is_uniform_by_itself(source):
    """The same place of the set, over many seeds."""
    x = torch.stack([numbers(5, 2, source, seed)[3] for seed in range(2000)])  # [seeds, 2]
    z = (x.mean(0) - 0.5) * math.sqrt(12 * len(x))
    assert z.abs().max() < 4
    square = (x.square().mean(0) - 1 / 3) / math.sqrt(4 / 45 / len(x))
    assert square.abs().max() < 4


@pytest.mark.parametrize("source", ["random", "lfsr"])
def test_pseudo_random_coordinates_are_independent(source):
    x = numbers(20_000, 6, source, 3) - 0.5
    correlation = 12 * x.T @ x / len(x)
    off = correlation - torch.diag(correlation.diag())
    assert off.abs().max() * math.sqrt(len(x)) < 4.5


@pytest.mark.parametrize("n", [8, 64, 128])
@pytest.mark.parametrize("source", LOW_DISCREPANCY)
def test_each_coordinate_of_a_low_discrepancy_set_is_spread_evenly(source, n):
    x = numbers(n, 7, source, 5).sort(0).values  # [n, 7]
    middle = (torch.arange(n) + 0.5).unsqueeze(1) / n
    # Korobov's lattice has a prime number of points, and some of those are left out.
    extra = 1 if source == "sobol" else 1 + 2 * (len(_prime_lattice(n)) - n)
    assert (x - middle).abs().max() <= extra / n
    gaps = numbers(n, 7, "random", 5).sort(0).values - middle
    assert gaps.abs().max() > 1 / n


def _prime_lattice(n):
    p = max(n, 15)
    while any(p % k == 0 for k in range(2, p)):
        p += 1
    return range(p)


@given(blocks=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 1000))
@pytest.mark.parametrize("source", ["random", "lfsr", "sobol"])
def test_a_stream_goes_on_where_it_was(source, blocks, seed):
    stream = Stream(source, 3, seed)
    together = torch.cat([stream.draw(n) for n in blocks])
    assert torch.equal(together, numbers(sum(blocks), 3, source, seed))


def test_a_lattice_is_shifted_anew_for_each_block():
    stream = Stream("lattice", 3, 1)
    a, b = stream.draw(31), stream.draw(31)
    shift = (b - a) % 1
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-12, rtol=0)
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("n", "d"), [(31, 5), (128, 64), (96, 64), (1024, 20), (784, 64)])
def test_lattices_are_lattices_with_different_coordinates(n, d):
    x = _lattice(n, d)
    assert x.shape == (n, d)
    assert (x[0] == 0).all()
    torch.testing.assert_close((x[1] * torch.arange(n).unsqueeze(1)) % 1, x, atol=1e-9, rtol=0)
    step = torch.minimum(x[1], 1 - x[1])
    assert step.mul(2**30).round().unique().numel() == d


def test_other_point_sets_go_by_their_own_name():
    x = numbers(16, 2, "jittered", 3)
    assert torch.equal(x, sampling.points(16, 2, "jittered", 3, dtype=F64))


@pytest.mark.parametrize("source", SOURCES)
def test_normals_are_normal(source):
    z = normals(4096, 2, source, 1)
    assert torch.isfinite(z).all()
    assert abs(float(z.mean())) * 64 < 4
    assert abs(float(z.var()) - 1) * 64 / math.sqrt(2) < 4
    assert abs(float((z < 1.0).double().mean()) - 0.841345) < 0.02


def test_normals_are_finite_where_a_number_is_zero(monkeypatch):
    monkeypatch.setattr(
        "mcnn.randomness.source.numbers", lambda *_: torch.tensor([[0.0]], dtype=F64)
    )
    assert normals(1, 1).item() == pytest.approx(-8.29, abs=0.1)


def test_substreams_differ():
    assert len({substream(s, i) for s in range(20) for i in range(20)}) == 400


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: Stream("halton", 2), "source 'halton'"),
        (lambda: Stream("sobol", 0), "d must be"),
        (lambda: Stream("sobol", 2).draw(0), "n must be"),
        (lambda: numbers(4, 1, "halton"), "source 'halton'"),
        (lambda: epoch_order(4, "best"), "order 'best'"),
        (lambda: epoch_order(0), "n must be"),
        (lambda: epoch_order(2**33, "lfsr"), "register"),
        (lambda: Dropout(3, p=1.0), "p must be"),
        (lambda: DropConnect(3, 2, p=-0.1), "p must be"),
        (lambda: Dropout(3)(torch.ones(2, 4)), "3 units"),
        (lambda: initialise_(nn.ReLU()), "no linear layer"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def test_nothing_advances_the_global_generator():
    before = torch.get_rng_state()
    for source in SOURCES:
        initialise_(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), source, 1)
        Dropout(4, source=source)(torch.ones(8, 4))
    for method in ORDERS:
        epoch_order(50, method)
    # Building a linear layer draws from it; nothing else may.
    torch.set_rng_state(before)
    numbers(10, 2, "sobol", 1)
    assert torch.equal(before, torch.get_rng_state())


# --- initial weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_weights_have_the_variance_that_relus_need(source):
    model = initialise_(nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)), source, 3)
    for layer in (model[0], model[2]):
        m = layer.in_features
        w = layer.weight.detach().double()
        assert abs(float(w.mean()) * math.sqrt(m / 2)) * math.sqrt(w.numel()) < 4
        assert abs(float(w.var()) * m / 2 - 1) * math.sqrt(w.numel() / 2) < 4
        assert (layer.bias == 0).all()


def test_low_discrepancy_weights_match_the_variance_of_every_neuron():
    def spread(source):
        layer = initialise_(nn.Linear(512, 64), source, 1)
        return float((layer.weight.detach().var(1) * 256 - 1).abs().max())

    assert spread("sobol") < 0.02
    assert spread("lattice") < 0.06
    assert spread("random") > 0.15


# --- orders -------------------------------------------------------------------------------------


@given(n=st.integers(1, 400), seed=st.integers(0, 2**62), epoch=st.integers(0, 9))
@pytest.mark.parametrize("method", ORDERS)
def test_orders_visit_every_image_once(method, n, seed, epoch):
    order = epoch_order(n, method, seed, epoch)
    if method == "replacement":
        assert order.shape == (n,)
        assert order.min() >= 0
        assert order.max() < n
    else:
        assert torch.equal(order.sort().values, torch.arange(n))


def test_which_orders_change_from_epoch_to_epoch():
    for method in ORDERS:
        same = torch.equal(epoch_order(100, method, 3, 0), epoch_order(100, method, 3, 1))
        assert same == (method in ("once", "sorted"))


def test_replacement_misses_one_image_in_e():
    seen = epoch_order(100_000, "replacement", 1).unique().numel() / 100_000
    assert abs(seen - (1 - math.exp(-1))) < 0.005


@pytest.mark.parametrize("method", LOW_DISCREPANCY)
def test_each_batch_of_a_low_discrepancy_order_is_a_sample_of_the_whole_list(method):
    parts = epoch_order(6400, method, 2).view(-1, 64) // 100  # [batches, 64]: which 64th
    counts = torch.stack([p.bincount(minlength=64) for p in parts])
    assert counts.max() <= 3
    spread = epoch_order(6400, "shuffled", 2).view(-1, 64) // 100
    usual = torch.stack([p.bincount(minlength=64) for p in spread])
    assert counts.double().var() < usual.double().var() / 2


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("source", SOURCES)
def test_masks_drop_and_scale(source, dtype, device):
    layer = Dropout(32, 0.25, source, seed=1)
    x = torch.ones(64, 32, dtype=dtype, device=device)
    y = torch.stack([layer(x) for _ in range(50)]).double()
    assert set(y.unique().tolist()) == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    share = float((y == 0).double().mean())
    assert abs(share - 0.25) * math.sqrt(y.numel() / 0.1875) < 4
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("shape", [(8, 5), (2, 3, 5), (5,)])
def test_dropout_takes_any_shape_that_ends_in_its_units(shape):
    assert Dropout(5)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_sobol_drops_each_unit_for_the_same_share_of_a_batch(p):
    dropped = (Dropout(16, p, "sobol", 7)(torch.ones(128, 16)) == 0).sum(0)
    assert (dropped == 128 * p).all()
    assert (Dropout(16, p, "random", 7)(torch.ones(128, 16)) == 0).sum(0).unique().numel() > 3


@pytest.mark.parametrize("source", SOURCES)
def test_drop_connect_is_unbiased(source):
    layer = DropConnect(20, 3, p=0.4, source=source, seed=2, dtype=F64)
    x = torch.randn(1, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = torch.cat([layer(x) for _ in range(1500)]).detach()  # [steps, 3]
    exact = layer.eval()(x)[0].detach()
    assert ((found.mean(0) - exact) / (found.std(0) / math.sqrt(1500))).abs().max() < 4


@pytest.mark.parametrize("source", SOURCES)
def test_every_weight_is_dropped_in_its_turn(source):
    """Not the same ones in every step, which a sequence that just goes on would drop."""
    layer = DropConnect(16, 4, p=0.5, bias=False, source=source, seed=3)
    x = torch.eye(16)
    with torch.no_grad():
        layer.weight.fill_(1)
        dropped = torch.stack([layer(x) == 0 for _ in range(400)]).double()  # [steps, 16, 4]
    assert ((dropped.mean(0) - 0.5).abs() * math.sqrt(4 * 400)).max() < 4.5
    # Two weights of a neuron share their fate half of the time.
    together = (dropped[:, :1] == dropped[:, 1:]).double().mean(0)
    assert (together - 7 / 15).abs().max() < 0.15
    if source == "sobol":
        assert (dropped.sum(1) == 8).all()


def test_drop_connect_without_a_mask_is_a_linear_layer():
    layer, plain = DropConnect(6, 4, p=0.5), nn.Linear(6, 4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer.eval()(x), plain(x))
    assert not torch.equal(layer.train()(x), plain(x))


def test_masked_layers_learn():
    model = nn.Sequential(DropConnect(4, 8, source="sobol"), nn.ReLU(), Dropout(8, source="sobol"))
    model(torch.ones(16, 4)).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
