"""Random numbers that must stay what they are, beside the same computed with Python's integers.

Records name seeds: after a shift of a stream, or with another constant, they cannot be repeated,
though the numbers be as random as before.
"""

import pytest
import torch

from mcnn import sampling
from mcnn.sampling import fold_in, hash_bits, points, uniforms

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15

# R. Cools, F. Y. Kuo, D. Nuyens: Constructing embedded lattice rules for multivariate integration,
# 2006: exod2_base2_m20_CKN, the first twenty components.
CKN = (
    *(1, 182667, 469891, 498753, 110745, 446247, 250185, 118627, 245333, 283199),
    *(408519, 391023, 246327, 126539, 399185, 461527, 300343, 69681, 516695, 436179),
)


def mix(z):
    """The finaliser of SplitMix64, on 64 bits without sign."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def signed(z):
    return z - (z >> 63) * WORD


def test_mixing_is_that_of_splitmix():
    assert mix(GOLDEN) == 0xE220A8397B1DCDAF, "its first number for the seed 0"
    for z in (1, GOLDEN, 12345, 2**63, WORD - 1):
        assert int(sampling._mix(torch.tensor(signed(z)))) == signed(mix(z))


@pytest.mark.parametrize("seed", [0, 7, -1, 2**62])
def test_bits_and_seeds_are_those_of_the_integers(seed):
    index = [0, 1, 2, 5, 2**40, -3]
    zs = [(i * GOLDEN + mix(seed % WORD)) % WORD for i in index]
    expected = [signed(mix(z or sampling._AT_ZERO % WORD)) for z in zs]
    assert hash_bits(seed, torch.tensor(index)).tolist() == expected
    for number in (0, 1, 9, -4):
        z = mix((number * GOLDEN + mix(seed % WORD)) % WORD)
        assert fold_in(seed, number) == z % 2**63


def test_at_the_fixed_point_of_mixing_there_is_another_number():
    assert mix(0) == 0
    (zero,) = hash_bits(0, torch.tensor([0])).tolist()  # the key of the seed 0 is 0, too
    assert zero == signed(mix(sampling._AT_ZERO % WORD))
    assert zero != 0


def test_uniforms_are_the_leading_bits():
    index = torch.arange(5)
    bits = [b % WORD for b in hash_bits(7, index).tolist()]
    x = uniforms(7, index)
    assert x.tolist() == [b / WORD for b in [b >> 11 << 11 for b in bits]]
    assert x[:2].tolist() == pytest.approx([0.7169742120081, 0.5243459416779314], abs=1e-15)


def test_the_lattice_has_the_published_vector():
    assert sampling._GENERATOR == CKN
    n, seed = 64, 3
    shift = uniforms(seed, torch.arange(20)).tolist()
    expected = [
        [(i * z % n / n + s) % 1 for z, s in zip(CKN, shift, strict=True)] for i in range(n)
    ]
    found = points(n, 20, "lattice", seed).double()
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("random", [0.8435087204, 0.8153613806, 0.4350892901, 0.4008132219]),
        ("jittered", [0.4217543602, 0.4076806903, 0.2175446451, 0.7004066110]),
        ("sobol-plain", [0.0, 0.0, 0.5, 0.5]),
        ("lattice", [0.8435087204, 0.8153613806, 0.0935087725, 0.5653613806]),
    ],
)
def test_the_first_points_of_a_seed(method, expected):
    found = points(4, 2, method, seed=3).flatten()[:4].tolist()
    assert found == pytest.approx(expected, abs=1e-7)


def test_the_van_der_corput_sequence_is_shifted():
    found = points(4, 1, "van-der-corput", seed=3).flatten().tolist()
    shift = float(uniforms(3, torch.arange(1)))
    expected = [(x + shift) % 1 for x in (0, 1 / 2, 1 / 4, 3 / 4)]
    assert found == pytest.approx(expected, abs=1e-7)


def test_a_prefix_of_a_sobol_sequence_is_that_of_a_power_of_two():
    for method in ("sobol", "sobol-plain"):
        whole = points(8, 3, method, seed=5)
        for n in range(1, 8):
            assert torch.equal(points(n, 3, method, seed=5), whole[:n])
