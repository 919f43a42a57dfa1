"""The claims of the talk, judged by records alone.

``claims.yml`` says for each claim what is measured and which values count as reproduced.
The experiments say how the measured values come out of the records, one value per seed.
Here the two meet, and nobody types a verdict.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from numbers import Real
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from mcnn.errors import RecordError, UsageError
from mcnn.ledger import project, records, registry, verdicts
from mcnn.ledger.experiment import Measure
from mcnn.ledger.verdicts import REPORTED, Better
from mcnn.stats import Interval, interval

TALK = "the talk"
_EXACT = ("identity", "count")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Test(_Strict):
    """A reading and the values of it that count as reproduced; an open end is ``null``."""

    __test__ = False  # not a test of pytest's

    reading: str
    accept: tuple[FiniteFloat | None, FiniteFloat | None]
    reason: str
    better: Better | None = None
    effect: bool = False

    @field_validator("accept")
    @classmethod
    def _ordered(cls, accept: tuple[float | None, float | None]) -> tuple[float | None, ...]:
        low, high = accept
        if low is None and high is None:
            raise ValueError("accepts everything")
        if low is not None and high is not None and low > high:
            raise ValueError("accepts nothing")
        return accept

    @model_validator(mode="after")
    def _sided(self) -> Self:
        low, high = self.bounds
        if (self.better == "higher" and low == -inf) or (self.better == "lower" and high == inf):
            raise ValueError(f"{self.better} is better, but nothing is too bad")
        if self.effect and low < 0 < high:
            raise ValueError("an effect has a sign, but both signs are accepted")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound as numbers."""
        low, high = self.accept
        return (-inf if low is None else low, inf if high is None else high)

    def __str__(self) -> str:
        low, high = self.accept
        if low == high:
            return f"= {low:g}"
        if low is None:
            return f"≤ {high:g}"
        return f"≥ {low:g}" if high is None else f"{low:g} … {high:g}"


class Claim(_Strict):
    """One claim: what the talk says, and what decides it, or why it is only reported."""

    id: str
    source: str = TALK
    deck: Literal["later", "earlier", "both"] | None = None
    slide: str
    quote: str
    role: Literal["talk", "source", "reading", "extension"]
    row: str | None = None
    kind: Literal["identity", "rate", "order", "value", "count"]
    protocol: str
    metric: str
    quantity: str
    better: Better | None = None
    experiment: str | tuple[str, ...]
    where: dict[str, str] = {}
    needs: str | None = None
    seeds: PositiveInt
    tests: tuple[Test, ...]
    report: str | None = None
    shown: tuple[str, ...] = ()
    notebook: str
    cell: str

    @field_validator("tests")
    @classmethod
    def _once(cls, tests: tuple[Test, ...]) -> tuple[Test, ...]:
        readings = [test.reading for test in tests]
        twice = [name for name in readings if readings.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is tested twice")
        return tests

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == TALK and self.deck is None:
            raise ValueError("which deck of the talk says so?")
        if (self.role == "talk") != (self.source == TALK) and self.role in ("talk", "source"):
            raise ValueError(f"role {self.role}, but it is {self.source} that says so")
        if self.tests and self.report:
            raise ValueError("either tests or a reason to report, not both")
        if bool(self.shown) != bool(self.report):
            raise ValueError("what is only reported needs readings to be shown, and nothing else")
        return self

    @property
    def chapter(self) -> str:
        """Stem of the chapter."""
        return self.id.partition("-")[0]

    @property
    def experiments(self) -> tuple[str, ...]:
        """The experiment, or those whose values are pooled."""
        return (self.experiment,) if isinstance(self.experiment, str) else self.experiment

    def selects(self, trial: object) -> bool:
        """Whether a trial is one of those that decide the claim."""
        return all(str(getattr(trial, name, None)) == value for name, value in self.where.items())


@dataclass(frozen=True)
class Result:
    """What was measured of one reading, and whether that is in the accepted range."""

    reading: str
    estimate: Interval
    test: Test | None
    verdict: str
    decides: str = ""  # where the verdict is open


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim, with its evidence or with what is missing."""

    claim: Claim
    verdict: str
    reason: str
    results: tuple[Result, ...] = ()
    records: int = 0

    @property
    def deciding(self) -> Result | None:
        """The reading that the verdict rests on: the primary one, unless another one fails.

        The first of those shown, where none is judged.
        """
        agree = (result for result in self.results if result.verdict == self.verdict)
        return next(agree, self.results[0] if self.results else None)

    @property
    def values(self) -> int:
        """Number of independent values, seeds or random instances, behind that reading."""
        return self.deciding.estimate.n if self.deciding else 0

    @property
    def measured(self) -> str:
        """That reading with its interval, or nothing."""
        return str(self.deciding.estimate) if self.deciding else ""


class _Loader(yaml.SafeLoader):
    """Refuses what is no plain list: a key that stands twice, of which YAML would silently take the
    second; and aliases, of which a few lines can mean gigabytes.
    """

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not for claims", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def load(file: Path | None = None) -> dict[str, Claim]:
    """Read the claims, by id.

    Raises
    ------
    UsageError
        If the file is no valid list of claims; the message names claim and field.
    """
    file = file or project.root() / project.CLAIMS
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    return dict(_read(file, text))


def _unreadable(file: Path, error: Exception) -> UsageError:
    what = str(error) if isinstance(error, OSError | yaml.YAMLError) else repr(error)
    return UsageError(f"cannot read {file}: {what:.500}")


@lru_cache(maxsize=1)
def _read(file: Path, text: str) -> dict[str, Claim]:
    """Read the text of a file of claims; the pages of the book ask for the same one each."""
    try:
        entries = yaml.load(text, Loader=_Loader)
    except Exception as error:  # whatever YAML makes of dates, numbers and tags that are none
        raise _unreadable(file, error) from None
    if not isinstance(entries, list):
        raise UsageError(f"{file}: must be a list of claims")
    claims = {}
    for number, entry in enumerate(entries, start=1):
        name = entry.get("id", number) if isinstance(entry, dict) else number
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UsageError(f"{file}: claim {name}: {field}: {first['msg']}") from None
        if claim.id in claims:
            raise UsageError(f"{file}: claim {name} stands twice")
        claims[claim.id] = claim
    return claims


def judge(claim: Claim, results: Path | None = None) -> Judgement:
    """Judge a claim by the records at ``full``.

    A verdict needs every trial that the experiment lists for its own seeds, and counts no other:
    seeds that are added until a verdict turns would be chosen by the result.
    Where a trial has only a record of older code, the verdict is *stale*.
    Records that nobody could make again, because their code is in no commit or their data are not
    the published ones, decide nothing.
    Runs of a claim are pooled where it names several experiments, which must have one measure.
    """
    known = registry.all_experiments()
    pooled = [known[name] for name in claim.experiments if name in known]
    if len(pooled) < len(claim.experiments):
        return Judgement(claim, "not run", claim.needs or "the experiment is not written yet")
    measures = {experiment.measures.get(claim.id) for experiment in pooled}
    if None in measures or not (claim.tests or claim.report):
        return Judgement(claim, "not run", claim.needs or "the test is not written yet")
    if len(measures) > 1:
        names = ", ".join(claim.experiments)
        raise UsageError(f"claim {claim.id}: {names} have different measures: pool one measure")
    wanted, held = set(), []
    for experiment in pooled:
        keys = {k for k, t in registry.listed(experiment).items() if claim.selects(t)}
        if not keys:
            raise UsageError(
                f"claim {claim.id}: no trial of {experiment.name} is like {claim.where}"
            )
        wanted |= keys
        held += [r for r in records.held(experiment, results) if r.key in keys]
    flaws = Counter(r.flaw for r in held if r.flaw)
    fresh = [r for r in held if not r.stale and not r.flaw]
    missing = wanted - {r.key for r in fresh}
    if missing:
        stale = len(missing & {r.key for r in held if r.stale})
        if stale:
            reason = f"{stale} of {len(wanted)} trials were recorded by older code"
            return Judgement(claim, "stale", reason, records=len(fresh))
        if flaws:
            ((why, number),) = flaws.most_common(1)
            reason = f"{number} of {len(wanted)} trials have a record that decides nothing: {why}"
            return Judgement(claim, "not run", reason, records=len(fresh))
        reason = claim.needs or f"{len(missing)} of {len(wanted)} trials have no record"
        return Judgement(claim, "not run", reason, records=len(fresh))
    (measure,) = measures
    return decide(claim, _measured(claim, measure, fresh), len(fresh))


def _measured(
    claim: Claim, measure: Measure, fresh: Sequence[records.Record]
) -> Mapping[str, Sequence[float]]:
    """Take the measure of records; what a trial always gives may be missing in a forged one."""
    try:
        return measure(fresh)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise RecordError(
            f"claim {claim.id}: the records of {', '.join(claim.experiments)} do not hold what is "
            f"measured of them ({what}); run them again with --redo-stale"
        ) from error


def decide(claim: Claim, readings: Mapping[str, Sequence[float]], count: int = 0) -> Judgement:
    """Hold measured readings against the tests of a claim.

    Parameters
    ----------
    claim
        Its tests name readings.
    readings
        One value per seed for every reading.
    count
        Number of records behind them.

    Raises
    ------
    UsageError
        If a test names a reading that was not measured, or a value is not finite.
    """
    tests = {test.reading: test for test in claim.tests}
    unmeasured = [name for name in (*tests, *claim.shown) if name not in readings]
    if unmeasured:
        raise UsageError(f"claim {claim.id}: nothing measures {unmeasured[0]!r}")
    for name, values in readings.items():
        if not values or not all(map(_finite, values)):
            raise UsageError(f"claim {claim.id}: {name!r} must be finite numbers, got {values}")
    order = dict.fromkeys((*tests, *claim.shown, *readings))
    results = tuple(_result(claim, name, readings[name], tests.get(name)) for name in order)
    if claim.report:
        return Judgement(claim, REPORTED, claim.report, results, count)
    judged = [result for result in results if result.test]
    verdict = verdicts.worst(result.verdict for result in judged)
    fewest = min(result.estimate.n for result in judged)
    shown = verdict == "contradicted" and claim.kind in _EXACT  # one counterexample will do
    if fewest < claim.seeds and not shown:
        few = f"{fewest} of {claim.seeds} seeds: the missing {claim.seeds - fewest} would decide"
        return Judgement(claim, "open", few, results, count)
    return Judgement(claim, verdict, _reason(verdict, judged), results, count)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _reason(verdict: str, judged: Sequence[Result]) -> str:
    """Name the readings that a verdict rests on, unless all do; what is open says what decides."""
    rests_on = [result for result in judged if result.verdict == verdict]
    if verdict == "open":
        return "; ".join(f"{result.reading}: {result.decides}" for result in rests_on)
    return "" if verdict == "reproduced" else ", ".join(result.reading for result in rests_on)


def _result(claim: Claim, name: str, values: Sequence[float], test: Test | None) -> Result:
    low, high = test.bounds if test else (-inf, inf)
    if claim.kind in _EXACT:
        worst = max(values, key=lambda v: (max(low - v, v - high, 0.0), v))
        estimate = Interval(worst, worst, worst, len(values))
    else:
        estimate = interval(values)
    if test is None:
        return Result(name, estimate, None, "")
    if claim.kind in _EXACT:
        verdict = "reproduced" if low <= estimate.mean <= high else "contradicted"
        return Result(name, estimate, test, verdict)
    # An order with a bound at zero says that a difference has a sign.
    effect = test.effect or (claim.kind == "order" and test.accept in ((0, None), (None, 0)))
    better = test.better or claim.better
    verdict = verdicts.of_interval(estimate, test.bounds, better, effect=effect)
    decides = verdicts.what_decides(estimate, test.bounds) if verdict == "open" else ""
    return Result(name, estimate, test, verdict, decides)


def judge_all(results: Path | None = None) -> list[Judgement]:
    """Judge every claim; one whose records cannot be trusted is *not run*, with the reason."""
    judgements = []
    for claim in load().values():
        try:
            judgements.append(judge(claim, results))
        except RecordError as error:
            judgements.append(Judgement(claim, "not run", str(error)))
    return judgements
