"""The experiments on partitions: arms train as if alone, measures are what they say."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mcnn import data, training
from mcnn.experiments.partition import (
    calibration,
    coverage,
    curve,
    each,
    each_training,
    runs,
    table,
    variance,
)
from mcnn.experiments.partition.each_training import ExampleMasks
from mcnn.experiments.partition.masks import KINDS, Masks, mask_seed, train_arms
from mcnn.partition import DropoutPartition, part_labels
from mcnn.partition.hashed import HashedPartition
from mcnn.sampling import fold_in
from mcnn.training import nets

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
SEED = 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    found = data.load("digits")
    part = replace(found.train, images=found.train.images[:330], labels=found.train.labels[:330])
    return replace(found, train=part, test=part)


class Given(nn.Module):
    """Factors that were drawn before, one a step."""

    def __init__(self, factors):
        super().__init__()
        self.left = iter(factors)

    def forward(self, x):
        return x * next(self.left)[: len(x)] if self.training else x


def alone(net, arm, shape, factors=None):
    """One network with layers that drop after hidden fully connected ones."""
    model = nets.build(net, seed=SEED, shape=shape)
    kind, parts = arm
    after = [i for i, m in enumerate(model) if isinstance(m, nn.ReLU)]
    after = [i for i in after if isinstance(model[i - 1], nn.Linear)]
    for layer, i in reversed(list(enumerate(after))):
        if kind in ("partition", "keep-one"):
            drop = "one" if kind == "partition" else kind
            model.insert(i + 1, DropoutPartition(parts, drop, seed=mask_seed(SEED, arm, layer)))
        else:
            model.insert(i + 1, Given([step[layer][0] for step in factors]))
    return model


# --- arms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_every_arm_trains_as_it_would_alone(digits, device):
    digits = digits.to(device)
    arms = [("partition", 2), ("keep-one", 3), ("shared", 3), ("dropout", 4), ("partition", 9)]
    options = {"epochs": 2, "batch_size": 100, "lr": 0.05}
    together = train_arms(digits, arms, SEED, every=1, **options)
    options |= {"seed": SEED, "scale": "standard", "schedule": "constant"}
    for arm in arms:
        drawn = Masks([(arm, SEED)], [120, 84], device)
        factors = [drawn(b) for b in (100, 100, 100, 30) * 2]
        model = alone("lenet5", arm, digits.shape, factors).to(device)
        rows = training.fit(model, digits, evaluate_each=True, **options)
        name = f"{arm[0]} {arm[1]}"
        assert together["on"][name] == pytest.approx([r["train_accuracy"] for r in rows], abs=0.004)
        tested = [r["test_accuracy"] for r in rows]
        assert together["test"][name] == pytest.approx(tested, abs=0.004)
        assert together["off"][name] == together["test"][name], "here they are the same images"


@pytest.mark.parametrize(("kind", "drop"), [("partition", "one"), ("keep-one", "keep-one")])
def test_masks_of_partitions_are_those_of_the_layer(kind, drop):
    """Over many cycles, past the block that is drawn together."""
    masks = Masks([((kind, 2), 11), ((kind, 5), 11)], [7, 3], "cpu")
    layers = [
        [DropoutPartition(p, drop, seed=mask_seed(11, (kind, p), i)) for p in (2, 5)]
        for i in range(2)
    ]
    for _ in range(400):
        for found, own in zip(masks(4), layers, strict=True):
            expected = torch.stack([layer(torch.ones(1, found.shape[2])) for layer in own])
            torch.testing.assert_close(found, expected)


def test_masks_of_dropout_have_its_rate():
    masks = Masks([(("shared", 4), 0), (("dropout", 4), 0)], [5000], "cpu")
    shared, own = masks(6)[0]  # [6, 5000] each
    assert torch.equal(shared, shared[:1].expand(6, -1))
    assert not torch.equal(own[0], own[1])
    for m in (shared[:1], own):
        kept = (m != 0).double()
        z = (kept.mean() - 0.75) / math.sqrt(0.75 * 0.25 / m.numel())
        assert abs(z) < 4
        torch.testing.assert_close(m[m != 0], torch.full_like(m[m != 0], 4 / 3))
    assert not torch.equal(masks(6)[0][0], shared), "another step, another mask"


def test_an_arm_has_its_masks_whatever_the_others():
    arm = ("dropout", 3)
    others = [("shared", 3), ("partition", 2)]
    alone, last = (Masks([(a, 1) for a in s], [8], "cpu") for s in ([arm], [*others, arm]))
    for _ in range(3):
        assert torch.equal(alone(2)[0][0], last(2)[0][2])
    seeds = {mask_seed(s, (k, p), i) for s in (0, 1) for k in KINDS for p in (2, 9) for i in (0, 1)}
    assert len(seeds) == 2 * len(KINDS) * 2 * 2


def test_kinds_that_are_not_there():
    with pytest.raises(ValueError, match="not in"):
        Masks([(("half", 2), 0)], [3], "cpu")


# --- variance -----------------------------------------------------------------------------------


def test_a_mean_gradient_is_that_of_the_whole_network():
    model = nets.build("lenet5", seed=1, shape=(1, 8, 8))
    x, y = normal(6, 1, 8, 8), torch.arange(6)
    layers = [DropoutPartition(3, seed=i) for i in range(2)]
    fast = variance.mean_gradients(model, x, y, layers, 3)()
    slow = nn.Sequential(*model)
    for i, layer in ((11, 1), (9, 0)):
        slow.insert(i, DropoutPartition(3, seed=layer))
    loss = sum(nn.functional.cross_entropy(slow(x), y) for _ in range(3)) / 3
    grads = torch.autograd.grad(loss, slow.parameters())
    torch.testing.assert_close(fast, torch.cat([g.flatten() for g in grads]))


def test_examples_in_turn_have_the_same_mean_over_a_cycle():
    """Every example sees every part dropped, whichever comes first."""
    model = nets.build("mlp", seed=1, widths=(5, 20, 30, 4))
    x, y = normal(7, 1, 1, 5), torch.arange(7) % 4
    means = [
        variance.mean_gradients(model, x, y, variance.dropping(kind, 3, 9), 3)()
        for kind in ("partition", "partition, examples in turn")
    ]
    torch.testing.assert_close(*means)


def test_a_trace_is_that_of_the_covariance():
    vectors = normal(50, 4).double() * torch.tensor([1.0, 2.0, 0.0, 5.0])
    drawn = iter(vectors)
    spread, length = variance.trace(lambda: next(drawn), 50)
    assert spread == pytest.approx(float(vectors.T.cov().trace()))
    assert length == pytest.approx(float(vectors.mean(0).square().sum()))


@pytest.mark.parametrize(("shared", "rows"), [(True, 1), (False, 40)])
def test_dropout_with_its_own_generator(shared, rows):
    layer = variance.Dropout(1 / 3, shared, seed=2)
    out = layer(torch.ones(40, 3000))
    assert layer.numbers_drawn == rows * 3000
    assert (len(out.unique(dim=0)) == 1) == shared
    z = (float(out[:rows].mean()) - 1) / math.sqrt(0.5 / (rows * 3000))
    assert abs(z) < 4
    assert set(out.unique().tolist()) == {0.0, 1.5}


# --- a mask for each example --------------------------------------------------------------------


def test_masks_of_examples_are_those_of_the_layers():
    """Partitions as HashedPartition drops, layers and P apart; coins as where they are compared."""
    arms = [("partition", 2), ("partition", 3), ("dropout", 3)]
    masks = ExampleMasks([(arm, 5) for arm in arms], [7, 7], "cpu")
    seeds = [[fold_in(fold_in(5, p), i) for p in (2, 3)] for i in (0, 1)]
    layers = [
        [HashedPartition(p, seed=s) for p, s in zip((2, 3), row, strict=True)] for row in seeds
    ]
    coins = Masks([(("dropout", 3), 5)], [7, 7], "cpu")
    for batch in (6, 6, 4, 6, 6):  # the last batch of an epoch is smaller
        for found, own, drawn in zip(masks(batch), layers, coins(batch), strict=True):
            assert found.shape == (3, batch, 7)
            for factors, layer in zip(found, own, strict=False):
                torch.testing.assert_close(factors, layer(torch.ones(batch, 7)))
            torch.testing.assert_close(found[2], drawn[0])
    first, second = masks(6)
    assert not torch.equal(first[0], second[0]), "layers have seeds of their own"


def test_gains_of_masks_of_examples_have_the_sign_of_partitions_minus_dropout():
    trial = each_training.CurveTrial(parts=(2,))
    better, worse = [0.5, 0.9], [0.3, 0.6]
    metrics = {key: {"partition 2": better, "dropout 2": worse} for key in ("on", "test")}
    measured = each_training._measure_curve([SimpleNamespace(config=trial, metrics=metrics)])
    assert measured["P = 2, training, masks on"] == pytest.approx([0.25])
    assert measured["P = 2, test, last epoch"] == pytest.approx([0.3])
    runs = {"partition 3": [0.9, 0.8], "dropout 3": [0.5, 0.7]}
    group = SimpleNamespace(config=each_training.RunsTrial(parts=(3,)), metrics=runs)
    measured = each_training._measure_runs([group])
    assert measured["P = 3, mean difference"] == pytest.approx([0.25])
    assert measured["P = 3, log ratio of sd"] == pytest.approx([math.log(2)])


# --- coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("drop", ["one", "keep-one"])
def test_units_that_break_the_rule_are_counted(drop, device, monkeypatch):
    layer = DropoutPartition(4, drop)
    assert coverage._broken(layer, 50, device) == {"dropped": 0, "kept": 0, "mean": 0}
    forward = DropoutPartition.forward
    monkeypatch.setattr(DropoutPartition, "forward", lambda self, x: forward(self, x).roll(1, 1))
    assert coverage._broken(layer, 50, device)["mean"] > 0
    monkeypatch.setattr(DropoutPartition, "forward", lambda self, x: x)
    assert coverage._broken(layer, 50, device)["dropped"] == 50
    assert coverage._broken(layer, 50, device)["kept"] == 50


def test_partitions_drop_all_units_equally_often():
    times = coverage._dropped_times(coverage.CoverageTrial(steps=12))
    assert times["partition"][4] == 10_000
    assert sum(times["dropout"]) == 10_000
    assert times["dropout"][4] < 3000


# --- calibration --------------------------------------------------------------------------------


def test_calibration_error_of_known_bins():
    p = torch.tensor([0.55] * 10 + [0.95] * 10)
    probabilities = torch.stack([p, 1 - p], 1)
    labels = torch.tensor([0] * 5 + [1] * 5 + [0] * 8 + [1] * 2)
    error = calibration.calibration_error(probabilities, labels, bins=10)
    assert error == pytest.approx(0.5 * 0.05 + 0.5 * 0.15, abs=1e-6)
    assert calibration.calibration_error(torch.eye(3), torch.arange(3)) == 0
    halves = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]])  # a half belongs to the lower bin
    error = calibration.calibration_error(halves, torch.tensor([0, 1]), bins=2)
    assert error == pytest.approx((0.5 + 0.6) / 2)


@pytest.mark.parametrize(("units", "masks", "scale"), [(64, 4, 2.0), (256, 4, 2.0), (30, 3, 1.5)])
def test_masks_of_a_family_cover_all_units(units, masks, scale):
    family = calibration.mask_family(units, masks, scale, seed=3)
    assert family.shape == (masks, units)
    assert family.any(0).all()
    sizes = family.sum(1)
    assert (sizes == sizes[0]).all()
    assert float(sizes[0]) == pytest.approx(units / (scale * (1 - (1 - 1 / scale) ** masks)), abs=1)
    both = (family[0] & family[1]).sum() / sizes[0]
    assert float(both) == pytest.approx(1 / scale, abs=0.2)
    assert not torch.equal(family, calibration.mask_family(units, masks, scale, seed=4))


def test_masks_that_cannot_cover():
    with pytest.raises(ValueError, match="no 5 masks of scale 5"):
        calibration.mask_family(1, 5, 5.0, seed=0, tries=20)


def test_masks_share_a_batch():
    layer = calibration.Masksembles(64, 4, 2.0, seed=1)
    out = layer(torch.ones(8, 64))
    assert torch.equal(out, layer.masks.repeat_interleave(2, 0).float())
    layer.only = 2
    assert torch.equal(layer(torch.ones(8, 64)), layer.masks[2].float().expand(8, -1))


def test_passes_average_over_whole_cycles(digits):
    trial = calibration.CalibrationTrial(dataset="digits", widths=(64, 20, 30, 10), parts=3)
    model = nets.build("mlp", seed=0, widths=trial.widths)
    masked = calibration.Masked(model, calibration._layers(trial))
    masked(digits.test.inputs())  # in mid cycle
    each = calibration._passes(masked, digits.test, 3)
    hidden = model[2](model[1](model[0](digits.test.inputs(scale="standard"))))
    labels = part_labels(20, 3, seed=0), part_labels(30, 3, seed=1)
    for t in range(3):
        h = model[4](model[3](hidden * (labels[0] != t) * 1.5)) * (labels[1] != t) * 1.5
        torch.testing.assert_close(each[t], model[5](h).softmax(1))
    masked.eval()
    single = calibration._passes(masked, digits.test, 1)[0]
    torch.testing.assert_close(single, model(digits.test.inputs(scale="standard")).softmax(1))


# --- measures -----------------------------------------------------------------------------------


def record(trial, metrics):
    return SimpleNamespace(config=trial, metrics=metrics)


def test_the_table_is_a_difference_of_means_over_rates():
    found = []
    for seed in (0, 1):
        for dataset in ("cifar10", "mnist"):
            for kind, offset in (("partition", 0.5), ("shared", 0.4), ("dropout", 0.6)):
                values = [offset + 0.1 * seed, offset]
                trial = table.TableTrial(seed=seed, dataset=dataset, kind=kind, parts=(2, 3))
                found.append(record(trial, {"on": values, "off": values, "test": values}))
    measured = table._measure(found)
    assert measured["CIFAR-10, test, against shared masks"] == pytest.approx([0.1, 0.1])
    assert measured["MNIST, test, against masks for each example"] == pytest.approx([-0.1, -0.1])


def test_curves_are_averaged_over_epochs():
    arms = {"partition 2": [0.2, 0.6], "shared 2": [0.1, 0.5]}
    arms |= {"partition 3": [0.3, 0.3], "shared 3": [0.4, 0.2]}
    measured = curve._measure(
        [record(curve.CurveTrial(), dict.fromkeys(("on", "off", "test"), arms))]
    )
    assert measured["P = 2, masks on"] == pytest.approx([0.1])
    assert measured["P = 3, masks on"] == pytest.approx([0.0])
    assert measured["P = 3, test, last epoch"] == pytest.approx([0.1])


def test_spread_is_a_log_ratio():
    trial = runs.RunsTrial(arms=runs.ARMS[:3])
    metrics = {"partition 3": [0.9, 0.92], "shared 3": [0.8, 0.84], "dropout 3": [0.9, 0.91]}
    measured = runs._measure([record(trial, metrics)])
    assert measured["P = 3, shared masks: log ratio of sd"] == pytest.approx([math.log(2)])
    name = "P = 3, masks for each example: log ratio of sd"
    assert measured[name] == pytest.approx([-math.log(2)])
    assert measured["P = 3, shared masks: mean difference"] == pytest.approx([0.09])
    again = record(
        runs.RunsTrial(arms=runs.ARMS[:2]), {arm: metrics[arm] for arm in list(metrics)[:2]}
    )
    pooled = runs._measure([again, record(trial, metrics)])
    assert [len(v) for v in pooled.values()] == [2, 2, 1, 1], "a second run has some of the arms"


def test_runs_of_a_group_are_those_of_networks_alone(digits, monkeypatch):
    monkeypatch.setattr(data, "load", lambda name, device: digits)
    trial = runs.RunsTrial(
        seed=1, dataset="digits", images=200, widths=(64, 8, 8, 10), arms=(("dropout", 3),),
        runs=2, epochs=2, batch_size=50,
    )  # fmt: skip
    both = runs._run(trial, torch.device("cpu"))["dropout 3"]
    each = [replace(trial, seed=2 + i, runs=1) for i in range(2)]  # run i of group 1 has seed 2 + i
    alone = [runs._run(t, torch.device("cpu"))["dropout 3"][0] for t in each]
    assert both == pytest.approx(alone, abs=0.004)
    assert both[0] != both[1]


@pytest.mark.parametrize("kind", each.KINDS)
def test_layers_of_either_kind_have_a_mask_for_each_example_at_the_same_rate(kind):
    first, second = each._layers(kind, 4, seed=3)
    x = torch.ones(64, 200)
    steps = torch.stack([first(x) for _ in range(4)])  # [4, b, n]
    assert steps.unique().tolist() == [0, pytest.approx(4 / 3)]
    dropped = steps == 0
    assert dropped.float().mean().item() == pytest.approx(1 / 4, abs=0.01)
    assert not torch.equal(dropped[0, 0], dropped[0, 1]), "examples share a mask"
    assert not torch.equal(dropped[0], second(x) == 0), "layers share a mask"
    once = dropped.sum(0)
    assert (once == 1).all() if kind == "partition" else once.max() > 1
