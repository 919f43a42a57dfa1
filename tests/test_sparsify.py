"""Layers of paths in place of those of any network, in one call."""

import pytest
import torch
from torch import nn

from mcnn import paths
from mcnn.paths import PathConv2d, PathLinear, sparsify


def covered(layer):
    """Whether each unit, before and behind the layer, has an edge."""
    edges = layer.edges
    return len(edges.inputs.unique()) == layer.in_units and bool((edges.starts.diff() > 0).all())


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (784, 300), (300, 10), (3, 50), (1, 7)])
@pytest.mark.parametrize("density", [0.001, 0.05, 0.3])
def test_density_is_what_was_asked_for_and_no_unit_is_left_out(inputs, outputs, density):
    model = nn.Sequential(nn.Linear(inputs, outputs))
    sparse, report = sparsify(model, density)
    asked = min(1, max(density, max(inputs, outputs) / (inputs * outputs)))
    assert covered(sparse[0])
    assert report.distinct == sparse[0].n_weights
    assert report.weights == inputs * outputs
    assert asked * 0.99 - 1e-9 <= report.distinct / report.weights <= asked * 1.01 + 1 / inputs


@pytest.mark.parametrize("method", ["sobol", "uniform", "permutation", "lattice"])
def test_paths_that_meet_are_made_up_for(method):
    sparse, report = sparsify(nn.Sequential(nn.Linear(100, 60)), 0.5, method, seed=2)
    assert 0.99 * 3000 <= sparse[0].n_weights == report.distinct <= 3030
    full, _ = sparsify(nn.Sequential(nn.Linear(100, 60)), 1, method, seed=2)
    assert full[0].n_weights > 0.9 * 6000


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding="valid", bias=False),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 5, padding="same"),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


@pytest.mark.filterwarnings("ignore:Lazy")
def test_convolutions_keep_their_shapes_and_what_cannot_be_is_said():
    model, x = convolutional(), torch.rand(2, 3, 11, 11)
    with pytest.raises(ValueError, match="layer '7' has no shape yet"):
        sparsify(model, 0.2)
    y = model.double()(x.double())
    sparse, report = sparsify(model.eval(), 0.2, seed=4)
    assert [type(m).__name__ for m in sparse][::2] == ["PathConv2d"] * 3 + ["Flatten"]
    out = sparse(x.double())
    assert out.shape == y.shape
    assert out.dtype == torch.float64
    assert sparse[2].bias is None
    assert not sparse[0].training
    assert report.reasons["5"].startswith("a convolution with groups")
    assert "not touched: 5 (a convolution with groups" in str(report)
    edges = [m for m in sparse.modules() if isinstance(m, (PathLinear, PathConv2d))]
    assert [x.distinct for x in report.layers] == [m.weight.numel() for m in edges]
    assert all(covered(m) for m in edges)
    again, _ = sparsify(model, 0.2, seed=4)
    assert torch.equal(again(x.double()), out)
    other, _ = sparsify(model, 0.2, seed=5)
    assert not torch.equal(other(x.double()), out)
    assert isinstance(model[0], nn.Conv2d)


def test_layers_of_a_size_have_different_paths_and_weights():
    sparse, _ = sparsify(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)), 0.2)
    assert not torch.equal(sparse[0].paths, sparse[1].paths)
    assert not torch.equal(sparse[0].weight, sparse[1].weight)


def test_densities_by_name_and_what_was_named_must_be_done():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
    _, report = sparsify(model, {"0": 0.5, "1": 0.1})
    assert [layer.distinct for layer in report.layers] == [512, 102]
    assert report.reasons == {"2": "not chosen, or partly"}
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 2"):
        sparsify(model, {"0": 2})
    with pytest.raises(ValueError, match="'2' is chosen by layers, but has no density"):
        sparsify(model, {"0": 0.5}, layers=["0", "2"])
    with pytest.raises(ValueError, match="nothing is named 'fc'"):
        sparsify(model, {"fc": 0.5})
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="layer '0' cannot be one of paths: a convolution with gr"):
        sparsify(grouped, 0.5, layers="0")
    with pytest.raises(ValueError, match=r"no layer that could be one of paths \(0: a convolution"):
        sparsify(grouped, 0.5)


def test_attention_recurrence_and_ties_stay_and_are_named():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    table, head = nn.Embedding(30, 16), nn.Linear(16, 30, bias=False)
    head.weight = table.weight
    model = nn.ModuleDict({"embed": table, "body": layer, "rnn": nn.GRU(16, 16), "head": head})
    sparse, report = sparsify(model, 0.25)
    assert [x.name for x in report.layers] == ["body.linear1", "body.linear2"]
    assert report.reasons["body.self_attn"] == "MultiheadAttention has no form of paths"
    assert report.reasons["body.self_attn.out_proj"] == "attention multiplies by its matrix itself"
    assert report.reasons["rnn"] == "GRU has no form of paths"
    assert "embed" in report.untouched
    assert sparse["head"].weight is sparse["embed"].weight
    x = torch.rand(2, 5, 16)
    assert sparse["body"].train()(x).shape == x.shape
    with torch.no_grad():
        torch.testing.assert_close(
            sparse["body"].eval()(x), paths.to_dense_model(sparse)["body"](x)
        )


def test_a_sparse_network_learns():
    torch.manual_seed(0)
    x = torch.rand(256, 8)
    y = (x.sum(1) > 4).long()
    layers = nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    model = nn.Sequential(*layers)
    net, _ = sparsify(model, 0.2, layers=["0", "2"], init="realised")
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    assert (net(x).argmax(1) == y).float().mean() > 0.9


def test_networks_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    x = torch.rand(2, 3, 64, 64)
    for make, count in ((models.resnet18, 21), (models.mobilenet_v2, 36)):
        model = make(weights=None).eval()
        sparse, report = sparsify(model, 0.1)
        assert len(report.layers) == count
        assert sparse(x).shape == (2, 1000)
        assert report.distinct < 0.13 * report.weights
