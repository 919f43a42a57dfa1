"""What sparse networks take, in closed form, and the convolutional networks that are compared."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mcnn import data
from mcnn.baselines import Masked, random_mask, weights
from mcnn.baselines.footprint import LayerShape, footprint, layer_shapes
from mcnn.experiments.paths import baselines_conv, wrn
from mcnn.paths import Graph, PathLinear, sample_paths
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def lenet(shape=(3, 32, 32), seed=0):
    return nets.build("lenet5", seed=seed, shape=shape)


# --- footprint ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lenet(), (3, 32, 32)),
        (nets.build("mlp", widths=(784, 300, 300, 10)), (1, 28, 28)),
        (wrn.WideResNet(10, 1), (3, 8, 8)),
    ],
)
def test_operations_are_those_that_pytorch_counts(model, shape):
    layers = layer_shapes(model, shape)
    assert {n: w.numel() for n, w in weights(model).items()} == {
        n: layer.size for n, layer in layers.items()
    }
    edges = [layer.size for layer in layers.values()]
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    assert footprint(list(layers.values()), edges, "dense").operations == counter.get_total_flops()


def test_bytes_of_rows_are_those_of_the_sparse_matrix():
    """Beside a real matrix of compressed rows, with numbers of the sizes that are assumed."""
    matrix = PathLinear(784, 300, paths=5000, method="uniform").to_csr()
    n = matrix.values().numel()
    columns = matrix.col_indices().to(torch.int16)
    rows = matrix.crow_indices().to(torch.int16)
    found = footprint([LayerShape(784, 300)], [n], "csr")
    assert found.weight_bytes == matrix.values().nbytes
    assert found.index_bytes == columns.nbytes + rows.nbytes


def test_bytes_of_paths_are_those_of_their_units():
    widths = (784, 300, 300, 10)
    paths = sample_paths(widths, 1000, "uniform")
    layers = [LayerShape(a, b) for a, b in pairwise(widths)]
    edges = list(Graph.of_paths(paths, widths).unique)
    found = footprint(layers, edges, "paths", paths=1000)
    rows = [row.to(torch.int16 if n > 256 else torch.uint8) for row, n in zip(paths, widths)]  # noqa: B905
    assert found.index_bytes == sum(row.nbytes for row in rows)
    assert found.bytes == found.index_bytes + 4 * sum(edges)


def test_a_number_takes_the_fewest_bytes():
    for n, size in ((256, 1), (257, 2), (65536, 2), (65537, 4), (2**32 + 1, 8)):
        assert footprint([LayerShape(n, 1)], [1], "fan-in").index_bytes == size
    assert footprint([LayerShape(9, 9, 25, 4)], [50], "slices").index_bytes == 2 + 10
    assert footprint([LayerShape(9, 9)], [3], "seed").index_bytes == 8
    assert footprint([LayerShape(9, 9)], [81], "dense").index_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (([4], "zip"), "storage"),
        (([5], "csr"), "do not fit"),
        (([1, 1], "csr"), "do not fit"),
        (([1], "paths"), "number of paths"),
        (([1], "csr", 3), "number of paths"),
    ],
)
def test_bad_footprints_are_named(arguments, names):
    with pytest.raises(ValueError, match=names):
        footprint([LayerShape(2, 2)], *arguments)


# --- paths through a LeNet ------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    paths=st.integers(1, 60),
    method=st.sampled_from(["uniform", "sobol", "permutation"]),
    single=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_weight_of_a_path_is_useless(paths, method, single, seed):
    masks = baselines_conv.path_masks(lenet(), paths, method, seed, single)
    assert {n: m.shape for n, m in masks.items()} == {
        n: w.shape for n, w in weights(lenet()).items()
    }
    assert baselines_conv.useless(masks) == 0
    first = next(iter(masks.values())).flatten(2).sum(2)
    assert set(first.unique().tolist()) <= (set(range(26)) if single else {0, 25})
    for mask in masks.values():
        assert (
            1 <= mask.flatten(2).any(2).sum() <= paths if mask.dim() == 4 else mask.sum() <= paths
        )


@settings(max_examples=15, deadline=None)
@given(edges=st.integers(1, 60), seed=st.integers(0, 99))
def test_useless_weights_are_those_of_the_graph(edges, seed):
    shapes = {"a": (9, 12), "b": (7, 9), "c": (10, 7)}
    masks = {n: random_mask(s, edges, seed ^ i) for i, (n, s) in enumerate(shapes.items())}
    assert baselines_conv.useless(masks) == sum(Graph.of_masks(list(masks.values())).useless)


def test_a_channel_is_heard_at_its_own_places():
    masks = {n: torch.zeros(w.shape, dtype=torch.bool) for n, w in weights(lenet()).items()}
    a, b, c, d, e = masks.values()
    a[2, 0, 1, 1] = b[7, 2, 0, 4] = c[5, 7 * 25 + 3] = d[4, 5] = e[9, 4] = True
    assert baselines_conv.useless(masks) == 0
    c[5, 7 * 25 + 3], c[5, 8 * 25] = False, True
    assert baselines_conv.useless(masks) == 5


def test_as_many_paths_as_the_weights_allow():
    model = lenet()
    for method in baselines_conv.PATHS:
        n, masks = baselines_conv.paths_for(model, 4000, method, seed=2)
        generator, single = baselines_conv.PATHS[method]
        more = baselines_conv.path_masks(model, n + 1, generator, 2, single)
        assert sum(baselines_conv.edges(masks)) <= 4000 < sum(baselines_conv.edges(more))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "method", ["dense", *baselines_conv.PATHS, *baselines_conv.FIELD, "pruned"]
)
def test_every_convolutional_peer_runs(method, device):
    density = 1.0 if method == "dense" else 0.1
    trial = baselines_conv.PeersConvTrial(
        dataset="digits", method=method, density=density, images=64, epochs=1
    )
    found = baselines_conv._run(trial, torch.device(device))
    total = sum(baselines_conv._sizes(lenet((1, 8, 8))))
    assert sum(found["edges"]) <= round(density * total)
    assert sum(found["edges"]) > 0.9 * density * total
    if method in baselines_conv.PATHS:
        assert found["useless"] == 0


def test_weights_begin_with_the_variance_of_their_real_fan_in():
    trial = baselines_conv.PeersConvTrial(seed=1)
    model = baselines_conv.network(trial, (3, 32, 32))
    masks = {n: random_mask(w.shape, w.numel() // 4, 7) for n, w in weights(model).items()}
    baselines_conv.scale_to(model, masks)
    for name in ("3", "7"):  # the second convolution, the first linear layer
        mask, w = masks[name], weights(model)[name].detach()
        rows = mask.flatten(1).sum(1).float()
        z = (w * mask).flatten(1).square().sum(1)  # 2 / fan-in each, so 2 in all
        assert z.mean().item() == pytest.approx(2, abs=8 * (2 / rows.sum()).sqrt().item())


def test_the_images_are_always_the_same_and_of_all_classes():
    found = data.load("digits")
    few = baselines_conv._few(found, 200)
    assert len(few.train) == 200
    assert torch.equal(few.train.images, baselines_conv._few(found, 200).train.images)
    assert len(few.train.labels.unique()) == 10
    assert few.test is found.test


# --- wide residual networks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)]
)
def test_sizes_of_wide_networks_are_the_published_ones(depth, width, millions):
    """Table 4 of the paper on wide residual networks."""
    model = wrn.WideResNet(depth, width)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("method", ["uniform", "sobol", "permutation"])
def test_every_path_goes_through_a_wide_network(method):
    """With weights of one and no normalisation, all inputs and outputs of one path are joined."""
    model = wrn.WideResNet(10, 1)
    masks = wrn.path_masks(model, 1, method, seed=3)
    assert all(
        mask.flatten(2).any(2).sum() == 1 if mask.dim() == 4 else mask.sum() == 1
        for mask in masks.values()
    )
    for name in masks:
        if name.endswith("around"):  # from the input of its block to the output
            block = name.removesuffix("around")
            ends = masks[name].flatten(2).any(2)  # [outputs, inputs]
            assert torch.equal(ends.any(1), masks[f"{block}conv2"].flatten(1).any(1))
            assert torch.equal(
                ends.any(0), masks[f"{block}conv1"].transpose(0, 1).flatten(1).any(1)
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        if name in masks:
            module.weight.data.fill_(1)
            if module.bias is not None:
                module.bias.data.zero_()
    Masked(model, masks)
    for channel in range(3):
        x = torch.zeros(1, 3, 8, 8)
        x[:, channel] = 1
        first = next(iter(masks.values()))[:, channel].any()
        assert bool((model.eval()(x) != 0).sum() == 1) == bool(first)


def test_a_wide_network_trains_by_paths_and_by_rigl():
    for trial in wrn._trials("fast", [0]):
        few = wrn._run(trial, torch.device("cpu"))
        assert 0.15 * few["weights"] < few["edges"] <= round(0.2 * few["weights"])
        assert few["accuracy"] > 0.05
    with pytest.raises(ValueError, match="depth"):
        wrn.WideResNet(12)


def test_the_trials_that_wait_for_a_gpu_are_the_papers_network():
    trials = wrn._trials("full", range(3))
    assert {(t.depth, t.width, t.epochs, t.density, t.dataset) for t in trials} == {
        (22, 2, 250, 0.2, "cifar10")
    }
    assert len(trials) == 18
