"""The command line: what it prints, and the status it ends with."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter

import fake_experiments
import pytest
from fake_experiments import NAME

from mcnn import data
from mcnn.data import Status, wheels
from mcnn.ledger import cli, project, provenance, registry, runner

COMMANDS = ("list", "run", "verify", "merge", "data")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    examples = shown.partition("examples:\n")[2].splitlines()
    lines = [x.partition("mcnn ")[2].partition("   ")[0] for x in examples if "  mcnn " in x]
    assert lines
    for line in lines:
        argv = [word.strip("'") for word in line.split()]
        assert argv[0] == command
        assert cli._parser().parse_args(argv).command


def test_as_a_module_it_survives_a_reader_that_leaves():
    """The pipe of ``python -m mcnn list`` is closed before anything is written."""
    command = [sys.executable, "-m", "mcnn", "list"]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # all is written at the end
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=buffered, **pipes) as process:
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait() == 0, error
        assert error == ""


def test_help_does_not_wait_for_pytorch():
    code = "import sys, mcnn.ledger.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("argv", [[], ["walk"], ["run", "x", "--jobs", "2.5"]])
def test_a_wrong_command_line_ends_with_two(argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert "mcnn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "1-", "not seeds: '1-'; write 0-4 or 0,3,7-9"),
        ("--seeds", "a", "not seeds: 'a'"),
        ("--seeds", "4-1", "no seed in '4-1'"),
        ("--seeds", "0-3,9-7", "no seed in '9-7'"),
        ("--seeds", "", "not seeds"),
        ("--jobs", "0", "must be a whole number above 0, got '0'"),
        ("--jobs", "-1", "must be a whole number above 0"),
        ("--jobs", "1" * 400, "must be below a billion"),
        ("--results", "", "must not be empty"),
        ("--dataset", "", "must not be empty"),
        ("--scheduler", " ", "must not be empty"),
        ("--only", "size", "not FIELD=VALUE: 'size'"),
        ("--profile", "huge", "invalid choice: 'huge'"),
        ("--device", "tpu", "invalid choice: 'tpu'"),
    ],
)
def test_a_wrong_option_is_named(option, value, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["run", NAME, f"{option}={value}"])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_seeds():
    assert cli._seeds("0-4") == [0, 1, 2, 3, 4]
    assert cli._seeds("0,3,7-9") == [0, 3, 7, 8, 9]
    assert cli._seeds("5") == [5]


def test_run_says_what_it_does(tmp_path, fake, capsys):
    results = ["--device", "cpu", "--results", str(tmp_path)]
    assert cli.main(["run", NAME, "--seeds", "0-1,1", *results]) == 0
    assert capsys.readouterr().out == (
        f"{NAME}: 2 to run, 0 recorded\n2 new records in {tmp_path}\n"
    )
    assert cli.main(["run", "fake-*", *results]) == 0
    assert f"{NAME}: 2 to run, 2 recorded" in capsys.readouterr().out
    assert cli.main(["run", "*-sum", *results]) == 0
    assert capsys.readouterr().out == f"{NAME}: 0 to run, 4 recorded\nnothing to do\n"
    assert cli.main(["run", NAME, "--profile", "full", "--only", "size=4", *results]) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}: 3 to run, 0 recorded")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "density-mnits"], "no experiment 'density-mnits'; did you mean density-mnist"),
        (["run", "zzz-*"], "no experiment 'zzz-*'; there are: "),
        (["run", NAME, "--only", "sise=3"], "no field of fake-sum's trials 'sise'; there are:"),
        (["run", NAME, "--only", "size=9"], "no fast trial of fake-sum has size=9; there are: 3"),
        (["run", NAME, "--dataset", "mnist"], "no field of fake-sum's trials 'dataset'"),
        (["run", "density-ternary", "--dataset", "mnist"], "has dataset=mnist; there are: digits"),
        (["list", "densty"], "no experiment 'densty'"),
        (["verify", "density-mnits"], "no claim 'density-mnits'; did you mean density-mnist"),
        (["verify", "--revalidate", "fake-som"], "no experiment 'fake-som'; did you mean fake-sum"),
        (["verify", "--results", "/no/such/folder"], "no folder /no/such/folder"),
        (["merge", "/no/such/folder"], "no such file or folder: /no/such/folder"),
        (["data", "minst"], "no data set 'minst'; there are: digits, mnist,"),
    ],
)
def test_what_the_user_can_mend_is_one_line(fake, tmp_path, capsys, argv, message):
    if argv[0] != "data" and "--results" not in argv:
        argv = [*argv, "--results", str(tmp_path)]
    assert cli.main(argv) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mcnn: error: {message}") or message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", NAME, "--only", "size=3", "--only", "size=4"], "size is asked for twice"),
        (
            ["run", "linear-fc", "--dataset", "mnist", "--only", "dataset=digits"],
            "dataset is asked",
        ),
        (["run", NAME, "--patience", "5"], "--patience is for --scheduler"),
        (
            ["run", "--refresh", "oldest", "--hours", "1", "--profile", "fast"],
            "--profile is not for",
        ),
        (["verify", "--sample", "3"], "--sample is for --revalidate and --notes alone"),
        (["verify", "--jobs", "2", "--spot", "1"], "--jobs is for"),
        (["verify", "--within", "60"], "--within is for --spot alone"),
        (["verify", "--device", "cpu", "--update"], "--device is for"),
        (["verify", "--seed", "0", "--protocol"], "--seed is for"),
        (["verify", "relu-leaky", "--spot", "1"], "--spot takes no claims"),
        (["verify", "relu-leaky", "--update"], "--update takes no claims"),
        (["verify", "--update"], "--update writes what the project's own records say"),
    ],
)
def test_no_option_is_passed_over_in_silence(fake, tmp_path, capsys, argv, message):
    assert cli.main([*argv, "--results", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mcnn: error: {message}")
    assert (shown.err.count("\n"), shown.out) == (1, "")


@pytest.mark.parametrize("option", ["--revalidate", "--results"])
def test_a_variable_that_is_not_set_means_nothing_to_verify(option, capsys):
    with pytest.raises(SystemExit):
        cli.main(["verify", option, ""])
    assert f"argument {option}: must not be empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["verify"], ["list", NAME]])
@pytest.mark.parametrize("named", ["option", "variable"])
def test_a_folder_that_is_not_there_is_not_an_empty_one(
    fake, tmp_path, monkeypatch, capsys, command, named
):
    (tmp_path / "file").touch()
    for place in (str(tmp_path / "gone"), str(tmp_path / "file")):
        if named == "variable":
            monkeypatch.setenv("MCNN_RESULTS", place)
        assert cli.main([*command, *(["--results", place] if named == "option" else [])]) == 2
        assert capsys.readouterr().err == f"mcnn: error: no folder {place}\n"


def test_seeds_that_decide_nothing_are_said_before_they_run(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_: 0)
    options = ["--profile", "full", "--results", str(tmp_path)]
    assert cli.main(["run", NAME, "--seeds", "2-4", *options]) == 0
    said = "6 to run, 0 recorded, 4 on seeds that no verdict counts, for fake-sum lists others"
    assert capsys.readouterr().out.startswith(f"{NAME}: {said}\n")
    assert cli.main(["run", NAME, *options]) == 0
    assert "no verdict counts" not in capsys.readouterr().out


@pytest.mark.parametrize("state", [{"commit": None, "dirty": None}, {"dirty": True}])
def test_records_that_will_decide_nothing_are_said_before_they_run(
    fake, tmp_path, capsys, monkeypatch, state
):
    true_state = provenance.code_state
    monkeypatch.setattr(provenance, "code_state", lambda roots: true_state(roots) | state)
    monkeypatch.setattr(runner, "_engine", lambda *_: pytest.fail("ran before it was said"))
    run = ["run", NAME, "--device", "cpu", "--results", str(tmp_path)]
    for profile in ("fast", "full"):
        with pytest.raises(pytest.fail.Exception):
            cli.main([*run, "--profile", profile])
        said = f"mcnn: the code of {NAME} is in no commit, so that its records decide nothing"
        assert capsys.readouterr().err.startswith(said) == (profile == "full")


def test_a_folder_that_was_removed_is_none_to_look_for_the_project_in(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert (project.root() / project.CLAIMS).is_file()


def test_what_fails_many_times_is_told_once_with_its_number(fake, tmp_path, capsys, monkeypatch):
    def fail(trial, device):
        raise ValueError(f"a long message of seed {trial.seed}" if trial.seed < 20 else "another")

    monkeypatch.setitem(
        registry.all_experiments(), NAME, dataclasses.replace(fake_experiments.FAKE, run=fail)
    )
    run = ["run", NAME, "--seeds", "0-20", "--device", "cpu", "--results", str(tmp_path)]
    assert cli.main(run) == 2
    error = capsys.readouterr().err
    assert error.count(f"{NAME} failed on") == 3, "two ways, and the first once more at the end"
    assert error.count("Traceback") == 2
    assert f"19 more trials of {NAME} failed the same way: ValueError: a long message" in error
    assert f"21 of 21 trials failed, first {NAME} failed on" in error


@pytest.fixture
def no_photographs(monkeypatch, tmp_path):
    """Hide ILSVRC12, should somebody have it, and run nothing."""
    monkeypatch.setenv("MCNN_DATA", str(tmp_path))
    monkeypatch.setattr(data, "cache_path", lambda: tmp_path / "cache")
    plans = []
    monkeypatch.setattr(runner, "run", lambda found, *_: plans.extend(found))
    return plans


def test_data_that_must_be_asked_for_are_left_out_and_it_says_so(no_photographs, tmp_path, capsys):
    run = ["run", "linear-fc", "--profile", "full", "--results", str(tmp_path)]
    assert cli.main(run) == 0
    listed = registry.get("linear-fc").trials("full", registry.get("linear-fc").seeds["full"])
    on = Counter(trial.dataset for trial in listed)
    left_out, others = on["ilsvrc12"], len(listed) - on["ilsvrc12"]
    note = f"{others} to run, 0 recorded, {left_out} left out, whose data must be asked for"
    assert f"linear-fc: {note} (mcnn data)\n" in capsys.readouterr().out
    assert {trial.dataset for trial in no_photographs[0].todo} == {"mnist", "cifar10"}
    assert cli.main([*run, "--dataset", "mnist"]) == 0
    assert f"linear-fc: {on['mnist']} to run, 0 recorded\n" in capsys.readouterr().out
    assert cli.main([*run, "--scheduler", "tcp://where-the-data-are"]) == 0
    assert f"linear-fc: {len(listed)} to run, 0 recorded\n" in capsys.readouterr().out
    assert cli.main(["list", "linear-fc", "--results", str(tmp_path)]) == 0
    assert f"0 of {len(listed):>3} recorded" in capsys.readouterr().out


@pytest.mark.parametrize("named", [["--dataset", "ilsvrc12"], ["--only", "dataset=ilsvrc12"]])
def test_data_that_must_be_asked_for_and_are_named_are_one_line(
    no_photographs, tmp_path, capsys, named
):
    run = ["run", "linear-fc", "--profile", "full", "--results", str(tmp_path)]
    assert cli.main([*run, *named]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mcnn: error: ILSVRC12 is not in {tmp_path}")
    assert "image-net.org" in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not no_photographs


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_one_test_takes_out_is_there_for_the_next(turn):
    assert registry.all_experiments(), f"empty at the {turn} turn"
    registry.all_experiments().clear()


def test_list_is_a_line_an_experiment(tmp_path, fake, capsys):
    assert cli.main(["run", NAME, "--profile", "full", "--results", str(tmp_path)]) == 0
    capsys.readouterr()
    assert cli.main(["list", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[0] for x in lines] == list(registry.all_experiments())
    (mine,) = (x for x in lines if x.startswith(NAME))
    assert mine.split(maxsplit=5)[1:] == ["6", "of", "6", "recorded", "sums of a few numbers"]
    assert len({x.index(" of ") for x in lines}) == 1, "aligned"


@pytest.fixture
def sets(monkeypatch):
    """Pretend that data sets are in these states."""
    states = dict.fromkeys((*data.DATASETS, *wheels.WHEELS), "ok")

    def status(name):
        return Status(name, states[name], f"/data/{name}", f"about {name}")

    for source in (data, wheels):
        monkeypatch.setattr(source, "status", status)
        monkeypatch.setattr(source, "download", lambda name: states.update({name: "ok"}))
    return states


def test_data_is_an_aligned_line_a_set(sets, capsys):
    sets["mnist"] = "missing"
    assert cli.main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[:2] for x in lines] == [[n, sets[n]] for n in sets]
    assert len({x.index(" about ") for x in lines}) == 1
    assert lines[0].endswith("about digits in /data/digits")
    assert lines[1].endswith("about mnist")


@pytest.mark.parametrize(
    ("state", "argv", "status"),
    [
        ("missing", [], 0),
        ("missing", ["cifar10"], 0),
        ("missing", ["mnist"], 2),
        ("damaged", [], 2),
        ("damaged", ["mnist", "cifar10"], 2),
        ("ok", ["mnist"], 0),
        ("missing", ["mnist", "--download"], 0),
        ("missing", ["crepe", "minilm", "--download"], 0),
    ],
)
def test_the_status_of_data_is_that_of_what_was_asked_for(sets, state, argv, status):
    sets["mnist"] = state
    assert cli.main(["data", *argv]) == status


def test_data_for_real(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCNN_DATA", str(tmp_path))
    assert cli.main(["data", "digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits         ok       1437 training and 360 test images, 1x8x8")
    assert out.count("\n") == 1


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_with_one_line(mcnn, tmp_path, monkeypatch, capfd):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runner, "run_trial", interrupted)
    assert mcnn("run", NAME, "--device", "cpu", "--results", tmp_path) == 130
    error = capfd.readouterr().err
    assert error == "mcnn: stopped; what was recorded stays, call again to go on\n"
