"""Compression by backward walks: no bias, counts that add up, guarantees, errors."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcnn.paths.compress import METHODS, WEIGHTS, compress
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def stack(widths, relu=True, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, dtype=dtype)
        for p in layer.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=dtype)
        layers += [layer, nn.ReLU()] if relu else [layer]
    return nn.Sequential(*(layers[:-1] if relu else layers))


def matrices(model):
    return [m.weight.detach() for m in model if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_without_relus_the_whole_network_is_unbiased(method, fold, device):
    model = stack((4, 5, 3, 2), relu=False, seed=3).to(device)
    for layer in model:
        layer.bias.data.zero_()
    x = torch.randn(4, generator=torch.Generator().manual_seed(1)).to(device)
    outputs = torch.stack(
        [compress(model, 30, method, fold=fold, seed=s)[0](x) for s in range(300)]
    ).double()
    z = (outputs.mean(0) - model(x)) / (outputs.std(0) / len(outputs) ** 0.5)
    assert z.abs().max() < 4


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_weight_is_unbiased_given_visits(method, fold):
    model = nn.Sequential(*stack((3, 4, 2), seed=5))
    drawn = [compress(model, 200, method, fold=fold, seed=s)[0] for s in range(200)]
    for number, w in enumerate(matrices(model)):
        values = torch.stack([matrices(m)[number] for m in drawn]).double()
        spread = values.std(0).clamp(min=1e-9) / len(drawn) ** 0.5
        assert ((values.mean(0) - w) / spread).abs().max() < 4.5


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("method", METHODS)
@given(
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    paths=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_edge_lies_on_a_walk(method, fold, widths, paths, seed):
    """What enters a unit leaves it: kept weights form paths from the outputs to the inputs."""
    small, report = compress(stack(widths, seed=seed % 99), paths, method, fold=fold, seed=seed)
    kept = [w != 0 for w in matrices(small)]
    assert [x.distinct for x in report.layers] == [int(k.sum()) for k in kept]
    assert all(x.distinct <= paths for x in report.layers)
    for below, above in pairwise(kept):
        assert torch.equal(below.any(1), above.any(0))
    assert [x.visited for x in report.layers] == [int(k.any(1).sum()) for k in kept]
    if paths >= widths[-1] and method == "stratified":
        assert kept[-1].any(1).all()


@pytest.mark.parametrize("method", METHODS)
def test_counts_are_integers_times_the_scale_of_a_unit(method):
    model = stack((20, 30, 5))
    small, report = compress(model, 1000, method, seed=2)
    visits = torch.full((5,), 200.0) if method == "stratified" else None
    for w, dense in zip(reversed(matrices(small)), reversed(matrices(model)), strict=True):
        norm = dense.abs().sum(1)
        if visits is None:  # the counts of a row share a scale, and sum to the visits
            share = w.abs().sum(1) / norm
            torch.testing.assert_close(share, torch.ones_like(share))
            break
        counts = w / (norm / visits.clamp(min=1))[:, None]
        torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
        torch.testing.assert_close(counts.abs().sum(1), visits, atol=1e-3, rtol=0)
        assert (w * dense >= 0).all()
        visits = counts.abs().round().sum(0)
    assert report.paths == 1000


def test_stratified_counts_stay_next_to_their_expectation():
    model = stack((50, 1))
    small, _ = compress(model, 400, seed=1)
    w = matrices(model)[0]
    counts = matrices(small)[0].abs() * 400 / w.abs().sum()
    assert (counts - 400 * w.abs() / w.abs().sum()).abs().max() < 2


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["mlp", "lenet5", "lenet-wide"])
def test_very_many_paths_bring_the_network_back(name, fold):
    model = nets.build(name, seed=1).eval()
    x = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    small, _ = compress(model, 10**11, fold=fold)
    torch.testing.assert_close(small(x), model(x), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_original_weights_are_those_of_the_model(method):
    model = nets.build("lenet5", seed=1)
    small, report = compress(model, 3000, method, weights="original", seed=4)
    for a, b in zip(small.parameters(), model.parameters(), strict=True):
        assert ((a == b) | (a == 0)).all()
    same = compress(model, 3000, method, weights="counts", seed=4)[1]
    assert report.distinct == same.distinct  # the same walks
    assert report.bits > same.bits


def test_filters_that_are_visited_are_those_that_are_read():
    small, report = compress(nets.build("lenet5", seed=1), 60, seed=4)
    first, second = (m for m in small if isinstance(m, nn.Conv2d))
    linear = next(m for m in small if isinstance(m, nn.Linear))
    assert torch.equal(first.weight.flatten(1).any(1), second.weight.any(3).any(2).any(0))
    read = linear.weight.view(120, 16, -1).any(2).any(0)
    assert torch.equal(second.weight.flatten(1).any(1), read)
    assert report.layers[1].visited == read.sum()


def test_a_unit_without_visits_is_silent():
    model = stack((6, 40, 2))
    small, _ = compress(model, 5, seed=0)
    silent = (small[0].weight == 0).all(1)
    assert 0 < silent.sum() < 40
    assert (small[0].bias[silent] == 0).all()
    assert torch.equal(small[0].bias[~silent], model[0].bias[~silent])


def test_the_model_stays_and_seeds_decide():
    model = nets.build("mlp", seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    a, b, c = (compress(model, 500, seed=s)[0][1].weight for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    generator = torch.Generator().manual_seed(0)
    first = compress(model, 500, seed=generator)[0][1].weight
    assert not torch.equal(first, compress(model, 500, seed=generator)[0][1].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype):
    small, report = compress(stack((30, 20, 4)).to(dtype), 2000)
    assert all(p.dtype == dtype for p in small.parameters())
    assert report.distinct > 100


def test_zero_rows_and_bits():
    model = stack((8, 2))
    model[0].weight.data = torch.tensor([[1.0, -1.0] + [0.0] * 6, [0.0] * 8])
    small, report = compress(model, 4)
    assert small[0].weight.tolist() == [[1.0, -1.0] + [0.0] * 6, [0.0] * 8]
    # 14 of 16 counts are 0, one is 1, one is -1; two units have a bias and a scale
    entropy = 16 * (14 / 16 * 0.1926451 + 2 / 16 * 4)
    assert report.bits == pytest.approx(entropy + 2 * 2 * 32, abs=1e-4)
    assert "4 paths, 12.5% of the weights" in str(report)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "names"),
    [
        (nn.Linear(3, 3), {}, TypeError, "nn.Sequential"),
        (nn.Sequential(nn.ReLU()), {}, ValueError, "no linear"),
        (nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), {}, TypeError, "Sigmoid"),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), {}, TypeError, "fuse it"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), {}, ValueError, "groups"),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 2)), {}, ValueError, "'1': its 4 inputs"),
        (nn.Sequential(nn.Linear(3, 3)), {"paths": 0}, ValueError, "paths"),
        (nn.Sequential(nn.Linear(3, 3)), {"paths": 2.0}, TypeError, "paths"),
        (nn.Sequential(nn.Linear(3, 3)), {"method": "sobol"}, ValueError, "method 'sobol'"),
        (nn.Sequential(nn.Linear(3, 3)), {"weights": "all"}, ValueError, "weights 'all'"),
        (nn.Sequential(nn.Linear(3, 3)), {"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_calls_are_named(model, arguments, error, names):
    with pytest.raises(error, match=names):
        compress(model, **{"paths": 5} | arguments)


def test_parametrised_and_tied_layers_are_refused():
    weird = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises((TypeError, ValueError), match="remove_parametrizations"):
        compress(weird, 5)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="share"):
        compress(tied, 5)


def test_both_kinds_of_weights_are_known():
    assert WEIGHTS == ("counts", "original")


@pytest.mark.parametrize("options", [{}, {"fold": True}, {"weights": "original"}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, options):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].weight.data[0, 0] = value
    with pytest.raises(ValueError, match="layer '2': weight holds NaN or infinity"):
        compress(model, paths=9, **options)
