r"""Tensors in one file that executes nothing: the format *safetensors*, read and written.

Eight bytes give the length of a header in JSON, which names each tensor with its type, shape and
place; what follows is their bytes, little endian, without gaps [1]_.
The format is small enough to need no package, and any reader of it can open what is written here.

References
----------
.. [1] Safetensors, the description of the format in its repository, huggingface/safetensors.
"""

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in _TYPES.items()}
_ALIGNED = 8  # the header is filled up with spaces to a multiple of this


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a file.

    Parameters
    ----------
    tensors
        By name, of any shape and place; those of larger types come first, so that all are aligned.
    metadata
        Words about them.

    Raises
    ------
    ValueError
        For a type that the format does not have.

    Examples
    --------
    >>> tensors, metadata = unpack(pack({"a": torch.arange(3)}, {"by": "me"}))
    >>> tensors, metadata
    ({'a': tensor([0, 1, 2])}, {'by': 'me'})
    """
    head: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, start = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda x: -x[1].element_size()):
        content = to_bytes(tensor)
        head[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + len(content)],
        }
        parts.append(content)
        start += len(content)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def to_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, row by row.

    Raises
    ------
    ValueError
        For a type that the format does not have.
    """
    if tensor.dtype not in NAMES:
        raise ValueError(f"safetensors has no {tensor.dtype}: convert the tensor first")
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def from_bytes(content: bytes | memoryview, dtype: str, shape: list[int]) -> Tensor:
    """Return the tensor of bytes, a copy of them.

    Raises
    ------
    ValueError
        For an unknown type, or if the bytes are not as many as the shape says.
    """
    if len(content) != size_of(dtype) * math.prod(shape):
        raise ValueError(f"{len(content)} bytes for the shape {shape} of {dtype}")
    if not len(content):
        return torch.empty(shape, dtype=_TYPES[dtype])
    return torch.frombuffer(bytearray(content), dtype=_TYPES[dtype]).view(shape)


def size_of(dtype: str) -> int:
    """Return the bytes of a number.

    Raises
    ------
    ValueError
        For an unknown type.
    """
    if dtype not in _TYPES:
        raise ValueError(f"no type {dtype!r}")
    return _TYPES[dtype].itemsize


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file's content.

    Raises
    ------
    ValueError
        If it is damaged, or of another format.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it ends before its header does, or is no safetensors file")
    try:
        head = json.loads(content[8 : 8 + length])
        metadata = dict(head.pop("__metadata__", {}))
        entries = [(n, x["dtype"], x["shape"], *x["data_offsets"]) for n, x in head.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its header cannot be read ({error!r})") from error
    data = memoryview(content)[8 + length :]
    tensors, place = {}, 0
    for name, dtype, shape, start, end in sorted(entries, key=lambda x: x[3:]):
        if start != place or end > len(data):
            raise ValueError(f"{name!r} is not where the header says")
        tensors[name] = from_bytes(data[start:end], dtype, shape)
        place = end
    if place != len(data):
        raise ValueError("it goes on after its last tensor")
    return tensors, metadata
