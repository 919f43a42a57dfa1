"""Claims: their file, and the verdict on every side of every threshold."""

import math

import pytest
import yaml
from fake_experiments import NAME, line

from mcnn.errors import UsageError
from mcnn.ledger import claims, cli, project, records, registry
from mcnn.ledger.claims import Claim
from mcnn.stats import interval

# The claims of the talk; other readings of one may stand apart, as ILSVRC12 for want of images.
IDS = """
nutshell-backprop relu-leaky relu-abs relu-max relu-maxpool relu-halfspace
residual-euler residual-solver integral-relu integral-rate integral-rl integral-noise
partition-table partition-variance partition-curve partition-coverage partition-random
density-unbiased density-mnist density-ternary density-conv linear-cost linear-fc
paths-guarantee paths-accuracy paths-after paths-cost
"""

ENTRY = {
    "id": "fake-claim",
    "slide": "A slide",
    "quote": "it is so",
    "kind": "value",
    "protocol": "Add numbers.",
    "metric": "their sum",
    "experiment": NAME,
    "seeds": 3,
    "tests": [{"reading": "three", "accept": [0, 3]}],
    "notebook": "notebooks/fake.ipynb",
    "cell": "fig-fake",
}


def claim(kind="value", accept=(0.0, 1.0), seeds=3, **changes):
    tests = ({"reading": "a", "accept": accept},)
    return Claim.model_validate(
        ENTRY | {"kind": kind, "seeds": seeds, "tests": tests} | changes, strict=False
    )


def verdict(values, **options):
    return claims.decide(claim(**options), {"a": values}).verdict


# The file


def test_every_claim_of_the_talk_is_there():
    found = claims.load()
    assert found.keys() >= set(IDS.split())
    for name, one in found.items():
        assert one.notebook == f"notebooks/{name.partition('-')[0]}.ipynb"
        assert one.experiment.startswith(one.chapter + "-")


def test_claims_that_can_be_judged_have_what_judges_them():
    known = registry.all_experiments()
    for name, one in claims.load().items():
        if one.tests and one.experiment in known:
            experiment = known[one.experiment]
            assert name in experiment.measures
            assert len(experiment.seeds["full"]) >= one.seeds
    measured = {name for experiment in known.values() for name in experiment.measures}
    assert measured <= claims.load().keys(), "measured, but no claim"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quot": "x"}, "claim fake-claim: quot: Extra inputs"),
        ({"kind": "guess"}, "claim fake-claim: kind: Input should be 'identity', 'rate'"),
        ({"seeds": 0}, "claim fake-claim: seeds: Input should be greater than 0"),
        ({"seeds": "many"}, "claim fake-claim: seeds: Input should be a valid integer"),
        ({"where": {"size": 3}}, "claim fake-claim: where.size: Input should be a valid string"),
        ({"slide": None}, "claim fake-claim: slide: Input should be a valid string"),
        ({"tests": [{"reading": "a"}]}, "claim fake-claim: tests.0.accept: Field required"),
        ({"tests": [{"reading": "a", "accept": [None, None]}]}, "accepts everything"),
        ({"tests": [{"reading": "a", "accept": [1, 0]}]}, "accepts nothing"),
        ({"tests": [{"reading": "a", "accept": [0]}]}, "claim fake-claim: tests.0.accept.1: Field"),
        ({"tests": [{"reading": "a", "accept": [0, math.nan]}]}, "finite number"),
        ({"tests": [{"reading": "a", "accept": [0, 1]}] * 2}, "'a' is tested twice"),
    ],
)
def test_an_error_names_claim_and_field(tmp_path, change, message):
    file = tmp_path / "claims.yml"
    file.write_text(yaml.safe_dump([ENTRY | change]))
    with pytest.raises(UsageError) as error:
        claims.load(file)
    assert str(error.value).startswith(f"{file}: claim fake-claim: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (yaml.safe_dump([ENTRY, ENTRY]), "claim fake-claim stands twice"),
        (yaml.safe_dump([{k: v for k, v in ENTRY.items() if k != "id"}]), "claim 1: id: Field req"),
        ("- just a word", "claim 1: : Input should be a valid dictionary"),
        ("id: x", "must be a list of claims"),
        ("", "must be a list of claims"),
        ("- [", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_list_of_claims_is_refused(tmp_path, text, message):
    file = tmp_path / "claims.yml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as error:
        claims.load(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


# Verdicts

VALUES = [0.4, 0.5, 0.6]
I = interval(VALUES)  # noqa: E741
STEP = 1e-9


@pytest.mark.parametrize("kind", ["rate", "order", "value"])
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ((I.low, I.high), "reproduced"),
        ((I.low, None), "reproduced"),
        ((None, I.high), "reproduced"),
        ((I.low + STEP, None), "inconclusive"),
        ((None, I.high - STEP), "inconclusive"),
        ((I.low + STEP, I.high - STEP), "inconclusive"),
        ((I.high, None), "inconclusive"),
        ((None, I.low), "inconclusive"),
        ((I.high + STEP, None), "contradicted"),
        ((None, I.low - STEP), "contradicted"),
        ((I.high + STEP, I.high + 1), "contradicted"),
    ],
)
def test_intervals_decide_between_seeds(kind, accept, expected):
    assert verdict(VALUES, kind=kind, accept=accept) == expected


@pytest.mark.parametrize("kind", ["identity", "count"])
@pytest.mark.parametrize(
    ("values", "accept", "expected"),
    [
        ([0, 0, 0], (0, 0), "reproduced"),
        ([0, 0, 1], (0, 0), "contradicted"),
        ([0, -1, 0], (0, 0), "contradicted"),
        ([0, 1, 2], (0, 2), "reproduced"),
        ([5, 6, 7], (5, None), "reproduced"),
        ([5, 6, 7], (5.5, None), "contradicted"),
        ([5, 6, 7], (None, 6.5), "contradicted"),
    ],
)
def test_every_single_value_decides_exact_claims(kind, values, accept, expected):
    judgement = claims.decide(claim(kind=kind, accept=accept), {"a": values})
    assert judgement.verdict == expected
    assert judgement.values == 3


def test_the_worst_value_of_an_exact_claim_is_shown():
    found = claims.decide(claim(kind="count", accept=(0, 1)), {"a": [0, -3, 2]}).results[0]
    assert found.estimate.mean == -3
    found = claims.decide(claim(kind="count", accept=(0, 9)), {"a": [1, 7, 2]}).results[0]
    assert found.estimate.mean == 7


def test_too_few_seeds_are_inconclusive():
    found = claims.decide(claim(seeds=4), {"a": VALUES})
    assert (found.verdict, found.reason) == ("inconclusive", "3 of 4 seeds")
    assert verdict([0, 0], kind="count", accept=(0, 0)) == "inconclusive"
    assert verdict([0, 9], kind="count", accept=(0, 0)) == "contradicted", "one exception will do"
    assert verdict([9.0, 9.1], accept=(0, 1)) == "inconclusive"
    assert verdict([0.5], accept=(0, 1), seeds=1) == "inconclusive", "one value, no interval"


def test_all_tests_must_hold_and_the_rest_is_reported():
    tests = [{"reading": "a", "accept": [0, 1]}, {"reading": "b", "accept": [0, 1]}]
    both = claim(tests=tests)
    inside, across, outside = [0.4, 0.5, 0.6], [0.9, 1.0, 1.1], [7.0, 7.1, 7.2]

    def decide(a, b):
        found = claims.decide(both, {"extra": outside, "b": b, "a": a}, count=6)
        assert [r.reading for r in found.results] == ["a", "b", "extra"]
        assert [r.verdict for r in found.results][2] == ""
        assert found.records == 6
        first = found.results[0].verdict == found.verdict
        assert found.measured == str(interval(a if first else b)), "not what decides"
        return found.verdict, found.reason

    assert decide(inside, inside) == ("reproduced", "")
    assert decide(inside, across) == ("inconclusive", "b")
    assert decide(across, across) == ("inconclusive", "a, b")
    assert decide(across, outside) == ("contradicted", "b")
    assert decide(inside, inside[:2]) == ("inconclusive", "2 of 3 seeds")


@pytest.mark.parametrize("values", [[], [1.0, math.nan, 1.0], [1.0, math.inf, 1.0]])
@pytest.mark.parametrize("kind", ["value", "count"])
def test_what_is_not_a_number_decides_nothing(kind, values):
    with pytest.raises(UsageError, match="claim fake-claim: 'a' must be finite numbers, got"):
        verdict(values, kind=kind)


def test_a_reading_that_nothing_measures_is_named():
    with pytest.raises(UsageError, match="claim fake-claim: nothing measures 'a'"):
        claims.decide(claim(), {"b": VALUES})


# Claims and records


def judge(results, **changes):
    return claims.judge(Claim.model_validate(ENTRY | changes), results)


def record(results, *lines):
    records.append(lines, records.path(NAME, results), overwrite=True)


def full(seed, **options):
    return line(seed, profile="full", **options)


def test_a_claim_goes_from_not_run_to_a_verdict(tmp_path, fake):
    def state(**changes):
        found = judge(tmp_path, **changes)
        return found.verdict, found.reason, found.records

    three = {"where": {"size": "3"}}
    assert state() == ("not run", "6 of 6 trials have no record", 0)
    assert state(needs="a telescope") == ("not run", "a telescope", 0)
    record(tmp_path, full(0), full(1), line(2))
    assert state(**three) == ("not run", "1 of 3 trials have no record", 2), "fast does not count"
    record(tmp_path, full(2, code="0" * 16))
    assert state(**three) == ("stale", "1 of 3 trials were recorded by older code", 2)
    record(tmp_path, full(2))
    assert state(**three) == ("reproduced", "", 3)
    assert state() == ("not run", "3 of 6 trials have no record", 3)
    assert state(needs="a telescope", **three) == ("reproduced", "", 3)
    tests = [{"reading": "three", "accept": [5, None]}]
    assert state(tests=tests, **three) == ("contradicted", "three", 3)
    with pytest.raises(UsageError, match="claim fake-claim: no trial of fake-sum is like"):
        state(where={"size": "9"})


def test_seeds_beyond_the_protocol_do_not_count(tmp_path, fake):
    record(tmp_path, *(full(seed) for seed in range(9)))
    found = judge(tmp_path, where={"size": "3"})
    assert (found.values, found.records) == (3, 3)
    expected = [r.metrics["total"] for r in records.read(NAME, tmp_path)[:3]]
    assert found.results[0].estimate == interval(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"experiment": "fake-unwritten"}, "the experiment is not written yet"),
        ({"tests": []}, "the test is not written yet"),
        ({"id": "fake-other"}, "the test is not written yet"),
        ({"experiment": "fake-unwritten", "needs": "a telescope"}, "a telescope"),
    ],
)
def test_what_is_not_there_yet_is_not_run(tmp_path, fake, changes, reason):
    found = judge(tmp_path, **changes)
    assert (found.verdict, found.reason, found.results) == ("not run", reason, ())


@pytest.fixture
def checkout(tmp_path, fake, monkeypatch):
    """A project of its own, with one claim."""
    (tmp_path / "claims.yml").write_text(yaml.safe_dump([ENTRY | {"where": {"size": "3"}}]))
    monkeypatch.setattr(project, "root", lambda: tmp_path)
    return tmp_path


def test_verify_prints_a_line_a_claim(checkout, capsys):
    results = checkout / "results"
    assert cli.main(["verify"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out == "fake-claim not run 3 of 3 trials have no record"
    record(results, full(0), full(1), full(2))
    assert cli.main(["verify"]) == 0
    out = capsys.readouterr().out
    measured = str(interval([r.metrics["total"] for r in records.read(NAME, results)]))
    assert out.count("\n") == 1
    for part in ("fake-claim", "reproduced", measured, "three 0 … 3", "n = 3", "3 records"):
        assert part in out
    assert cli.main(["verify", "fake-claim"]) == 0
    assert "    three" in capsys.readouterr().out
    assert cli.main(["verify", "fake-clam"]) == 2
    assert "no claim 'fake-clam'; did you mean fake-claim?" in capsys.readouterr().err


def test_verify_exits_with_one_where_a_record_is_altered(checkout, capsys):
    file = records.path(NAME, checkout / "results")
    record(file.parent, full(0), full(1), full(2))
    text = file.read_text().splitlines()
    text[1] = text[1].replace('"total": ', '"total": 1')
    file.write_text("\n".join(text) + "\n")
    assert cli.main(["verify"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mcnn: {file}:2: altered")
    assert shown.out == "", "no verdict from records that cannot be trusted"
    (judgement,) = claims.judge_all()
    assert (judgement.verdict, f"{file}:2: altered" in judgement.reason) == ("not run", True)


def test_the_book_has_its_verdicts():
    """Every claim of the book can be judged by what is recorded."""
    found = claims.judge_all()
    assert [j.claim.id for j in found] == list(claims.load())
    assert {j.verdict for j in found} <= set(claims.VERDICTS)
