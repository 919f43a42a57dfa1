"""What a function calls its own variables does not matter: number them in order of appearance.

:mod:`mcnn.ledger.moves` compares definitions so that a better name for a variable, ``labels``
instead of ``found``, is proved to change nothing.
Only what surely is a variable of the function is numbered.
Parameters keep their names where anything in the package may call them by name, and so does all of
a function that could look its variables up by name, or that shares them in unusual ways.
"""

import ast
from collections.abc import Iterable, Iterator

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOKED_UP = {"locals", "vars", "eval", "exec", "globals", "dir"}
_UNUSUAL = (ast.Global, ast.Nonlocal, ast.ClassDef, ast.MatchAs, ast.MatchStar, ast.MatchMapping)


def words(trees: Iterable[ast.AST]) -> frozenset[str]:
    """Return all names by which an argument may be passed: keywords of calls, and texts."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


class Numbered(ast.NodeTransformer):
    """Replace the variables of functions by numbers.

    Parameters
    ----------
    kept
        Names that parameters keep, from :func:`words`.
    """

    def __init__(self, kept: frozenset[str]) -> None:
        self._kept = kept
        self._scopes: list[dict[str, str]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: D102
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:  # noqa: D102
        return self._function(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:  # noqa: D102
        self._outside(node.args)
        self._scopes.append({a.arg: a.arg for a in _arguments(node.args)})
        node.body = self.visit(node.body)
        self._scopes.pop()
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: D102
        node.id = self._number(node.id)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:  # noqa: D102
        if node.name:
            node.name = self._number(node.name)
        return self.generic_visit(node)

    def _number(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self._scopes) if name in scope), name)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        # Decorators, defaults and annotations belong to what is around the function.
        node.decorator_list = [self.visit(x) for x in node.decorator_list]
        self._outside(node.args)
        node.returns = node.returns and self.visit(node.returns)
        self._scopes.append(self._variables(node))
        for argument in _arguments(node.args):
            argument.arg = self._scopes[-1][argument.arg]
        node.body = [self.visit(x) for x in node.body]
        self._scopes.pop()
        return node

    def _outside(self, arguments: ast.arguments) -> None:
        arguments.defaults = [self.visit(x) for x in arguments.defaults]
        arguments.kw_defaults = [x and self.visit(x) for x in arguments.kw_defaults]
        for argument in _arguments(arguments):
            argument.annotation = argument.annotation and self.visit(argument.annotation)

    def _variables(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
        """Return the names that are bound in a function, and what stands for each."""
        arguments = [a.arg for a in _arguments(node.args)]
        inside = [part for statement in node.body for part in ast.walk(statement)]
        names = [part.id for part in inside if isinstance(part, ast.Name)]
        if any(isinstance(part, _UNUSUAL) for part in inside) or _LOOKED_UP & set(names):
            return {name: name for name in [*arguments, *_bound(node.body)]}
        inner = {part.name for part in inside if isinstance(part, _FUNCTIONS)}
        depth = len(self._scopes)
        numbers: dict[str, str] = {}
        for name in [*arguments, *_bound(node.body)]:
            stays = name in inner or (name in arguments and name in self._kept)
            # What moves has made of a name that means several things is no identifier any more.
            stays |= not name.isidentifier() or name in ("self", "cls")
            numbers.setdefault(name, name if stays else f"variable {depth}.{len(numbers)}")
        return numbers


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    all_of_them = [*arguments.posonlyargs, *arguments.args, arguments.vararg]
    return [a for a in [*all_of_them, *arguments.kwonlyargs, arguments.kwarg] if a is not None]


def _bound(statements: Iterable[ast.AST]) -> Iterator[str]:
    """Yield names in the order in which a function binds them, not those of functions inside."""
    for node in statements:
        if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            if not isinstance(node, ast.Lambda):
                yield node.name
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        yield from _bound(ast.iter_child_nodes(node))
