r"""Quantised networks in a file of the size that their report tells.

Each row of a layer is integers times one scale. The file holds the integers, coded at their entropy
or packed, the scales in float32, and all else of the network as it is.
What is loaded is a plain network with weights in floating point again, each within two units in the
last place of what was saved.

The integers are found in the weights themselves, so it does not matter what made them: sampling,
sequential sampling or rounding.

The container is :mod:`mcnn.safetensors`, with two tensors of bytes. ``head`` names layers and all
else, with shapes and types, and has the tables of the codes, all of it compressed, for names repeat
themselves; ``data`` has what is counted. A checksum of both is among the metadata.
"""

import hashlib
import io
import json
import math
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcnn import modelwise, safetensors
from mcnn.density import coding
from mcnn.errors import McnnError, UsageError, unknown
from mcnn.modelwise import Layer

CODINGS = ("entropy", "packed")
_FORMAT = "2"
_HEAD = ("name", "shape", "rows", "inputs", "low", "high", "stream", "table")
_SMALLEST = 256  # the smallest count of a row is looked for up to here
_ULPS = 4  # how far integers times a scale may be from a weight, in units of precision


class StoredError(McnnError):
    """A file does not hold a quantised network, or not that of the model."""


def save_quantized(model: nn.Module, path: str | Path, coded: str = "entropy") -> int:
    """Write a quantised network to a file.

    Parameters
    ----------
    model
        From :func:`mcnn.density.quantize` or :func:`mcnn.baselines.rounding.quantize`. A layer
        whose rows are no integers times a scale is stored as it is.
    path
        The file; it is replaced in one step.
    coded
        ``"entropy"``: the file has about the bits of the report, ``"packed"``: its packed bytes;
        and in both cases what the report does not count, parameters that were not touched and
        buffers, and a few hundred bytes beside, and some twenty a layer.

    Returns
    -------
    int
        The size of the file in bytes.

    Raises
    ------
    ValueError
        If no layer is quantised, the state of the model holds what is no tensor or one of complex
        numbers, or for an unknown coding.

    Examples
    --------
    >>> from mcnn.density import quantize
    >>> small, report = quantize(nn.Linear(400, 300), samples=400)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = save_quantized(small, f"{folder}/small.safetensors")
    ...     again = load_quantized(f"{folder}/small.safetensors", nn.Linear(400, 300))
    >>> bool(abs(8 * size / report.bits - 1) < 0.1), torch.allclose(again.weight, small.weight)
    (True, True)
    """
    if coded not in CODINGS:
        raise unknown("coding", coded, CODINGS)
    found: list[tuple[Layer, Tensor, Tensor]] = []
    for layer in modelwise.select(model):
        codes = integers(layer.rows)
        if codes is not None:
            found.append((layer, *codes))
    if not found:
        raise ValueError("no layer has rows of integers times a scale: quantize the model first")
    streams = [_stream(codes.cpu().numpy().ravel(), coded) for _, codes, _ in found]
    rest = _rest(model, [layer for layer, *_ in found])
    scales = torch.cat([scale for *_, scale in found])
    head = {
        "coded": coded,
        "scales": safetensors.NAMES[scales.dtype],
        "layers": [
            [*_head(layer, codes), len(stream), len(table)]
            for (layer, codes, _), (stream, table) in zip(found, streams, strict=True)
        ],
        "rest": [[n, safetensors.NAMES[x.dtype], list(x.shape)] for n, x in rest.items()],
    }
    text = json.dumps(head, separators=(",", ":")).encode() + b"\0"
    tables = b"".join(table.tobytes() for _, table in streams)
    parts = [safetensors.to_bytes(scales), *map(safetensors.to_bytes, rest.values())]
    data = b"".join([*parts, *(stream.tobytes() for stream, _ in streams)])
    blobs = {"head": zlib.compress(text + tables, 9), "data": data}
    content = safetensors.pack(
        {
            name: torch.frombuffer(bytearray(blob), dtype=torch.uint8)
            for name, blob in blobs.items()
        },
        {"mcnn": _FORMAT, "sha256": _checksum(blobs["head"], data)},
    )
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
        try:
            unfinished.write(content)
        except BaseException:
            os.unlink(unfinished.name)
            raise
    os.replace(unfinished.name, path)
    return path.stat().st_size


@torch.inference_mode(False)  # else the result could never be trained
def load_quantized(path: str | Path, model: nn.Module) -> nn.Module:
    """Read a file of :func:`save_quantized` into a model of the same make.

    Parameters
    ----------
    path
        The file. Nothing in it is executed.
    model
        Its parameters and buffers get new values, in place.

    Returns
    -------
    nn.Module
        The model.

    Raises
    ------
    StoredError
        If the file is damaged or no such file, or the model is another one; it is then unchanged.
    UsageError
        For a model on no device.
    """
    try:
        heads, codes, scales, rest = _read(Path(path).read_bytes())
    except FileNotFoundError:
        raise
    except Exception as error:  # damage shows in many ways
        raise StoredError(f"{path} does not hold a quantised network: {error}") from error
    nowhere = [name for name, value in model.state_dict().items() if _is_meta(value)]
    if nowhere:
        raise UsageError(
            f"{nowhere[0]} of the model is on no device (meta), where nothing can be loaded: call "
            'model.to_empty(device="cpu") first'
        )
    _check(path, model, heads, rest)
    # First, for a layer of paths takes its paths from it, and a weight of as many edges.
    state = model.state_dict(keep_vars=True)
    weights = _weights(model, [head["name"] for head in heads])
    taken = [n for n, w in state.items() if id(w) in weights and f"{n[:-6]}paths" in rest]
    model.load_state_dict(rest | {n: state[n].detach().clone() for n in taken}, strict=False)
    for head, numbers, scale in zip(heads, codes, scales, strict=True):
        layer = modelwise.select(model, [head["name"]])[0]
        layer.write((numbers.double() * scale[:, None].double()).to(layer.rows))
    return model


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _checksum(head: bytes, data: bytes) -> str:
    """Return 16 digits that tell one flipped bit, which would be another weight."""
    return hashlib.sha256(head + data).hexdigest()[:16]


def _read(content: bytes) -> tuple[list[dict[str, Any]], list[Tensor], list[Tensor], dict]:
    """Return the heads, codes and scales of layers, and what else a file holds."""
    tensors, metadata = safetensors.unpack(content)
    if metadata.get("mcnn") != _FORMAT:
        raise ValueError(f"format {metadata.get('mcnn')}, where {_FORMAT} is known")
    head, data = (tensors[name].numpy().tobytes() for name in ("head", "data"))
    if metadata.get("sha256") != _checksum(head, data):
        raise ValueError("damaged: its checksum is another one than when it was written")
    text, _, tables = zlib.decompress(head).partition(b"\0")
    known = json.loads(text)
    heads = [dict(zip(_HEAD, entry, strict=True)) for entry in known["layers"]]
    numbers, units = io.BytesIO(data), io.BytesIO(tables)
    scales = [_tensor(numbers, known["scales"], [entry["rows"]]) for entry in heads]
    rest = {name: _tensor(numbers, dtype, shape) for name, dtype, shape in known["rest"]}
    codes = []
    for entry in heads:
        parts = (f.read(entry[key]) for f, key in ((numbers, "stream"), (units, "table")))
        codes.append(_unstream(*(np.frombuffer(p, np.uint8) for p in parts), entry, known["coded"]))
    return heads, codes, scales, rest


def _tensor(content: io.BytesIO, dtype: str, shape: list[int]) -> Tensor:
    size = safetensors.size_of(dtype) * math.prod(shape)
    return safetensors.from_bytes(content.read(size), dtype, shape)


def integers(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the smallest integers, and a scale a row, whose products are the weights.

    Parameters
    ----------
    rows
        Weights [rows, n].

    Returns
    -------
    tuple or None
        int32 [rows, n] and [rows], float32 or wider; nothing if some row is no such product within
        four units of precision, its smallest integer being at most 256.

    Examples
    --------
    >>> integers(torch.tensor([[0.3, -0.2, 0.0], [0.0, 0.0, 0.0]]))
    (tensor([[ 3, -2,  0],
            [ 0,  0,  0]], dtype=torch.int32), tensor([0.1000, 0.0000]))
    """
    w = rows.double()
    codes = torch.zeros_like(w)
    scale = torch.zeros(len(w), dtype=torch.float64, device=w.device)
    size = torch.where(w != 0, w.abs(), torch.inf)
    least = size.amin(1)  # [rows]
    open_rows = torch.isfinite(least).nonzero().flatten()
    wide = torch.promote_types(rows.dtype, torch.float32)
    precision = _ULPS * torch.finfo(rows.dtype).eps
    for smallest in range(1, _SMALLEST + 1):
        if not len(open_rows):
            break
        part = w[open_rows]
        step = least[open_rows, None] / smallest
        tried = (part / step).round()
        step = ((part * tried).sum(1) / tried.square().sum(1)).to(wide)  # least squares
        near = (tried * step[:, None].double() - part).abs() <= precision * part.abs()
        good = near.all(1) & (tried.abs().amax(1) < 2**24)
        codes[open_rows[good]] = tried[good]
        scale[open_rows[good]] = step[good].double()
        open_rows = open_rows[~good]
    return (codes.int(), scale.to(wide)) if not len(open_rows) else None


def _head(layer: Layer, codes: Tensor) -> list[Any]:
    """Return what :data:`_HEAD` names, but for the lengths of stream and table."""
    shape = list(layer.weight.shape)
    return [layer.name, shape, *codes.shape, int(codes.min()), int(codes.max())]


def _stream(codes: np.ndarray, coded: str) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes of codes, and of the table that is needed to read them."""
    codes = codes.astype(np.int64) - int(codes.min())
    if coded == "packed":
        return coding.pack(codes, int(codes.max()).bit_length()), np.zeros(0, np.uint8)
    units = coding.frequencies(codes)
    return coding.encode(codes, units).view(np.uint8), units.view(np.uint8)


def _unstream(stream: np.ndarray, table: np.ndarray, head: dict[str, Any], coded: str) -> Tensor:
    number = head["rows"] * head["inputs"]
    if coded == "packed":
        codes = coding.unpack(stream, (head["high"] - head["low"]).bit_length(), number)
    else:
        units = np.frombuffer(table.tobytes(), np.uint16)
        codes = coding.decode(np.frombuffer(stream.tobytes(), np.uint16), units, number)
    return torch.from_numpy(codes + head["low"]).view(head["rows"], head["inputs"])


def _rest(model: nn.Module, layers: list[Layer]) -> dict[str, Tensor]:
    """Return what is not in the codes: parameters, each once, and buffers."""
    names = _weights(model, [layer.name for layer in layers])
    known = set(names)
    rest: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is no tensor, and the file takes tensors only")
        if id(value) not in known:
            known.add(id(value))
            rest[name] = value.detach().cpu().clone()
    return rest


def _layers(model: nn.Module) -> list[Layer]:
    try:
        return modelwise.select(model)
    except ValueError as error:
        raise StoredError(f"the model cannot take what is in the file: {error}") from error


def _weights(model: nn.Module, names: list[str]) -> set[int]:
    return {id(layer.weight) for layer in modelwise.select(model, names)}


def _check(path: str | Path, model: nn.Module, heads: list[dict], rest: dict[str, Tensor]) -> None:
    known, shapes = {}, {}
    for layer in _layers(model):
        known[layer.name] = tuple(layer.rows.shape)
        shapes[layer.name] = tuple(layer.weight.shape)
    stored = {head["name"]: (head["rows"], head["inputs"]) for head in heads}
    for name, shape in stored.items():
        if known.get(name) != shape:
            has = known.get(name, "no such layer")
            raise StoredError(f"{path}: layer {name!r} has rows {shape}, the model has {has}")
    for head in heads:
        shape, has = tuple(head["shape"]), shapes[head["name"]]
        if shape != has:
            raise StoredError(f"{path}: layer {head['name']!r} is {shape}, the model has {has}")
    state = model.state_dict(keep_vars=True)
    for name, value in rest.items():
        if name not in state or state[name].shape != value.shape:
            has = tuple(state[name].shape) if name in state else "nothing of that name"
            raise StoredError(f"{path}: {name} is {tuple(value.shape)}, the model has {has}")
    weights = _weights(model, list(stored))
    given = weights | {id(state[name]) for name in rest}
    if len(given) < len(stored) + len(rest):  # the file has each tensor once
        ids = [id(state[name]) for name in rest]
        both = next(n for n, i in zip(rest, ids, strict=True) if i in weights or ids.count(i) > 1)
        raise StoredError(f"{path}: {both} is tied to another tensor in the model, not in the file")
    lacking = [name for name, value in state.items() if id(value) not in given]
    if lacking:
        raise StoredError(f"{path} has nothing for {lacking[0]} of the model")
