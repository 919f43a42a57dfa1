"""What an experiment is: a list of trials, a function that runs one, and what is measured of them.

A *trial* is one frozen configuration, seed included.
It is the unit of work, of resumption and of distribution: a finished trial is one record.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mcnn.errors import RecordError

if TYPE_CHECKING:
    from mcnn.ledger.records import Record

# What executes a trial counts in its code.
EXECUTES = "mcnn.ledger.execution:execute"

Measure = Callable[[Sequence["Record"]], Mapping[str, Sequence[float]]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration; subclasses add fields of plain JSON types (tuples become lists)."""

    seed: int = 0

    def config(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))


@dataclass(frozen=True)
class Experiment:
    """A named set of trials and how to run one of them.

    Attributes
    ----------
    name
        Starts with the stem of its idea: ``density-mnist``.
    summary
        One line for ``mcnn list``.
    trial
        The dataclass of a configuration.
    trials
        ``(profile, seeds) -> trials``; the profile is ``"fast"`` or ``"full"``.
    run
        ``(trial, device) -> metrics``, plain JSON types, finite numbers only.
    seeds
        The default seeds of each profile.
    measures
        From the id of a claim to ``records -> {reading: values}``, one value per seed.
    tolerance
        The largest absolute difference by which a metric may change when a trial is run again.
    """

    name: str
    summary: str
    trial: type[Trial]
    trials: Callable[[str, Sequence[int]], Sequence[Trial]]
    run: Callable[[Any, torch.device], dict[str, Any]]
    seeds: Mapping[str, Sequence[int]]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    tolerance: float = 1e-6

    @property
    def roots(self) -> tuple[str, ...]:
        """What the code of a trial starts from, see :mod:`mcnn.ledger.code`."""
        parts = [(x.__module__, x.__qualname__.partition(".")[0]) for x in (self.run, self.trial)]
        return (*(f"{module}:{name}" for module, name in parts), EXECUTES)

    def parse(self, config: Mapping[str, Any]) -> Trial:
        """Turn a record's configuration back into a trial.

        Raises
        ------
        RecordError
            If the fields are not those of this experiment's trials.
        """
        names = {f.name for f in dataclasses.fields(self.trial)}
        if set(config) != names:
            odd = ", ".join(sorted(set(config) ^ names))
            raise RecordError(f"not a trial of {self.name} (fields that differ: {odd})")
        return self.trial(**{k: _tuples(v) for k, v in config.items()})

    def key(self, profile: str, trial: Trial) -> str:
        """Return the hash that names a trial: experiment, profile and configuration."""
        text = json.dumps([self.name, profile, trial.config()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
