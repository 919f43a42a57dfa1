"""Networks trained side by side: each as it would be alone."""

import copy

import pytest
import torch
from torch import nn

from mcnn import training
from mcnn.data import Data, Split, load
from mcnn.partition import DropoutPartition
from mcnn.training import ensemble, nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-4}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def few():
    """The first digits, not a multiple of the batch size."""
    data = load("digits")
    parts = (Split(s.images[:90], s.labels[:90], s.mean, s.std) for s in (data.train, data.test))
    return Data(data.name, *parts, data.classes, data.mean, data.std, "")


class Cast(nn.Module):
    """Let images be of the type of the weights."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def networks(name, count, dtype=torch.float64, **options):
    return [
        nn.Sequential(Cast(dtype), nets.build(name, seed=s, **options)).to(dtype)
        for s in range(count)
    ]


def normalised(count, dtype=torch.float64):
    def one(s):
        torch.manual_seed(s)
        layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        return nn.Sequential(Cast(dtype), *layers, nn.Linear(144, 10)).to(dtype)

    return [one(s) for s in range(count)]


def both(models, data, seeds, lr, **options):
    """Train together and one by one; return both, and the rows of both."""
    alone = [copy.deepcopy(model) for model in models]
    rows = ensemble.fit(models, data, seeds=seeds, lr=lr, **options)
    rates = lr if isinstance(lr, list) else [lr] * len(models)
    expected = [
        training.fit(model, data, seed=seed, lr=rate, **options)
        for model, seed, rate in zip(alone, seeds, rates, strict=True)
    ]
    return alone, rows, expected


def assert_same(models, alone, rows, expected, size):
    for a, b in zip(models, alone, strict=True):
        assert a.state_dict().keys() == b.state_dict().keys()
        for name, tensor in a.state_dict().items():
            torch.testing.assert_close(
                tensor, b.state_dict()[name], rtol=size, atol=size, msg=lambda m, n=name: n + m
            )
    for mine, theirs in zip(rows, expected, strict=True):
        assert [row.keys() for row in mine] == [row.keys() for row in theirs]
        for row, other in zip(mine, theirs, strict=True):
            assert row == pytest.approx(other, rel=10 * size, abs=10 * size)


MLP = {"widths": (64, 12, 10)}
LENET = {"shape": (1, 8, 8)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("net", "shape"), [("mlp", MLP), ("lenet5", LENET)])
def test_each_is_trained_as_it_is_alone(few, net, shape, optimizer, dtype, device):
    data = few.to(device)
    models = [m.to(device) for m in networks(net, 3, dtype, **shape)]
    before = copy.deepcopy(models[0].state_dict())
    lr = [0.05, 0.02, 0.1] if optimizer == "sgd" else [0.002, 0.001, 0.003]
    options = {"epochs": 3, "batch_size": 16, "weight_decay": 1e-3, "optimizer": optimizer}
    state = torch.get_rng_state()
    found = both(models, data, [4, 5, 4], lr, **options, evaluate_each=True, scale="standard")
    assert torch.equal(state, torch.get_rng_state())
    assert_same(models, *found, CLOSE[dtype])
    assert any(not torch.equal(t, before[name]) for name, t in models[0].state_dict().items())
    assert models[0].training


@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_schedules_and_shared_batches(few, schedule, momentum):
    models = networks("mlp", 2, **MLP)
    options = {"epochs": 2, "batch_size": 40, "schedule": schedule, "momentum": momentum}
    found = both(models, few, [7, 7], [0.1, 0.3], **options)
    assert_same(models, *found, 1e-10)


def test_running_statistics_and_fixed_parameters(few):
    models = normalised(3)
    for model in models:
        model[1].weight.requires_grad_(False)
    before = models[1][1].weight.clone()
    found = both(models, few, [1, 2, 3], 0.05, epochs=2, batch_size=32, evaluate_each=True)
    assert_same(models, *found, 1e-10)
    assert torch.equal(models[1][1].weight, before)
    assert int(models[0][2].num_batches_tracked) == 6
    assert not torch.equal(models[0][2].running_mean, models[1][2].running_mean)


def test_partitions_take_their_turns(few):
    models = networks("mlp", 2, **MLP)
    for model in models:
        model[1].insert(3, DropoutPartition(3, seed=1))
    found = both(models, few, [1, 2], 0.05, epochs=2, batch_size=32)
    assert_same(models, *found, 1e-10)
    models[1][1][3](torch.ones(1, 12))  # its turn is another now
    with pytest.raises(ValueError, match=r"network 1 is not like network 0.*_extra_state"):
        ensemble.fit(models, few, epochs=1, seeds=[1, 2])


def test_evaluations_are_those_of_each(few):
    models = normalised(3)
    found = ensemble.evaluate(models, few.test, batch_size=32)
    for model, (accuracy, loss) in zip(models, found, strict=True):
        expected = training.evaluate(model.eval(), few.test)
        assert accuracy == pytest.approx(expected.accuracy)
        assert loss == pytest.approx(expected.loss)


def test_networks_that_diverge_are_named(few):
    models = networks("mlp", 2, **MLP)
    before = models[0][1][1].weight.clone()
    with pytest.raises(training.DivergenceError, match=r"network 1 .* lr=1e\+300"):
        ensemble.fit(models, few, epochs=3, seeds=[0, 1], lr=[0.1, 1e300])
    assert torch.equal(models[0][1][1].weight, before)


def with_dropout():
    models = networks("mlp", 2, **MLP)
    return [nn.Sequential(m[0], m[1][0], nn.Dropout(0.5), *m[1][1:]) for m in models]


def unlike(change):
    models = networks("mlp", 2, **MLP)
    change(models[1])
    return models


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (list, {}, "models is empty"),
        (lambda: networks("mlp", 1, **MLP) * 2, {}, "different objects"),
        (
            lambda: networks("mlp", 1, **MLP) + networks("mlp", 1, widths=(64, 13, 10)),
            {},
            r"network 1 is not like network 0: it has .*out_features=13",
        ),
        (lambda: unlike(lambda m: m.float()), {}, "float32"),
        (lambda: unlike(lambda m: m[1][1].weight.requires_grad_(False)), {}, "fixed"),
        (lambda: unlike(lambda m: m.append(nn.Identity())), {}, "network 1"),
        (with_dropout, {}, "draw random numbers"),
        (None, {"seeds": [1]}, "seeds must be 2"),
        (None, {"lr": [0.1] * 3}, "lr must be 2"),
        (None, {"lr": [0.1, 0.0]}, "lr must be positive"),
        (None, {"optimizer": "lbfgs"}, "no optimizer 'lbfgs'; there are: sgd, adam"),
        (None, {"schedule": "steps"}, "no schedule"),
        (None, {"epochs": 0}, "epochs must be at least 1"),
        (None, {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(few, make, options, message):
    models = networks("mlp", 2, **MLP) if make is None else make()
    with pytest.raises(ValueError, match=message):
        ensemble.fit(models, few, **{"epochs": 1, "seeds": [1, 2], "lr": 0.1} | options)


def test_empty_sets_are_refused(few):
    none = Split(few.train.images[:0], few.train.labels[:0], (0.0,), (1.0,))
    empty = Data("digits", none, none, few.classes, few.mean, few.std, "")
    with pytest.raises(ValueError, match="nothing to train on"):
        ensemble.fit(networks("mlp", 2, **MLP), empty, epochs=1, seeds=[1, 2])
    with pytest.raises(ValueError, match="nothing to test on"):
        ensemble.evaluate(networks("mlp", 2, **MLP), none)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_replay_what_was_recorded(few):
    data = few.to("cuda")
    pairs = []
    for graphs in (True, False):
        models = [m.cuda() for m in networks("lenet5", 3, torch.float32, **LENET)]
        options = {"epochs": 4, "batch_size": 16, "optimizer": "adam", "lr": 1e-3}
        rows = ensemble.fit(models, data, seeds=[1, 2, 3], graphs=graphs, **options)
        pairs.append((models, rows))
    (a, rows), (b, expected) = pairs
    assert_same(a, b, rows, expected, 1e-4)


def short_of_memory(monkeypatch, most, after=0, kind=torch.OutOfMemoryError):
    """Let a step fail, as on a GPU whose memory is short, for more networks than fit."""
    logits, calls, sizes = ensemble._Stack.logits, [], []

    def limited(stack, *rest, **more):
        calls.append(1)
        sizes.append(len(stack.trained[0]))
        if sizes[-1] > most and len(calls) > after:
            raise kind("CUDA out of memory.")
        return logits(stack, *rest, **more)

    monkeypatch.setattr(ensemble._Stack, "logits", limited)
    return sizes


@pytest.mark.parametrize("seeds", [range(5), [3] * 5])
@pytest.mark.parametrize("after", [0, 7], ids=["at once", "in the second epoch"])
def test_where_memory_is_short_fewer_train_at_a_time_to_the_same(few, monkeypatch, seeds, after):
    options = {"epochs": 2, "batch_size": 16, "lr": [0.05, 0.02, 0.1, 0.3, 0.2]}
    models, whole = networks("mlp", 5, **MLP), networks("mlp", 5, **MLP)
    rows = ensemble.fit(whole, few, seeds=seeds, evaluate_each=True, **options)
    sizes = short_of_memory(monkeypatch, 2, after)
    with pytest.warns(UserWarning, match="memory is short for") as told:
        parts = ensemble.fit(models, few, seeds=seeds, evaluate_each=True, **options)
    words = "memory is short for {} networks at a time: going on with {}"
    assert [str(w.message) for w in told] == [words.format(5, 3), words.format(3, 2)]
    assert set(sizes) == {5, 3, 2, 1}, "two, two and one in the end"
    assert parts == rows
    for a, b in zip(models, whole, strict=True):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name]), name
    monkeypatch.undo()
    scores = ensemble.evaluate(models, few.test)
    short_of_memory(monkeypatch, 4)
    with pytest.warns(UserWarning, match=words.format(5, 3)):
        assert ensemble.evaluate(models, few.test) == scores


def test_one_network_that_does_not_fit_is_an_error_and_changes_nothing(few, monkeypatch):
    models = networks("mlp", 2, **MLP)
    before = models[0][1][1].weight.clone()
    short_of_memory(monkeypatch, 0, after=3)
    with (
        pytest.warns(UserWarning, match="going on with 1"),
        pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
    ):
        ensemble.fit(models, few, epochs=1, batch_size=16, seeds=[0, 1])
    assert torch.equal(models[0][1][1].weight, before)


def test_what_follows_on_short_memory_counts_as_that_and_nothing_else_does(few, monkeypatch):
    def recording(text):
        try:
            raise torch.OutOfMemoryError(text)
        finally:
            raise RuntimeError("capture failed")  # what replaces it when a graph is recorded

    models = networks("mlp", 2, **MLP)
    short_of_memory(monkeypatch, 1, kind=recording)
    with pytest.warns(UserWarning, match="going on with 1"):
        ensemble.fit(models, few, epochs=1, seeds=[0, 1])
    monkeypatch.undo()
    short_of_memory(monkeypatch, 1, kind=RuntimeError)
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory\.$"):
        ensemble.fit(models, few, epochs=1, seeds=[0, 1])


def test_in_parts_the_network_that_diverges_keeps_its_number(few, monkeypatch):
    models = networks("mlp", 3, **MLP)
    before = models[0][1][1].weight.clone()
    short_of_memory(monkeypatch, 1)
    with (
        pytest.warns(UserWarning, match="going on with"),
        pytest.raises(training.DivergenceError, match=r"network 2 .* lr=1e\+300"),
    ):
        ensemble.fit(models, few, epochs=3, seeds=[0, 1, 2], lr=[0.1, 0.1, 1e300])
    assert torch.equal(models[0][1][1].weight, before), "those that came through stay, too"
