"""Sampling discrete densities: exact sums, no bias, the variance of theory, whole models."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck

from mcnn import density
from mcnn.density import counts as plain
from mcnn.density import native
from mcnn.density.counts import cumulative_mass
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
METHODS = list(density.METHODS)


def rows(n, m, seed=0, dtype=torch.float32):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", density.ORDERS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40)),
    samples=st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
    power=st.integers(-140, 120),
    zeros=st.floats(0, 1),
)
def test_counts_sum_to_samples_and_keep_the_signs(
    method, order, shape, samples, seed, power, zeros
):
    w = rows(*shape, seed=seed % 1000) * 2.0**power
    w[torch.rand(shape, generator=torch.Generator().manual_seed(seed % 77)) < zeros] = 0
    counts = density.sample_counts(w, samples, method, order=order, seed=seed)
    assert counts.dtype == torch.int32
    assert counts.shape == w.shape
    alive = (w != 0).any(1)
    assert torch.equal(counts.abs().sum(1), torch.where(alive, samples, 0))
    assert (counts * w.sign() >= 0).all()
    assert (counts[w == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_every_floating_type_is_welcome(method, dtype):
    counts = density.sample_counts(rows(3, 50).to(dtype), 17, method)
    assert (counts.abs().sum(1) == 17).all()


@pytest.mark.parametrize("method", METHODS)
def test_long_rows_sum_exactly(method):
    w = rows(1, 3_000_000)
    for samples in (1, 1_000_003):
        assert density.sample_counts(w, samples, method).abs().sum() == samples


@pytest.mark.parametrize("method", ["jittered", "systematic"])
def test_long_rows_put_every_sample_into_its_piece(method):
    """Left of each edge there are as many samples as its place says, but for the one in doubt."""
    w, samples = rows(1, 3_000_000), 1_000_003
    below = density.sample_counts(w, samples, method).abs().cumsum(1)
    edges = w.double().abs().cumsum(1)
    assert (below - samples * edges / edges[:, -1:]).abs().max() < 1 + 1e-3


def test_partial_sums_are_those_of_the_weights():
    w = rows(3, 1000)
    mass = torch.diff(cumulative_mass(w), dim=1, prepend=torch.zeros(3, 1, dtype=torch.int64))
    top = torch.frexp(w.abs().amax(1, keepdim=True).double()).exponent
    unit = 2.0 ** (top - (53 - 10)).double()  # 1000 inputs take 10 of the 53 bits
    assert (mass * unit - w.double().abs()).abs().le(unit / 2).all()


def test_tiny_and_huge_weights_have_a_density_too():
    w = torch.tensor([[1e-310, -3e-310], [1e308, -1.5e308], [5e-324, 5e-324]], dtype=torch.float64)
    counts = density.sample_counts(w, 4, "systematic")
    assert counts[0].tolist() == [1, -3]
    assert counts[1].abs().sum() == 4
    assert counts[2].tolist() == [2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_counts_wherever_the_row_stands(method):
    w = rows(7, 30)
    a = density.sample_counts(w, 20, method, seed=5)
    assert torch.equal(a, density.sample_counts(w, 20, method, seed=5))
    assert not torch.equal(a, density.sample_counts(w, 20, method, seed=6))
    assert torch.equal(a[:3], density.sample_counts(w[:3], 20, method, seed=5))


def test_blocks_of_rows_do_not_change_the_counts(monkeypatch):
    w = rows(9, 30)
    expected = {m: density.sample_counts(w, 20, m, seed=5) for m in METHODS}
    monkeypatch.setattr("mcnn.density.counts._BLOCK", {"cpu": 60, "cuda": 60})
    for method in METHODS:
        assert torch.equal(density.sample_counts(w, 20, method, seed=5), expected[method])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to compare with")
@pytest.mark.parametrize("method", METHODS)
def test_devices_agree(method):
    w = rows(64, 1000)
    on_gpu = density.sample_counts(w.cuda(), 94, method, seed=3)
    assert torch.equal(on_gpu.cpu(), density.sample_counts(w, 94, method, seed=3))


def test_a_generator_is_advanced_and_the_global_one_is_not():
    w = rows(2, 30)
    generator = torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    a = density.sample_counts(w, 20, seed=generator)
    b = density.sample_counts(w, 20, seed=generator)
    assert not torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_one_density_for_the_tensor():
    w = rows(4, 30)
    counts = density.sample_counts(w, 25, normalize="tensor")
    assert counts.abs().sum() == 100
    assert counts.abs().sum(1).unique().numel() > 1


def test_jittered_counts_follow_the_samples_they_stand_for():
    """The closed form against drawing the samples and looking for the piece each falls into."""
    from mcnn.sampling import uniforms

    w, samples, seed = rows(5, 40), 33, 9
    index = torch.arange(5)[:, None] * samples + torch.arange(samples)
    xi = (torch.arange(samples) + uniforms(seed, index)) / samples
    edges = cumulative_mass(w).double() / cumulative_mass(w)[:, -1:]
    hit = torch.searchsorted(edges, xi, right=True)
    expected = torch.stack([torch.bincount(h, minlength=40) for h in hit])
    assert torch.equal(density.sample_counts(w, samples, seed=seed).abs(), expected.int())


@pytest.mark.parametrize("method", ["iid", "van-der-corput"])
@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 50)), samples=st.integers(1, 200))
def test_samples_are_found_where_the_edges_are_found_among_them(method, shape, samples):
    """Searching for each sample in the edges against searching for each edge in the samples."""
    w = torch.where(rows(*shape, seed=1).abs() < 0.4, 0, rows(*shape, seed=samples))
    which = torch.arange(len(w))
    edges = cumulative_mass(w)
    found = plain.METHODS[method](edges.double(), samples, 7, which)
    u = plain.uniforms(7, which[:, None] * samples + torch.arange(samples))
    if method == "van-der-corput":
        first = plain.points(samples, 1, method, dtype=torch.float64).view(1, -1)
        u = (first + plain.uniforms(7, which)[:, None]) % 1
    total = edges[:, -1:]
    targets = torch.minimum((u * total).long(), (total - 1).clamp(min=0))
    below = torch.searchsorted(targets.sort(1).values, edges).where(total > 0, 0)
    assert torch.equal(found, torch.diff(below, dim=1, prepend=torch.zeros_like(total)).int())


@pytest.fixture
def loop(monkeypatch):
    """Let the loop in C count for tensors of any size, and return the plain form."""
    if not native.available():
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(native, "SMALLEST", 0)

    def counted(*arguments, **options):
        with monkeypatch.context() as without:
            without.setattr(native, "supports", lambda *_: False)
            return density.sample_counts(*arguments, **options)

    return counted


@pytest.mark.parametrize("method", native.METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    samples=st.one_of(st.integers(1, 300), st.integers(1, 10**8)),
    seed=st.integers(0, 2**63 - 1),
    power=st.integers(-140, 120),
    kind=st.sampled_from(["normal", "ties", "zeros", "steep"]),
    normalize=st.sampled_from(["row", "tensor"]),
)
def test_the_loop_in_c_counts_the_same(
    loop, method, dtype, shape, samples, seed, power, kind, normalize
):
    w = rows(*shape, seed=seed % 1000)
    if kind == "ties":
        w = (2 * w).round()
    elif kind == "zeros":
        w[w.abs() < 0.6] = 0
        w[-1] = 0
    elif kind == "steep":
        w = w * 2.0 ** -torch.arange(shape[1])
    power = power if dtype != torch.float16 else power // 20
    w = (w * 2.0**power).to(dtype)
    assert native.supports(w, method, "stored")
    found = density.sample_counts(w, samples, method, normalize, seed=seed)
    assert torch.equal(found, loop(w, samples, method, normalize, seed=seed))


@pytest.mark.parametrize("method", native.METHODS)
@pytest.mark.parametrize("samples", [1, 50, 299, 300, 301, 12345, 2**31 - 1])
def test_the_loop_in_c_counts_the_same_for_few_and_many_samples(loop, method, samples):
    w = rows(7, 300, seed=samples % 97)
    for seed in range(30):
        assert torch.equal(
            density.sample_counts(w, samples, method, seed=seed),
            loop(w, samples, method, seed=seed),
        )


def test_the_loop_in_c_counts_the_same_in_long_rows_and_by_threads(loop):
    w = rows(1, 2_000_000)
    for samples in (1000, 3_000_001):
        assert torch.equal(density.sample_counts(w, samples), loop(w, samples))
    w, threads = rows(7, 300), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(density.sample_counts(w.t(), 50), loop(w.t(), 50))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_loop_in_c_needs_finite_weights(loop, value):
    w = rows(3, 20)
    w[1, 4] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        density.sample_counts(w, 5)


def test_without_a_compiler_the_plain_form_serves(monkeypatch):
    monkeypatch.setenv("CC", "there-is-no-such-compiler")
    monkeypatch.setattr(native, "_library", native._library.__wrapped__)
    monkeypatch.setattr(native, "SMALLEST", 0)
    assert not native.available()
    assert (density.sample_counts(rows(3, 50), 17).abs().sum(1) == 17).all()
    monkeypatch.setenv("CC", "false")  # there is one, but it fails
    assert not native.available()


@pytest.mark.parametrize("method", METHODS)
def test_compiled_graphs_count_without_a_break(method):
    def sampled(w):
        counts = density.sample_counts(w, 9, method, seed=3)
        return density.dequantize(counts, w) @ torch.ones(30)

    w = rows(4, 30).requires_grad_()
    compiled = torch.compile(sampled, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(w), sampled(w))
    call = (w.detach(), 9, method, "stored", 3)
    opcheck(
        torch.ops.mcnn.sample_counts.default,
        call,
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("samples", [1, 10, 94, 1000])
def test_systematic_counts_are_neighbours_of_their_expectation(samples):
    w = rows(20, 60)
    mass = torch.diff(cumulative_mass(w), dim=1, prepend=torch.zeros(20, 1, dtype=torch.int64))
    exact = mass.double() * samples / mass.sum(1, keepdim=True)
    for seed in range(20):
        counts = density.sample_counts(w, samples, "systematic", seed=seed).abs()
        assert ((counts - exact).abs() < 1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", density.ORDERS)
def test_unbiased(method, order, device):
    w, repeats = rows(1, 12, seed=4), 20000
    many = w.repeat(repeats, 1).to(device)
    counts = density.sample_counts(many, 5, method, order=order, seed=2)
    drawn = density.dequantize(counts, many).double().cpu()
    z = (drawn.mean(0) - w[0]) / (drawn.std(0) / repeats**0.5)
    assert z.abs().max() < 4.5  # twelve numbers: chance exceeds this once in 12000 seeds


@pytest.mark.parametrize("method", density.VARIANCES)
@pytest.mark.parametrize("samples", [3, 20, 150])
def test_variance_is_that_of_theory(method, samples):
    w, a, repeats = rows(3, 30, seed=1), rows(3, 30, seed=2).relu(), 6000
    many = w.repeat(repeats, 1)
    counts = density.sample_counts(many, samples, method, seed=8)
    drawn = (density.dequantize(counts, many) * a.repeat(repeats, 1)).sum(1).view(repeats, 3)
    theory = density.variance(w, a, samples, method)
    spread = ((drawn - drawn.mean(0)) ** 2).std(0) / repeats**0.5
    assert (((drawn.var(0) - theory) / spread).abs() < 5).all()


def test_stratification_never_hurts():
    w, a = rows(50, 40), rows(50, 40, seed=3)
    for samples in (1, 7, 100):
        iid = density.variance(w, a, samples, "iid")
        assert (density.variance(w, a, samples, "jittered") <= iid * (1 + 1e-9)).all()


def test_systematic_samples_can_alias():
    """Inputs in step with the samples: all of them see the same value."""
    w, a = torch.ones(1, 64), (torch.arange(64) % 4 < 2).float()[None]
    assert density.variance(w, a, 16, "systematic") > 10 * density.variance(w, a, 16, "iid")


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"samples": 0}, ValueError, "samples"),
        ({"samples": -3}, ValueError, "samples"),
        ({"samples": 2.5}, TypeError, "samples"),
        ({"samples": True}, TypeError, "samples"),
        ({"samples": 2**31}, ValueError, "samples"),
        ({"method": "halton"}, ValueError, "method 'halton'"),
        ({"normalize": "column"}, ValueError, "normalize"),
        ({"order": "random"}, ValueError, "order 'random'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1.0}, TypeError, "seed"),
        ({"weight": torch.ones(3, dtype=torch.int32)}, TypeError, "weight"),
        ({"weight": torch.ones(2, 2, dtype=torch.complex64)}, TypeError, "weight"),
        ({"weight": [[1.0]]}, TypeError, "weight"),
        ({"weight": torch.ones(3)}, ValueError, "weight"),
        ({"weight": torch.ones(0, 3)}, ValueError, "weight"),
        ({"weight": torch.ones(3, 0)}, ValueError, "weight"),
        ({"weight": torch.tensor([[1.0, float("nan")]])}, ValueError, "NaN"),
        ({"weight": torch.tensor([[1.0, float("-inf")]])}, ValueError, "infinity"),
    ],
)
def test_bad_input_is_named(arguments, error, names):
    with pytest.raises(error, match=names):
        density.sample_counts(**{"weight": torch.ones(2, 3), "samples": 4} | arguments)


# --- models -------------------------------------------------------------------------------------


def test_quantize_leaves_the_model_alone_and_returns_a_plain_one():
    model = nets.build("lenet5", seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sampled, report = density.quantize(model, samples=20, seed=1)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert sampled.state_dict().keys() == before.keys()
    model.load_state_dict(sampled.state_dict())
    assert [layer.samples for layer in report.layers] == [20] * 5
    assert report.weights == sum(v.numel() for k, v in before.items() if k.endswith("weight"))
    for name, module in sampled.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert torch.equal(module.bias, before[f"{name}.bias"])


def test_weights_are_counts_times_a_scale():
    model = nn.Linear(40, 3)
    sampled, report = density.quantize(model, samples=16, seed=0)
    counts = density.sample_counts(
        model.weight, 16, seed=int(_seed_of_first_layer())
    )  # the stream of layer 0
    scale = model.weight.abs().sum(1, keepdim=True) / 16
    torch.testing.assert_close(sampled.weight, counts * scale)
    assert report.histogram == dict(
        zip(*(x.tolist() for x in counts.unique(return_counts=True)), strict=True)
    )
    assert report.distinct == counts.count_nonzero()


def _seed_of_first_layer():
    from mcnn.sampling import fold_in

    return fold_in(0, 0)


def test_fraction_is_of_the_fan_in():
    model = nn.Sequential(nn.Linear(200, 50), nn.Conv1d(8, 4, 5))
    _, report = density.quantize(model, fraction=0.12)
    assert [layer.samples for layer in report.layers] == [24, round(0.12 * 40)]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 6),
        nn.Conv1d(4, 6, 3),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv3d(2, 3, 2),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ],
)
@pytest.mark.parametrize("bias", ["exact", "sampled"])
def test_every_output_of_every_layer_is_unbiased(layer, bias):
    """With very many samples a sampled layer computes what the layer computes."""
    sampled, _ = density.quantize(layer, samples=2_000_000, bias=bias, seed=1)
    torch.testing.assert_close(sampled.weight, layer.weight, atol=2e-5, rtol=0)
    torch.testing.assert_close(sampled.bias, layer.bias, atol=2e-5, rtol=0)


def test_rows_of_a_transposed_convolution_are_its_outputs():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    with torch.no_grad():
        layer.weight[:, 1].zero_()  # output 1 of each group
    _, report = density.quantize(layer, samples=5)
    assert (report.layers[0].rows, report.layers[0].inputs) == (6, 2 * 9)
    assert sum(abs(c) * n for c, n in report.histogram.items()) == 4 * 5


def test_biases_can_be_sampled_or_left_out():
    layer = nn.Linear(10, 4)
    sampled, report = density.quantize(layer, samples=7, bias="sampled")
    assert report.layers[0].inputs == 11
    assert not torch.equal(sampled.bias, layer.bias)
    without, _ = density.quantize(layer, samples=7, bias="none")
    assert (without.bias == 0).all()
    density.quantize(nn.Linear(10, 4, bias=False), samples=7, bias="sampled")


def test_layers_are_chosen_by_name_pattern_or_function():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    for layers in ("2", ["2"], "[2-9]", lambda name, module: name == "2"):
        sampled, report = density.quantize(model, samples=3, layers=layers)
        assert [layer.name for layer in report.layers] == ["2"]
        assert torch.equal(sampled[0].weight, model[0].weight)


def test_tied_weights_are_sampled_once():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].weight = model[0].weight
    sampled, report = density.quantize(model, samples=3)
    assert len(report.layers) == 1
    assert sampled[0].weight is sampled[1].weight


def test_report_counts_bits_and_bytes():
    model = nn.Linear(8, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 0, 0, 0, 0, 0, 0]] * 2))
    _, report = density.quantize(model, samples=2, method="systematic")
    assert report.histogram == {-1: 2, 0: 12, 1: 2}
    assert report.bits_per_weight == pytest.approx(0.75 * 0.415037 + 0.25 * 3, abs=1e-5)
    assert report.bytes_dense == (16 + 2) * 4
    assert report.bytes_packed == 16 * 2 // 8 + 2 * 4 + 2 * 4
    assert report.layers[0].ternary
    assert "16" in str(report)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, "either samples or fraction"),
        ({"samples": 3, "fraction": 0.1}, "either samples or fraction"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": float("nan")}, "fraction"),
        ({"samples": 3, "bias": "some"}, "bias"),
        ({"samples": 3, "layers": "fc"}, "'fc'"),
        ({"samples": 0}, "layer '0': samples"),
    ],
)
def test_bad_calls_of_quantize_are_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        density.quantize(nn.Sequential(nn.Linear(4, 4)), **arguments)


def test_models_that_cannot_be_sampled_say_why():
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        density.quantize(nn.ReLU(), samples=3)
    with pytest.raises(ValueError, match="remove_parametrizations"):
        density.quantize(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), samples=3)
    broken = nn.Linear(3, 3)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        density.quantize(broken, samples=3)
