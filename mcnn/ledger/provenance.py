"""Where a number comes from: the commit, the code it depends on, the machine that made it."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mcnn import __version__, native
from mcnn.ledger import project
from mcnn.ledger.code import Code, here
from mcnn.ledger.hashes import Kept

# What computes beside PyTorch; records of before these were kept say nothing of them.
LIBRARIES = ("numpy", "scipy", "torchdiffeq")
# Of the environment, what chooses other loops, precisions or libraries; the number of threads does
# not, for a trial runs on one.
VARIABLES = frozenset(
    """
    ATEN_CPU_CAPABILITY CUBLAS_WORKSPACE_CONFIG GLIBC_TUNABLES LD_LIBRARY_PATH LD_PRELOAD
    DNNL_DEFAULT_FPMATH_MODE DNNL_MAX_CPU_ISA ONEDNN_DEFAULT_FPMATH_MODE ONEDNN_MAX_CPU_ISA
    MKL_CBWR MKL_DEBUG_CPU_TYPE MKL_ENABLE_INSTRUCTIONS NPY_DISABLE_CPU_FEATURES
    NPY_ENABLE_CPU_FEATURES NVIDIA_TF32_OVERRIDE OPENBLAS_CORETYPE PYTHONHASHSEED
    PYTORCH_TUNABLEOP_ENABLED TORCHDYNAMO_DISABLE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
    COMPILER_PATH CPATH C_INCLUDE_PATH GCC_EXEC_PREFIX
    """.split()  # noqa: SIM905
)


@cache
def code_hash(roots: tuple[str, ...]) -> str:
    """Hash all the code that an experiment reaches, see :mod:`mcnn.ledger.code`.

    Parameters
    ----------
    roots
        What it starts from: :attr:`mcnn.ledger.experiment.Experiment.roots`, or modules.

    Returns
    -------
    str
        16 hexadecimal digits, the same under every Python version.
    """
    return _kept(_code(roots)).hash(roots, _outside(roots))


@cache
def _files(roots: tuple[str, ...]) -> list[Path]:
    """Return the files behind all the code that an experiment reaches."""
    return _kept(_code(roots)).files(roots, _outside(roots))


def _outside(roots: Sequence[str]) -> str:
    """Return the hashes of the files of modules that are no part of the package."""
    code = _code(roots)
    names = sorted({root.partition(":")[0] for root in roots})
    files = [code.module(n).path for n in names if n.partition(".")[0] != code.package]
    return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


@cache
def _kept(code: Code) -> Kept:
    return Kept(code, code.root / code.package / "ledger" / "__pycache__" / "hashes.json")


def _code(roots: Sequence[str]) -> Code:
    """Return the source of the package, and of modules outside of it that are started from."""
    code = here()
    for root in roots:
        name = root.partition(":")[0]
        if name.partition(".")[0] != code.package and code.module(name) is None:
            code.include(name, Path(sys.modules[name].__file__))
    return code


@cache
def code_state(roots: tuple[str, ...]) -> dict[str, Any]:
    """Return the commit, whether the code differs from it, and the hash of the code.

    They are read once: files that are edited later are not those that this process imported.
    """
    folder = here().root
    commit = _git(folder, "rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": None if commit is None else _dirty(_files(roots), commit, folder),
        "code": code_hash(roots),
    }


def _dirty(files: Sequence[Path], commit: str, folder: Path) -> bool | None:
    """Return whether a file is not what a commit has; None if git cannot say.

    The files themselves are compared: what ``git status`` passes over, because it is told to or
    ignores it, as in an environment's site-packages, is of no commit either.
    """
    names = {os.path.relpath(file, folder).replace(os.sep, "/"): file for file in files}
    listed = _git(folder, "ls-tree", "-r", "-z", commit, "--", *names)
    if listed is None:
        return None
    entries = [entry.partition("\t") for entry in listed.split("\0") if entry]
    blobs = {name: about.split()[2] for about, _, name in entries}
    return any(not _is_blob(file.read_bytes(), blobs.get(name)) for name, file in names.items())


def _is_blob(content: bytes, blob: str | None) -> bool:
    """Whether git names a content, or the one with its ends of lines, so."""
    if blob is None:
        return False
    make = hashlib.sha1 if len(blob) == 40 else hashlib.sha256
    texts = (content, content.replace(b"\r\n", b"\n"))
    return any(make(b"blob %d\0" % len(text) + text).hexdigest() == blob for text in texts)


def _git(folder: Path, *arguments: str) -> str | None:
    said = _said(["git", "-C", str(folder), *arguments], project.git_environment())
    return None if said is None else said.strip()


def describe(roots: tuple[str, ...], device: torch.device) -> dict[str, Any]:
    """Return what made a number, but for the data, the time and the memory it took.

    Where the code reaches no C, or nothing compiles it, ``compiler`` is None.
    """
    return code_state(roots) | {
        "device": device_name(device),
        "mcnn": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "compiler": compiler() if _reaches_c(roots) else None,
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """Return the variables of the environment that are set and can change a number, by name.

    Of a value that names a folder, a digest: whose folder it is, is nobody's business.
    """
    held = {name: os.environ[name] for name in sorted(VARIABLES & os.environ.keys())}
    return {
        name: hashlib.sha256(value.encode()).hexdigest()[:16] if "/" in value else value
        for name, value in held.items()
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _reaches_c(roots: tuple[str, ...]) -> bool:
    return any(file.suffix == ".c" for file in _files(roots))


def compiler() -> str | None:
    """Return the compiler of :mod:`mcnn.native` with its flags, or None if there is none.

    What a C program asks for beside them, such as whether to contract, is in its code.
    """
    return _compiler(os.environ.get("CC") or "cc")


@cache
def _compiler(command: str) -> str | None:
    words = shlex.split(command)
    path = shutil.which(words[0]) if words else None
    if path is None:
        return None
    words = [path, *words[1:]]
    about = _said([*words, "--version"])
    if about is None:
        return None
    check = ("-E", "-x", "c", os.devnull, "-o", os.devnull)
    machine = () if _said([*words, "-march=native", *check]) is None else ("-march=native",)
    return " ".join([about.partition("\n")[0].strip(), *words[1:], *native._FLAGS, *machine])


def _said(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=environment
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return run.stdout


def device_name(device: torch.device) -> str:
    """Return the name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(x.partition(":")[2].strip() for x in text.splitlines() if "model name" in x)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure peak memory anew; of the process, only Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held since the last reset: of the GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
