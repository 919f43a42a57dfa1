"""Sphinx extension: references are labelled by author and year, as the text cites them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Plain
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx

_NAME = "mcnn_author_year"


class Labels(BaseLabelStyle):
    """``Keller, 2019``, ``He et al., 2016a`` where a label would stand twice."""

    def format_labels(self, sorted_entries: list[Any]) -> Iterator[str]:
        """Yield a label for each entry."""
        labels = [label(entry) for entry in sorted_entries]
        often, met = Counter(labels), Counter()
        for text in labels:
            met[text] += 1
            yield text + (chr(ord("a") + met[text] - 1) if often[text] > 1 else "")


def label(entry: Any) -> str:
    """Return the last names of at most two authors, and the year."""
    names = [" ".join((*p.prelast_names, *p.last_names)) for p in entry.persons["author"]]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    return f"{who}, {entry.fields['year']}".translate({ord("{"): None, ord("}"): None})


class AuthorYear(Plain):
    """The plain style, with these labels, in their order."""

    default_label_style = _NAME
    default_sorting_style = "author_year_title"


def setup(app: Sphinx) -> dict[str, bool]:
    register_plugin("pybtex.style.labels", _NAME, Labels)
    register_plugin("pybtex.style.formatting", _NAME, AuthorYear)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
