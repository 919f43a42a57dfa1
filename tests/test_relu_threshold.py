"""Soft thresholding, and the supports that it finds."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mcnn.errors import UsageError
from mcnn.experiments.relu.threshold import SupportTrial, _dictionary, run_support
from mcnn.relu import threshold

F64 = torch.float64
finite = st.floats(-1e6, 1e6)


@given(x=st.lists(finite, min_size=1, max_size=5), theta=st.floats(0, 1e3))
def test_it_is_pytorchs_bit_for_bit(x, theta):
    x = torch.tensor(x, dtype=F64)
    want = F.softshrink(x, theta)
    assert torch.equal(threshold.soft_threshold(x, theta), want)
    assert torch.equal(threshold.soft_threshold(x, theta, nonnegative=True), want.clamp(min=0))


@given(x=finite, theta=st.floats(0, 10))
def test_it_minimises_what_it_should(x, theta):
    found = float(threshold.soft_threshold(torch.tensor([x], dtype=F64), theta))

    def cost(z):
        return (z - x) ** 2 / 2 + theta * abs(z)

    step = 1e-3 * (1 + abs(x))
    assert cost(found) <= min(cost(found - step), cost(found + step), cost(0.0)) + 1e-9 * x * x


def test_gradients():
    x = torch.tensor([-2.0, -0.3, 0.4, 1.7], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: threshold.soft_threshold(x, 0.5), x)


def test_coherence_of_two_bases_is_known():
    atoms = _dictionary(SupportTrial(dimensions=64), torch.Generator())
    torch.testing.assert_close(atoms[:, 64:].T @ atoms[:, 64:], torch.eye(64, dtype=F64))
    # The largest entry of the cosine basis.
    assert threshold.coherence(atoms) == pytest.approx((2 / 64) ** 0.5, rel=2e-3)


@given(seed=st.integers(0, 20), k=st.integers(1, 3))
def test_every_small_support_is_found(seed, k):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(200, 6, generator=generator, dtype=F64)
    atoms = atoms / atoms.norm(dim=0)
    mu = threshold.coherence(atoms)
    if k > threshold.certain_atoms(mu):
        return
    theta = threshold.certain_threshold(mu, k)
    for support in itertools.combinations(range(atoms.shape[1]), k):
        for signs in itertools.product((-1.0, 1.0), repeat=k):
            code = torch.zeros(atoms.shape[1], dtype=F64)
            code[list(support)] = torch.tensor(signs, dtype=F64)
            found = threshold.soft_threshold(atoms.T @ (atoms @ code), theta)
            assert torch.equal(found != 0, code != 0)


def test_beyond_the_bound_supports_can_be_missed():
    # Three atoms in the plane, 60 degrees apart: coherence one half, one atom is certain.
    turns = torch.arange(3, dtype=F64) * torch.pi / 3
    atoms = torch.stack([turns.cos(), turns.sin()])
    assert threshold.certain_atoms(threshold.coherence(atoms)) == 1
    seen = atoms.T @ atoms @ torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    assert seen[1] > seen[0]  # the sum of the outer two is most like the middle one


def test_the_experiment_finds_all_supports_that_it_must():
    for name in ("two bases", "random"):
        found = run_support(
            SupportTrial(dictionary=name, dimensions=64, codes=50, largest=8), torch.device("cpu")
        )
        assert found["wrong"] == found["hostile"] == 0
        assert found["shares"][: found["bound"]] == [1.0] * found["bound"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: threshold.soft_threshold(torch.ones(1), -1.0),
        lambda: threshold.coherence(torch.ones(2, 2)),
        lambda: threshold.coherence(torch.ones(2, 1)),
        lambda: threshold.certain_atoms(0.0),
    ],
)
def test_what_a_user_can_mend_is_said(call):
    with pytest.raises(UsageError):
        call()
