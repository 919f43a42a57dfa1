"""The training loop: against a loop written out, against theory, and its randomness."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcnn import training
from mcnn.data import Data, Split, load
from mcnn.paths import PathMLP, grow
from mcnn.paths.optimizer_state import migrate_optimizer_state
from mcnn.training import nets

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def few(data: Data, n: int) -> Data:
    """The first images of a data set."""
    train, test = (
        Split(s.images[:n], s.labels[:n], s.mean, s.std) for s in (data.train, data.test)
    )
    return Data(data.name, train, test, data.classes, data.mean, data.std, "")


def net(seed=0, widths=(64, 32, 10)):
    return nets.build("mlp", seed=seed, widths=widths)


def weights(model):
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


@pytest.mark.parametrize("device", DEVICES)
def test_it_learns(digits, device):
    model = net().to(device)
    data = digits.to(device)
    rows = training.fit(model, data, epochs=15, evaluate_each=True)
    assert [row["epoch"] for row in rows] == list(range(1, 16))
    assert rows[-1]["test_accuracy"] > 0.93
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    accuracy, loss = training.evaluate(model, data.test)
    assert (rows[-1]["test_accuracy"], rows[-1]["test_loss"]) == (accuracy, loss)


def test_steps_are_momentum_weight_decay_and_cosine_written_out(digits):
    data, epochs, size, lr, mu, decay, l1 = few(digits, 50), 3, 16, 0.1, 0.8, 0.01, 0.003
    model, other = net(), net()
    rows = training.fit(
        model,
        data,
        epochs=epochs,
        batch_size=size,
        lr=lr,
        momentum=mu,
        weight_decay=decay,
        l1=l1,
        scale="standard",
        seed=4,
    )
    generator = torch.Generator().manual_seed(4)
    parameters = list(other.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    x, y = data.train.inputs(scale="standard"), data.train.labels
    total, step = epochs * math.ceil(50 / size), 0
    for epoch in range(epochs):
        losses, right = 0.0, 0
        for index in torch.randperm(50, generator=generator).split(size):
            logits = other(x[index])
            loss = F.cross_entropy(logits, y[index])
            penalty = sum(p.abs().sum() for p in parameters if p.ndim == 2)
            gradients = torch.autograd.grad(loss + l1 * penalty, parameters)
            rate = lr * (1 + math.cos(math.pi * step / total)) / 2
            with torch.no_grad():
                for p, g, v in zip(parameters, gradients, velocity, strict=True):
                    v.mul_(mu).add_(g + decay * p)
                    p.sub_(rate * v)
            losses += loss.item() * len(index)
            right += int((logits.argmax(1) == y[index]).sum())
            step += 1
        assert rows[epoch]["loss"] == pytest.approx(losses / 50, rel=1e-5)
        assert rows[epoch]["train_accuracy"] == right / 50
    torch.testing.assert_close(weights(model), weights(other))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.4] * 8),
        ("linear", [0.4 * (1 - i / 8) for i in range(8)]),
        ("cosine", [0.2 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]),
    ],
)
def test_learning_rate_of_every_step(schedule, rates):
    optimizer = training.OPTIMIZERS["sgd"]([nn.Parameter(torch.zeros(1))], 0.4, 0.9, 0.0)
    scheduler = training.SCHEDULES[schedule](optimizer, 0.4, 8)
    seen = []
    for _ in rates:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(rates)


def test_onecycle_rises_to_lr_and_leaves_the_momentum_alone():
    optimizer = training.OPTIMIZERS["sgd"]([nn.Parameter(torch.zeros(1))], 0.4, 0.7, 0.0)
    scheduler = training.SCHEDULES["onecycle"](optimizer, 0.4, 100)
    seen = []
    for _ in range(100):
        seen.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["momentum"] == 0.7
        optimizer.step()
        scheduler.step()
    assert max(seen) == pytest.approx(0.4)
    assert 20 <= seen.index(max(seen)) <= 40
    assert seen[0] < 0.02
    assert seen[-1] < 0.001


def test_adam_uses_momentum_and_decay():
    (group,) = training.OPTIMIZERS["adam"](
        [nn.Parameter(torch.zeros(1))], 0.1, 0.8, 0.3
    ).param_groups
    assert group["betas"][0] == 0.8
    assert group["weight_decay"] == 0.3


def test_l1_penalises_weights_and_not_biases(digits):
    plain, sparse = net(), net()
    training.fit(plain, digits, epochs=4)
    training.fit(sparse, digits, epochs=4, l1=1e-3)
    assert sparse[1].weight.abs().sum() < 0.95 * plain[1].weight.abs().sum()
    # Alone, the penalty moves weights towards zero by lr·l1 a step, and a bias not at all.
    still, before = net(), net()
    nothing = few(digits, 16)
    for p in (*still[3].parameters(), *before[3].parameters()):
        nn.init.zeros_(p)  # no gradient reaches the first layer in the first step
    training.fit(
        still, nothing, epochs=1, batch_size=16, schedule="constant", momentum=0.0, l1=1e-3
    )
    w = before[1].weight
    torch.testing.assert_close(still[1].weight, w - 0.05 * 1e-3 * w.sign())
    assert torch.equal(still[1].bias, before[1].bias)


# --- randomness ----------------------------------------------------------------------------------


def noisy():
    with_dropout = net()
    with_dropout.insert(2, nn.Dropout(0.5))
    return with_dropout


@pytest.mark.parametrize("device", DEVICES)
def test_one_seed_one_result(digits, device):
    data = few(digits, 200).to(device)
    results = []
    for seed in (1, 1, 2):
        torch.rand(5)  # what others draw must not matter
        state = torch.get_rng_state()
        model = noisy().to(device)
        rows = training.fit(model, data, epochs=2, seed=seed, augment="crop-flip")
        assert torch.equal(state, torch.get_rng_state())
        results.append((rows, weights(model)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][1], results[2][1])


@given(
    b=st.integers(1, 6), c=st.sampled_from([1, 3]), pad=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_crop_flip_gives_a_window_of_the_padded_image_or_its_mirror(b, c, pad, seed):
    x = 1 + torch.arange(b * c * 5 * 6).float().view(b, c, 5, 6)  # all different, none zero
    out = training.crop_flip(x, torch.Generator().manual_seed(seed), pad)
    assert out.shape == x.shape
    padded = F.pad(x, (pad,) * 4)
    for before, after in zip(padded, out, strict=True):
        windows = [
            before[:, i : i + 5, j : j + 6] for i in range(2 * pad + 1) for j in range(2 * pad + 1)
        ]
        assert any(torch.equal(after, w) or torch.equal(after, w.flip(2)) for w in windows)


def test_crop_flip_uses_every_shift_and_mirrors_half():
    x = torch.zeros(4000, 1, 9, 9)
    x[:, 0, 4, 4] = 1
    x[:, 0, 4, 3] = 2  # left of the centre, unless mirrored
    out = training.crop_flip(x, torch.Generator().manual_seed(0))
    centre = (out == 1).flatten(1).float().argmax(1)  # where the centre went
    counts = centre.bincount(minlength=81).double()
    # Chi-squared with 80 degrees of freedom: mean 80, standard deviation 12.6.
    assert float(((counts - 4000 / 81) ** 2 / (4000 / 81)).sum()) < 80 + 4 * 12.6
    inside = (out == 2).flatten(1).any(1)
    left = (out == 2).flatten(1).float().argmax(1) == centre - 1
    mirrored = (inside & ~left).sum() / inside.sum()
    assert float(mirrored) == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5 * 1.1)


# --- evaluation, callbacks, errors ---------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_evaluate_counts_and_puts_the_mode_back(digits, device):
    split = digits.test.to(device)
    model = noisy().to(device)
    assert model.training
    result = training.evaluate(model, split, batch_size=77)
    assert model.training
    model.eval()
    logits = model(split.inputs()).detach()
    assert result.accuracy == int((logits.argmax(1) == split.labels).sum()) / len(split)
    assert result.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert training.evaluate(model, split, top=10).accuracy == 1
    assert not model.training
    third = logits.argsort(1, descending=True)[:, :3]
    wanted = (third == split.labels.unsqueeze(1)).any(1).double().mean()
    assert training.evaluate(model, split, top=3).accuracy == pytest.approx(float(wanted))


def test_callbacks_see_every_step_and_epoch(digits):
    steps, epochs = [], []
    model = net()
    rows = training.fit(
        model,
        few(digits, 50),
        epochs=2,
        batch_size=20,
        on_step=lambda s: steps.append((s.model is model, s.number, s.epoch)),
        on_epoch=lambda m, row: epochs.append((m is model, row)),
    )
    assert steps == [(True, i, 1 + i // 3) for i in range(6)]
    assert epochs == [(True, row) for row in rows]


def test_a_hook_sees_the_optimizer(digits):
    """It comes after the step, with the rate of the next one."""
    rates = []

    def look(step):
        (group,) = step.optimizer.param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in step.model.parameters()]
        assert all(step.optimizer.state[p]["momentum_buffer"].any() for p in group["params"])
        assert step.scheduler.get_last_lr() == [group["lr"]]
        rates.append(group["lr"])

    training.fit(net(), few(digits, 64), epochs=2, batch_size=16, lr=0.4, on_step=look)
    assert rates == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 8)) for i in range(1, 9)])


def test_what_a_hook_does_to_the_optimizer_holds(digits):
    def stop(step):
        for group in step.optimizer.param_groups:
            group["lr"] = 0.0
        after.append(weights(step.model))

    after = []
    model = net()
    options = {"batch_size": 16, "schedule": "constant", "on_step": stop}
    training.fit(model, few(digits, 64), epochs=2, **options)
    assert not torch.equal(after[0], weights(net()))
    assert all(torch.equal(after[0], w) for w in after)


@pytest.mark.parametrize(("optimizer", "kept"), [("sgd", "momentum_buffer"), ("adam", "exp_avg")])
def test_momentum_survives_a_change_of_parameters(digits, optimizer, kept):
    """New paths come in every step: what is known of old edges stays, and new ones are trained."""
    net = PathMLP((64, 20, 10), 50, "uniform", 1)

    def change(step):
        old = [layer.weight for layer in step.model.layers]
        edges = [len(w) for w in old]
        if fresh:  # the parameters of the change before are those that this step has trained
            assert all((w != p).any() for w, p in zip(fresh[-1], old, strict=True))
        before = [step.optimizer.state[p][kept].abs().sum() for p in old]
        with migrate_optimizer_state(step.optimizer, step.model):
            grow(step.model, 10)
        new = [layer.weight for layer in step.model.layers]
        assert all(len(w) > n for n, w in zip(edges, new, strict=True))
        for p, size in zip(new, before, strict=True):
            torch.testing.assert_close(step.optimizer.state[p][kept].abs().sum(), size)
        fresh.append([w.detach().clone() for w in new])

    fresh = []
    options = {"batch_size": 32, "optimizer": optimizer, "lr": 0.01, "l1": 1e-4}
    training.fit(net, few(digits, 96), epochs=1, on_step=change, **options)
    assert len(fresh) == 3


def test_an_order_from_outside(digits):
    """The images come as they are told to, by epochs from one; the seed then changes nothing."""
    data, told = few(digits, 50), []

    def order(epoch):
        told.append(epoch)
        return torch.randperm(50, generator=torch.Generator().manual_seed(epoch))

    models = [net(), net(), net()]
    for seed, model in enumerate(models[:2]):
        training.fit(model, data, epochs=2, batch_size=20, seed=seed, order=order)
    assert told == [1, 2, 1, 2]
    assert torch.equal(weights(models[0]), weights(models[1]))
    sorted_ = replace(data, train=data.train.part(order(1)))
    other = net()
    training.fit(other, sorted_, epochs=1, batch_size=20, order=lambda _: torch.arange(50))
    training.fit(models[2], data, epochs=1, batch_size=20, order=order)
    assert torch.equal(weights(models[2]), weights(other))
    with pytest.raises(ValueError, match="order must be of 50 images"):
        training.fit(net(), data, epochs=1, order=lambda _: torch.arange(49))


def test_training_goes_on_where_it_stopped(digits):
    """Without momentum the weights are all there is to know: two halves make the whole, in bits."""
    data, options = few(digits, 60), {"batch_size": 20, "schedule": "constant", "momentum": 0.0}
    orders = {
        e: torch.randperm(60, generator=torch.Generator().manual_seed(e)) for e in range(1, 5)
    }
    whole, cut, saved = net(), net(), net()
    training.fit(whole, data, epochs=4, order=orders.get, **options)
    training.fit(cut, data, epochs=2, order=orders.get, **options)
    saved.load_state_dict(cut.state_dict())
    training.fit(saved, data, epochs=2, order=lambda e: orders[e + 2], **options)
    assert torch.equal(weights(saved), weights(whole))


def test_divergence_names_the_rate_and_the_epoch(digits):
    with pytest.raises(training.DivergenceError, match=r"epoch 1 with lr=1e\+30"):
        training.fit(net(), digits, epochs=2, lr=1e30)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"l1": -1.0}, "l1 must be"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'; there are: sgd, adam"),
        ({"schedule": "step"}, "no schedule 'step'; there are: constant, linear, cosine, onecycle"),
        ({"augment": "flip"}, "no augment 'flip'; there are: crop-flip"),
        ({"scale": "raw"}, "no scale 'raw'"),
    ],
)
def test_bad_requests_are_named_and_change_nothing(digits, option, message):
    model = net()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        training.fit(model, digits, **({"epochs": 1} | option))
    assert torch.equal(weights(model), before)


def test_empty_sets_are_refused(digits):
    with pytest.raises(ValueError, match="empty"):
        training.fit(net(), few(digits, 0), epochs=1)
    with pytest.raises(ValueError, match="empty"):
        training.evaluate(net(), few(digits, 0).test)
    with pytest.raises(ValueError, match="top must be at least 1"):
        training.evaluate(net(), digits.test, top=0)
