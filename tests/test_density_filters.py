"""The experiment on filters: when training ends, which layers a reading takes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mcnn import data, density, training
from mcnn.experiments.density import filters
from mcnn.experiments.density.filters import FiltersTrial

TINY = FiltersTrial(
    dataset="digits",
    maps=6,
    filters=5,
    hidden=16,
    epochs=2,
    lr=0.05,
    batch_size=64,
    validation=200,
    stop_at=2.0,  # never
    fractions=(0.3, 1.0),
    layer_fractions=(0.3,),
    samplings=2,
)
CPU = torch.device("cpu")
OWN = {  # the layers that each reading takes from the sampled network
    "filters": (0, 1),
    "fully connected": (2,),
    "all layers": (0, 1, 2),
    "first convolution": (0,),
    "second convolution": (1,),
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", validation=TINY.validation)


@pytest.fixture(scope="module")
def metrics():
    return filters._run(TINY, CPU)


def test_filters_of_the_talk_have_3200_inputs():
    first, second, _ = filters.lenet(FiltersTrial(), (3, 32, 32), 10)
    assert len(first[0].weight) == 128
    assert second[0].weight[0].numel() == 3200
    assert filters.lenet(FiltersTrial(), (3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_training_ends_when_the_images_held_out_say_so(digits):
    def epochs(stop_at):
        trial = replace(TINY, stop_at=stop_at)
        return filters._train(filters.lenet(trial, digits.shape, 10), digits, trial)

    every = epochs(2.0)
    assert [row["epoch"] for row in every] == [1, 2]
    assert len(epochs(0.0)) == 1
    assert all(0 <= row["validation_accuracy"] <= 1 for row in every)


def test_metrics_have_every_reading_at_one_half(metrics):
    assert set(metrics["sampled"]) == set(filters.VARIANTS)
    for points in metrics["sampled"].values():
        assert set(points["50%"]) == set(OWN)
        assert all(len(accuracies) == TINY.samplings for accuracies in points["50%"].values())
    assert all(0 < share < 0.5 for share in metrics["hit"]["jittered"]["50%"].values())


def test_curves_are_of_the_same_network_at_the_other_fractions(metrics):
    curve = filters._run(replace(TINY, curve=True), CPU)
    assert curve["dense"] == metrics["dense"]
    assert {name: set(points) for name, points in curve["sampled"].items()} == {
        "jittered": {"30%", "100%"},
        "one density a layer": {"30%"},
    }
    assert set(curve["sampled"]["jittered"]["100%"]) == set(filters.GROUPS)


@pytest.mark.parametrize("variant", filters.VARIANTS)
def test_each_reading_samples_its_own_layers_and_no_other(digits, variant):
    """Against the networks of each reading, put together layer by layer and tested whole."""
    model = filters.lenet(TINY, digits.shape, 10)
    filters._train(model, digits, TINY)
    known = list(filters._features(model.eval(), digits.test, TINY.scale))
    found, _ = filters._sampled(model, known, TINY, variant, filters.HALF)

    def accuracy(net):
        return training.evaluate(filters._Mixed(net), digits.test, scale=TINY.scale).accuracy

    assert filters._dense(model, known) == pytest.approx(accuracy(model), abs=0.006)
    for number in range(TINY.samplings):
        options = {"method": "jittered", "fraction": 0.5, "seed": number}
        thin, _ = density.quantize(model, **options | filters.VARIANTS[variant])
        for group, own in OWN.items():
            mixed = torch.nn.Sequential(*(thin[i] if i in own else model[i] for i in range(3)))
            # Sums of bfloat16 in another order may turn two of 360 images.
            assert found[group][number] == pytest.approx(accuracy(mixed), abs=0.006), group


def test_measures_are_relative_and_paired():
    def record(dense, **kept):
        points = {group: [0.0, 0.0] for group in OWN} | kept
        sampled = {variant: {"50%": points} for variant in filters.VARIANTS}
        return SimpleNamespace(metrics={"dense": dense, "sampled": sampled})

    records = [
        record(0.8, **{"filters": [0.4, 0.6], "fully connected": [0.7, 0.7]}),
        record(0.5, **{"filters": [0.5, 0.5], "fully connected": [0.25, 0.25]}),
    ]
    measured = filters._measure(records)
    assert measured["filters, jittered"] == pytest.approx([0.625, 1.0])
    assert measured["accuracy of the full network"] == [0.8, 0.5]
    paired = filters._measure_redundant(records)
    assert paired["fully connected less filters, jittered"] == pytest.approx([0.25, -0.5])
