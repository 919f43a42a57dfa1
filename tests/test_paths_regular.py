"""Paths and densities drawn anew in every step: no bias, and the whole network afterwards."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from mcnn.experiments.paths import regular as experiment
from mcnn.ledger import project, records
from mcnn.paths.regular import Redrawn, along_paths, from_densities, kept_by
from mcnn.training import nets

WIDTHS = (12, 8, 4)


def _weights():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(m, n, generator=generator) for n, m in pairwise(WIDTHS)]


@pytest.mark.parametrize(
    "draw", [partial(along_paths, paths=40), partial(from_densities, fraction=0.5)]
)
def test_what_is_drawn_is_the_weight_on_average(draw):
    weights, generator, n = _weights(), torch.Generator().manual_seed(4), 3000
    draws = [draw(weights, generator) for _ in range(n)]
    for i, w in enumerate(weights):
        drawn = torch.stack([d[i] for d in draws])
        error = drawn.std(0) / n**0.5
        assert ((drawn.mean(0) - w).abs() <= 5 * error + 1e-6).all()


def test_edges_that_are_kept_lie_on_whole_paths():
    first, second = along_paths(_weights(), torch.Generator().manual_seed(5), paths=5)
    assert ((first != 0).any(1) == (second != 0).any(0)).all()  # of hidden units
    assert (first != 0).sum() <= 5


def test_share_that_is_kept_is_the_probability():
    ones, generator = [torch.ones(40, 50)], torch.Generator().manual_seed(6)
    kept = [(along_paths(ones, generator, 1500)[0] != 0).double().mean() for _ in range(50)]
    assert float(sum(kept)) / 50 == pytest.approx(kept_by(2000, 1500), abs=0.005)
    paths = experiment.paths_that_leave_out(0.3, 2000)
    assert kept_by(2000, paths) == pytest.approx(0.7, abs=1e-3)


def test_gradients_of_densities_go_straight_through():
    w = _weights()[0].requires_grad_()
    (drawn,) = from_densities([w], torch.Generator(), 0.5)
    drawn.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))
    assert not torch.equal(drawn, w)


def test_another_network_in_each_step_and_the_whole_one_in_evaluation():
    model = nets.build("mlp", 0, widths=WIDTHS)
    net, x = Redrawn(model, partial(along_paths, paths=20), seed=1), torch.rand(5, 12)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), model(x))
    assert len(list(net.parameters())) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="no linear layer"):
        Redrawn(nn.Sequential(nn.ReLU()), along_paths)
    with pytest.raises(ValueError, match="at least 1"):
        along_paths(_weights(), torch.Generator(), 0)
    with pytest.raises(ValueError, match="positive"):
        from_densities(_weights(), torch.Generator(), 0)


@pytest.mark.parametrize("method", experiment.METHODS)
def test_methods_begin_with_the_same_network(method):
    p = experiment.STRENGTHS[method][0]
    trial = experiment.RegularTrial(widths=(64, 32, 10), method=method, strength=p, seed=2)
    x = torch.rand(4, 1, 8, 8)
    plain = nets.build("mlp", 2, widths=(64, 32, 10))
    torch.testing.assert_close(experiment.regularised(trial).eval()(x), plain(x))
    if method != "none":
        noisy = experiment.regularised(trial).train()
        assert not torch.allclose(noisy(x), plain(x))


def test_strengths_and_rates_are_the_best_on_images_held_out():
    found = records.read("paths-regular-rate", project.results_dir("full"))
    assert experiment.best(found) == experiment.CHOSEN
