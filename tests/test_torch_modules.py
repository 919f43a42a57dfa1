"""Our layers under the checks that PyTorch makes of its own, with the inputs of its own tables."""

import pytest
import torch
from torch_checks import CHECKS, LAYERS, cases, refused, tables, types_of

# What is not promised: how the check ends then, and why.
REASONS = {
    ("ResidualODE, dopri5", "transforms"): (
        "torch.func cannot look into adaptive steps",
        "its steps depend on the data, and examples that are mapped cannot share them",
    ),
    ("SampledLinear", "factory_kwargs"): (
        "on no device",
        "which weights are sampled depends on them, and a layer on no device has none",
    ),
}
# The differences of results that are right to a tolerance only, and slow: see test_residual.py.
ELSEWHERE = [("ResidualODE, dopri5", "gradients")]
CELLS = [(n, c) for n in LAYERS for c in CHECKS if (n, c) not in ELSEWHERE]


@pytest.mark.parametrize(("name", "check"), CELLS)
def test_checks_of_modules(name, check):
    failed = []
    for dtype in types_of(check):
        for described, case in cases(name, dtype):
            try:
                CHECKS[check](case)
            except Exception as error:
                if (name, check) not in REASONS:
                    raise AssertionError(f"{name}, {described}, {dtype}") from error
                failed.append(str(error))
    if (name, check) in REASONS:
        assert failed, "it works now: take it out of the reasons"
        assert all(REASONS[name, check][0] in message for message in failed), failed


@pytest.mark.parametrize("name", [n for n in LAYERS if n.startswith("MaxPool2d")])
def test_what_a_module_of_pytorch_refuses_ours_refuses(name):
    for make, call in refused(name):
        with pytest.raises((ValueError, TypeError), match=r"must (be|have)"):
            make()(*call.args, **call.kwargs)


def test_places_of_maxima_are_refused():
    layer = LAYERS["MaxPool2d, exact"]
    inputs = tables().modules[layer.replaces].module_inputs_func
    info = tables().modules[layer.replaces]
    found = inputs(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    asked = [m.constructor_input for m in found if "return_indices" in m.constructor_input.kwargs]
    assert asked
    for given in asked:
        with pytest.raises(ValueError, match="return_indices is not supported"):
            layer.make(*given.args, **given.kwargs)
