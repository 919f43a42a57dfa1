"""Proofs that a change of the code only moves and renames: the records then hold as they are.

Both versions are read as syntax trees.
Every name is replaced by the dotted name of what it stands for, in the old version under its new
name, so that it does not matter where a definition stands, from where it is imported, or what the
importing module calls it; nor does it matter what a function calls its own variables, see
:mod:`mcnn.ledger.renames`.
If then every definition that an experiment reaches equals an old one, and importing does to others
what it did, the experiment computes what it computed.
It is taken for granted that it does not matter in which order modules are imported.

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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mcnn.errors import UsageError
from mcnn.ledger import project, source
from mcnn.ledger.code import Code, Found, Item
from mcnn.ledger.renames import Numbered, words
from mcnn.ledger.source import Module

# What a version says itself: of each experiment what it starts from, its hash, and the hashes whose
# records it counts, under its own rules.
_DESCRIBE = """
import json, sys
from pathlib import Path
# An editable install would find here what the old version does not have.
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
try:
    from mcnn.ledger import provenance, records, registry
except ImportError:
    from mcnn import provenance, records, experiments as registry
assert Path(records.__file__).is_relative_to(Path.cwd()), records.__file__
results = Path(sys.argv[1])
told = {}
for name, e in registry.all_experiments().items():
    told[name] = {"fresh": sorted(records.fresh_codes(e, results))}
    if roots := getattr(e, "roots", None):
        told[name] |= {"roots": list(roots), "code": provenance.code_hash(roots)}
print(json.dumps(told))
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
    done = subprocess.run(
        command, cwd=root, capture_output=True, check=False, env=project.git_environment()
    )
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
    environment = project.git_environment()
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


def described(tree: Path) -> dict[str, dict[str, Any]]:
    """Ask an unpacked version what it says of its experiments, by name.

    ``fresh`` has the hashes whose records it counts; ``roots`` and ``code``, which the first
    versions do not tell, what a trial starts from and the hash of that.

    Raises
    ------
    UsageError
        If it cannot say.
    """
    command = [sys.executable, "-c", _DESCRIBE, str(tree / "results")]
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
        self._local = frozenset(_bound_in_functions(module))
        self._own_files = False
        self.kept: frozenset[str] = frozenset()

    def text(self, node: ast.stmt) -> str:
        """Return a statement with all names replaced, as text."""
        mentioned = source.uses([node])
        self._own_files = any(self._code.data(text) for text in mentioned.texts)
        node = copy.deepcopy(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.name = ""  # the canonical name, by which it is found, has it
        return source.dump(Numbered(self.kept).visit(self.visit(node)))

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: D102
        return self._replaced(node, node.id, ())

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: D102
        parts = source.chain(node)
        if parts is None:
            return self.generic_visit(node)
        return self._replaced(node, parts[0], tuple(parts[1:]))

    def visit_Raise(self, node: ast.Raise) -> ast.AST:  # noqa: D102
        for part in ast.walk(node):  # a message may name a module
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = self._in_text.sub(lambda m: self._code.canonical(m[0]), part.value)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:  # noqa: D102
        if source.typing_only(node):
            node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:  # noqa: D102
        return self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:  # noqa: D102
        return self._import(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        dotted = sorted({self._dotted(target) for target in self._module.mentioned(node)})
        return ast.Expr(ast.Constant(f"import {', '.join(dotted)}"))

    def _dotted(self, target: str, rest: Iterable[str] = ()) -> str:
        places = self._code.resolve(target, rest)
        if not places:
            return ".".join([*target.split(":"), *rest])
        return " or ".join(dict.fromkeys(self._place(place) for place in places))

    def _place(self, found: Found) -> str:
        dotted = ".".join([canonical_name(self._code, found), *found.rest])
        handed = {canonical_name(self._code, f) for f in self._code.handed_on(found)}
        return f"{dotted} of {', '.join(sorted(handed))}" if handed else dotted

    def _replaced(self, node: ast.expr, first: str, rest: tuple[str, ...]) -> ast.AST:
        module = self._module
        meanings = [self._dotted(target, rest) for target in module.meanings.get(first, ())]
        if first in module.loose or (first in _OF_THE_FILE and not self._own_files):
            name = f"{module.name}.{first}"
            if first in module.loose:
                name = self._code.canonical(name)
            meanings.append(".".join([name, *rest]))
        if not meanings:
            return node
        if first in self._local:  # which one it is depends on the place: both count
            meanings.insert(0, first)
        dotted = " or ".join(dict.fromkeys(meanings))
        if len(meanings) > 1:
            dotted = ".".join([f"({dotted})", *rest])
        context = node.ctx if isinstance(node, ast.Name | ast.Attribute) else ast.Load()
        return ast.Name(dotted, context)


# Names that every module has, each its own; where a statement names a file of the package, it is
# that file which counts.
_OF_THE_FILE = {"__file__", "__name__", "__doc__", "__package__", "__path__", "__spec__"}


def _bound_in_functions(module: Module) -> Iterator[str]:
    """Yield the names that are bound anywhere but by definitions of the top level."""
    for top in module.body:
        known = set(map(id, [top, *source.targets(top)]))
        yield from source.bound(node for node in ast.walk(top) if id(node) not in known)


def canonical_name(code: Code, found: Found) -> str:
    """Return the dotted name under which a definition or a module is read."""
    name = found.module.name
    return code.canonical(f"{name}.{found.name}" if found.name else name)


class Version:
    """A version of the package, every definition under the name it is to be read under."""

    def __init__(
        self, root: Path, moved: Mapping[str, str] | None = None, package: str = "mcnn"
    ) -> None:
        self.code = Code(root, package, moved)
        self._names: dict[str, Names] = {}
        self._texts: dict[int, str] = {}
        self.kept: frozenset[str] = frozenset()  # names that parameters keep

    def definitions(self, items: Iterable[Item]) -> Iterator[tuple[str, str]]:
        """Yield the definitions behind pieces of code: canonical name and text."""
        for item in items:
            module = self.code.module(item.module)
            if "." in item.name:  # a C source, which lies elsewhere if its module does
                file = item.name.rpartition("/")[2]
                yield f"{self.code.canonical(item.module)}/{file}", self.code.text(item)
                continue
            for name in module.definitions if item.name == "*" else filter(None, [item.name]):
                if name not in ("__all__", "__version__"):
                    key = self.code.canonical(f"{item.module}.{name}")
                    yield key, "\n".join(self._lines(module, module.definitions[name]))

    def effects(self, items: Iterable[Item]) -> dict[str, list[ast.stmt]]:
        """Return what pieces of code do to others on import: text to the statements."""
        texts: dict[str, list[ast.stmt]] = {}
        for item in items:
            if item.name in ("*", ""):
                nodes = self.code.effects(item)
                for text, node in zip(
                    self._lines(self.code.module(item.module), nodes), nodes, strict=True
                ):
                    texts.setdefault(text, []).append(node)
        return texts

    def executed(self, module: Module) -> list[str]:
        """Return what a module computes and does when it is imported, in its order."""
        parts: list[str] = []
        for node in module.body:
            calls = any(isinstance(part, ast.Call) for part in source.on_import([node]))
            if node in module.effects:
                parts += self._lines(module, [node])
            elif calls or getattr(node, "decorator_list", []):
                names = source.defined(node)
                parts += [self.code.canonical(f"{module.name}.{name}") for name in names]
        return parts

    @cached_property
    def order(self) -> dict[str, tuple[str, int]]:
        """Return from what modules execute, as :meth:`executed` tells it, to module and place."""
        places = {}
        for module in self.code.modules:
            for number, part in enumerate(self.executed(module)):
                places[part] = (module.name, number)
        return places

    @cached_property
    def everything(self) -> dict[str, list[str]]:
        """Return all definitions of the package, by canonical name."""
        texts: dict[str, list[str]] = {}
        for module in self.code.modules:
            if not module.hands_on:
                whole = Item(module.name, "*")
                files = [item for item in self.code.after(whole) if "." in item.name]
                for key, text in self.definitions([whole, *files]):
                    texts.setdefault(key, []).append(text)
        return texts

    @cached_property
    def words(self) -> frozenset[str]:
        """Return all names by which an argument may be passed."""
        return words(node for module in self.code.modules for node in module.body)

    @cached_property
    def all_effects(self) -> dict[str, list[ast.stmt]]:
        """Return all that modules of the package do on import."""
        return self.effects(Item(module.name, "*") for module in self.code.modules)

    @cached_property
    def targets(self) -> dict[str, str]:
        """Return from canonical names to where this version has the definitions."""
        places: dict[str, str] = {}
        for module in self.code.modules:
            for name in module.definitions:
                key = self.code.canonical(f"{module.name}.{name}")
                places[key] = f"{module.name}:{name}"
        return places

    def _lines(self, module: Module, nodes: Iterable[ast.stmt]) -> list[str]:
        names = self._names.setdefault(module.name, Names(self.code, module))
        names.kept = self.kept
        for node in nodes:
            if id(node) not in self._texts:  # the modules are kept, and with them the nodes
                self._texts[id(node)] = names.text(node)
        return [self._texts[id(node)] for node in nodes]


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
    if not old.kept:
        old.kept = new.kept = old.words | new.words
    items = new.code.closure(roots)
    reasons = []
    for name, text in new.definitions(items):
        before = old.everything.get(name, [])
        if not before:
            reasons.append(f"{name} is new")
        elif len(before) > 1:
            reasons.append(f"{name} is what several old definitions became")
        elif before != [text]:
            reasons.append(f"{name} differs")
    try:
        old_items = old.code.closure([old.targets[root.replace(":", ".")] for root in roots])
    except KeyError as error:
        return [f"no {error} in the old version"]
    now, before = new.effects(items), old.effects(old_items)
    # A module that two were merged into may do what a neighbour did, too.
    for text, nodes in now.items():
        if len(nodes) > len(old.all_effects.get(text, [])):
            reasons.append(f"importing does something new: {_short(nodes[0])}")
    for text, nodes in before.items():
        if len(nodes) > len(now.get(text, [])):
            reasons.append(f"importing no longer does: {_short(nodes[0])}")
    return reasons + _reordered(old, new, items)


def _short(node: ast.stmt) -> str:
    lines = ast.unparse(node).splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} ..."


def _reordered(old: Version, new: Version, items: Iterable[Item]) -> list[str]:
    """Return the modules that do things to others on import, and in another order."""
    reasons = []
    for name in sorted({item.module for item in items if item.name in ("*", "")}):
        module = new.code.module(name)
        if not module.effects:
            continue
        reached: dict[str, int] = {}
        for part in new.executed(module):
            was, number = old.order.get(part, ("", 0))
            if was and number < reached.get(was, 0):
                reasons.append(f"{name} does on import what it did, but in another order")
                break
            reached[was] = number
    return reasons
