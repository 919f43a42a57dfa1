"""Random numbers against published values, point sets against what defines them."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcnn import sampling
from mcnn.sampling import METHODS, as_seed, fold_in, hash_bits, points, uniforms

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
RANDOMISED = [m for m in METHODS if m != "sobol-plain"]


def dimension(method, d):
    return 1 if method == "van-der-corput" else d


def exact(*args, **options):
    """Points in float64, [n, d]."""
    return points(*args, dtype=torch.float64, **options)


# Random numbers


@pytest.mark.parametrize("device", DEVICES)
def test_hash_bits_are_splitmix64(device):
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    found = hash_bits(0, torch.arange(1, 5, device=device)).tolist()
    assert [x % 2**64 for x in found] == published


def splitmix(z):
    """The finaliser in Python's integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_hash_bits_for_any_seed_and_index(seed, index):
    z = (splitmix(seed) + index * 0x9E3779B97F4A7C15) % 2**64
    expected = splitmix(z or 0xD1B54A32D192ED03)
    assert int(hash_bits(seed, torch.tensor(index))) % 2**64 == expected
    u = float(uniforms(seed, torch.tensor(index)))
    assert u == (expected >> 11) / 2**53


def test_the_first_number_of_seed_zero_is_no_exception():
    """Zero is the fixed point of the mixing; the first number of seed 0 used to be 0 exactly."""
    assert 0.01 < float(uniforms(0, torch.tensor(0))) < 0.99
    assert splitmix(0) == 0
    for method in ("random", "jittered", "lattice", "van-der-corput"):
        assert float(points(4, 1, method, seed=0).min()) > 0


def test_derived_seeds_are_distinct():
    seeds = [fold_in(seed, n) for seed in (0, 1, ~0, ~1) for n in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert all(as_seed(seed) == seed for seed in seeds)
    assert fold_in(0, 0) == 0, "recorded seeds stay what they were"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_stays_in_the_cell(dtype):
    """Rounded to nearest, 82 of 65,536 jittered points in float32 were in the next cell."""
    n = {torch.float32: 1 << 16, torch.float16: 1 << 8, torch.bfloat16: 1 << 6}[dtype]
    x = points(n, 1, "jittered", seed=3, dtype=torch.float64)
    y = points(n, 1, "jittered", seed=3, dtype=dtype)
    assert (y.double() <= x).all()
    assert torch.equal(y.double().mul(n).long().flatten(), torch.arange(n))
    assert (x - y.double() <= torch.finfo(dtype).eps * x).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_number_depends_on_seed_and_index_alone(device):
    index = torch.randint(2**62, (50, 20), generator=torch.Generator().manual_seed(1))
    whole = uniforms(5, index)
    assert whole.dtype == torch.float64
    assert torch.equal(uniforms(5, index.to(device)).cpu(), whole)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(uniforms(5, index[order]), whole[order])


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_random_numbers_are_uniform_in_every_bit(seed):
    n = 2**18
    u = uniforms(seed, torch.arange(n))
    assert 0 <= u.min() < u.max() < 1
    counts = torch.histc(u, 512, 0, 1)
    assert 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4
    bits = hash_bits(seed, torch.arange(n))
    ones = torch.stack([(bits >> k & 1).sum() for k in range(64)])
    z = (ones - n / 2) / math.sqrt(n / 4)
    assert z.abs().max() < 4.5
    pairs = (u[:-1] * 16).long() * 16 + (u[1:] * 16).long()
    counts = torch.bincount(pairs[::2], minlength=256)
    assert 1e-4 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-4


@pytest.mark.parametrize("step", [1, 2, 256, 2**32])
def test_streams_of_neighbouring_seeds_are_uncorrelated(step):
    n, lags = 2**16, range(-4, 5)
    for seed in range(4):
        a = uniforms(seed, torch.arange(n)) - 0.5
        for lag in lags:
            b = uniforms(seed + step, torch.arange(n) + lag) - 0.5
            assert abs(float((a * b).mean())) * 12 * math.sqrt(n) < 4.5


def test_seeds():
    assert as_seed(7) == as_seed(np.int64(7)) == 7
    generator = torch.Generator().manual_seed(3)
    first, second = as_seed(generator), as_seed(generator)
    assert first != second
    assert first == as_seed(torch.Generator().manual_seed(3))
    for bad in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"seed must be an int or a torch\.Generator, got"):
            as_seed(bad)
    for bad in (-1, 2**63):
        with pytest.raises(ValueError, match=r"seed must be in 0 \.\.\. 2\*\*63 - 1"):
            as_seed(bad)


# Every point set


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_points_are_in_the_cube(method, dtype, device):
    n, d = (2**16, 2) if dtype != torch.float32 else (2**20, 2)
    x = points(n, dimension(method, d), method, seed=11, device=device, dtype=dtype)
    assert x.shape == (n, dimension(method, d))
    assert (x.dtype, x.device.type) == (dtype, device)
    assert x.min() >= 0
    assert x.max() < 1
    assert torch.equal(x.cpu(), points(n, x.shape[1], method, seed=11, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounding_never_reaches_one(monkeypatch, dtype):
    largest = torch.tensor([[1 - 2.0**-53]], dtype=torch.float64)
    monkeypatch.setitem(METHODS, "random", lambda n, d, seed: largest)
    assert float(points(1, 1, dtype=dtype)) == 1 - torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("method", RANDOMISED)
def test_every_point_of_a_randomised_set_is_uniform(method):
    n, d, seeds = 16, dimension(method, 2), 600
    x = torch.stack([exact(n, d, method, seed=s) for s in range(seeds)])  # [seeds, n, d]
    for power in (1, 2):
        # jittered points are uniform as a set, so that the mean over the set is what is unbiased
        means = (x**power).mean(1)
        z = (means.mean(0) - 1 / (power + 1)) / (means.std(0) / math.sqrt(seeds) + 1e-12)
        assert z.abs().max() < 4.5
    product = x.prod(2).mean(1)
    z = (product.mean() - 0.5**d) / (product.std() / math.sqrt(seeds))
    assert z.abs() < 4.5
    if method != "jittered":
        p = [stats.kstest(x[:, i, 0].numpy(), "uniform").pvalue for i in (0, 1, n - 1)]
        assert min(p) > 1e-4
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_global_is_touched(method):
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    points(16, dimension(method, 2), method, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 1, "sobel"), "no method 'sobel'; there are: random, jittered, sobol,"),
        ((0, 1, "random"), "n must be at least 1, got 0"),
        ((4, 0, "sobol"), "d must be at least 1, got 0"),
        ((10, 2, "jittered"), r"a power m\*\*2, got 10; nearest: 9 or 16"),
        ((7, 3, "jittered"), r"a power m\*\*3, got 7; nearest: 8 or 27"),
        ((8, 21, "lattice"), "the lattice has 20 dimensions, got d = 21"),
        ((8, 2, "van-der-corput"), "one dimension, got d = 2; use sobol"),
        ((8, 1, "random", -1), "seed must be in"),
    ],
)
def test_what_there_is_not_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        points(*arguments)


# Each of them


@pytest.mark.parametrize(("side", "d"), [(1, 1), (1000, 1), (64, 2), (10, 3), (4, 5)])
def test_jittered_points_have_one_in_each_cell(side, d):
    x = exact(side**d, d, "jittered", seed=5)
    cells = (x * side).long()  # [n, d]
    assert torch.unique(cells, dim=0).shape == (side**d, d)
    inside = (x * side - cells).flatten()
    if len(inside) > 100:
        assert stats.kstest(inside.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("method", ["sobol", "sobol-plain"])
@pytest.mark.parametrize("seed", [0, 9])
def test_sobol_points_are_nets(method, seed):
    m = 10
    x = exact(2**m, 3, method, seed=seed)
    for d, t in ((1, 0), (2, 0), (3, 1)):  # quality of the first dimensions
        for shape in np.ndindex(*[m - t + 1] * d):
            if sum(shape) == m - t:
                sides = 2 ** torch.tensor(shape)
                _, counts = torch.unique((x[:, :d] * sides).long(), dim=0, return_counts=True)
                assert counts.tolist() == [2**t] * 2 ** (m - t)


def test_sobol_points_are_a_sequence():
    x = exact(64, 4, "sobol", seed=1)
    for n in (1, 5, 32, 33):
        assert torch.equal(exact(n, 4, "sobol", seed=1), x[:n])
    assert exact(4, 2, "sobol-plain").tolist() == [[0, 0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
    assert torch.equal(exact(64, 4, "sobol-plain", seed=1), exact(64, 4, "sobol-plain", seed=2))


@pytest.mark.parametrize("n", [1, 7, 1024])
def test_a_lattice_is_a_shifted_group_with_full_projections(n):
    d = 4
    x = exact(n, d, "lattice", seed=2)
    i = (x - x[0]) * n  # [n, d], whole numbers modulo n
    z = i.round().long() % n
    assert torch.allclose(i, i.round(), atol=1e-6)
    assert torch.equal(z, torch.arange(n)[:, None] * z[1 % n] % n), "multiples of one vector"
    for column in z.T if n & (n - 1) == 0 else z.T[:1]:
        assert torch.equal(column.sort().values, torch.arange(n)), "n different values each"
    assert z[1 % n].tolist() == [v % n for v in sampling._GENERATOR[:d]]


def test_van_der_corput_values():
    x = exact(8, 1, "van-der-corput", seed=4).flatten()
    rotated = (x - x[0]) % 1
    expected = torch.tensor([0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8])
    assert torch.allclose(rotated, expected.double(), atol=1e-15)


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [
        ("random", -0.65, -0.35),
        ("jittered", -1.15, -0.85),  # two dimensions
        ("sobol", -1.9, -1.1),
        ("lattice", -1.4, -0.7),
    ],
)
def test_errors_of_integration_fall_as_the_table_says(method, low, high):
    sizes, seeds = [2**k for k in (6, 8, 10, 12)], 48
    errors = []
    for n in sizes:
        x = torch.stack([exact(n, 2, method, seed=s) for s in range(seeds)])
        found = x.exp().prod(2).mean(1)
        errors.append(float(((found - (math.e - 1) ** 2) ** 2).mean().sqrt()))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert low < slope < high
