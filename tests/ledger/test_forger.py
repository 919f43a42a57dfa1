"""The forger: who changes numbers and makes every digest, note and page fit them.

Nothing in a file can tell. What tells is running a trial again, as ``make test`` does with a few.
"""

import dataclasses

import pytest
import torch

from mcnn.ledger import cli, records, registry, runner, verification

CHEAP = ("integral-relu", "relu-identities", "paths-guarantee")


def forged(metrics, factor):
    """Return metrics with every number a little larger."""
    if isinstance(metrics, dict):
        return {k: forged(v, factor) for k, v in metrics.items()}
    if isinstance(metrics, list):
        return [forged(v, factor) for v in metrics]
    number = isinstance(metrics, int | float) and not isinstance(metrics, bool)
    return type(metrics)(metrics * factor + (factor > 1)) if number else metrics


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with a record of today's code for each of some real experiments, and no others."""
    known = registry.all_experiments()
    for name in set(known) - set(CHEAP):
        monkeypatch.delitem(known, name)
    for name in CHEAP:
        held = records.read(name)
        cheapest = min(held, key=lambda r: r.provenance["seconds"])
        line = runner.run_trial(name, "full", cheapest.config, torch.device("cpu"))
        line["provenance"] |= {"commit": "c" * 40, "dirty": False}  # whatever is edited here
        records.append([records.seal(line)], records.path(name, tmp_path))
    return tmp_path


def spot(results):
    command = ["verify", "--spot", "3", "--within", "60", "--device", "cpu"]
    return cli.main([*command, "--results", str(results)])


@pytest.mark.parametrize("name", CHEAP)
def test_the_spot_catches_a_forgery_that_fits_in_every_way(results, capsys, name):
    assert spot(results) == 0
    file = records.path(name, results)
    (held,) = records.read(name, results)
    records.append(
        [records.seal(held.line | {"metrics": forged(held.metrics, 1.5)})], file, overwrite=True
    )
    assert cli.main(["verify", "relu-leaky", "--results", str(results)]) in (0, 2)
    assert "altered" not in capsys.readouterr().err, "its digest fits"
    assert spot(results) == 1
    assert f"{name} {held.key} DIFFERS" in capsys.readouterr().out


def test_a_seed_that_is_taken_away_or_added_does_not_vanish(results, monkeypatch):
    """Who drops the seed that spoils a verdict leaves a record that is not listed."""
    experiment = registry.get(CHEAP[0])
    assert "not listed" not in str(verification.support(results))
    (held,) = records.read(experiment, results)
    seeds = [s for s in experiment.seeds["full"] if s != held.config.seed]
    fewer = dataclasses.replace(experiment, seeds={"fast": [0], "full": seeds})
    monkeypatch.setitem(registry.all_experiments(), experiment.name, fewer)
    assert records.read(fewer, results) == []
    said = "1 decide nothing, for their trials are not listed, or no longer"
    assert said in str(verification.support(results))


def test_the_book_has_records_that_make_test_can_run_again():
    """Without data, too, as on a machine that has just been set up."""
    cheap = 0
    for experiment in registry.all_experiments().values():
        held = [r for r in records.read(experiment) if not getattr(r.config, "dataset", None)]
        cheap += any(r.provenance["seconds"] <= 20 for r in held)
    assert cheap >= 5


def test_a_spot_says_how_to_repeat_it(results, capsys):
    assert spot(results) == 0
    first = capsys.readouterr().out
    assert first.startswith("3 of 3 records run again, --seed ")
    seed = first.split()[7]
    command = ["verify", "--spot", "3", "--within", "60", "--device", "cpu", "--seed", seed]
    assert cli.main([*command, "--results", str(results)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == first.splitlines()[1:]
