"""Which code makes a number: what the ``run`` of an experiment reaches, and its hash.

The hash covers syntax trees, so comments, docstrings and layout do not count.
How finely it looks depends on what a module is for:

===============================  ==============================================================
modules of experiments           what ``run`` and the trial reach by name: not summaries, lists
                                 of trials or measures, which are applied when records are read
modules of the library           whole: operators registered with PyTorch are invisible to names
an ``__init__`` that only hands  nothing by itself: what is taken from it counts where it is
names on                         defined, and its neighbours do not
any other ``__init__``           whole
modules that are imported on     what they do to others when they are imported, such as
the way, but not used            ``torch.Tensor.sum = ...``
C sources                        those that a module names: its text without comments
the ledger                       what executes a trial, and no more
===============================  ==============================================================

Each file is parsed once, and nothing is imported.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)

# Of the package: folders read by name, what only tells of failures or draws, and what of the
# ledger counts: it describes and executes trials.
BY_NAME = ("experiments", "ledger")
EXCLUDED = ("errors", "figures", "ledger")
COUNTED = ("ledger.experiment",)
_SILENT = {"__all__", "__version__"}


@dataclass(frozen=True, order=True)
class Item:
    """A piece of code that counts.

    ``name`` is a definition of the module, ``""`` what it does besides defining, ``"*"`` all of it,
    or the name of a C source beside it.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class Found(NamedTuple):
    """Where a name is defined; an empty name is the module itself."""

    module: "Module"
    name: str
    rest: tuple[str, ...]


@dataclass
class Module:
    """A parsed file of the package."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def is_package(self) -> bool:
        """Whether it is an ``__init__``."""
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> dict[str, str]:
        """From each name that an import binds, at any depth, to its target."""
        nodes = [node for node in _walk(self.tree) if isinstance(node, _IMPORTS)]
        return dict(pair for node in nodes for pair in self.targets(node))

    @cached_property
    def bindings(self) -> dict[str, str]:
        """The same at the top level alone: what others can take from the module."""
        nodes = [node for node in self.tree.body if isinstance(node, _IMPORTS)]
        return dict(pair for node in nodes for pair in self.targets(node))

    def targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """Yield names that an import binds, and their targets: ``"module:name"`` or a module."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole, first = alias.name, alias.name.partition(".")[0]
                yield (alias.asname, whole) if alias.asname else (first, first)
            return
        base = node.module or ""
        if node.level:
            parts = self.name.split(".")
            keep = len(parts) - node.level + self.is_package
            base = ".".join([*parts[:keep], *([base] if base else [])])
        for alias in node.names:
            yield alias.asname or alias.name, f"{base}:{alias.name}"

    @cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """From each name that the top level defines to the statements that do."""
        found: dict[str, list[ast.stmt]] = {}
        for node in self.tree.body:
            for name in _defined(node):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def effects(self) -> list[ast.stmt]:
        """What the top level does besides importing and defining."""
        docstring = ast.get_docstring(self.tree, clean=False) is not None
        body = self.tree.body[1:] if docstring else self.tree.body
        return [n for n in body if not (isinstance(n, _IMPORTS) or _defined(n) or _typing_only(n))]

    @cached_property
    def hands_on(self) -> bool:
        """Whether it is an ``__init__`` that does nothing but hand names on."""
        return self.is_package and not self.effects and set(self.definitions) <= _SILENT

    @cached_property
    def c_sources(self) -> list[Path]:
        """The C sources beside it that it names."""
        texts = {n.value for n in ast.walk(self.tree) if isinstance(n, ast.Constant)}
        names = sorted(t for t in texts if isinstance(t, str) and re.fullmatch(r"\w+\.c", t))
        return [self.path.with_name(n) for n in names if self.path.with_name(n).is_file()]


def _module(name: str, path: Path) -> Module:
    return Module(name, path, ast.parse(path.read_text(encoding="utf-8")))


class Code:
    """The source of a package as it stands in a folder.

    Parameters
    ----------
    root
        The folder that holds the package.
    package
        Its name.
    moved
        From dotted names of this source to those that it is to be read under, see
        :mod:`mcnn.ledger.moves`.
    """

    def __init__(
        self, root: Path, package: str = "mcnn", moved: Mapping[str, str] | None = None
    ) -> None:
        self.root, self.package = root, package
        self._moved = dict(moved or {})
        self._modules: dict[str, Module | None] = {}
        self._texts: dict[Item, str] = {}

    def canonical(self, dotted: str) -> str:
        """Return the name under which a dotted name is read: its own, unless it has moved."""
        whole, rest = dotted, ""
        while whole:
            if whole in self._moved:
                return self._moved[whole] + rest
            whole, _, last = whole.rpartition(".")
            rest = f".{last}{rest}"
        return dotted

    def module(self, name: str) -> Module | None:
        """Return a module of the package, parsed, or None if there is no such file."""
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def include(self, name: str, path: Path) -> None:
        """Add a module from outside the package, such as a test's, to start from."""
        self._modules[name] = _module(name, path)

    def _parse(self, name: str) -> Module | None:
        if name.partition(".")[0] != self.package:
            return None
        place = self.root.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return _module(name, path)
        return None

    def resolve(self, target: str, attributes: Iterable[str] = (), depth: int = 0) -> Found | None:
        """Find where a name is defined, through the packages that hand it on.

        Parameters
        ----------
        target
            ``"module:name"`` or a module.
        attributes
            Names of attributes that follow.

        Returns
        -------
        Found or None
            None outside the package.
        """
        base, _, name = target.partition(":")
        module = self.module(base)
        waiting = [*([name] if name else []), *attributes]
        while module is not None and waiting:
            first, *rest = waiting
            if first in module.definitions:
                return Found(module, first, tuple(rest))
            if first in module.bindings and depth < 20:  # imports may lead round in a circle
                return self.resolve(module.bindings[first], rest, depth + 1)
            below = self.module(f"{module.name}.{first}")
            if below is None:
                return Found(module, first, tuple(rest))
            module, waiting = below, rest
        return None if module is None else Found(module, "", ())

    def _place(self, module: Module) -> tuple[str, str]:
        """Return the folder (or module) of the package that a module is in, and its name there."""
        inside = self.canonical(module.name).removeprefix(f"{self.package}.")
        return inside.partition(".")[0], inside

    def _by_name(self, module: Module) -> bool:
        outside = module.name.partition(".")[0] != self.package
        return outside or self._place(module)[0] in BY_NAME

    def _counts(self, module: Module) -> bool:
        folder, inside = self._place(module)
        return folder not in EXCLUDED or inside in COUNTED

    def closure(self, roots: Iterable[str]) -> list[Item]:
        """Return all the code that definitions reach, sorted.

        Parameters
        ----------
        roots
            Targets such as ``"mcnn.experiments.nutshell:_run"``, or modules.

        Raises
        ------
        KeyError
            If there is no such definition.
        """
        reached: set[Item] = set()
        imported: dict[str, Module] = {}
        waiting: list[tuple[Module, str]] = []
        for root in roots:
            found = self.resolve(root)
            if found is None or (found.name and found.name not in found.module.definitions):
                raise KeyError(root)
            waiting.append((found.module, found.name))
        while waiting:
            module, name = waiting.pop()
            self._note_imports(module, imported)
            if not self._counts(module) or (module.hands_on and not name):
                continue
            own = self._by_name(module) and bool(name)
            item = Item(module.name, name if own else "*")
            if item in reached:
                continue
            reached.add(item)
            nodes = module.definitions.get(name, []) if own else module.tree.body
            waiting += self._reached_from(module, nodes, own=own)
            if not own:
                reached |= {Item(module.name, source.name) for source in module.c_sources}
        whole = {item.module for item in reached if item.name == "*"}
        effects = [m for m in imported.values() if m.effects and m.name not in whole]
        return sorted(reached | {Item(module.name, "") for module in effects})

    def _note_imports(self, module: Module, imported: dict[str, Module]) -> None:
        """Note what importing a module executes: its parents, and what those import.

        Of modules that are read by name the imports are not followed: an experiment that is added
        to a chapter is imported with its neighbours, and must not touch them.
        """
        waiting = [module]
        while waiting:
            now = waiting.pop()
            if now.name in imported or not self._counts(now):
                continue
            imported[now.name] = now
            waiting += filter(None, map(self.module, _parents(now.name)))
            for target in [] if self._by_name(now) else now.bindings.values():
                base, _, name = target.partition(":")
                names = [*_parents(base), base, f"{base}.{name}"]
                waiting += filter(None, map(self.module, names))

    def _reached_from(
        self, module: Module, nodes: Iterable[ast.AST], *, own: bool
    ) -> list[tuple[Module, str]]:
        """Return the definitions of the package that statements name, and the packages above."""
        above = [m for m in map(self.module, _parents(module.name)) if m is not None]
        found = [(m, "") for m in above if not m.hands_on and not self._by_name(m)]
        for node in nodes:
            for part in _walk(node):
                if isinstance(part, _IMPORTS):
                    targets = [target for _, target in module.targets(part)]
                    found += self._taken(filter(None, map(self.resolve, targets)), whole=False)
                elif chain := _chain(part):
                    first, *rest = chain
                    if first in module.imports:
                        resolved = self.resolve(module.imports[first], rest)
                        found += self._taken(filter(None, [resolved]), whole=True)
                    elif own and first in module.definitions:
                        found.append((module, first))
        return found

    def _taken(self, names: Iterable[Found], *, whole: bool) -> list[tuple[Module, str]]:
        """Return what counts of names; a package that is passed on as a value may be used whole."""
        taken: list[tuple[Module, str]] = []
        for found in names:
            taken.append((found.module, found.name))
            if whole and not found.name and found.module.hands_on:
                targets = found.module.bindings.values()
                taken += [(f.module, f.name) for t in targets if (f := self.resolve(t))]
        return taken

    def files(self, items: Iterable[Item]) -> list[Path]:
        """Return the files behind pieces of code, and those of the packages above them."""
        found: set[Path] = set()
        for item in items:
            module = self.module(item.module)
            above = map(self.module, _parents(item.module))
            found |= {m.path for m in (module, *above) if m is not None}
            if item.name.endswith(".c"):
                found.add(module.path.with_name(item.name))
        return sorted(found)

    def text(self, item: Item) -> str:
        """Return a piece of code as the text that is hashed."""
        if item not in self._texts:
            self._texts[item] = self._text(item)
        return self._texts[item]

    def _text(self, item: Item) -> str:
        module = self.module(item.module)
        if item.name.endswith(".c"):
            return c_text(module.path.with_name(item.name))
        if item.name == "*":
            return dump(module.tree)
        nodes = module.definitions[item.name] if item.name else module.effects
        return "\n".join(map(dump, nodes))

    def hash(self, roots: Iterable[str]) -> str:
        """Return the hash of all the code that definitions reach: 16 hexadecimal digits."""
        text = "\n".join(f"{item} {self.text(item)}" for item in self.closure(roots))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def here() -> Code:
    """Return the source of this package: read once, as it is what the process imported."""
    return Code(Path(__file__).resolve().parents[2])


def c_text(path: Path) -> str:
    """Return a C source without comments, its white space made even, and what it includes."""
    text = _COMMENTS.sub(" ", path.read_text(encoding="utf-8"))
    names = re.findall(r'#include "([^"]+)"', text)
    places = [folder / name for name in names for folder in (path.parent, *path.parents)]
    included = [c_text(place) for place in places if place.is_file()]
    return " ".join([*included, *text.split()])


def dump(node: Any) -> str:
    """Write a syntax tree without docstrings, type-checking imports and empty fields.

    ``ast.dump`` would not do: new Python versions add fields, mostly empty ones.
    """
    if isinstance(node, list):
        return "[" + ",".join(dump(x) for x in node if not _silent(x)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and _docstring(node) is not None:
        fields["body"] = body[1:]
    parts = [f"{k}={dump(v)}" for k, v in fields.items() if v not in (None, [])]
    return f"{type(node).__name__}({','.join(parts)})"


def _docstring(node: ast.AST) -> str | None:
    kinds = (ast.Module, *_DEFINITIONS)
    return ast.get_docstring(node, clean=False) if isinstance(node, kinds) else None


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, but not into what only type checkers read."""
    waiting = [node]
    while waiting:
        now = waiting.pop()
        if _typing_only(now):
            continue
        yield now
        if not isinstance(now, ast.Attribute) or _chain(now) is None:
            waiting += ast.iter_child_nodes(now)


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _silent(node: ast.AST) -> bool:
    """Whether a statement computes nothing: what type checkers read, lists of names, versions."""
    names = _defined(node) if isinstance(node, ast.stmt) else []
    return _typing_only(node) or (bool(names) and set(names) <= _SILENT)


def _chain(node: ast.AST) -> list[str] | None:
    """Return ``["a", "b"]`` for the name ``a`` or the attribute ``a.b``, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else None


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a plain definition or assignment binds."""
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    names: list[str] = []
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        if not all(isinstance(part, ast.Name) for part in parts):
            return []  # an attribute or an item of something else: an effect
        names += [part.id for part in parts]
    return names


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]
