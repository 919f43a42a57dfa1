"""What is sampled: a generative network on the plane, and Fourier features."""

import math

import pytest
import torch

from mcnn.randomness import (
    SOURCES,
    FourierFeatures,
    energy_distance,
    gaussian_kernel,
    latent,
    ring,
    train_gan,
)

torch.set_num_threads(1)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# --- a generative network -----------------------------------------------------------------------


def test_the_ring_has_eight_modes_of_the_right_spread():
    x = ring(40_000, seed=1).double()
    assert x.shape == (40_000, 2)
    radius = x.square().sum(1).mean()
    assert radius == pytest.approx(1 + 2 * 0.15**2, abs=0.01)
    eighth = (torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) * 8).round() % 8
    assert (eighth.long().bincount() - 5000).abs().max() < 5 * math.sqrt(5000)


def test_energy_distance_has_its_closed_form():
    x = torch.tensor([[0.0], [1.0]])
    y = torch.tensor([[2.0], [4.0]])
    # 2 (2 + 4 + 1 + 3) / 4 - 1 - 2
    assert energy_distance(x, y) == pytest.approx(2.0)


def test_energy_distance_of_one_distribution_is_zero_on_average():
    found = torch.tensor(
        [energy_distance(ring(200, 2 * s), ring(200, 2 * s + 1)) for s in range(60)]
    )
    assert abs(found.mean() / (found.std() / math.sqrt(60))) < 4
    assert energy_distance(ring(200, 1), ring(200, 2) + 0.5) > 0.05


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_generator_learns_and_follows_its_seed(source, device):
    before = torch.get_rng_state()
    nets = [train_gan(150, 64, source, seed, device=device) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    z = latent(normal(500, 2).sigmoid(), device)
    a, b, c = (net(z).detach().cpu() for net in nets)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    untrained = train_gan(1, 64, source, 1, device=device)(z).detach().cpu()
    data = ring(500, 3)
    assert energy_distance(a, data) < energy_distance(untrained, data) / 2


# --- features -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", SOURCES)
def test_features_estimate_the_gaussian_kernel(source, device):
    x = normal(20, 3, seed=2).to(device)
    layer = FourierFeatures(3, 4096, 1.5, source, 5, device, F64)
    f = layer(x)
    assert f.shape == (20, 8192)
    error = (f @ f.T - gaussian_kernel(x, x, 1.5)).abs().max()
    assert error < (0.06 if source in ("random", "lfsr") else 0.012)
    torch.testing.assert_close(f.square().sum(1), torch.ones(20, dtype=F64, device=device))


def test_features_are_unbiased():
    x = torch.tensor([[0.0, 0.0], [0.7, -0.4]], dtype=F64)
    for source in SOURCES:
        found = []
        for seed in range(400):
            f = FourierFeatures(2, 8, 1.0, source, seed, dtype=F64)(x)
            found.append(f[0] @ f[1])
        found = torch.stack(found)
        error = found.mean() - math.exp(-(0.49 + 0.16) / 2)
        assert abs(error / (found.std() / 20)) < 4


def test_features_survive_saving_compiling_and_differentiation():
    layer = FourierFeatures(3, 5, seed=1, dtype=F64)
    other = FourierFeatures(3, 5, seed=2, dtype=F64)
    other.load_state_dict(layer.state_dict())
    x = normal(4, 3).requires_grad_()
    assert torch.equal(layer(x), other(x))
    assert torch.autograd.gradcheck(layer, x)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_kernel_has_its_closed_form():
    x = torch.tensor([[0.0], [2.0]], dtype=F64)
    expected = torch.tensor([[1.0, math.exp(-0.5)], [math.exp(-0.5), 1.0]], dtype=F64)
    torch.testing.assert_close(gaussian_kernel(x, x, 2.0), expected)


def test_a_length_must_be_positive():
    with pytest.raises(ValueError, match="lengthscale"):
        FourierFeatures(2, 4, lengthscale=0.0)
