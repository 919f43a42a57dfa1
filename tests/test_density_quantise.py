"""The experiments that compare ways to quantise: what they measure, on records made by hand."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mcnn import data
from mcnn.density import sample_counts
from mcnn.experiments.density import instant, mobile, networks, quantise, text
from mcnn.experiments.density.instant import BOTH, WEIGHTS, InstantTrial
from mcnn.experiments.density.quantise import QuantiseTrial
from mcnn.ledger import records

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    for module in (networks, mobile):
        monkeypatch.setattr(module, "cache_path", lambda: tmp_path)
    return tmp_path / "networks"


def record(net="resnet", **metrics):
    return SimpleNamespace(config=SimpleNamespace(net=net, samples=(1.0,)), metrics=metrics)


def setting(k, score, weight, activation=None):
    row = {"setting": k, "scores": [score], "weight bits": weight}
    return row if activation is None else row | {"activation bits": activation}


def test_gain_is_taken_at_equal_bits():
    """At 3 bits rounding keeps .7, half way between its settings; sampling keeps .65."""
    both = {
        "sampled, systematic": [setting(1.0, 0.65, 4.0, 2.0)],
        "nearest": [setting(2, 0.6, 2.0, 2.0), setting(3, 0.8, 4.0, 4.0)],
    }
    found = instant.gain(
        record(float=1.0, **{BOTH: both}), BOTH, "sampled, systematic", "nearest", 1
    )
    assert found == pytest.approx(0.65 - 0.7)


def test_bits_a_character_are_better_when_fewer():
    one = record("transformer", float=2.0)
    assert instant.lost(one, setting(1, 2.2, 3.0)) == pytest.approx(0.1)
    assert instant.lost(record(float=0.8), setting(1, 0.6, 3.0)) == pytest.approx(0.25)
    assert quantise.left(one, {"score": 2.5}) == pytest.approx(0.8)


def test_bits_needed_are_interpolated():
    rows = [{"bits": b, "score": s} for b, s in ((3.0, 0.94), (1.0, 0.1), (5.0, 1.04))]
    assert quantise.bits_needed(record(float=1.0, way=rows), "way") == pytest.approx(4.0)
    assert quantise.bits_needed(record(float=0.5, way=rows), "way") == pytest.approx(
        1 + 2 * (0.495 - 0.1) / 0.84
    )
    assert quantise.bits_needed(record(float=2.0, way=rows), "way") == 5.0  # never
    assert quantise.bits_needed(record(float=0.1, way=rows), "way") == 1.0  # always


def test_networks_are_counted_seed_by_seed():
    """The first wins, the second is near the best only, the third never leaves 99 %."""

    def row(bits, score=1.0):
        return [{"bits": bits, "score": score}]

    def made(seed, **ways):
        metrics = {name.replace("_", " "): rows for name, rows in ways.items()} | {"float": 1.0}
        ways = tuple(name for name in metrics if name != "float")
        return SimpleNamespace(
            config=SimpleNamespace(net="mlp", seed=seed, ways=ways), metrics=metrics
        )

    ours, instead = quantise.OURS, quantise.INSTEAD
    first = made(0, **{ours: row(2.0), "nearest": row(3.0), "nearest, calibrated": row(2.1)})
    second = made(0, **{instead: row(3.2), "nearest": row(3.1), "greedy": row(2.95)})
    third = made(0, **{ours: row(1.0, 0.98), "nearest": row(4.0)})
    found = quantise._measure_all([first, second, third])
    assert found == {"networks with fewer bits": [1], "networks near the best": [2]}


def test_depthwise_networks_are_kept(own_cache):
    source = data.load("digits", validation=287)
    recipe = networks.Recipe(net="mobile", dataset="digits", width=2, epochs=1)
    first, again = mobile.trained(recipe, source), mobile.trained(recipe, source)
    assert len(list(own_cache.iterdir())) == 1
    x = source.test.inputs(slice(5), scale="standard")
    assert torch.equal(first(x), again(x))
    alone = [m for m in first if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.weight.shape[1] for m in alone] == [1, 1, 1, 1]


def test_activation_bits_are_those_of_the_codes():
    layer = nn.Linear(40, 3)
    x = torch.rand(7, 40, generator=torch.Generator().manual_seed(1))
    small, _ = instant.integer_model(layer, instant.sampled(1), instant.sampled(2))
    packed, entropy = instant.activation_bits(small, x)
    codes = sample_counts(x, 80, "systematic", seed=small.seed)
    _, numbers = codes.unique(return_counts=True)
    share = numbers / codes.numel()
    assert entropy == pytest.approx(float(-(share * share.log2()).sum()) + 32 / 40, abs=1e-4)
    levels = int(codes.max() - codes.min()) + 1
    assert packed == pytest.approx((levels - 1).bit_length() + 32 / 40)


def test_folding_changes_nothing():
    source = data.load("digits", validation=287)
    recipe = networks.Recipe(dataset="digits", width=4, epochs=1)
    model = networks.trained(recipe, source)
    x = source.test.inputs(slice(20), scale="standard")
    before = model(x)
    torch.testing.assert_close(instant.folded(model)(x), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_networks_are_kept_and_damage_is_mended(own_cache):
    source = data.load("digits", validation=287)
    recipe = networks.Recipe(net="mlp", dataset="digits", width=8, epochs=1)
    first = networks.trained(recipe, source)
    (file,) = own_cache.iterdir()
    made = file.stat().st_mtime_ns
    again = networks.trained(recipe, source)
    assert file.stat().st_mtime_ns == made
    assert torch.equal(again[1].weight, first[1].weight)
    file.write_bytes(b"damaged")
    assert torch.equal(networks.trained(recipe, source)[1].weight, first[1].weight)
    networks.trained(networks.Recipe(net="mlp", dataset="digits", width=8, epochs=2), source)
    assert len(list(own_cache.iterdir())) == 2


def test_text_is_read_and_scored():
    source = text.load(limit=3000)
    assert source.train.max() < text.CHARACTERS
    assert text.load().fingerprint != source.fingerprint
    model = networks.Transformer(16).eval()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)  # every character alike
    bits = networks.bits_per_character(model, source.test)
    assert bits == pytest.approx(torch.tensor(text.CHARACTERS).log2().item(), rel=1e-5)


def test_the_transformer_does_not_look_ahead():
    model = networks.Transformer(16).eval()
    x = torch.arange(10)[None]
    changed = x.clone()
    changed[0, 6:] = 3
    torch.testing.assert_close(model(x)[:, :6], model(changed)[:, :6])


def test_small_trials_run():
    brief = {"dataset": "digits", "width": 4, "epochs": 1, "validation": 287, "size": 50}
    metrics = instant._run(
        InstantTrial(samples=(1.0,), bits=(3,), samplings=2, exact=3, **brief), CPU
    )
    assert metrics["outputs that differ"] == 0
    assert len(metrics[BOTH]["sampled, jittered"][0]["scores"]) == 2
    assert set(metrics[WEIGHTS]) == {"sampled, systematic", "nearest", "nearest, least squares"}
    once = {"samples": (1.0,), "budget": (2.0,), "bits": (3,), "calibration": 30}
    metrics = quantise._run(QuantiseTrial(**once, **brief), CPU)
    assert set(metrics) == {"float", "fingerprint", *quantise.WAYS}
    few = quantise._run(QuantiseTrial(net="mobile", ways=("nearest",), **once, **brief), CPU)
    assert set(few) == {"float", "fingerprint", "nearest"}
    words = {"net": "transformer", "dataset": None, "width": 8, "epochs": 2, "size": 4}
    metrics = quantise._run(QuantiseTrial(**once, **words), CPU)
    assert metrics["fingerprint"] == text.load().fingerprint


def test_the_readme_says_what_the_record_has():
    """The accuracy beside the example of the README is that of the record."""
    runs = [r for r in records.read("density-quantise") if r.config.net == "mlp"]
    name = "sampled, budget by sensitivity"
    rows = [next(x for x in r.metrics[name] if x["setting"] == 1.5) for r in runs]

    def mean(values):
        return sum(values) / len(runs)

    full = mean([r.metrics["float"] for r in runs])
    sentence = (
        "On MNIST a network of 784/300/10 units keeps an accuracy of "
        f"{mean([x['score'] for x in rows]):.3f} out of {full:.3f} in this way, at "
        f"{mean([x['bits'] for x in rows]):.2f} bits per weight, scales included"
    )
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert sentence in " ".join(readme.split()), sentence
