import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mcnn import nutshell

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def network(widths, seed, device="cpu", batch=5):
    weights = nutshell.initial_weights(widths, seed, device, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, widths[0], generator=generator, dtype=torch.float64).to(device)
    target = torch.randn(batch, widths[-1], generator=generator, dtype=torch.float64).to(device)
    return weights, x, target


@pytest.mark.parametrize("device", DEVICES)
@given(
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 6),
)
def test_the_rule_is_the_gradient(device, widths, seed, batch):
    weights, x, target = network(widths, seed, device, batch)
    a = nutshell.forward(weights, x)
    deltas = nutshell.backward(weights, a, a[-1] - target)
    by_hand = nutshell.gradients(a, deltas)
    leaves = [w.clone().requires_grad_() for w in weights]
    x.requires_grad_()
    hidden = x
    for w in leaves:
        hidden = F.relu(hidden @ w)
    error = (hidden - target).square().sum() / 2
    wanted = torch.autograd.grad(error, [*leaves, x])
    torch.testing.assert_close([*by_hand, deltas[0]], [*wanted], rtol=1e-11, atol=1e-12)


def test_forward_of_one_example_as_the_sum_is_written():
    weights, x, _ = network((4, 3, 2), seed=1)
    a = nutshell.forward(weights, x)
    for layer, w in enumerate(weights, start=1):
        for i in range(w.shape[1]):
            total = sum(w[j, i] * a[layer - 1][0, j] for j in range(w.shape[0]))
            assert a[layer][0, i] == pytest.approx(max(0.0, total.item()), abs=1e-14)


def test_steps_are_those_of_torch():
    weights, x, target = network((6, 8, 3), seed=2)
    leaves = [w.clone().requires_grad_() for w in weights]
    optimizer = torch.optim.SGD(leaves, lr=0.1)
    for _ in range(50):
        a = nutshell.forward(weights, x)
        weights = nutshell.step(weights, a, nutshell.backward(weights, a, a[-1] - target), 0.1)
        hidden = x
        for w in leaves:
            hidden = F.relu(hidden @ w)
        optimizer.zero_grad()
        ((hidden - target).square().sum() / 2 / len(x)).backward()
        optimizer.step()
    torch.testing.assert_close(weights, [w.detach() for w in leaves], rtol=1e-11, atol=1e-11)


def test_initial_weights_have_the_variance_of_he_and_the_bits_of_their_seed():
    (w,) = nutshell.initial_weights((400, 500), seed=3)
    count = w.numel()
    assert w.var().item() == pytest.approx(2 / 400, rel=5 * (2 / count) ** 0.5)
    assert abs(w.mean().item()) < 5 * (2 / 400 / count) ** 0.5
    assert torch.equal(w, nutshell.initial_weights((400, 500), seed=3)[0])
    assert not torch.equal(w, nutshell.initial_weights((400, 500), seed=4)[0])


def test_live_outputs_are_active_for_every_example():
    weights = nutshell.initial_weights((30, 20, 10), seed=5, live_outputs=True)
    x = torch.rand(100, 30, generator=torch.Generator().manual_seed(5))
    assert (nutshell.forward(weights, x)[-1] > 0).all()
    assert weights[-1].max() < 1 / 20


def test_similarity_is_a_convolution():
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(3, 9, 11, generator=generator, dtype=torch.float64)
    filters = torch.randn(5, 3, 4, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        nutshell.similarity(image, filters), F.conv2d(image[None], filters)[0]
    )


def test_drawing_has_every_unit_and_every_weight():
    ax = Figure().subplots()
    nutshell.draw_network(ax, (3, 4, 2))
    units = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(units) == 3 + 4 + 2
    assert len(ax.lines) - len(units) == 3 * 4 + 4 * 2
    assert [text.get_text() for text in ax.texts] == ["input $a_0$", "$a_1$", "output $a_2$"]
    assert not plt.get_fignums()  # it draws on the axes given and nowhere else


def test_refusals():
    with pytest.raises(ValueError, match="two or more positive"):
        nutshell.initial_weights((4,))
    with pytest.raises(ValueError, match="two or more positive"):
        nutshell.initial_weights((4, 0))
    with pytest.raises(ValueError, match=r"layer 2 .* got \(5, 2\) for .* \(5, 3\)"):
        nutshell.forward([torch.ones(4, 3), torch.ones(5, 2)], torch.ones(5, 4))
    with pytest.raises(ValueError, match="image must be"):
        nutshell.similarity(torch.ones(1, 4, 4), torch.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match="larger than the image"):
        nutshell.similarity(torch.ones(1, 4, 4), torch.ones(1, 1, 5, 2))
