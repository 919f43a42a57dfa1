"""Failures that repeat: the first of a kind is told as it comes, the others by their number."""

import re
import sys
from collections import Counter
from typing import Self, TextIO

from tqdm import tqdm

_NUMBERS = re.compile(r"\d+")  # of a seed or a step: they make no other kind


class Repeats:
    """What was told of trials that failed; a context, at whose end the numbers are.

    Parameters
    ----------
    file
        Where it is told; by default standard error.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._more: Counter[tuple[str, str]] = Counter()

    def tell(self, name: str, text: str, line: str) -> None:
        """Write a line about a trial, unless one of its experiment was that failed the same way.

        Parameters
        ----------
        name
            Of the experiment.
        text
            Why the trial failed.
        line
            What is written.
        """
        kind = (name, _NUMBERS.sub("0", text))
        if kind not in self._more:
            self._write(line)
            self._more[kind] = 0
        else:
            self._more[kind] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for (name, text), number in self._more.items():
            if number:
                trials = "trial" if number == 1 else "trials"
                self._write(f"{number} more {trials} of {name} failed the same way: {text:.200}")

    def _write(self, line: str) -> None:
        tqdm.write(line, file=self._file or sys.stderr)
