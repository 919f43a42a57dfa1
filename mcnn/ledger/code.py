"""Which code makes a number: what the ``run`` of an experiment reaches, and its hash.

The hash covers syntax trees, so comments, docstrings and layout do not count.
How finely it looks depends on what a module is for:

===============================  ==============================================================
modules of experiments           what ``run`` and the trial reach by name: not summaries, lists
                                 of trials or measures, which are applied when records are read
modules of the library           whole, and with them the operators that they name, wherever
                                 those are registered with PyTorch
an ``__init__`` that only hands  nothing by itself: what is taken from it counts where it is
names on                         defined, and its neighbours do not
any other ``__init__``           whole
any module, used or not          what it does to others when it is imported, such as
                                 ``torch.Tensor.sum = ...``: the process imports them all
C sources, other files           those that a module names: C without comments
the ledger                       what executes a trial, and no more
===============================  ==============================================================

Each file is parsed once, and nothing is imported.
It is taken for granted that the plain calls in assignments of the top level, ``X = f(2)``, make
values and change nothing else, and that what is excluded below computes no number.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from mcnn.ledger import source
from mcnn.ledger.source import Module, Uses

# Of the package: folders read by name, what only tells of failures or draws, and what of the
# ledger counts: it describes and executes trials.
BY_NAME = ("experiments", "ledger")
EXCLUDED = ("errors", "figures", "ledger")
COUNTED = ("ledger.experiment", "ledger.execution")

# A definition that uses these may read any name of its module.
_ANY_NAME = {"eval", "exec", "globals", "vars", "__import__"}


@dataclass(frozen=True, order=True)
class Item:
    """A piece of code that counts.

    ``name`` is a definition of the module, ``""`` what it does to others when it is imported,
    ``"*"`` all of it, or the path in the package of a file that it names, such as a C source.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class Found(NamedTuple):
    """Where a name is defined; an empty name is the module itself."""

    module: Module
    name: str
    rest: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(filter(None, [self.module.name, self.name, *self.rest]))


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
        self._uses: dict[Item, Uses] = {}
        self._next: dict[Item, frozenset[Item]] = {}
        self._texts: dict[Item, str] = {}
        self._digests: dict[Item, str] = {}

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
        self._modules[name] = Module.parse(name, path)

    def _parse(self, name: str) -> Module | None:
        if name.partition(".")[0] != self.package:
            return None
        place = self.root.joinpath(*name.split("."))
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return Module.parse(name, path)
        return None

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """All modules of the package."""
        names = []
        for path in sorted((self.root / self.package).rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return tuple(filter(None, map(self.module, names)))

    def resolve(
        self, target: str, attributes: Iterable[str] = (), passed: frozenset[str] = frozenset()
    ) -> tuple[Found, ...]:
        """Find where a name is defined, through the packages that hand it on.

        Parameters
        ----------
        target
            ``"module:name"`` or a module.
        attributes
            Names of attributes that follow.
        passed
            Targets on the way here: imports may lead round in a circle.

        Returns
        -------
        tuple of Found
            All places where the name may come from; none outside the package.

        Raises
        ------
        ValueError
            If the name may come from ``from ... import *``, which is not followed.
        """
        base, _, name = target.partition(":")
        module = self.module(base)
        waiting = [*([name] if name else []), *attributes]
        while module is not None and waiting:
            first, *rest = waiting
            if "*" in (first, *module.bindings):
                raise ValueError(f"{base}: import names instead of *, so that it shows what counts")
            found = []
            if first in module.definitions:
                found.append(Found(module, first, tuple(rest)))
            passed |= {f"{module.name}:{first}"}
            onwards = [t for t in module.bindings.get(first, ()) if t not in passed]
            for further in onwards:
                found += self.resolve(further, rest, passed)
            if found or onwards:
                return tuple(found)
            below = self.module(f"{module.name}.{first}")
            if below is None:
                return (Found(module, first, tuple(rest)),)
            module, waiting = below, rest
        return () if module is None else (Found(module, "", ()),)

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
        start: set[Item] = set()
        for root in roots:
            places = self.resolve(root)
            if not places or any(p.name and p.name not in p.module.definitions for p in places):
                raise KeyError(root)
            start.update(item for place in places for item in self._items(place))
        reached = self._reached(start) | self._on_import
        whole = {item.module for item in reached if item.name == "*"}
        parts = {i for i in reached if i.module in whole and i.name != "*" and not _is_file(i)}
        return sorted(reached - parts)

    @cached_property
    def _on_import(self) -> frozenset[Item]:
        """What the modules of the package do to others when they are imported."""
        told = ("errors", "figures")
        heard = [m for m in self.modules if self._counts(m) or self._place(m)[0] in told]
        return frozenset(
            self._reached({Item(m.name, "") for m in heard if self.effects(Item(m.name, ""))})
        )

    def _reached(self, start: Iterable[Item]) -> set[Item]:
        reached: set[Item] = set()
        waiting = list(start)
        while waiting:
            item = waiting.pop()
            if item not in reached:
                reached.add(item)
                waiting += self.after(item)
        return reached

    def effects(self, item: Item) -> list[ast.stmt]:
        """Return what a piece of code does to others when it is imported.

        An operator of the package's own, registered under its name, touches none that does not
        name it: it is left to the whole module.
        """
        module = self.module(item.module)
        if item.name == "*":
            return module.effects
        return [n for n in module.effects if not item.name and not self._registers(n)]

    def _registers(self, node: ast.stmt) -> set[str]:
        """Return the operators that a statement registers, if it does nothing else."""
        calls = [node.value] if isinstance(node, ast.Expr) else []
        calls += getattr(node, "decorator_list", [])
        names = set()
        for call in calls:
            first = call.args[0] if isinstance(call, ast.Call) and call.args else None
            text = first.value if isinstance(first, ast.Constant) else None
            called = source.chain(call.func) if isinstance(call, ast.Call) else None
            if not isinstance(text, str) or (called or [])[:2] != ["torch", "library"]:
                return set()
            found = re.fullmatch(rf"{self.package}::(\w+)", text)
            if not found:
                return set()
            names.add(found[1])
        return names

    @cached_property
    def _operators(self) -> dict[str, list[Module]]:
        """From the name of each operator to the modules that register it."""
        found: dict[str, list[Module]] = {}
        for module in self.modules:
            for name in {n for node in module.effects for n in self._registers(node)}:
                found.setdefault(name, []).append(module)
        return found

    def nodes(self, item: Item) -> list[ast.stmt]:
        """Return the statements of a piece of code."""
        if item.name == "*":
            return self.module(item.module).body
        return self.module(item.module).definitions[item.name] if item.name else self.effects(item)

    def uses(self, item: Item) -> Uses:
        """Return what a piece of code mentions."""
        if item not in self._uses:
            self._uses[item] = source.uses(self.nodes(item))
        return self._uses[item]

    def after(self, item: Item) -> frozenset[Item]:
        """Return what a piece of code leads to directly."""
        if item not in self._next:
            after = () if _is_file(item) else self._leads_to(item)
            self._next[item] = frozenset(after)
        return self._next[item]

    def _leads_to(self, item: Item) -> Iterator[Item]:
        module, mentioned = self.module(item.module), self.uses(item)
        if self._by_name(module) and module.effects:
            yield Item(module.name, "")
        for above in filter(None, map(self.module, _parents(module.name))):
            if not self._by_name(above):
                yield from self._items(Found(above, "", ()))
        for node in mentioned.imports:
            for target in module.mentioned(node):
                for found in self.resolve(target):
                    yield from self._items(found)
        for first, *rest in mentioned.chains:
            for target in module.imports.get(first, ()):
                for found in self.resolve(target, rest):
                    yield from self._items(found)
                    for handed in self.handed_on(found):
                        yield from self._items(handed)
                yield from self._registered(".".join([target.replace(":", "."), *rest]))
            if item.name != "*" and first in module.definitions:
                yield Item(module.name, first)
            if item.name != "*" and first in _ANY_NAME:
                yield Item(module.name, "*")
        for text in mentioned.texts:
            if name := re.fullmatch(rf"{self.package}::(\w+)", text):
                yield from self._registered(f"torch.ops.{self.package}.{name[1]}")
            for path in self.data(text):
                yield Item(module.name, path)

    def _items(self, found: Found) -> Iterator[Item]:
        """Yield what counts of a name: its definition, or the module that has it."""
        module, name, _ = found
        if not self._counts(module) or (module.hands_on and not name):
            return
        if not name or not self._by_name(module):
            yield Item(module.name, "*")
        elif name in module.definitions:
            yield Item(module.name, name)  # else it is bound by an effect, which counts anyway

    def handed_on(self, found: Found) -> Iterator[Found]:
        """Yield all that a package hands on that is passed on as a value."""
        if found.name or not found.module.hands_on:
            return
        waiting, seen = [found.module], set()
        while waiting:
            module = waiting.pop()
            if module.name in seen:
                continue
            seen.add(module.name)
            below = [m for m in self.modules if m.name.startswith(f"{module.name}.")]
            places = [Found(m, "", ()) for m in below]
            for targets in module.bindings.values():
                places += [place for target in targets for place in self.resolve(target)]
            yield from places
            waiting += [p.module for p in places if not p.name and p.module.hands_on]

    def _registered(self, dotted: str) -> Iterator[Item]:
        """Yield the modules that register the operators that a name stands for."""
        parts = dotted.split(".")
        if parts[:2] != ["torch", "ops"] or parts[2:3] not in ([self.package], []):
            return
        names = parts[3:4] or list(self._operators)
        for module in (m for name in names for m in self._operators.get(name, ())):
            yield from self._items(Found(module, "", ()))

    @cached_property
    def _data(self) -> dict[str, list[str]]:
        """From the name of each file of the package that is no module to its paths inside."""
        found: dict[str, list[str]] = {}
        folder = self.root / self.package
        for path in sorted(folder.rglob("*.*")):
            if path.suffix not in (".py", ".pyc") and path.is_file():
                found.setdefault(path.name, []).append(path.relative_to(folder).as_posix())
        return found

    def data(self, text: str) -> list[str]:
        """Return the paths inside the package of the files that a string names."""
        return self._data.get(text.rpartition("/")[2], [])

    def _path(self, item: Item) -> Path:
        return self.root / self.package / item.name

    def files(self, items: Iterable[Item]) -> list[Path]:
        """Return the files behind pieces of code, and those of the packages above them."""
        found: set[Path] = set()
        for item in items:
            above = [*_parents(item.module), item.module]
            found |= {m.path for m in map(self.module, above) if m is not None}
            if _is_file(item):
                found.update(source.c_files(self._path(item), self.root / self.package))
        return sorted(found)

    def text(self, item: Item) -> str:
        """Return a piece of code as the text that is hashed."""
        if item not in self._texts:
            self._texts[item] = self._text(item)
        return self._texts[item]

    def _text(self, item: Item) -> str:
        if _is_file(item):
            return source.file_text(self._path(item), self.root / self.package)
        body = source.dump(self.nodes(item))
        return "\n".join([body, *sorted(self._meanings(item))])

    def _meanings(self, item: Item) -> set[str]:
        """Return what the imported names of a piece of code stand for.

        The import may stand elsewhere than the code that is read by name, and what a package hands
        on is decided there.
        """
        module, mentioned = self.module(item.module), self.uses(item)
        lines = set()
        for chain in mentioned.chains:
            for target in module.imports.get(chain[0], ()):
                places = self.resolve(target, chain[1:])
                meant = [str(p) for p in places] or [target.replace(":", ".")]
                meant += [str(handed) for p in places for handed in self.handed_on(p)]
                lines.add(f"{'.'.join(chain)} = {' '.join(sorted(set(meant)))}")
        return lines

    def hash(self, roots: Iterable[str]) -> str:
        """Return the hash of all the code that definitions reach: 16 hexadecimal digits."""
        lines = [f"{item} {self._digest(item)}" for item in self.closure(roots)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def _digest(self, item: Item) -> str:
        if item not in self._digests:
            self._digests[item] = hashlib.sha256(self.text(item).encode()).hexdigest()
        return self._digests[item]


@cache
def here() -> Code:
    """Return the source of this package: read once, as it is what the process imported."""
    return Code(Path(__file__).resolve().parents[2])


def _is_file(item: Item) -> bool:
    return "." in item.name


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]
