"""Every function of a whole model is in a table here: a new one fails until it is, too.

What each does with weights that something recomputes, and with modules and weights that stand at
several places.
"""

import copy
import importlib
import inspect
import os
import pkgutil
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import mcnn
from mcnn import baselines, density, linear, modelwise, partition, paths, randomness, relu
from mcnn.baselines import footprint, gpfq, masks, rounding, saliency
from mcnn.density import folding, importance
from mcnn.integral import regroup

X, Y = torch.rand(4, 6), torch.randint(5, (4,))


def ones(model):
    return {
        name: torch.ones_like(m.weight)
        for name, m in model.named_modules()
        if isinstance(m, modelwise.KINDS) and isinstance(m._parameters.get("weight"), nn.Parameter)
    } or {"0": torch.ones(6, 6)}


# Those that write to weights, or choose some to be written to: they refuse what would be undone.
WRITE = {
    "mcnn.density.model.quantize": lambda m: density.quantize(m, samples=2)[0],
    "mcnn.density.integers.integer_model": lambda m: density.integer_model(
        m, density.sampled(1), density.sampled(1)
    )[0],
    "mcnn.density.stored.save_quantized": lambda m: density.save_quantized(m, os.devnull),
    "mcnn.density.importance.quantize": lambda m: importance.quantize(
        m, dict.fromkeys(["0", "3"], torch.tensor(1.0)), samples=2
    )[0],
    "mcnn.density.importance.input_scales": lambda m: importance.input_scales(m, X),
    "mcnn.density.folding.fold_norms": folding.fold_norms,
    "mcnn.density.folding.input_norms": folding.input_norms,
    "mcnn.linear.model.sample_linears": lambda m: linear.sample_linears(m, samples=2)[0],
    "mcnn.paths.compress.compress": lambda m: paths.compress(m, paths=9)[0],
    "mcnn.paths.sparsify.sparsify": lambda m: paths.sparsify(m, density=0.5)[0],
    "mcnn.baselines.gpfq.quantize": lambda m: gpfq.quantize(m, 3, X)[0],
    "mcnn.baselines.rounding.quantize": lambda m: rounding.quantize(
        m, lambda w, seed: rounding.nearest(w, 3)
    )[0],
    "mcnn.baselines.masks.weights": masks.weights,
    "mcnn.baselines.masks.magnitude": lambda m: baselines.magnitude(m, 5),
    "mcnn.baselines.masks.Masked": lambda m: baselines.Masked(m, {"0": torch.ones(6, 6)}),
    "mcnn.baselines.evolve.Evolving": lambda m: baselines.evolve.Evolving(m, {}, steps=9),
    "mcnn.baselines.evolve.Set": lambda m: baselines.Set(m, {}, steps=9),
    "mcnn.baselines.evolve.RigL": lambda m: baselines.RigL(m, {}, steps=9),
    "mcnn.baselines.phew.phew": lambda m: baselines.phew(m, 20),
    "mcnn.baselines.saliency.connection_sensitivity": lambda m: saliency.connection_sensitivity(
        m, X, Y
    ),
    "mcnn.baselines.saliency.snip": lambda m: baselines.snip(m, X, Y, 9),
    "mcnn.baselines.saliency.synaptic_flow": lambda m: baselines.synaptic_flow(m, (6,)),
    "mcnn.baselines.saliency.synflow": lambda m: baselines.synflow(m, (6,), 9, 2),
    "mcnn.baselines.footprint.layer_shapes": lambda m: footprint.layer_shapes(m, (6,)),
    "mcnn.randomness.initialise.initialise_": randomness.initialise_,
    "mcnn.modelwise.layers.select": modelwise.select,
    "mcnn.modelwise.layers.copied": lambda m: modelwise.copied(m)[0],
    "mcnn.modelwise.layers.check_all_writable": modelwise.check_all_writable,
}
# Those that exchange other modules, or only call the model: what computes weights goes on doing so.
KEEP = {
    "mcnn.partition.model.replace_dropout": lambda m: partition.replace_dropout(m, 2),
    "mcnn.relu.pool.replace_maxpool": relu.replace_maxpool,
    "mcnn.paths.export.to_dense_model": paths.to_dense_model,
    "mcnn.paths.export.to_gather_model": paths.to_gather_model,
    "mcnn.modelwise.places.exchanged": lambda m: modelwise.exchanged(m, lambda name, module: None),
    "mcnn.modelwise.layers.deepcopied": modelwise.deepcopied,
    "mcnn.integral.regroup.relu_to_input": regroup.relu_to_input,
}
EXEMPT = {
    "mcnn.modelwise.kinds": "looks at one module",
    "mcnn.modelwise.layers.check_writable": "of one module",
    "mcnn.modelwise.report": "reads names",
    "mcnn.modelwise.observe": "calls the model; calibration is tested with input_scales",
    "mcnn.density.budget": "samples layers of a copy",
    "mcnn.density.calibrate": "measures statistics and one bias, as quantize asks for",
    "mcnn.density.calibrated": "is density.quantize with inputs or a budget",
    "mcnn.density.integers.IntegerLayer": "of one layer",
    "mcnn.density.integers.use_engine": "says how integers are added up",
    "mcnn.density.lining": "calls the model",
    "mcnn.density.sequential": "calls two models",
    "mcnn.density.watch": "calls the model; tested with input_scales",
    "mcnn.partition.layer.start_epoch": "announces, and writes nothing",
    "mcnn.partition.model.cycle_outputs": "calls the model",
    "mcnn.paths.export.export_onnx": "is to_dense_model or to_gather_model, written to a file",
    "mcnn.integral.regroup.difference": "calls two models",
    "mcnn.interpreter": "calls the model",
    "mcnn.approximation": "of a TreeNet of its own, or reads two layers",
    "mcnn.kinetics": "a network of reactions is no network of neurons",
    "mcnn.integral.regroup.InputReLU": "is put around a layer",
    "mcnn.integral.restore.learn": "trains what it is given",
    "mcnn.paths.regular.Redrawn": "reads weights at each call, and writes to none",
    "mcnn.recomputation": "of one layer, in a call of it",
    "mcnn.residual": "of a field of its own",
    "mcnn.paths.growth": "of a PathMLP",
    "mcnn.paths.optimizer_state": "of a PathMLP",
    "mcnn.randomness.feedback": "of a FeedbackMLP",
    "mcnn.ranking.training": "trains what it is given",
    "mcnn.training": "trains what it is given",
}


def of_models():
    """The public functions and classes whose first argument is a network."""
    found = []
    for info in pkgutil.walk_packages(mcnn.__path__, "mcnn."):
        if info.name.startswith(("mcnn.ledger", "mcnn.experiments", "mcnn.__main__")):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "") == info.name
            if name.startswith("_") or not own or not callable(value):
                continue
            try:
                first = next(iter(inspect.signature(value).parameters.values()), None)
            except ValueError:
                continue
            if first is not None and (
                first.name in ("model", "models", "net", "network")
                or getattr(first.annotation, "__module__", "").startswith("torch.nn.modules.")
            ):
                found.append(f"{info.name}.{name}")
    return found


def test_every_function_of_models_is_in_a_table():
    missing = [
        name
        for name in of_models()
        if name not in WRITE | KEEP and not any(name.startswith(place) for place in EXEMPT)
    ]
    assert missing == [], "in no table of this file"
    assert set(WRITE | KEEP) <= set(of_models())


# --- weights that something recomputes ------------------------------------------------------------


def hooked(change):
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.Identity(), nn.ReLU()
    )
    change(model[3])
    return model


HOOKS = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "prune bias": lambda m: prune.l1_unstructured(m, "bias", 0.5),
    "parametrised": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("function", WRITE)
def test_what_would_be_undone_is_refused(function, hook):
    model = hooked(HOOKS[hook])
    before = model(X)
    with pytest.raises(ValueError, match=r"layer '3'.*(computed by something else|parametrised)"):
        WRITE[function](model)
    assert torch.allclose(model.eval()(X), before, atol=1e-5) or model[2].p


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("function", KEEP)
def test_what_is_not_written_to_goes_on(function, hook):
    model = hooked(HOOKS[hook]).eval()
    model[4] = nn.MaxPool2d(1) if "maxpool" in function else model[4]
    x = X[None] if "maxpool" in function else X
    before = model(x)
    changed = KEEP[function](model)
    torch.testing.assert_close(changed.eval()(x), before)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (
            lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
            r'weight_norm\(layer, "weight_hh_l0"\)',
        ),
        (lambda m: prune.l1_unstructured(m, "bias_ih_l0", 0.5), r'remove\(layer, "bias_ih_l0"\)'),
        (lambda m: parametrizations.weight_norm(m, "weight_ih_l0"), "remove_parametrizations"),
    ],
)
def test_weights_of_recurrent_layers_too(change, remedy):
    model = nn.Sequential(nn.LSTM(3, 4))
    change(model[0])
    with pytest.raises(ValueError, match=f"layer '0'.*{remedy}"):
        density.quantize(model, samples=2)


# --- places ---------------------------------------------------------------------------------------


class Two(nn.Module):
    """A block that is used twice, by two names and in two containers."""

    def __init__(self, block):
        super().__init__()
        self.first, self.second = block, nn.Sequential(block, nn.ReLU(), block)

    def forward(self, x):
        return self.second(self.first(x))


EXCHANGES = {
    "replace_dropout": (
        lambda m: partition.replace_dropout(m),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout()),
        nn.Dropout,
    ),
    "replace_maxpool": (relu.replace_maxpool, lambda: nn.MaxPool2d(1), nn.MaxPool2d),
    "to_dense_model": (
        paths.to_dense_model,
        lambda: paths.PathLinear(6, 6, paths=12),
        paths.PathLinear,
    ),
    "to_gather_model": (
        paths.to_gather_model,
        lambda: paths.PathLinear(6, 6, paths=12),
        paths.PathLinear,
    ),
    "sample_linears": (
        lambda m: linear.sample_linears(m, samples=10**7)[0],
        lambda: nn.Linear(6, 6),
        nn.Linear,
    ),
    "sparsify": (
        lambda m: paths.sparsify(m, density=0.5)[0],
        lambda: nn.Linear(6, 6),
        nn.Linear,
    ),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_module_at_several_places_is_exchanged_at_all(name):
    function, make, old = EXCHANGES[name]
    model = Two(make()).eval()
    x = torch.rand(2, 6, 6)
    changed = function(model).eval()
    assert changed.first is changed.second[0] is changed.second[2]
    left = [m for m in changed.modules() if type(m) is old and name != "to_dense_model"]
    assert not [m for m in left if name != "replace_dropout" or isinstance(m, nn.Dropout)]
    if name != "sparsify":
        torch.testing.assert_close(changed(x), model(x), atol=1e-3, rtol=1e-3)
    assert type(model.second[2]) is type(model.first)  # the model is as it was


def test_a_weight_of_two_layers_is_one_for_masks_and_initial_values():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    assert list(masks.weights(model)) == ["0"]
    assert sum(int(m.sum()) for m in baselines.magnitude(model, 9).values()) == 9
    scores = saliency.connection_sensitivity(model, X, Y)
    assert list(scores) == ["0"]
    randomness.initialise_(model, seed=1)
    alone = randomness.initialise_(nn.Sequential(nn.Linear(6, 6)), seed=1)
    assert torch.equal(model[2].weight, alone[0].weight)


# --- dropout --------------------------------------------------------------------------------------


def test_dropouts_of_a_gpt_and_of_other_modules():
    class Drops(nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.off, self.drop = nn.Dropout(0.0), nn.Dropout(rate)
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.1)

    with pytest.warns(UserWarning, match="still drop units by themselves, as before: attention"):
        new = partition.replace_dropout(Drops(0.1), masks="own")
    assert isinstance(new.off, nn.Dropout)
    assert new.drop.parts == 10
    for length in (3, 7, 5):  # sequences of changing length
        assert new.drop(torch.ones(2, length, 4)).shape == (2, length, 4)
    with pytest.raises(ValueError, match=r"layer 'drop': a dropout rate of 0\.3 is not near 1/P: "):
        partition.replace_dropout(Drops(0.3))
    with pytest.warns(match="still drop"), pytest.warns(match=r"rounded to 1/P: drop: 0\.3 to 1/3"):
        new = partition.replace_dropout(Drops(0.3), nearest=True)
    assert new.drop.parts == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partition.replace_dropout(nn.Sequential(nn.LSTM(2, 2), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match="'0' drops channels: take masks='shared'"):
        partition.replace_dropout(nn.Sequential(nn.Dropout2d(0.5)), masks="own")


# --- half precision, shapes -----------------------------------------------------------------------


def test_norms_beyond_the_largest_number_of_half_precision():
    model = nn.Sequential(nn.Linear(3000, 2), nn.ReLU(), nn.Linear(2, 2)).half()
    model[0].weight.data.fill_(30.0)
    model[2].weight.data.fill_(1e-3)
    x = torch.full((1, 3000), 1e-2).half()
    same = folding.fold_norms(model)
    assert torch.isfinite(same[0].weight).all()
    torch.testing.assert_close(same.float()(x.float()), model.float()(x.float()), rtol=1e-2, atol=0)
    model[2].weight.data.fill_(30.0)
    with pytest.raises(ValueError, match=r"layer '2': .* beyond the largest number of torch\.flo"):
        folding.fold_norms(model.half())


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (0, 6)])
def test_gathers_take_inputs_of_every_rank(shape):
    layer = paths.PathLinear(6, 5, paths=12)
    model = nn.Sequential(layer)
    x = torch.rand(shape)
    for function in (paths.to_gather_model, paths.to_dense_model):
        torch.testing.assert_close(function(model)(x), x @ layer.dense_weight().T + layer.bias)


@pytest.mark.parametrize(
    "function",
    [
        lambda model: mcnn.density.quantize(model, samples=4)[0],
        lambda model: mcnn.linear.sample_linears(model, samples=4)[0],
        lambda model: mcnn.paths.sparsify(model, density=0.5, seed=1)[0],
        lambda model: mcnn.paths.compress(model, paths=50)[0],
        mcnn.partition.replace_dropout,
    ],
    ids=["quantize", "sample_linears", "sparsify", "compress", "replace_dropout"],
)
def test_what_inference_mode_made_loads_a_state_and_trains(function):
    model = nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 2))
    with torch.inference_mode():
        made = function(model)
    made.load_state_dict(copy.deepcopy(made.state_dict()))
    made(torch.ones(3, 8)).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_hooks_that_are_lost_are_named():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    model[2].register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.warns(UserWarning, match="layer '2' has hooks"):
        mcnn.paths.sparsify(model, density=0.5, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mcnn.paths.sparsify(model, density=0.5, seed=1, layers="0")


@pytest.mark.parametrize("density", ["a", None, [0.1], torch.tensor(0.3)])
def test_densities_are_numbers(density):
    with pytest.raises(TypeError, match="density must be a number"):
        mcnn.paths.sparsify(nn.Linear(8, 6), density=density)
