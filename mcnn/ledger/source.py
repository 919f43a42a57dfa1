"""Parsed source files: what they import, define and do, and their syntax trees as text."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
_SILENT = {"__all__", "__version__"}

# What may be called while a module is imported without doing anything to other modules.
_HARMLESS = (
    *("abc", "collections", "contextlib", "ctypes", "dataclasses", "enum", "fractions"),
    *("functools", "itertools", "math", "operator", "pathlib", "pkgutil", "re", "string"),
    *(
        "threading.Lock",
        "threading.RLock",
        "typing",
        "torch.finfo",
        "torch.iinfo",
        "torch.tensor",
        "torch.no_grad",
    ),
    *("torch.inference_mode", "triton.jit"),
)
_HARMFUL = {"__import__", "delattr", "eval", "exec", "setattr"}  # of what is built in

_C = {".c", ".h", ".cpp", ".cu", ".cuh"}
_C_TOKENS = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.DOTALL)


@dataclass(frozen=True)
class Uses:
    """What statements mention, without what only type checkers read.

    Attributes
    ----------
    chains
        Names and attributes of names, such as ``("torch", "ops", "mcnn")``.
    imports
        Import statements among them.
    texts
        Strings.
    """

    chains: frozenset[tuple[str, ...]]
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    texts: frozenset[str]


@dataclass
class Module:
    """A parsed file."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @classmethod
    def parse(cls, name: str, path: Path) -> "Module":
        """Read a file."""
        return cls(name, path, ast.parse(path.read_text(encoding="utf-8")))

    @property
    def is_package(self) -> bool:
        """Whether it is an ``__init__``."""
        return self.path.name == "__init__.py"

    @cached_property
    def body(self) -> list[ast.stmt]:
        """The statements of the top level, without the docstring."""
        return self.tree.body[1:] if docstring(self.tree) is not None else self.tree.body

    @cached_property
    def imports(self) -> dict[str, list[str]]:
        """From each name that imports bind, at any depth, to its targets."""
        return self._bound_by(node for node in walk(self.tree) if isinstance(node, _IMPORTS))

    @cached_property
    def bindings(self) -> dict[str, list[str]]:
        """The same, outside of functions and classes: what others can take from the module."""
        return self._bound_by(node for node in on_import(self.body) if isinstance(node, _IMPORTS))

    @cached_property
    def meanings(self) -> dict[str, list[str]]:
        """From each name to what imports and definitions make of it, in their order."""
        places: dict[str, list[tuple[int, str]]] = {}
        for node in walk(self.tree):
            if isinstance(node, _IMPORTS):
                for name, target in self.targets(node):
                    places.setdefault(name, []).append((node.lineno, target))
        for name, nodes in self.definitions.items():
            places.setdefault(name, []).append((nodes[0].lineno, f"{self.name}:{name}"))
        return {name: [t for _, t in sorted(found)] for name, found in places.items()}

    def _bound_by(self, nodes: Iterable[ast.Import | ast.ImportFrom]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
            for name, target in self.targets(node):
                if target not in found.setdefault(name, []):
                    found[name].append(target)
        return found

    def targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """Yield names that an import binds, and their targets: ``"module:name"`` or a module."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole, first = alias.name, alias.name.partition(".")[0]
                yield (alias.asname, whole) if alias.asname else (first, first)
            return
        base = self._base(node)
        for alias in node.names:
            yield alias.asname or alias.name, f"{base}:{alias.name}"

    def mentioned(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        """Return what an import names: ``import a.b`` binds ``a``, but names ``a.b``."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        return [f"{self._base(node)}:{alias.name}" for alias in node.names]

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        keep = len(parts) - node.level + self.is_package
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])

    @cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """From each name that the top level defines to the statements that do."""
        found: dict[str, list[ast.stmt]] = {}
        for node in self.body:
            for name in defined(node):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def loose(self) -> frozenset[str]:
        """Names of the module that no plain definition binds: in a branch, a loop, a function."""
        names = {
            name for node in walk(self.tree) if isinstance(node, ast.Global) for name in node.names
        }
        for top in self.body:
            if not defined(top) and not isinstance(top, _IMPORTS):
                names |= set(bound(on_import([top])))
        return frozenset(names)

    @cached_property
    def effects(self) -> list[ast.stmt]:
        """What the top level does besides importing and defining."""
        return [node for node in self.body if self._does(node)]

    def _does(self, node: ast.stmt) -> bool:
        if isinstance(node, _IMPORTS) or (typing_only(node) and not node.orelse):
            return False
        if isinstance(node, ast.With) and all(isinstance(x, _IMPORTS) for x in node.body):
            return False  # imports that say what to install
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return False
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return False
        if not defined(node):
            return True
        if isinstance(node, ast.AugAssign) and node.target.id in self.imports:
            return True  # changes in place what another module holds
        if isinstance(node, _DEFINITIONS):
            return any(not self._harmless(decorator) for decorator in node.decorator_list)
        return any(not self._harmless(call) for call in _calls(node) if not self._own(call))

    def _own(self, call: ast.Call) -> bool:
        """Whether a call in an assignment is one of the package: taken to make a value."""
        parts = chain(call.func)
        if parts is None or parts[0] in self.definitions:
            return True
        package = self.name.partition(".")[0]
        targets = self.imports.get(parts[0], [])
        return bool(targets) and all(re.split("[.:]", t)[0] == package for t in targets)

    def _harmless(self, node: ast.expr) -> bool:
        """Whether a decorator or a call leaves other modules alone."""
        parts = chain(node.func if isinstance(node, ast.Call) else node)
        if parts is None:
            return False
        first, *rest = parts
        if first not in self.imports:  # built in; a decorator of the module's own may note things
            return first not in _HARMFUL and first not in self.definitions
        dotted = [".".join([t.replace(":", "."), *rest]) for t in self.imports[first]]
        return all(any(f"{d}.".startswith(f"{ok}.") for ok in _HARMLESS) for d in dotted)

    @cached_property
    def hands_on(self) -> bool:
        """Whether it is an ``__init__`` that does nothing but hand names on."""
        return self.is_package and not self.effects and set(self.definitions) <= _SILENT


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of an assignment, without those that wait inside a lambda."""
    waiting = [node]
    while waiting:
        now = waiting.pop()
        if isinstance(now, ast.Call):
            yield now
        if not isinstance(now, ast.Lambda):
            waiting += ast.iter_child_nodes(now)


def uses(nodes: Iterable[ast.AST]) -> Uses:
    """Gather what statements mention."""
    chains: set[tuple[str, ...]] = set()
    imports: list[ast.Import | ast.ImportFrom] = []
    texts: set[str] = set()
    for node in nodes:
        for part in walk(node):
            if isinstance(part, _IMPORTS):
                imports.append(part)
            elif isinstance(part, ast.Constant):
                if isinstance(part.value, str):
                    texts.add(part.value)
            elif parts := chain(part):
                chains.add(tuple(parts))
    return Uses(frozenset(chains), tuple(imports), frozenset(texts))


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, but not into what only type checkers read, nor into chains of attributes."""
    waiting = [node]
    while waiting:
        now = waiting.pop()
        if typing_only(now):
            waiting += now.orelse
            continue
        yield now
        if not isinstance(now, ast.Attribute) or chain(now) is None:
            waiting += ast.iter_child_nodes(now)


def on_import(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Walk what is executed in the module's own scope when it is imported."""
    waiting = list(nodes)
    while waiting:
        now = waiting.pop()
        if typing_only(now):
            waiting += now.orelse
            continue
        yield now
        if not isinstance(now, (*_DEFINITIONS, ast.Lambda)):
            waiting += ast.iter_child_nodes(now)


def bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that nodes bind, but for imports."""
    for node in nodes:
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                yield node.id
        elif isinstance(node, ast.MatchMapping):
            yield from filter(None, [node.rest])
        elif not isinstance(node, ast.alias):
            yield from filter(None, [getattr(node, "name", None)])  # def, class, except, match


def typing_only(node: ast.AST) -> bool:
    """Whether it is ``if TYPE_CHECKING``, whose body is never executed."""
    return isinstance(node, ast.If) and (chain(node.test) or [""])[-1] == "TYPE_CHECKING"


def chain(node: ast.AST) -> list[str] | None:
    """Return ``["a", "b"]`` for the name ``a`` or the attribute ``a.b``, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


def targets(node: ast.stmt) -> list[ast.expr]:
    """Return what a plain assignment binds, with tuples taken apart."""
    if not isinstance(node, _ASSIGNMENTS):
        return []
    whole = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [
        part
        for target in whole
        for part in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])
    ]


def defined(node: ast.stmt) -> list[str]:
    """Return the names that a plain definition or assignment binds.

    None where it binds an attribute or an item of something else: that is an effect.
    """
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    parts = targets(node)
    return [p.id for p in parts] if all(isinstance(p, ast.Name) for p in parts) else []


def docstring(node: ast.AST) -> str | None:
    """Return the docstring of a module, class or function."""
    kinds = (ast.Module, *_DEFINITIONS)
    return ast.get_docstring(node, clean=False) if isinstance(node, kinds) else None


def dump(node: Any) -> str:
    """Write a syntax tree without docstrings, type-checking imports and empty fields.

    ``ast.dump`` would not do: new Python versions add fields, mostly empty ones.
    """
    if isinstance(node, list):
        return "[" + ",".join([dump(x) for part in node for x in _heard(part)]) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    body = getattr(node, "body", None)
    skip_docstring = isinstance(body, list) and docstring(node) is not None
    parts = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and skip_docstring:
            value = value[1:]
        if value is not None and value != []:
            parts.append(f"{name}={dump(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _heard(node: Any) -> list[Any]:
    """Return what is executed of a statement: nothing of lists of names and of versions."""
    if typing_only(node):
        return node.orelse
    names = defined(node) if isinstance(node, _ASSIGNMENTS) else []
    return [] if names and set(names) <= _SILENT else [node]


def file_text(path: Path, root: Path) -> str:
    """Return a file that is no module as text: C without comments, with what it includes.

    Parameters
    ----------
    path
        The file.
    root
        Folder of the package: includes are looked for from the file's own folder up to there.
    """
    if path.suffix not in _C:
        return path.read_bytes().hex()
    return "\n".join(f"{file.name} {_c_text(file)}" for file in c_files(path, root))


def c_files(path: Path, root: Path) -> list[Path]:
    """Return a file and, of a C source, all that it includes of the package."""
    if path.suffix not in _C:
        return [path]
    found: list[Path] = []
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.append(file)
        names = re.findall(r'#\s*include\s*"([^"]+)"', file.read_text(encoding="utf-8"))
        folders = [f for f in (file.parent, *file.parents) if f.is_relative_to(root)]
        waiting += [f / n for n in names for f in folders if (f / n).is_file()]
    return found


def _c_text(path: Path) -> str:
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    text = _C_TOKENS.sub(lambda m: " " if m[0].startswith("/") else m[0], text)
    parts = []
    for line in text.splitlines():
        even = " ".join(line.split())
        # A directive ends with its line; elsewhere a line ends anywhere.
        parts.append(f"\n{even}\n" if even.startswith("#") else even)
    return re.sub(r" *\n[ \n]*", "\n", " ".join(filter(None, parts)))
