"""Proofs that a change of the code only moves and renames: the records then hold as they are.

Both versions are read as syntax trees.
Every name is replaced by the dotted name of what it stands for, in the old version under its new
name, so that it does not matter where a definition stands, from where it is imported, or what the
importing module calls it.
If then every definition that an experiment reaches equals an old one, and importing does to others
what it did, the experiment computes what it computed.

A map of moves is a text with a line for each, the longest that fits a name counts::

    mcnn.train = mcnn.training.fit            # a module
    mcnn.experiments.get = mcnn.ledger.registry.get   # a definition
"""

import ast
import copy
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from mcnn.errors import UsageError
from mcnn.ledger.code import Code, Found, Item, Module, dump

# What an old version says itself: the hashes whose records it counts, under its own rules.
_FRESH = """
import json, sys
from pathlib import Path
# An editable install would find here what the old version does not have.
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
try:
    from mcnn.ledger import records, registry
except ImportError:
    from mcnn import records, experiments as registry
assert Path(records.__file__).is_relative_to(Path.cwd()), records.__file__
known = registry.all_experiments()
results = Path(sys.argv[1])
print(json.dumps({n: sorted(records.fresh_codes(e, results)) for n, e in known.items()}))
"""


def read_map(file: Path) -> dict[str, str]:
    """Read a map of moves.

    Raises
    ------
    UsageError
        If the file cannot be read, or a line is not ``old = new``, or moves a name twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the map of moves {file}: {error}") from None
    moved: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        old, sign, new = (part.strip() for part in text.partition("="))
        dotted = all(part.isidentifier() for name in (old, new) for part in name.split("."))
        if not sign or not dotted:
            raise UsageError(f"{file}:{number}: write old.name = new.name, got {text!r}")
        if old in moved:
            raise UsageError(f"{file}:{number}: {old} is moved twice")
        moved[old] = new
    return moved


@contextmanager
def checkout(commit: str, root: Path) -> Iterator[Path]:
    """Unpack a commit into a folder that is removed afterwards.

    Raises
    ------
    UsageError
        If git does not know the commit.
    """
    command = ["git", "archive", "--format=tar", commit]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or "git failed"
        raise UsageError(f"cannot read commit {commit!r}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def full_commit(commit: str, root: Path) -> str:
    """Return the whole hash of a commit that git knows."""
    command = ["git", "rev-parse", f"{commit}^{{commit}}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def fresh_codes(tree: Path) -> dict[str, list[str]]:
    """Ask an unpacked version which hashes it counts as fresh, by experiment.

    Raises
    ------
    UsageError
        If it cannot say.
    """
    command = [sys.executable, "-c", _FRESH, str(tree / "results")]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise UsageError(f"the old version does not say which records it counts: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


class Names(ast.NodeTransformer):
    """Replace every name by what it stands for."""

    def __init__(self, code: Code, module: Module) -> None:
        self._code, self._module = code, module
        self._in_text = re.compile(rf"\b{code.package}(\.\w+)+")
        self._local = frozenset(_bound_locally(module.tree))

    def text(self, node: ast.stmt) -> str:
        """Return a statement with all names replaced, as text."""
        node = copy.deepcopy(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.name = ""  # the canonical name, by which it is found, has it
        return dump(self.visit(node))

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: D102
        return self._replaced(node, node.id, ())

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: D102
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            return self._replaced(node, inner.id, tuple(parts))
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:  # noqa: D102
        if isinstance(node.value, str):  # a message may name a module
            value = self._in_text.sub(lambda m: self._code.canonical(m[0]), node.value)
            return ast.Constant(value)
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:  # noqa: D102
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:  # noqa: D102
        return self._import(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        targets = sorted(self._dotted(target) for _, target in self._module.targets(node))
        return ast.Expr(ast.Constant(f"import {', '.join(targets)}"))

    def _dotted(self, target: str, rest: Iterable[str] = ()) -> str:
        found = self._code.resolve(target, rest)
        if found is None:
            return ".".join([*target.split(":"), *rest])
        return ".".join([canonical_name(self._code, found), *found.rest])

    def _replaced(self, node: ast.expr, first: str, rest: tuple[str, ...]) -> ast.AST:
        if first in self._module.imports:
            dotted = self._dotted(self._module.imports[first], rest)
        elif first in self._module.definitions:
            dotted = self._dotted(f"{self._module.name}:{first}", rest)
        else:
            return node
        if first in self._local:  # which one it is depends on the place: both count
            dotted = ".".join([f"{first} or {dotted}", *rest])
        context = node.ctx if isinstance(node, ast.Name | ast.Attribute) else ast.Load()
        return ast.Name(dotted, context)


def _bound_locally(tree: ast.Module) -> Iterator[str]:
    """Yield the names that are bound anywhere but by definitions of the top level."""
    for top in tree.body:
        names = set(map(id, [top, *_targets(top)]))
        for node in ast.walk(top):
            if id(node) in names:
                continue
            if isinstance(node, ast.arg):
                yield node.arg
            elif isinstance(node, ast.Name):
                if not isinstance(node.ctx, ast.Load):
                    yield node.id
            elif not isinstance(node, ast.alias):
                yield from filter(None, [getattr(node, "name", None)])  # def, class, except, match


def _targets(node: ast.stmt) -> Iterator[ast.AST]:
    """Yield the names that an assignment binds."""
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    for target in filter(None, targets):
        yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


def canonical_name(code: Code, found: Found) -> str:
    """Return the dotted name under which a definition or a module is read."""
    name = found.module.name
    return code.canonical(f"{name}.{found.name}" if found.name else name)


class Version:
    """A version of the package, every definition under the name it is to be read under."""

    def __init__(self, root: Path, moved: Mapping[str, str] | None = None) -> None:
        self.code = Code(root, moved=moved)
        self._names: dict[str, Names] = {}
        self._texts: dict[tuple[str, str], str] = {}

    def definitions(self, items: Iterable[Item]) -> dict[str, str]:
        """Return the definitions behind pieces of code: canonical name to text."""
        found: dict[str, str] = {}
        for item in items:
            module = self.code.module(item.module)
            if item.name.endswith(".c"):
                found[f"{self.code.canonical(item.module)}/{item.name}"] = self.code.text(item)
                continue
            for name in module.definitions if item.name == "*" else filter(None, [item.name]):
                if name not in ("__all__", "__version__"):
                    key = self.code.canonical(f"{item.module}.{name}")
                    found[key] = self._definition(module, name)
        return found

    def effects(self, items: Iterable[Item]) -> Counter[str]:
        """Return what pieces of code do besides defining."""
        modules = [self.code.module(i.module) for i in items if i.name in ("*", "")]
        return Counter(self._text(m, [node]) for m in modules for node in m.effects)

    @cached_property
    def everything(self) -> dict[str, list[str]]:
        """Return all definitions of the package, by canonical name."""
        found: dict[str, list[str]] = {}
        for module in self._modules():
            if not module.hands_on:
                sources = [Item(module.name, source.name) for source in module.c_sources]
                for key, text in self.definitions([Item(module.name, "*"), *sources]).items():
                    found.setdefault(key, []).append(text)
        return found

    @cached_property
    def targets(self) -> dict[str, str]:
        """Return from canonical names to where this version has the definitions."""
        found: dict[str, str] = {}
        for module in self._modules():
            for name in module.definitions:
                key = self.code.canonical(f"{module.name}.{name}")
                found[key] = f"{module.name}:{name}"
        return found

    def _modules(self) -> Iterator[Module]:
        for path in sorted((self.code.root / self.code.package).rglob("*.py")):
            parts = path.relative_to(self.code.root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield self.code.module(name)

    def _definition(self, module: Module, name: str) -> str:
        key = (module.name, name)
        if key not in self._texts:
            self._texts[key] = self._text(module, module.definitions[name])
        return self._texts[key]

    def _text(self, module: Module, nodes: Iterable[ast.stmt]) -> str:
        names = self._names.setdefault(module.name, Names(self.code, module))
        return "\n".join(map(names.text, nodes))


def unproved(old: Version, new: Version, roots: Iterable[str]) -> list[str]:
    """Return why an experiment is not proved to be the same in both versions; nothing if it is.

    Parameters
    ----------
    old, new
        The old one knows the moves.
    roots
        What the experiment starts from in the new version, such as
        ``"mcnn.experiments.nutshell:_run"``.
    """
    roots = list(roots)
    items = new.code.closure(roots)
    known = old.everything
    reasons = []
    for name, text in new.definitions(items).items():
        before = known.get(name, [])
        if not before:
            reasons.append(f"{name} is new")
        elif before != [text]:
            reasons.append(f"{name} differs")
    places = old.targets
    try:
        before = old.code.closure([places[root.replace(":", ".")] for root in roots])
    except KeyError as error:
        return [f"no {error} in the old version"]
    if old.effects(before) != new.effects(items):
        reasons.append("what modules do on import differs")
    return reasons
