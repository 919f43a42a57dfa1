"""Noise2Noise: noise without bias, pairs, and the same minimiser."""

import pytest
import torch

from mcnn.integral.restore import NOISES, PHOTONS, SIGMA, Denoiser, learn, psnr


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_no_bias_and_its_variance(name):
    x = torch.tensor([0.0, 0.1, 0.5, 1.0]).repeat(100_000, 1)
    y = NOISES[name](x, torch.Generator().manual_seed(1))
    variance = {"gaussian": torch.full((4,), SIGMA**2), "poisson": x[0] / PHOTONS}[name]
    assert ((y - x).mean(0).abs() <= 5 * (variance / len(x)).sqrt() + 1e-8).all()
    torch.testing.assert_close((y - x).var(0), variance, rtol=0.03, atol=1e-8)


def test_targets_change_neither_crops_nor_start():
    x = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    a, b, c = (Denoiser(8, seed=3) for _ in range(3))
    learn(a, x, x, steps=3, crop=8, seed=4)
    learn(b, x, x.clone(), steps=3, crop=8, seed=4)
    learn(c, x, 1 - x, steps=3, crop=8, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.body[0].weight, c.body[0].weight)


def test_a_constant_is_learned_from_noisy_targets_alone():
    generator = torch.Generator().manual_seed(5)
    clean = torch.full((400, 1, 8, 8), 0.5)
    noisy, target = (NOISES["gaussian"](clean, generator) for _ in range(2))
    model = Denoiser(8, seed=6)
    learn(model, noisy, target, steps=200, crop=8)
    seen = NOISES["gaussian"](clean, generator)
    assert psnr(model(seen), clean) > psnr(seen, clean) + 6


def test_errors():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="pairs"):
        learn(Denoiser(4), x, x[:1], steps=1, crop=8)
    with pytest.raises(ValueError, match="16x16"):
        learn(Denoiser(4), x, x, steps=1)
    with pytest.raises(ValueError, match="at least 2"):
        Denoiser(layers=1)
