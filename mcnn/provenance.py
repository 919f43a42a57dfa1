"""Where a number comes from: the commit, the code it depends on, the machine that made it.

The hash of the code covers syntax trees, so comments, docstrings and layout do not count.
It follows imports from the experiment's own module through the modules of ``mcnn``.
"""

import ast
import hashlib
import importlib.util
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mcnn import __version__

_PACKAGE = __name__.partition(".")[0]
# These say how trials are described and reported, not what they compute.
_NO_PART = {"errors", "project", "experiments.base", "records", "figures", "report"}


@cache
def code_hash(module: str) -> str:
    """Hash a module and what it imports of the package, as syntax trees.

    Parameters
    ----------
    module
        Full name, such as ``"mcnn.experiments.density"``.

    Returns
    -------
    str
        16 hexadecimal digits, the same under every Python version.
    """
    trees = {name: _tree(name) for name in _closure(module)}
    text = "\n".join(f"{name} {_dump(trees[name])}" for name in sorted(trees))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _closure(module: str) -> tuple[str, ...]:
    """Return a module and all that it imports of the package, however indirectly."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    return tuple(sorted(seen))


def _tree(name: str) -> ast.Module:
    return ast.parse(_source(name).read_text(encoding="utf-8"))


def _source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin)


def _imports(name: str) -> list[str]:
    """Return the package's modules that a module imports, less those that take no part."""
    package = importlib.util.find_spec(name).parent
    found = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))  # ``mcnn.density.counts`` is imported when used
    inside = {n for n in found if n.startswith(_PACKAGE + ".")}
    inside = {n for n in inside if n.removeprefix(_PACKAGE + ".") not in _NO_PART}
    return sorted(n for n in inside if _is_module(n))


def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None


def _dump(node: Any) -> str:
    """Write a syntax tree without docstrings and empty fields.

    ``ast.dump`` would not do: new Python versions add fields, mostly empty ones.
    """
    if isinstance(node, list):
        return "[" + ",".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and _docstring(node) is not None:
        fields["body"] = body[1:]
    parts = [f"{k}={_dump(v)}" for k, v in fields.items() if v not in (None, [])]
    return f"{type(node).__name__}({','.join(parts)})"


def _docstring(node: ast.AST) -> str | None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return ast.get_docstring(node, clean=False) if isinstance(node, kinds) else None


@cache
def code_state(module: str) -> dict[str, Any]:
    """Return the commit, whether the code differs from it, and the hash of the code.

    They are read once: files that are edited later are not those that this process imported.
    """
    files = [str(_source(name)) for name in _closure(module)]
    folder = _source(module).parent
    # A file that git ignores, as in an environment's site-packages, is of no commit either.
    status = _git(folder, "status", "--porcelain", "--ignored", "--", *files)
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "code": code_hash(module),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def describe(module: str, device: torch.device) -> dict[str, Any]:
    """Return what made a number, but for the data, the time and the memory it took."""
    return code_state(module) | {
        "device": device_name(device),
        "mcnn": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
    }


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
