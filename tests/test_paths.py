"""Sampling paths: what every generator promises, and the graph that comes of it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn.paths import METHODS, Graph, sample_paths, sobol, sobol_dimensions, sobol_network

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
WIDTHS = st.lists(st.integers(1, 40), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**63 - 1)
# Which layers take turns: all, or those at these places.
TURNS = {
    "uniform": (),
    "pixel": (0,),
    "backward": (-1,),
    "bidirectional": (0, -1),
    "permutation": None,
    "sobol": None,
    "lattice": None,
}


def turns(method, layers):
    places = TURNS[method]
    return range(layers) if places is None else {place % layers for place in places}


def test_all_methods_are_tested():
    assert TURNS.keys() == METHODS.keys()


# --- guarantees -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(widths=WIDTHS, paths=st.integers(1, 200), seed=SEEDS)
def test_no_edge_is_useless_and_no_unit_dangles(method, widths, paths, seed):
    found = sample_paths(widths, paths, method, seed)
    assert found.dtype == torch.int32
    assert found.shape == (len(widths), paths)
    for units, n in zip(found, widths, strict=True):
        assert units.min() >= 0
        assert units.max() < n
    graph = Graph.of_paths(found, widths)
    assert not any(graph.useless)
    assert not any(graph.dangling)
    # Every input in use has an effect on some output.
    assert torch.equal(graph.reach > 0, graph.fan_out[0] > 0)


@pytest.mark.parametrize("method", METHODS)
@given(widths=WIDTHS, paths=st.integers(1, 200), seed=SEEDS, start=st.integers(0, 10_000))
def test_units_take_turns_where_promised(method, widths, paths, seed, start):
    start = start if method != "sobol" else start % 500
    found = sample_paths(widths, paths, method, seed)
    for layer in turns(method, len(widths)):
        n = widths[layer]
        counts = torch.bincount(found[layer], minlength=n)
        assert counts.max() - counts.min() <= 1  # so with n paths or more, all are in use
        block = sample_paths(widths, n, method, seed, start=start // n * n)[layer]
        assert torch.equal(block.sort().values, torch.arange(n, dtype=torch.int32))


@pytest.mark.parametrize("method", ["permutation", "sobol", "lattice"])
@given(widths=WIDTHS, k=st.integers(1, 5), seed=SEEDS)
def test_fan_in_is_constant_where_paths_are_a_multiple(method, widths, k, seed):
    paths = k * torch.tensor(widths).prod().sqrt().ceil().int().item()
    n = widths[-1]
    found = sample_paths(widths, paths * n, method, seed)
    assert (torch.bincount(found[-1], minlength=n) == paths).all()


@pytest.mark.parametrize("method", METHODS)
@given(widths=WIDTHS, cut=st.integers(1, 150), seed=SEEDS)
def test_paths_are_a_sequence(method, widths, cut, seed):
    """Fewer paths are the beginning of more, and pieces make the whole."""
    whole = sample_paths(widths, 151, method, seed)
    assert torch.equal(sample_paths(widths, cut, method, seed), whole[:, :cut])
    rest = sample_paths(widths, 151 - cut, method, seed, start=cut)
    assert torch.equal(rest, whole[:, cut:])


@pytest.mark.parametrize("method", METHODS)
def test_pieces_of_the_work_do_not_change_the_paths(method, monkeypatch):
    widths = [50, 32, 7]
    expected = sample_paths(widths, 1000, method, 3)
    monkeypatch.setattr("mcnn.paths.generators._CHUNK", 64)
    assert torch.equal(sample_paths(widths, 1000, method, 3), expected)


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_other_paths(method):
    a, b = (sample_paths([64, 64, 64], 640, method, seed) for seed in (0, 1))
    assert (a != b)[1].float().mean() > 0.9
    assert torch.equal(a, sample_paths([64, 64, 64], 640, method, 0))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_devices_agree(method, device):
    found = sample_paths([50, 32, 7], 1000, method, 3, device)
    assert found.device.type == device
    assert torch.equal(found.cpu(), sample_paths([50, 32, 7], 1000, method, 3))


def test_a_generator_is_advanced_and_the_global_one_is_not():
    generator, before = torch.Generator().manual_seed(1), torch.get_rng_state()
    a, b = (sample_paths([64, 64], 64, "permutation", generator) for _ in range(2))
    assert not torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", METHODS)
def test_units_are_uniform_and_layers_independent(method):
    """Over many seeds, path number 5 visits each pair of units equally often."""
    n, m, seeds = 4, 6, 1000
    pairs = torch.stack([sample_paths([n, m], 6, method, seed)[:, 5] for seed in range(seeds)])
    fixed = method == "pixel", method == "backward"
    if method == "bidirectional":
        fixed = True, False
    counts = torch.zeros(n, m).index_put(tuple(pairs.T.long()), torch.ones(seeds), accumulate=True)
    allowed = torch.ones(n, m)
    if fixed[0]:
        allowed[torch.arange(n) != 5 % n] = 0
    if fixed[1]:
        allowed[:, torch.arange(m) != 5 % m] = 0
    expected = seeds * allowed / allowed.sum()
    z = (counts - expected)[allowed > 0] / expected[allowed > 0].sqrt()
    assert (counts[allowed == 0] == 0).all()
    assert z.abs().max() < 4.5


# --- Sobol' paths ---------------------------------------------------------------------------------


def test_leading_digits_are_ranks():
    """For powers of two, ranks in blocks are what the talk's formula gives, but for a rotation."""
    from mcnn.paths.generators import _Layer, _ranked, _sobol, _sobol_units

    layer = _Layer(1, 3, 64, 12345, 3, torch.device("cpu"))
    ranks, units = (source(layer, 100, 1000) for source in (_ranked(_sobol), _sobol_units))
    assert len(((ranks - units) % 64).unique()) == 1


def test_points_are_those_of_scipy():
    from scipy.stats import qmc

    points = torch.from_numpy(qmc.Sobol(6, scramble=False, bits=30).random(4096))
    for d in range(6):
        x = sobol.integers(sobol.directions([d])[0], 0, 0, 4096, torch.device("cpu"))
        # The same points, but for the order within the block.
        assert torch.equal(x.sort().values, (points[:, d] * 2**30).long().sort().values)
    x = sobol.integers(sobol.directions([1])[0], 0, 5000, 9000, torch.device("cpu"))
    gray = torch.arange(14000) ^ (torch.arange(14000) >> 1)
    drawn = torch.from_numpy(qmc.Sobol(2, scramble=False, bits=30).random(1 << 14)[:, 1])
    known = dict(zip(gray.tolist(), (drawn * 2**30).long().tolist(), strict=False))
    assert all(known.get(5000 + i, v) == v for i, v in enumerate(x.tolist()))


@given(
    digits=st.lists(st.integers(0, 7), min_size=2, max_size=5),
    bits=st.integers(0, 12),
    dimensions=st.permutations(range(9)),
    seed=SEEDS,
)
def test_the_algebra_counts_what_the_graph_has(digits, bits, dimensions, seed):
    widths = [1 << m for m in digits]
    dimensions = dimensions[: len(digits)]
    found = sample_paths(widths, 1 << bits, "sobol", seed, dimensions=dimensions)
    graph = Graph.of_paths(found, widths)
    said = sobol_network(digits, bits, dimensions)
    assert said.edges == graph.unique
    assert said.components == graph.components
    assert set(graph.reach[graph.fan_out[0] > 0].tolist()) == {said.reached[-1]}


def test_neighbouring_dimensions_may_hit_half_of_the_edges_twice():
    full = [sobol_network([8, 8], 16, (d, d + 1)).edges[0] for d in range(8)]
    half = [d for d, edges in enumerate(full) if edges < 1 << 16]
    assert half == [2, 4, 6]  # counted from zero
    assert {full[d] for d in half} == {1 << 15}


@given(digits=st.lists(st.integers(1, 11), min_size=2, max_size=7), bits=st.integers(0, 22))
def test_the_choice_of_dimensions_reaches_what_can_be_reached(digits, bits):
    """No choice can have more distinct edges, or connect more than its kernels span.

    The choice is made layer by layer and for all numbers of paths at once: now and then one of
    them misses its best by a factor of two.
    """
    dimensions = sobol_dimensions([1 << m for m in digits])
    assert len(set(dimensions)) == len(digits)
    found = sobol_network(digits, bits, dimensions)
    most = [1 << min(bits, a + b) for a, b in pairwise(digits)]
    free = sum(max(0, bits - m) for m in digits)
    misses = sum(edges < full for edges, full in zip(found.edges, most, strict=True))
    assert found.components <= 2 << max(0, bits - free)
    assert misses <= 1
    assert all(2 * edges >= full for edges, full in zip(found.edges, most, strict=True))


def test_the_first_dimensions_leave_a_network_in_pieces():
    assert sobol_network([10] * 4, 13, range(4)).components == 4
    assert sobol_network([10] * 4, 13, sobol_dimensions([1024] * 4)).components == 2
    # Eight ways out of each unit: three layers further, no more than 512 units can be reached.
    assert sobol_network([10] * 4, 13, sobol_dimensions([1024] * 4)).reached[-1] == 512
    assert sobol_network([10] * 5, 13, sobol_dimensions([1024] * 5)).components == 1


# --- graphs ---------------------------------------------------------------------------------------


def test_a_random_mask_dangles_and_the_graph_says_where():
    masks = [torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0]]), torch.tensor([[1, 1, 0]])]
    graph = Graph.of_masks(masks)
    assert graph.widths == (3, 3, 1)
    assert graph.unique == (2, 2)
    assert graph.dangling == (2,)  # unit 1 hears nothing, unit 2 tells nobody
    assert graph.useless == (1, 1)
    assert graph.coverage == (2 / 3, 1.0, 1.0)
    assert graph.reach.tolist() == [1, 0, 0]
    assert graph.components == 2
    with pytest.raises(ValueError, match="only paths collide"):
        _ = graph.collisions


@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6))
def test_useless_edges_are_those_that_matrices_find(seed, density):
    generator = torch.Generator().manual_seed(seed)
    widths = [6, 5, 7, 4]
    masks = [torch.rand(m, n, generator=generator) < density for n, m in pairwise(widths)]
    graph = Graph.of_masks(masks)
    a, b, c = (mask.double() for mask in masks)
    expected = [
        ((c @ b).sum(0)[:, None] * a),
        c.sum(0)[:, None] * b * a.sum(1),
        c * (b @ a).sum(1),
    ]
    pairs = zip(masks, expected, strict=True)
    assert graph.useless == tuple(int((mask & (on == 0)).sum()) for mask, on in pairs)
    assert torch.equal(graph.reach, ((c @ b @ a) > 0).sum(0))


def test_collisions_and_duplicates():
    graph = Graph.of_paths(torch.tensor([[0, 0, 1], [0, 0, 1], [1, 0, 1]]), [2, 2, 2])
    assert graph.unique == (2, 3)
    assert graph.collisions == (1, 0)
    assert graph.density == (0.5, 0.75)


def test_spectrum_of_known_layers():
    full = Graph.of_masks([torch.ones(6, 8)])
    assert full.spectral_gap[0] == pytest.approx(1)
    assert full.effective_rank[0] == pytest.approx(1)
    apart = Graph.of_masks([torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))])
    assert apart.spectral_gap[0] == pytest.approx(0)
    assert apart.effective_rank[0] == pytest.approx(2)
    chain = Graph.of_masks([torch.eye(5)])
    assert chain.effective_rank[0] == pytest.approx(5)


def test_the_gap_is_that_of_the_walk():
    """A walk forth and back through a layer: its transition matrix has the squares."""
    mask = torch.rand(9, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 0] = mask[0] = True
    a = mask.double()
    forth, back = a / a.sum(0), (a / a.sum(1, keepdim=True)).T
    values = torch.linalg.eigvals(back @ forth).real.sort(descending=True).values
    gap = Graph.of_masks([mask]).spectral_gap[0]
    assert values[0] == pytest.approx(1)
    assert (1 - gap) ** 2 == pytest.approx(float(values[1]))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({"widths": [5]}, ValueError, "two layers"),
        ({"widths": [5, 0]}, ValueError, "widths"),
        ({"widths": [5, 2**31]}, ValueError, "widths"),
        ({"widths": [5, 2.0]}, TypeError, "width"),
        ({"paths": 0}, ValueError, "paths"),
        ({"paths": 3.0}, TypeError, "paths"),
        ({"paths": True}, TypeError, "paths"),
        ({"start": -1}, ValueError, "number -1"),
        ({"start": 2**30}, ValueError, "before number"),
        ({"method": "halton"}, ValueError, "method 'halton'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"method": "pixel", "dimensions": (0, 1)}, ValueError, "dimensions"),
        ({"dimensions": (0, 1, 2)}, ValueError, "2 layers"),
        ({"method": "lattice", "widths": [2] * 21}, ValueError, "20 dimensions"),
    ],
)
def test_bad_input_is_named(arguments, error, names):
    with pytest.raises(error, match=names):
        sample_paths(**{"widths": [4, 3], "paths": 4, "method": "sobol"} | arguments)


def test_bad_graphs_are_named():
    with pytest.raises(ValueError, match="paths must be"):
        Graph.of_paths(torch.zeros(3, 4, dtype=torch.int32), [2, 2])
    with pytest.raises(ValueError, match="do not have"):
        Graph.of_paths(torch.full((2, 4), 2), [2, 2])
    with pytest.raises(ValueError, match="one for each"):
        sobol_network([3, 3], 4, [0])
    with pytest.raises(ValueError, match="bits"):
        sobol_network([3, 3], 31, [0, 1])
    with pytest.raises(ValueError, match="widths"):
        sobol_dimensions([0, 3])
