"""The backward walk as a Markov chain: against paths that are listed, and walks that are walked."""

from itertools import pairwise

import pytest
import torch

from mcnn.experiments.paths import chain as experiment
from mcnn.paths import chain
from mcnn.paths.compress import compress

F64 = torch.float64


def network(number=0, **options):
    return experiment.random_network(experiment.ChainTrial(seed=3, **options), number)


def test_rows_of_the_transition_matrix_are_distributions_and_inputs_absorb():
    weights = network(1)
    matrix = chain.transition_matrix(weights)
    inputs = weights[0].shape[1]
    assert matrix.sum(1).allclose(torch.ones((), dtype=F64), atol=1e-15)
    assert torch.equal(matrix[:inputs, :inputs], torch.eye(inputs, dtype=F64))
    assert (matrix.diagonal()[inputs:] == 0).all()


@pytest.mark.parametrize("number", range(8))
def test_visits_are_sums_over_all_paths(number):
    weights = network(number)
    m = len(weights[-1])
    start = torch.arange(1.0, m + 1, dtype=F64) / sum(range(1, m + 1))
    expected = experiment.listed(chain.transitions(weights), start)
    for found, exact in zip(chain.visits(weights, start), expected, strict=True):
        assert found.allclose(exact, atol=1e-14)
        assert found.sum().item() == pytest.approx(1)
    whole = start @ chain.fundamental_matrix(weights)[-m:]
    assert whole.allclose(torch.cat(expected), atol=1e-14)


def test_a_path_weight_by_hand():
    weights = [torch.tensor([[1.0, -3.0], [2.0, 2.0]]), torch.tensor([[4.0, -1.0]])]
    # 4/5 of the walks take the first unit, of which a quarter and three quarters go on.
    assert chain.visits(weights)[0].tolist() == pytest.approx([4 / 5 / 4 + 1 / 10, 0.7])
    assert chain.fundamental_matrix(weights)[-1].tolist() == pytest.approx([0.3, 0.7, 0.8, 0.2, 1])
    # Folded: paths weigh 4 and 12, 2 and 2.
    assert chain.visits(chain.folded(weights))[0].tolist() == pytest.approx([6 / 20, 14 / 20])
    assert chain.visits(chain.folded(weights))[1].tolist() == pytest.approx([16 / 20, 4 / 20])


def test_a_walk_ends_at_a_unit_without_weights():
    weights = [torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 1.0]])]
    below, hidden, _ = chain.visits(weights)
    assert hidden.tolist() == [0.75, 0.25]
    assert below.sum().item() == pytest.approx(0.25)
    matrix = chain.transition_matrix(weights)
    assert matrix[2, 2] == 1
    assert matrix.sum(1).tolist() == pytest.approx([1] * 5)


def test_compression_walks_this_chain():
    generator = torch.Generator().manual_seed(1)
    widths = (6, 5, 4, 3)
    layers = [torch.nn.Linear(n, m, bias=False) for n, m in pairwise(widths)]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
    weights = [layer.weight.detach() for layer in layers]
    walks = 200_000
    small, _ = compress(torch.nn.Sequential(*layers), walks, seed=2)
    arrived = torch.full((3,), walks / 3)
    for layer, expected in zip(reversed(range(3)), chain.visits(weights)[-2::-1], strict=True):
        taken = small[layer].weight.detach().abs() / weights[layer].abs().sum(1, keepdim=True)
        arrived = arrived @ taken
        assert arrived.div(walks).allclose(expected, atol=5e-3)


@pytest.mark.parametrize("weights", [[], [torch.ones(2, 3), torch.ones(2, 3)]])
def test_layers_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="as many inputs as the last has units"):
        chain.transitions(weights)
