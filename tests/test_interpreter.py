"""A network at one input is one matrix and one vector: against Jacobians, products and refusals."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mcnn import interpreter
from mcnn.errors import UsageError
from mcnn.interpreter import system as module_system

torch.set_num_threads(1)
DOUBLE = {"dtype": torch.float64}


class Function(nn.Module):
    """A module of a function."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Block(nn.Module):
    """A residual block that works in place, as torchvision's do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)).add_(x), inplace=True)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def made(model, seed=0):
    """Give all parameters and statistics random values, in float64 and evaluation mode."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                size = max(1, tensor[0].numel()) ** 0.5 if tensor.dim() else 1.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator, **DOUBLE) / size)
                if "var" in name:
                    tensor.abs_().add_(0.5)
    return model


PIECEWISE = {
    "linear": nn.Linear(6, 3),
    "conv, stride, groups": nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
    "transposed conv": nn.ConvTranspose2d(4, 2, 3, stride=2),
    "batch norm": nn.BatchNorm2d(4),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(4),
    "hardtanh": nn.Hardtanh(-0.3, 0.7),
    "hardsigmoid": nn.Hardsigmoid(),
    "threshold": nn.Threshold(0.1, 20.0),
    "softshrink": nn.Softshrink(),
    "hardshrink": nn.Hardshrink(),
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool, one axis": Function(lambda x: F.max_pool1d(x.flatten(1, 2), 2)),
    "adaptive max pool": nn.AdaptiveMaxPool2d(2),
    "average pool": nn.AvgPool2d(2),
    "adaptive average pool": nn.AdaptiveAvgPool2d((3, 1)),
    "dropout": nn.Dropout(),
    "upsampling": nn.Upsample(scale_factor=2, mode="bilinear"),
    "pixel shuffle": nn.PixelShuffle(2),
    "reflection": nn.ReflectionPad2d(1),
    "absolute": Function(torch.abs),
    "maximum": Function(lambda x: torch.maximum(x, x.flip(-1))),
    "minimum": Function(lambda x: torch.minimum(x, 0.3 * x.flip(-1))),
    "max over an axis": Function(lambda x: x.max(-1).values),
    "max over an axis, kept": Function(lambda x: x.max(1, keepdim=True).values),
    "where": Function(lambda x: torch.where(x > 0.2, x, -2 * x + 1)),
    "mask": Function(lambda x: x * (x > 0.1)),
    "clamps": Function(lambda x: x.clamp(min=-0.3) + x.clamp(max=0.2)),
    "masked fill": Function(lambda x: x.masked_fill(x < 0, 7.0)),
    "cat and slice": Function(lambda x: torch.cat([x, x.relu()], 1)[:, 1:6]),
    "scalars": Function(lambda x: 1 - (2 * x + 3) / 4),
    "residual": Block(),
    "stack": nn.Sequential(
        Block(), nn.Conv2d(4, 8, 3), nn.ReLU6(True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ),
}
HELD = {
    "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu of a tanh": nn.GELU("tanh"),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": nn.LayerNorm([4, 6, 6]),
    "layer norm, last axis": nn.LayerNorm(6),
    "batch norm without statistics": nn.BatchNorm2d(4, track_running_stats=False),
}


@pytest.mark.parametrize("name", PIECEWISE | HELD)
def test_the_answer_is_the_matrix_times_the_input_plus_the_bias(name):
    model, x = made((PIECEWISE | HELD)[name]), drawn(1, 4, 6, 6)
    with torch.no_grad():
        y = model(x.clone())
    system = interpreter.linear(model, x)
    torch.testing.assert_close(system.output, y, rtol=0, atol=0)
    torch.testing.assert_close(system.matvec(x) + system.bias, y, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(system(x), y, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        system.matrix() @ x.flatten(), system.matvec(x).flatten(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", PIECEWISE)
def test_of_a_piecewise_linear_network_the_matrix_is_the_jacobian(name):
    model, x = made(PIECEWISE[name]), drawn(1, 4, 6, 6)
    system = interpreter.linear(model, x)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v.clone()), x)
    assert jacobian.any()
    # PyTorch's derivative of hardsigmoid has a sixth in single precision.
    near = 1e-7 if name == "hardsigmoid" else 1e-12
    found = system.matrix(rows=7)
    torch.testing.assert_close(found, jacobian.reshape(system.shape), rtol=near, atol=near)
    assert system.is_derivative


@pytest.mark.parametrize("name", ["hardswish", "silu", "gelu", "gelu of a tanh"])
def test_a_gate_that_bends_is_held_and_the_matrix_is_no_derivative(name):
    x = drawn(1, 4, 6, 6)
    system = interpreter.linear(HELD[name], x)
    slopes = system.matrix().diagonal()
    torch.testing.assert_close(slopes, (HELD[name](x) / x).flatten())
    assert not system.is_derivative
    assert not system.bias.any()


def test_normalisation_by_the_input_keeps_the_mean_linear_and_holds_the_deviation():
    x = drawn(1, 8)
    system = interpreter.linear(nn.LayerNorm(8, eps=0, elementwise_affine=False).double(), x)
    expected = (torch.eye(8, **DOUBLE) - 1 / 8) / x.std(correction=0)
    torch.testing.assert_close(system.matrix(), expected)


def test_of_a_stack_it_is_the_product_of_masked_matrices():
    first, second, third = (made(nn.Linear(a, b), seed=a) for a, b in ((5, 7), (7, 6), (6, 2)))
    model, x = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third), drawn(1, 5)
    h = first(x)
    g1 = torch.diag((h > 0).double()[0])
    g2 = torch.diag((second(h.relu()) > 0).double()[0])
    a = third.weight @ g2 @ second.weight @ g1 @ first.weight
    b = third.bias + third.weight @ g2 @ (second.bias + second.weight @ g1 @ first.bias)
    system = interpreter.linear(model, x)
    torch.testing.assert_close(system.matrix(), a.detach())
    torch.testing.assert_close(system.bias[0], b.detach())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 3]))
def test_the_two_products_are_of_one_matrix_and_the_held_network_is_affine(
    seed, inputs, hidden, batch
):
    layers = nn.Linear(inputs, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, 3)
    model = made(nn.Sequential(*layers), seed)
    x, v, w, u = (drawn(batch, n, seed=seed + k) for k, n in enumerate((inputs, inputs, inputs, 3)))
    system = interpreter.linear(model, x)
    torch.testing.assert_close((u * system.matvec(v)).sum(), (system.rmatvec(u) * v).sum())
    torch.testing.assert_close(system(v) - system(w), system.matvec(v - w))
    torch.testing.assert_close(system.matvec(2 * v - w), 2 * system.matvec(v) - system.matvec(w))


def test_inputs_of_a_batch_do_not_meet():
    model, x = made(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))), drawn(3, 4)
    blocks = interpreter.linear(model, x).matrix().view(3, 2, 3, 4)
    for i in range(3):
        one = interpreter.linear(model, x[i : i + 1])
        torch.testing.assert_close(blocks[i, :, i], one.matrix())
        assert not blocks[i, :, [j for j in range(3) if j != i]].any()


def test_flat_vectors_will_do_and_the_input_and_the_model_stay_as_they_were():
    model, x = made(PIECEWISE["stack"]), drawn(1, 4, 6, 6)
    before = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    system = interpreter.linear(model, x)
    torch.testing.assert_close(system.matvec(x.flatten()), system.matvec(x), rtol=0, atol=0)
    u = system.output
    torch.testing.assert_close(system.rmatvec(u.flatten()), system.rmatvec(u), rtol=0, atol=0)
    assert torch.equal(x, before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dense", [True, False])
def test_singular_vectors_are_those_of_the_matrix(dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(module_system, "_DENSE", 0)
    model, x = made(PIECEWISE["stack"]), drawn(1, 4, 6, 6)
    system = interpreter.linear(model, x)
    found = system.svd(2, seed=1)
    monkeypatch.undo()
    values = torch.linalg.svdvals(system.matrix())
    assert values[1] > 0
    torch.testing.assert_close(found.values, values[:2])
    assert found.left.shape == (2, 1, 5)
    assert found.right.shape == (2, 1, 4, 6, 6)
    for left, value, right in zip(*found, strict=True):
        torch.testing.assert_close(system.matvec(right), value * left)
        torch.testing.assert_close(system.rmatvec(left), value * right)


def test_what_does_not_depend_on_the_input_is_bias():
    system = interpreter.linear(Function(lambda x: torch.ones(1, 2, **DOUBLE) * 3), drawn(1, 4))
    assert system.bias.tolist() == [[3, 3]]
    assert not system.matrix().any()


def test_a_network_of_torchvision_is_a_linear_system():
    models = pytest.importorskip("torchvision.models")
    x = drawn(1, 3, 32, 32)
    model = made(models.resnet18(num_classes=4))
    system = interpreter.linear(model, x)
    with torch.no_grad():
        y = model(x)
    off = (system.matvec(x) + system.bias - y).abs().max() / y.abs().max()
    assert float(off) < 1e-12
    assert float(system.matvec(x).norm() / y.norm()) > 0.01
    assert float(system.bias.norm() / y.norm()) > 0.01


class Gated(nn.Module):
    """Squeeze and excitation: a part of the input that multiplies the input."""

    def forward(self, x):
        return x * F.hardsigmoid(x.mean((2, 3), keepdim=True))


REFUSED = {
    "sigmoid in layer '1' cannot be held linear: it bends everywhere": (
        nn.Sequential(nn.Linear(6, 6), nn.Sigmoid()),
        (1, 6),
    ),
    "tanh cannot": (nn.Tanh(), (1, 6)),
    "mul cannot be held linear: it multiplies two numbers that both depend": (
        Gated(),
        (1, 2, 3, 3),
    ),
    "softmax attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 3, 8)),
    "_softmax cannot be held linear: softmax attention": (nn.Softmax(1), (1, 6)),
    "linalg_vector_norm cannot": (Function(lambda x: x / x.norm()), (1, 6)),
    "div cannot be held linear: it divides": (Function(lambda x: x / x.sum()), (1, 6)),
    "reciprocal cannot be held linear: it divides": (Function(lambda x: 1 / x), (1, 6)),
    "its limits depend on the input": (Function(lambda x: x.clamp(min=x.mean())), (1, 6)),
    "decides by values of the input": (Function(lambda x: x if x.sum() > 0 else -x), (1, 6)),
    "one tensor of real numbers, got tuple": (Function(lambda x: (x, x)), (1, 6)),
    "one tensor of real numbers, got torch.int64": (Function(lambda x: x.argmax(1)), (1, 6)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_held_linear_is_one_clear_error(message):
    model, shape = REFUSED[message]
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        interpreter.linear(model.double().eval(), drawn(*shape))
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused():
    x = drawn(2, 4, 6, 6)
    for model in (nn.BatchNorm2d(4), nn.Dropout()):
        with pytest.raises(UsageError, match=re.escape("call model.eval() first")):
            interpreter.linear(nn.Sequential(model).double().train(), x)
    with pytest.raises(UsageError, match=r"x must be floating point, got torch\.int64"):
        interpreter.linear(nn.ReLU(), torch.ones(1, 3, dtype=torch.int64))


def test_sizes_are_checked():
    system = interpreter.linear(nn.Linear(4, 3).double(), drawn(1, 4))
    for call in (system.matvec, system.rmatvec, system):
        with pytest.raises(UsageError, match=r"must have [34] numbers"):
            call(drawn(1, 5))
    for k in (0, 4):
        with pytest.raises(UsageError, match=r"k must be 1 \.\.\. 3"):
            system.svd(k)
    large = interpreter.linear(nn.Identity(), drawn(1, 5000))
    with pytest.raises(UsageError, match="too large to write down"):
        large.matrix()


def test_gradients_go_through_the_held_network():
    held = interpreter.linear(made(PIECEWISE["stack"]), drawn(1, 4, 6, 6))._held
    assert torch.autograd.gradcheck(held, drawn(1, 4, 6, 6, seed=3).requires_grad_())


def test_a_rule_that_gives_another_answer_is_refused(monkeypatch):
    monkeypatch.setitem(interpreter.rules._GATES, "relu", lambda z: (torch.ones_like(z), None))
    with pytest.raises(UsageError, match=r"relu in layer '1' .* does not give its own answer"):
        interpreter.linear(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.tensor([[-1.0, 2.0]]))


def test_all_results_of_a_rule_are_compared(monkeypatch):
    def spoilt(call):
        def replay(v, *rest, **options):
            first, *others = call.op(v, *rest, **options)
            return [first, *(other + 1 for other in others)]

        return replay

    halves = Function(lambda x: torch.cat([part * 2 for part in x.split(2, -1)], -1))
    x = drawn(1, 4)
    torch.testing.assert_close(interpreter.linear(halves, x)(x), 2 * x)
    monkeypatch.setattr(interpreter.rules, "_LINEAR", {*interpreter.rules._LINEAR} - {"split"})
    monkeypatch.setitem(interpreter.rules._RULES, "split", spoilt)
    with pytest.raises(UsageError, match=r"split .*does not give its own answer"):
        interpreter.linear(halves, x)
