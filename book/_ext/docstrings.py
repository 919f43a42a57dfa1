"""Sphinx extension: references of docstrings share a page without sharing their numbers.

Every docstring counts its references from 1, as NumPy's style has it. On a page of many docstrings
they become autonumbered footnotes, labelled with the name of the object.
"""

import re

from sphinx.application import Sphinx

_REFERENCE = re.compile(r"(?<=^\.\. )\[(\d+)\](?= )|\[(\d+)\]_")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _relabel)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _relabel(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    def label(match: re.Match[str]) -> str:
        number = match[1] or match[2]
        return f"[#{name}-{number}]" + ("_" if match[2] else "")

    lines[:] = [_REFERENCE.sub(label, line) for line in lines]
