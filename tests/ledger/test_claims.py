"""Claims: their file, and the verdict on every side of every threshold."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from fake_experiments import NAME, FakeTrial, line

from mcnn import data
from mcnn.errors import RecordError, UsageError
from mcnn.ledger import claims, cli, project, records, registry, runner, verdicts
from mcnn.ledger.claims import Claim
from mcnn.stats import interval

# The claims of the talk; other readings of one may stand apart, as ILSVRC12 for want of images.
IDS = """
nutshell-backprop relu-leaky relu-abs relu-max relu-maxpool relu-halfspace
residual-euler residual-solver integral-relu integral-kink integral-rate integral-rl integral-noise
partition-table partition-variance partition-curve partition-coverage partition-random
density-unbiased density-mnist density-ternary density-conv density-conv-redundant
linear-cost linear-fc
paths-guarantee paths-coverage paths-dangling-none paths-chain paths-accuracy paths-after
paths-cost
"""

ENTRY = {
    "id": "fake-claim",
    "role": "talk",
    "deck": "later",
    "slide": "A slide",
    "quote": "it is so",
    "kind": "value",
    "protocol": "Add numbers.",
    "metric": "their sum",
    "quantity": "sum of three",
    "experiment": NAME,
    "seeds": 3,
    "tests": [{"reading": "three", "accept": [0, 3], "reason": "three below one"}],
    "notebook": "notebooks/fake.ipynb",
    "cell": "fig-fake",
}


class Plain(yaml.SafeDumper):
    """Writes what stands twice twice, for aliases are refused."""

    def ignore_aliases(self, data):
        return True


def dump(entries):
    return yaml.dump(entries, Dumper=Plain)


def one_test(reading="a", accept=(0, 1), **changes):
    return {"reading": reading, "accept": list(accept), "reason": "so it is"} | changes


def claim(kind="value", accept=(0.0, 1.0), seeds=3, **changes):
    tests = (one_test(accept=accept),)
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
        page = Path(one.notebook)  # of the chapter, or a further one such as density_networks
        assert page.stem.partition("_")[0] == name.partition("-")[0]
        assert (page.parent.name, page.suffix) == ("notebooks", ".ipynb")
        assert all(e.startswith(one.chapter + "-") for e in one.experiments)


def test_claims_that_can_be_judged_have_what_judges_them():
    known = registry.all_experiments()
    for name, one in claims.load().items():
        if one.tests and known.keys() >= set(one.experiments):
            pooled = [known[e] for e in one.experiments]
            assert len({experiment.measures[name] for experiment in pooled}) == 1
            assert sum(len(experiment.seeds["full"]) for experiment in pooled) >= one.seeds
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
        ({"tests": [{"reading": "a", "reason": "x"}]}, "tests.0.accept: Field required"),
        ({"tests": [{"reading": "a", "accept": [0, 1]}]}, "tests.0.reason: Field required"),
        ({"tests": [one_test(accept=(None, None))]}, "accepts everything"),
        ({"tests": [one_test(accept=(1, 0))]}, "accepts nothing"),
        ({"tests": [one_test(accept=(0,))]}, "claim fake-claim: tests.0.accept.1: Field"),
        ({"tests": [one_test(accept=(0, math.nan))]}, "finite number"),
        ({"tests": [one_test()] * 2}, "'a' is tested twice"),
        ({"tests": [one_test(accept=(None, 1), better="higher")]}, "nothing is too bad"),
        ({"tests": [one_test(accept=(0, None), better="lower")]}, "nothing is too bad"),
        ({"tests": [one_test(better="more")]}, "tests.0.better: Input should be 'higher'"),
        ({"tests": [one_test(accept=(-1, 1), effect=True)]}, "both signs are accepted"),
        ({"role": "rumour"}, "claim fake-claim: role: Input should be 'talk', 'source'"),
        ({"role": "source"}, "role source, but it is the talk that says so"),
        ({"source": "a paper"}, "role talk, but it is a paper that says so"),
        ({"deck": "first"}, "claim fake-claim: deck: Input should be 'later', 'earlier'"),
        ({"deck": None}, "which deck of the talk says so?"),
        ({"report": "no number", "shown": ["three"]}, "either tests or a reason to report"),
        ({"tests": [], "report": "no number"}, "needs readings to be shown"),
        ({"shown": ["three"]}, "needs readings to be shown"),
    ],
)
def test_an_error_names_claim_and_field(tmp_path, change, message):
    file = tmp_path / "claims.yml"
    file.write_text(dump([ENTRY | change]))
    with pytest.raises(UsageError) as error:
        claims.load(file)
    assert str(error.value).startswith(f"{file}: claim fake-claim: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (dump([ENTRY, ENTRY]), "claim fake-claim stands twice"),
        (dump([{k: v for k, v in ENTRY.items() if k != "id"}]), "claim 1: id: Field req"),
        ("- just a word", "claim 1: : Input should be a valid dictionary"),
        ("id: x", "must be a list of claims"),
        ("", "must be a list of claims"),
        ("- [", "cannot read"),
        (None, "cannot read"),
        ("- id: x\n  tests: []\n  seeds: 1\n  tests: []\n", "the key 'tests' stands twice"),
        ("- id: x\n  where: {a: b, a: c}\n", "the key 'a' stands twice"),
        ("- id: x\n  tests:\n  - {accept: [0, 1], accept: [0, 9]}\n", "'accept' stands twice"),
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


def test_what_a_paper_says_needs_no_deck():
    paper = {"role": "source", "source": "a paper", "deck": None}
    assert Claim.model_validate(ENTRY | paper).deck is None
    assert Claim.model_validate(ENTRY).source == claims.TALK


def test_nothing_is_judged_against_trials_of_our_own():
    """The decks give the curve of paths no number, so it is shown and not judged."""
    curve = claims.load()["paths-accuracy"]
    assert (curve.tests, bool(curve.report), len(curve.shown)) == ((), True, 4)


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
        ((I.low + STEP, None), "open"),
        ((None, I.high - STEP), "open"),
        ((I.low + STEP, I.high - STEP), "open"),
        ((I.high, None), "open"),
        ((None, I.low), "open"),
        ((I.high + STEP, None), "falls short"),
        ((None, I.low - STEP), "falls short"),
        ((I.high + STEP, I.high + 1), "falls short"),
        ((I.low - 1, I.low - STEP), "falls short"),
    ],
)
def test_intervals_decide_between_seeds(kind, accept, expected):
    assert verdict(VALUES, kind=kind, accept=accept) == expected


@pytest.mark.parametrize(
    ("accept", "better", "expected"),
    [
        ((0, I.low - STEP), "higher", "exceeded"),
        ((0, I.low - STEP), "lower", "falls short"),
        ((I.high + STEP, 1), "lower", "exceeded"),
        ((I.high + STEP, 1), "higher", "falls short"),
        ((0, I.low), "higher", "open"),
        ((0, I.high), "higher", "reproduced"),
    ],
)
def test_beyond_the_better_side_is_exceeded(accept, better, expected):
    assert verdict(VALUES, accept=accept, better=better) == expected
    tests = [one_test(accept=accept, better=better)]
    assert verdict(VALUES, tests=tests) == expected
    other = "lower" if better == "higher" else "higher"
    assert verdict(VALUES, tests=tests, better=other) == expected, "a test's own side counts"


@pytest.mark.parametrize(
    ("kind", "test", "expected"),
    [
        ("order", {"accept": [None, 0]}, "contradicted"),
        ("value", {"accept": [None, 0]}, "falls short"),
        ("value", {"accept": [None, 0], "effect": True}, "contradicted"),
        ("order", {"accept": [None, -0.1]}, "falls short"),
        ("value", {"accept": [None, -0.1], "effect": True}, "contradicted"),
        ("order", {"accept": [None, 0.01]}, "falls short"),
        ("value", {"accept": [0.9, None], "effect": True}, "falls short"),
        ("order", {"accept": [-0.2, 0]}, "falls short"),
        ("value", {"accept": [-0.2, 0], "effect": True}, "contradicted"),
    ],
)
def test_only_an_effect_of_the_opposite_sign_is_contradicted(kind, test, expected):
    assert verdict(VALUES, kind=kind, tests=[one_test(**test)]) == expected
    low, high = test["accept"]
    mirrored = [None if high is None else -high, None if low is None else -low]
    mirror = [one_test(**test | {"accept": mirrored})]
    assert verdict([-v for v in VALUES], kind=kind, tests=mirror) == expected


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


def test_too_few_seeds_are_open():
    found = claims.decide(claim(seeds=4), {"a": VALUES})
    assert (found.verdict, found.reason) == (
        "open",
        "3 of 4 seeds: the missing 1 would decide",
    )
    assert verdict([0, 0], kind="count", accept=(0, 0)) == "open"
    assert verdict([0, 9], kind="count", accept=(0, 0)) == "contradicted", "one exception will do"
    assert verdict([9.0, 9.1], accept=(0, 1)) == "open"
    assert verdict([0.5], accept=(0, 1), seeds=1) == "open", "one value, no interval"


def test_all_tests_must_hold_and_the_rest_is_reported():
    both = claim(tests=[one_test("a"), one_test("b", better="higher")])
    inside, across, outside = [0.4, 0.5, 0.6], [0.9, 1.0, 1.1], [7.0, 7.1, 7.2]
    below = [-v for v in outside]
    on_bound = "the mean lies on the bound 1: no number of seeds will decide"

    def decide(a, b):
        found = claims.decide(both, {"extra": outside, "b": b, "a": a}, count=6)
        assert [r.reading for r in found.results] == ["a", "b", "extra"]
        assert [r.verdict for r in found.results][2] == ""
        assert found.records == 6
        first = found.results[0].verdict == found.verdict
        assert found.measured == str(interval(a if first else b)), "not what decides"
        return found.verdict, found.reason

    assert decide(inside, inside) == ("reproduced", "")
    assert decide(inside, across) == ("open", f"b: {on_bound}")
    assert decide(across, across) == ("open", f"a: {on_bound}; b: {on_bound}")
    assert decide(inside, outside) == ("exceeded", "b")
    assert decide(across, outside) == ("open", f"a: {on_bound}")
    assert decide(across, below) == ("falls short", "b")
    assert decide(outside, below) == ("falls short", "a, b")
    assert decide(inside, inside[:2]) == ("open", "2 of 3 seeds: the missing 1 would decide")


def test_what_is_open_says_what_would_decide():
    found = claims.decide(claim(accept=(0, None)), {"a": [-0.4, 0.2, 0.5]})
    assert found.verdict == "open"
    assert found.reason == f"a: {found.results[0].decides}"
    assert "seeds in place of 3 would decide" in found.reason


def test_what_is_reported_has_no_verdict():
    curve = claim(tests=[], report="the slide has no number", shown=["b"])
    found = claims.decide(curve, {"a": [7.0], "b": VALUES}, count=2)
    assert (found.verdict, found.reason) == ("reported", "the slide has no number")
    assert found.measured == str(I)
    assert [(r.reading, r.verdict) for r in found.results] == [("b", ""), ("a", "")]
    with pytest.raises(UsageError, match="nothing measures 'b'"):
        claims.decide(curve, {"a": VALUES})


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
    tests = [one_test("three", accept=(5, None))]
    assert state(tests=tests, **three) == ("falls short", "three", 3)
    curve = {"tests": [], "report": "no number", "shown": ["three"]}
    assert state(**curve, **three) == ("reported", "no number", 3)
    assert state(**curve) == ("not run", "3 of 6 trials have no record", 3)
    with pytest.raises(UsageError, match="claim fake-claim: no trial of fake-sum is like"):
        state(where={"size": "9"})


def test_seeds_beyond_the_protocol_do_not_count(tmp_path, fake):
    record(tmp_path, *(full(seed) for seed in range(9)))
    found = judge(tmp_path, where={"size": "3"})
    assert (found.values, found.records) == (3, 3)
    expected = [r.metrics["total"] for r in records.read(NAME, tmp_path)[:3]]
    assert found.results[0].estimate == interval(expected)


def remade(seed, **changes):
    """A record whose provenance says something else, with its digest made anew."""
    made = full(seed)
    made["provenance"] |= changes
    return records.seal(made)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dirty": True}, "its code differs from its commit"),
        ({"dirty": None}, "its code differs from its commit"),
        ({"commit": None}, "its code is of no commit"),
        ({"commit": ""}, "its code is of no commit"),
    ],
)
def test_a_record_that_nobody_could_make_again_decides_nothing(tmp_path, fake, changes, why):
    where = {"where": {"size": "3"}}
    record(tmp_path, full(0), full(1), remade(2, **changes))
    found = judge(tmp_path, **where)
    assert (found.verdict, found.records) == ("not run", 2)
    assert found.reason == f"1 of 3 trials have a record that decides nothing: {why}"
    assert len(records.read(NAME, tmp_path)) == 2, "nor is it in a figure"
    p = runner.plan(NAME, "full", results=tmp_path, where={"size": "3"}, redo_stale=True)
    assert (p.flawed, [t.seed for t in p.todo]) == (1, [2])
    record(tmp_path, full(2))
    assert judge(tmp_path, **where).verdict == "reproduced"


@dataclass(frozen=True, kw_only=True)
class OnData(FakeTrial):
    dataset: str = "mnist"


@pytest.mark.parametrize(
    ("dataset", "mark", "good"),
    [
        ("mnist", data.DATASETS["mnist"].fingerprint, True),
        ("mnist", data.DATASETS["cifar10"].fingerprint, False),
        ("mnist", None, False),
        ("minst", "f" * 16, False),
        ("ilsvrc12", "f" * 16, True),
    ],
)
def test_a_record_of_other_data_than_the_published_decides_nothing(fake, dataset, mark, good):
    found = records.Record(remade(0, data=mark), OnData(dataset=dataset))
    assert (found.flaw is None) == good
    assert good or found.flaw == f"its data are not the published {dataset}"


def test_figures_get_what_verdicts_use(tmp_path, fake):
    record(tmp_path, *(full(seed) for seed in range(9)), full(0, size=4), full(0, size=7))
    shown = {(r.config.seed, r.config.size) for r in records.read(NAME, tmp_path)}
    assert shown == {(0, 3), (1, 3), (2, 3), (0, 4)}, "no seed and no shape beyond the protocol"
    assert len(records.held(fake, tmp_path)) == 11


@pytest.mark.parametrize("metrics", [{"seed": 0}, {"total": "three"}, {"total": [1, 2]}])
def test_metrics_that_lack_what_is_measured_are_one_line(tmp_path, fake, metrics):
    record(tmp_path, full(0, metrics=metrics), full(1), full(2))
    with pytest.raises((RecordError, UsageError), match="claim fake-claim: "):
        judge(tmp_path, where={"size": "3"})


def test_runs_of_one_measure_are_pooled_and_of_two_are_refused(tmp_path, fake, monkeypatch):
    again = replace(fake, name="fake-again", seeds={"full": range(7, 9)})
    monkeypatch.setitem(registry.all_experiments(), again.name, again)
    both = {"experiment": [NAME, again.name], "where": {"size": "3"}, "seeds": 5}
    record(tmp_path, *(full(seed) for seed in range(3)))
    found = judge(tmp_path, **both)
    assert (found.verdict, found.reason) == ("not run", "2 of 5 trials have no record")
    second = [
        full(seed, experiment=again.name, hash=again.key("full", FakeTrial(seed=seed)))
        for seed in (7, 8)
    ]
    records.append(second, records.path(again.name, tmp_path))
    found = judge(tmp_path, **both)
    assert (found.verdict, found.values, found.records) == ("reproduced", 5, 5)
    totals = [r.metrics["total"] for n in (NAME, again.name) for r in records.read(n, tmp_path)]
    assert found.results[0].estimate == interval(totals)
    other = replace(again, measures={"fake-claim": lambda found: {"three": [0.0]}})
    monkeypatch.setitem(registry.all_experiments(), again.name, other)
    with pytest.raises(UsageError, match="fake-sum, fake-again have different measures"):
        judge(tmp_path, **both)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"experiment": "fake-unwritten"}, "the experiment is not written yet"),
        ({"experiment": [NAME, "fake-unwritten"]}, "the experiment is not written yet"),
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
    (tmp_path / "claims.yml").write_text(dump([ENTRY | {"where": {"size": "3"}}]))
    monkeypatch.setattr(project, "root", lambda: tmp_path)
    return tmp_path


def test_verify_prints_a_line_a_claim(checkout, monkeypatch, capsys):
    results = checkout / "results"
    for name in set(registry.all_experiments()) - {NAME}:
        monkeypatch.delitem(registry.all_experiments(), name)
    assert cli.main(["verify"]) == 0
    title, head, shown, reason, _, support = capsys.readouterr().out.splitlines()
    assert support.startswith("0 records")
    assert title == "The talk's claims: 1 not run"
    assert " ".join(head.split()) == "claim verdict measured accepted n records quantity"
    assert " ".join(shown.split()) == "fake-claim not run sum of three"
    assert reason.strip() == "3 of 3 trials have no record"
    record(results, full(0), full(1), full(2))
    assert cli.main(["verify"]) == 0
    title, head, shown, _, support = capsys.readouterr().out.splitlines()
    assert support == "3 records: 3 made by today's code"
    measured = str(interval([r.metrics["total"] for r in records.read(NAME, results)]))
    assert title == "The talk's claims: 1 reproduced"
    assert " ".join(shown.split()) == f"fake-claim reproduced {measured} 0 … 3 3 3 sum of three"
    for column in ("verdict", "measured", "accepted", "quantity"):
        assert shown[head.index(column)] != " " == shown[head.index(column) - 1]
    assert cli.main(["verify", "fake-claim"]) == 0
    reading = capsys.readouterr().out.splitlines()[-1]
    assert reading.startswith("    three")
    assert reading.endswith("0 … 3: reproduced (three below one)")
    assert cli.main(["verify", "fake-clam"]) == 2
    assert (
        "no claim 'fake-clam'; there are: fake-claim; did you mean fake-claim?"
        in capsys.readouterr().err
    )


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
    assert {j.verdict for j in found} <= {*verdicts.VERDICTS, verdicts.REPORTED}
    for judgement in found:
        if judgement.verdict == "open":
            assert "decide" in judgement.reason, "open, and nothing said of what would decide"
