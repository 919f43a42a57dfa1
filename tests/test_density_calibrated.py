"""Sampling with a budget or with inputs: against closed forms, and what it must leave alone."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mcnn.baselines import gpfq, rounding
from mcnn.density import budget, lining, quantize, sample_counts, sequential
from mcnn.density.calibrate import batches, reestimate_batch_norm
from mcnn.density.sequential import Products, follow, products, sequential_counts, stochastic
from mcnn.modelwise import select


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(layer):
    return (select(layer)[0],) * 2


def seeded(make, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 5),
    )


def mlp():
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 3))


# --- path following -------------------------------------------------------------------------------


def explicit(w, x, x_tilde, step, rounding):
    """Follow the path of one row with the vectors themselves: the definition."""
    u = torch.zeros(len(x), dtype=torch.float64)
    damping = 0.01 * x_tilde.square().sum(0).mean()
    codes = []
    for t in range(len(w)):
        error = x_tilde[:, t] @ (u + w[t] * (x[:, t] - x_tilde[:, t]))
        place = w[t] + error / (x_tilde[:, t].square().sum() + damping)
        codes.append(rounding(place / step))
        u = u + w[t] * x[:, t] - codes[-1] * step * x_tilde[:, t]
    return codes


def test_codes_are_those_of_the_definition():
    w, x, x_tilde = (normal(*s, seed=k).double() for k, s in enumerate([(4, 9), (30, 9), (30, 9)]))
    x_tilde = x + 0.3 * x_tilde
    given = Products((x_tilde.T @ x)[None], (x_tilde.T @ x_tilde)[None])
    scale = torch.tensor([0.2, 0.5, 0.01, 1.0], dtype=torch.float64)
    codes = follow(w, scale, given, lambda places, t: places.round())
    for row in range(4):
        assert codes[row].tolist() == explicit(w[row], x, x_tilde, scale[row], torch.round)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv1d(4, 6, 3, padding=2, dilation=2),
    ],
)
def test_products_are_those_of_what_each_row_meets(layer):
    """The mean square of outputs is the quadratic form of the weights."""
    shape = {nn.Linear: (5, 7, 6), nn.Conv1d: (5, 4, 12), nn.Conv2d: (5, 4, 8, 7)}[type(layer)]
    x = normal(*shape)
    layer.bias.data.zero_()
    given = products(layer, layer, both(layer), batches(x))
    out = layer(x)
    squares = out.square().movedim(1, -1) if not isinstance(layer, nn.Linear) else out.square()
    squares = squares.reshape(-1, squares.shape[-1]).sum(0).double()
    rows = layer.weight.detach().flatten(1).double()
    rows = rows.view(len(given.own), -1, rows.shape[1])  # [g, rows / g, n]
    form = torch.einsum("grn,gnm,grm->gr", rows, given.own, rows).flatten()
    torch.testing.assert_close(squares.detach(), form, rtol=1e-5, atol=1e-6)
    assert torch.equal(given.own, given.cross)


def test_long_rows_are_cut_into_paths_of_their_own(monkeypatch):
    """Eight inputs in blocks of at most three: each block as if the others were not there."""
    w, x = normal(5, 8), normal(40, 8)
    layer = nn.Linear(8, 5)
    monkeypatch.setattr(sequential, "LONGEST", 3)
    given = products(layer, layer, both(layer), batches(x))
    assert given.own.shape == (3, 3, 3)
    nearest = lambda places, t: places.round()  # noqa: E731
    codes = follow(w, torch.full((5,), 0.3), given, nearest, damping=0.0)
    for start in (0, 3, 6):
        part = slice(start, min(start + 3, 8))
        own = (x[:, part].T @ x[:, part]).double()[None]
        alone = follow(w[:, part], torch.full((5,), 0.3), Products(own, own), nearest, damping=0.0)
        assert torch.equal(codes[:, part], alone)


def test_blocks_of_groups_do_not_mix(monkeypatch):
    layer = nn.Conv1d(4, 6, 3, groups=2)
    x, w = normal(7, 4, 9), normal(6, 6)
    monkeypatch.setattr(sequential, "LONGEST", 4)
    given = products(layer, layer, both(layer), batches(x))
    nearest = lambda places, t: places.round()  # noqa: E731
    codes = follow(w, torch.full((6,), 0.3), given, nearest, damping=0.0)
    for group in (0, 1):
        own = nn.Conv1d(2, 3, 3)
        mine = products(own, own, both(own), batches(x[:, 2 * group : 2 * group + 2]))
        part = slice(3 * group, 3 * group + 3)
        alone = follow(w[part], torch.full((3,), 0.3), mine, nearest, damping=0.0)
        assert torch.equal(codes[part], alone)


def test_sequential_weights_are_unbiased_where_inputs_are_the_same():
    w, x = normal(3, 12), normal(50, 12).double()
    given = Products((x.T @ x)[None], (x.T @ x)[None])
    drawn = [sequential_counts(w, 12, given, seed) for seed in range(600)]
    values = torch.stack([counts * scale[:, None] for counts, scale in drawn]).double()
    bars = values.std(0) / math.sqrt(600)
    assert ((values.mean(0) - w).abs() < 5 * bars + 1e-6).all()


def test_feedback_carries_the_error_to_inputs_that_are_alike():
    """With inputs that are all the same, a row's error is one rounding, however many weights."""
    w, x = normal(5, 64).abs(), torch.ones(1, 64, 64, dtype=torch.float64)
    counts, scale = sequential_counts(w, 16, Products(x, x), 3)
    assert ((counts * scale[:, None] - w).sum(1).abs() <= scale * 1.1).all()


def test_few_inputs_do_not_blow_up_counts():
    """Three inputs for 300 weights, most of them zero."""
    w, x = normal(4, 300), normal(3, 300).clamp(min=1).double() - 1
    given = Products((x.T @ x)[None], (x.T @ x)[None])
    counts, _ = sequential_counts(w, 300, given, 1)
    assert counts.abs().max() < 12


def test_inputs_that_are_always_zero_and_rows_of_zeros():
    w = torch.tensor([[0.5, 0.25, 1.0], [0.0, 0.0, 0.0]])
    x = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))[None]
    codes = follow(w, torch.tensor([0.25, 0.0]), Products(x, x), stochastic(1))
    assert codes.tolist() == [[2, 1, 4], [0, 0, 0]]


def test_error_on_the_calibration_inputs_is_smaller_than_without_feedback():
    layer, x = seeded(lambda: nn.Linear(64, 32)), normal(400, 8) @ normal(8, 64, seed=2)

    def error(model):
        return float((model(x) - layer(x)).detach().square().mean())

    plain = quantize(layer, samples=64, method="systematic")[0]
    fed = quantize(layer, samples=64, calibrate=x, sequential=True)[0]
    assert error(fed) < 0.2 * error(plain)
    nearest = rounding.quantize(layer, lambda w, seed: rounding.nearest(w, 3, "mse"))[0]
    assert error(gpfq.quantize(layer, 3, x)[0]) < 0.2 * error(nearest)


# --- calibration ----------------------------------------------------------------------------------


def test_batch_norm_gets_the_statistics_of_the_sampled_network():
    model, x = seeded(convnet).eval(), normal(60, 2, 8, 8) + 1
    small, _ = quantize(model, fraction=0.5, calibrate=x)
    seen = small[0](x)  # [b, c, h, w]
    torch.testing.assert_close(small[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small[1].running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert small[1].momentum == model[1].momentum


@pytest.mark.parametrize("options", [{}, {"sequential": True}])
def test_means_of_outputs_are_those_of_the_full_network(options):
    model, x = seeded(mlp), normal(300, 40)
    small, _ = quantize(model, fraction=0.3, calibrate=x, **options)
    torch.testing.assert_close(small(x).mean(0), model(x).mean(0), rtol=1e-4, atol=1e-5)


def test_a_corrected_bias_of_the_first_layer_is_unbiased():
    layer, x = seeded(lambda: nn.Linear(20, 4)), normal(50, 20) + 1
    drawn = [quantize(layer, samples=5, calibrate=x, seed=s)[0].bias for s in range(300)]
    values = torch.stack([bias.detach() for bias in drawn])
    assert ((values.mean(0) - layer.bias).abs() < 5 * values.std(0) / math.sqrt(300)).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sequential", [True, False])
def test_the_model_itself_is_left_alone(training, sequential):
    model = seeded(convnet).train(training)
    before = copy.deepcopy(model.state_dict())
    small, report = quantize(model, bits=2.5, calibrate=normal(30, 2, 8, 8), sequential=sequential)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in small.modules()] == [training] * len(list(model.modules()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())
    assert len(report.layers) == 3


def test_only_batch_norm_is_put_into_training():
    model = seeded(convnet).eval()
    modes = []
    model[3].register_forward_hook(lambda m, args, out: modes.append(m.training))
    assert reestimate_batch_norm(model, batches(normal(4, 2, 8, 8))) == 1
    assert modes == [False]
    assert not model[1].training


# --- kinds of calibration data --------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a, b):
        return {"sum": self.left(a) + self.right(b)}


class Loud(nn.Module):
    def __init__(self, never=False):
        super().__init__()
        self.loud, self.soft = nn.Linear(64, 64), nn.Linear(64, 64)
        self.never = never

    def forward(self, x):
        return self.loud(x) if self.never else self.loud(x) + 0.01 * self.soft(x)


def test_tensors_tuples_dicts_and_loaders_are_the_same():
    model, a, b = seeded(Two), normal(200, 4), normal(200, 4, seed=2)
    options = {"bits": 2.0, "sequential": True, "seed": 3}
    by_place, _ = quantize(model, calibrate=(a, b), **options)
    by_name, _ = quantize(model, calibrate={"a": a, "b": b}, **options)
    by_batch, _ = quantize(model, calibrate=[{"a": a, "b": b}], **options)
    for other in (by_name, by_batch):
        assert torch.equal(other.left.weight, by_place.left.weight)
        assert torch.equal(other.right.bias, by_place.right.bias)
    layer, labels, a = nn.Linear(4, 3), torch.zeros(600), normal(600, 4)
    loader = DataLoader(TensorDataset(a, labels), batch_size=250)
    small = [quantize(layer, samples=4, calibrate=c)[0].bias for c in (a, loader)]
    assert torch.equal(*small)


def test_encoder_layers_are_seen_in_eval_mode():
    """PyTorch's fast path would pass the hooks by."""
    layer = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    _, report = quantize(
        layer, samples=8, calibrate=normal(20, 5, 8), layers=["linear*"], sequential=True
    )
    assert [x.name for x in report.layers] == ["linear1", "linear2"]
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.empty(0, 40), ValueError, "no inputs"),
        ([], ValueError, "no inputs"),
        (3, TypeError, "must be a tensor"),
    ],
)
def test_other_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        quantize(mlp(), samples=3, calibrate=data)


def test_what_contradicts_is_refused():
    model, x = mlp(), normal(4, 40)
    with pytest.raises(ValueError, match="either samples or fraction or bits"):
        quantize(model, samples=3, bits=2)
    with pytest.raises(ValueError, match="sequential sampling follows inputs"):
        quantize(model, samples=3, sequential=True)
    with pytest.raises(ValueError, match='need bias="exact"'):
        quantize(model, samples=3, calibrate=x, bias="none")
    with pytest.raises(ValueError, match="too little"):
        quantize(model, bits=0.001)
    conv = nn.Sequential(nn.ConvTranspose2d(1, 1, 2))
    with pytest.raises(ValueError, match="layer '0': sequential sampling knows"):
        quantize(conv, samples=1, calibrate=torch.ones(1, 1, 4, 4), sequential=True)
    with pytest.raises(ValueError, match="layer 'soft': the model never"):
        quantize(Loud(never=True), samples=1, calibrate=torch.ones(1, 64), sequential=True)


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("method", ["jittered", "systematic"])
def test_a_budget_is_kept_and_used(bits, method):
    model = nn.Sequential(nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 60))
    for options in ({}, {"calibrate": normal(100, 400)}):
        _, report = quantize(model, bits=bits, method=method, **options)
        assert report.bits_per_weight <= bits * 1.01
        assert report.bits_per_weight > bits - 0.4


def test_a_layer_that_matters_more_gets_more():
    """Both have as many weights; the outputs of one are multiplied by little."""
    model = seeded(Loud)
    layers = select(model)
    count = budget.counting("systematic", "stored", 1)
    each = budget.by_sensitivity(model, layers, 2.0, count, batches(normal(100, 64)))
    even = budget.evenly(layers, 2.0, count)
    assert even["loud"] == even["soft"]
    assert each["loud"] > 2 * even["loud"] > 2 * each["soft"]


def test_linear_function_of_outputs_is_found_in_what_models_return():
    assert budget.output({"a": (torch.ones(2),)}).tolist() == [1, 1]
    with pytest.raises(TypeError, match="returns NoneType"):
        budget.output(None)


def test_patches_are_taken_at_the_same_places_of_both_networks(monkeypatch):
    monkeypatch.setattr("mcnn.density.sequential.PATCHES", 10)
    layer, x = nn.Conv2d(1, 2, 3), normal(3, 1, 8, 8)
    given = products(layer, layer, both(layer), batches(x))
    assert torch.equal(given.own, given.cross)
    assert given.own.shape == (1, 9, 9)
    full = F.unfold(x, 3).square().sum()
    assert torch.diagonal(given.own[0]).sum() < full


def stack():
    return seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))


def test_a_loader_leaves_the_random_generator_alone():
    loader = DataLoader(TensorDataset(normal(40, 6)), 10, shuffle=True)
    before = torch.get_rng_state()
    quantize(stack(), samples=6, calibrate=loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.full((9, 6), float("nan")), "calibrate holds NaN"),
        ([(normal(9, 6) / 0, normal(9))], "calibrate holds NaN"),
        (normal(9, 6) * 1e30, "NaN or infinity on the inputs of calibrate"),
        ([normal(9, 6), normal(1, 6)], "drop_last"),
    ],
)
def test_inputs_that_would_make_nan_are_refused(inputs, message, sequential):
    with pytest.raises(ValueError, match=message):
        quantize(stack(), samples=6, calibrate=inputs, sequential=sequential)


@pytest.mark.parametrize("options", [{}, {"bits": 2}, {"samples": 5, "sequential": True}])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(options, value):
    model = stack()
    model[2].weight.data[1, 2] = value
    options = options or {"samples": 5}
    with pytest.raises(ValueError, match="layer '2': weight holds NaN or infinity"):
        quantize(model, calibrate=normal(9, 6), **options)


@pytest.mark.parametrize(
    ("samples", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError)]
)
def test_sequential_samples_are_positive_integers(samples, error):
    with pytest.raises(error, match="samples must be"):
        quantize(stack(), samples=samples, calibrate=normal(9, 6), sequential=True)


def test_what_is_made_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        small, _ = quantize(stack(), samples=6, calibrate=normal(9, 6))
    small(normal(9, 6)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


# --- the order of weights -------------------------------------------------------------------------


def test_a_chain_joins_what_is_alike():
    """Two bundles of inputs, mixed up: the chain goes through one and then through the other."""
    x = normal(2, 200).repeat_interleave(6, 0) + 0.1 * normal(12, 200, seed=2)  # [inputs, examples]
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    order = lining.chain((x[mixed] @ x[mixed].T).double())
    assert sorted(order.tolist()) == list(range(12))
    bundle = (mixed[order] >= 6).int()
    assert bundle.diff().abs().sum() == 1


def test_chains_of_groups_and_blocks_are_orders(monkeypatch):
    layer = nn.Conv1d(4, 6, 5, groups=2)
    monkeypatch.setattr(sequential, "LONGEST", 4)
    lines = lining.chains(layer, select(layer), batches(normal(9, 4, 12)), seed=0)[""]
    assert lines.shape == (6, 10)
    assert torch.equal(lines.sort(1).values, torch.arange(10).expand(6, 10))
    assert torch.equal(lines[0], lines[2])
    assert not torch.equal(lines[0], lines[3])


def test_signs_stand_together():
    w = normal(1, 300)
    signed = sample_counts(w, 50, "systematic", order="signed", seed=4)
    line = torch.cat([(w[0] >= 0).nonzero().flatten(), (w[0] < 0).nonzero().flatten().flip(0)])
    assert torch.equal(signed[:, line], sample_counts(w[:, line], 50, "systematic", seed=4))
    part = signed[
        0, w[0] >= 0
    ].sum()  # with the others behind, the sum of a sign is in doubt by one
    assert abs(part - 50 * w[w >= 0].sum() / w.abs().sum()) < 1


def test_the_correlated_order_carries_errors_to_inputs_that_are_alike():
    """Inputs in eight bundles: the error is far below that of the stored order, without bias."""
    layer = seeded(lambda: nn.Linear(160, 10, bias=False)).requires_grad_(False)
    x = normal(300, 8).repeat(1, 20) + 0.05 * normal(300, 160, seed=2)  # bundles are mixed up
    options = {"samples": 80, "method": "systematic", "calibrate": x}

    def error(order, seed):
        small, _ = quantize(layer, order=order, seed=seed, **options)
        return float((small(x) - layer(x)).square().mean())

    ratios = [error("correlated", seed) / error("stored", seed) for seed in range(4)]
    assert max(ratios) < 0.5
    lines = lining.chains(layer, select(layer), batches(x), seed=0)
    drawn = torch.stack(
        [budget.counting("systematic", "signed", s, lines)(select(layer)[0], 80) for s in range(99)]
    )
    w = layer.weight.double()
    expected = 80 * w / w.abs().sum(1, keepdim=True)  # counts are the whole numbers next to it
    part = expected.abs().frac()
    z = (drawn.double().mean(0) - expected) / (part * (1 - part) / 99).sqrt().clamp(min=1e-9)
    assert abs(float(z.mean())) < 0.15
    assert 0.8 < float(z.square().mean()) < 1.2


def test_the_correlated_order_needs_inputs():
    with pytest.raises(ValueError, match=r"order='correlated' follows inputs"):
        quantize(mlp(), samples=10, order="correlated")
    with pytest.raises(ValueError, match="no order 'correlated'"):
        sample_counts(normal(2, 3), 4, order="correlated")
