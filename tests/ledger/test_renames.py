"""Which changes of names inside functions change nothing, and which do."""

import ast

import pytest

from mcnn.ledger.renames import Numbered, words


def text(source, kept=frozenset()):
    tree = ast.parse(source)
    return ast.dump(Numbered(words([tree]) | kept).visit(tree))


def same(a, b):
    kept = words([ast.parse(a), ast.parse(b)])
    return text(a, kept) == text(b, kept)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f(x):\n found = x + 1\n return found", "def f(x):\n total = x + 1\n return total"),
        ("def f(found):\n return found", "def f(images):\n return images"),
        ("def f():\n for a in b: c(a)", "def f():\n for d in b: c(d)"),
        ("def f():\n return [a for a in b if a]", "def f():\n return [d for d in b if d]"),
        ("def f():\n a = 1\n def g():\n  return a\n", "def f():\n b = 1\n def g():\n  return b\n"),
        ("def f():\n with o() as a: a.b", "def f():\n with o() as c: c.b"),
        ("def f():\n if (a := g()): h(a)", "def f():\n if (b := g()): h(b)"),
        (
            "def f():\n try: g()\n except E as a: h(a)",
            "def f():\n try: g()\n except E as b: h(b)",
        ),
        ("class A:\n def f(self, a):\n  return a", "class A:\n def f(self, b):\n  return b"),
        ("def f(a):\n return lambda x: x + a", "def f(b):\n return lambda x: x + b"),
        ("async def f():\n a = 1; return a", "async def f():\n b = 1; return b"),
    ],
)
def test_a_variable_may_be_called_otherwise(old, new):
    assert same(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f():\n a = 1; b = 2\n return a", "def f():\n a = 1; b = 2\n return b"),
        ("def f(a, b):\n return a", "def f(a, b):\n return b"),
        ("def f(a):\n return g", "def f(g):\n return g"),
        ("def f():\n a = 1\n return g(b)", "def f():\n b = 1\n return g(b)"),
        ("a = 1\ndef f():\n return a", "b = 1\ndef f():\n return b"),
        ("def f(a, b):\n return a\nf(b=1, a=2)", "def f(b, a):\n return b\nf(b=1, a=2)"),
        (
            "def f(a, b):\n return a\nf(**{'b': 1, 'a': 2})",
            "def f(b, a):\n return b\nf(**{'b': 1, 'a': 2})",
        ),
        ("def f():\n global a\n a = 1", "def f():\n global b\n b = 1"),
        ("def f():\n a = 1\n return locals()", "def f():\n b = 1\n return locals()"),
        ("def f():\n class A:\n  a = 1\n return A", "def f():\n class A:\n  b = 1\n return A"),
        (
            "def f(a):\n def g(b):\n  return a\n return g",
            "def f(a):\n def g(b):\n  return b\n return g",
        ),
        ("def f(a, x):\n return lambda x: a", "def f(a, x):\n return lambda a: a"),
        ("def f(x, y=a):\n a = 1\n return y", "def f(x, y=b):\n b = 1\n return y"),
        ("def f():\n a = 1\n return a.b", "def f():\n a = 1\n return a.c"),
        ("def f():\n a = b = 1\n return a", "def f():\n a = a = 1\n return a"),
    ],
)
def test_what_means_something_else_is_told_apart(old, new):
    assert not same(old, new)
