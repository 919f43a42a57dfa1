"""What layers do with what users do to modules: runs it, and writes the page ``book/limits.md``.

``python tests/layer_limits.py`` writes the page; the test compares it with what it finds.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from test_layer_table import LAYERS, inputs
from torch import Tensor, nn

PAGE = Path(__file__).parents[1] / "book" / "limits.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
Make = Callable[..., nn.Module]


def same(a: Tensor, b: Tensor, digits: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=digits, atol=digits)


def empty(make: Make, shape: tuple[int, ...]) -> None:
    assert len(make().eval()(inputs(0, *shape))) == 0


def of_type(dtype: torch.dtype) -> Callable[[Make, tuple[int, ...]], None]:
    def run(make: Make, shape: tuple[int, ...]) -> None:
        y = make(dtype=dtype)(inputs(3, *shape, dtype=dtype).requires_grad_())
        assert y.dtype == dtype
        y.sum().backward()

    return run


def strided(make: Make, shape: tuple[int, ...]) -> None:
    x = inputs(3, *shape)
    apart = torch.stack([x, x + 1], -1)[..., 0]
    assert not apart.is_contiguous()
    a, b = apart.clone().requires_grad_(), apart.requires_grad_()
    same(make()(a), make()(b))
    make()(a).square().sum().backward()
    make()(b).square().sum().backward()
    same(a.grad, b.grad)


def copied(make: Make, shape: tuple[int, ...]) -> None:
    layer = make()
    layer(inputs(3, *shape))
    others = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    others += [make()]
    others[2].load_state_dict(torch.load(file, weights_only=True))
    want = layer(inputs(3, *shape))
    for other in others:
        same(other(inputs(3, *shape)), want)


def meta(make: Make, shape: tuple[int, ...]) -> None:
    layer = make(device="meta")
    x = torch.empty(3, *shape, device="meta", requires_grad=True)
    y = layer(x)
    assert y.is_meta
    assert y.shape == make()(inputs(3, *shape)).shape
    y.sum().backward()
    assert x.grad.is_meta
    layer.load_state_dict(make().state_dict(), assign=True)
    same(layer.eval()(inputs(3, *shape)), make().eval()(inputs(3, *shape)))


def inference(make: Make, shape: tuple[int, ...]) -> None:
    layer = make().eval()
    with torch.inference_mode():
        y = layer(inputs(3, *shape))
    same(y.clone(), layer(inputs(3, *shape)))


def autocast(make: Make, shape: tuple[int, ...]) -> None:
    layer, x = make().eval(), inputs(3, *shape)
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(given)
        same(y.float(), layer(x), 0.1)


def compiled(make: Make, shape: tuple[int, ...]) -> None:
    torch.compiler.reset()
    layer = make()
    whole = "dopri5" not in repr(layer)  # whose steps depend on the data
    other = torch.compile(make(), backend="aot_eager", fullgraph=whole)
    for _ in range(2):
        same(other(inputs(3, *shape)), layer(inputs(3, *shape)))


def exported(make: Make, shape: tuple[int, ...]) -> None:
    layer, x = make().eval(), inputs(3, *shape)
    same(torch.export.export(layer, (x,)).module()(x), layer(x))


CELLS = {
    "empty batch": empty,
    "float64": of_type(torch.float64),
    "bfloat16": of_type(torch.bfloat16),
    "not contiguous": strided,
    "copy, pickle, state": copied,
    "meta": meta,
    "inference mode": inference,
    "autocast": autocast,
    "compile": compiled,
    "export": exported,
}


def outcome(layer: str, cell: str) -> str:
    """Return nothing if it works, and the message if it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            CELLS[cell](*LAYERS[layer])
        except AssertionError:
            raise  # it ran, and the numbers are wrong: that is no refusal
        except Exception as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def outcomes() -> dict[tuple[str, str], str]:
    """Return what became of every layer in every use."""
    return {(layer, cell): outcome(layer, cell) for layer in LAYERS for cell in CELLS}


def table(found: dict[tuple[str, str], str]) -> str:
    """Render what was found: a table, and the messages below it."""
    notes = list(dict.fromkeys(message for message in found.values() if message))
    lines = [f"| layer | {' | '.join(CELLS)} |", f"| --- |{' :-: |' * len(CELLS)}"]
    for layer in LAYERS:
        messages = (found[layer, cell] for cell in CELLS)
        marks = [f"({notes.index(m) + 1})" if m else "✔" for m in messages]
        lines.append(f"| {layer} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", *(f"{i}. `{note}`" for i, note in enumerate(notes, 1))])


def page(found: dict[tuple[str, str], str]) -> str:
    """Return the page with another table."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(found)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(outcomes()), encoding="utf-8")
