"""Running trials: in this process, in several, on a cluster; what fails, what stops, what shows."""

import errno
import multiprocessing
import os
import pty
import re
import shutil
import signal
import sys
import termios
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress

import distributed
import pytest
import torch
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from fake_experiments import FAKE, NAME, FakeTrial

from mcnn import data
from mcnn.errors import McnnError, TrialError, UsageError
from mcnn.ledger import cli, engines, leases, provenance, records, runner

CPU = torch.device("cpu")
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture
def results(tmp_path, fake):
    return tmp_path / "results"


def metrics(results, profile="fast"):
    found = records.held(FAKE, results, profile)
    return {r.config: r.metrics for r in found}


def in_process(results, **options):
    runner.run([runner.plan(NAME, "full", results=results)], CPU, results, **options)
    return metrics(results, "full")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie has ended
        return file.read().rpartition(")")[2].split()[0] != "Z"


# Engines


@pytest.mark.parametrize("device", DEVICES)
def test_trials_repeat_exactly_and_say_what_made_them(results, tmp_path, device):
    where = torch.device(device)
    p = runner.plan(NAME, results=results)
    runner.run([p], where, results)
    runner.run([p], where, tmp_path / "again")
    assert metrics(results) == metrics(tmp_path / "again")
    assert len(metrics(results)) == 4
    for record in records.read(NAME, results, "fast"):
        made = record.provenance
        assert made["code"] == provenance.code_hash(FAKE.roots)
        assert made["device"] == provenance.device_name(where)
        assert made["torch"] == torch.__version__
        assert made["cuda"] == (torch.version.cuda if device == "cuda" else None)
        assert made["data"] is None
        assert 0 <= made["seconds"] < 10
        assert made["peak_memory_bytes"] > (0 if device == "cuda" else 10**7)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["finished"])


def test_peak_memory_is_the_trials_own(results, fake, monkeypatch):
    def hungry(trial, device):
        return {"total": torch.ones(trial.size * 2**20).sum().item()}

    monkeypatch.setitem(fake.__dict__, "run", hungry)
    sizes = (200, 1)
    lines = [runner.run_trial(NAME, "fast", FakeTrial(size=size), CPU) for size in sizes]
    large, small = (x["provenance"]["peak_memory_bytes"] for x in lines)
    assert large - small > 0.8 * 4 * 199 * 2**20


def test_a_record_names_the_data(tmp_path):
    trial = runner.plan("density-ternary", results=tmp_path).todo[0]
    line = runner.run_trial("density-ternary", "fast", trial, CPU)
    assert line["provenance"]["data"] == data.load("digits").fingerprint
    again = runner.run_trial("density-ternary", "fast", trial, CPU)
    assert again["metrics"] == line["metrics"]


def test_trials_run_on_one_thread_and_give_the_others_back(results, fake, monkeypatch):
    seen = []

    def count(trial, device):
        seen.append(torch.get_num_threads())
        raise ValueError("on purpose")

    monkeypatch.setitem(fake.__dict__, "run", count)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="on purpose"):
            runner.run_trial(NAME, "fast", FakeTrial(), CPU)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_several_processes_give_the_same_numbers(results, tmp_path, monkeypatch):
    alone = in_process(results)
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    assert in_process(tmp_path / "jobs", jobs=2) == alone
    pids = {row.split()[1] for row in log.read_text().splitlines()}
    assert str(os.getpid()) not in pids


def test_a_dask_cluster_gives_the_same_numbers(results, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None, local_directory=tmp_path
    ) as cluster:
        on_cluster = in_process(tmp_path / "dask", scheduler=cluster.scheduler_address)
        pids = {row.split()[1] for row in log.read_text().splitlines()}
        assert str(os.getpid()) not in pids
        monkeypatch.delenv("FAKE_LOG")
        assert on_cluster == in_process(results)


def test_a_scheduler_that_cannot_be_is_one_line(results, capsys):
    command = ["run", NAME, "--scheduler", "carrier-pigeon://loft", "--results", str(results)]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "no dask scheduler answers at carrier-pigeon://loft" in error
    assert error.count("\n") == 1


# Failures


def test_a_trial_that_fails_stops_no_other_and_is_named(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAULT", "raise:1")
    plans = [runner.plan(NAME, "full", results=results)]
    message = (
        r"2 of 6 trials failed, first fake-sum failed on FakeTrial\(seed=1, size=3, .*\): "
        r"ValueError: a bug in a trial$"
    )
    with pytest.raises(TrialError, match=message):
        runner.run(plans, CPU, results)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "fake_experiments.py" in shown
    assert "1 more trial of fake-sum failed the same way: ValueError: a bug in a trial" in shown
    assert [t.seed for t in metrics(results, "full")] == [0, 0, 2, 2]
    command = ["run", NAME, "--profile", "full", "--device", "cpu", "--results", str(results)]
    assert cli.main(command) == 2
    assert "2 of 2 trials failed" in capsys.readouterr().err.splitlines()[-1]


def test_a_metric_that_is_not_finite_is_named_and_not_recorded(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAULT", "nan:0")
    with pytest.raises(TrialError, match=r"seed=0.*: cannot be recorded: metrics.curve\[1\] is"):
        runner.run([runner.plan(NAME, results=results)], CPU, results)
    assert "Traceback" not in capsys.readouterr().err
    assert [t.seed for t in metrics(results)] == [1, 2, 3]


def _pretend(monkeypatch, submit):
    class Executor:
        pass

    @contextmanager
    def engine(*_):
        Executor.submit = staticmethod(submit)
        yield engines.Workers(runner.run_batch, Executor, lambda: 2, "the workers are gone: killed")

    monkeypatch.setattr(runner, "_engine", engine)


def test_workers_that_vanish_are_one_error(results, monkeypatch):
    def submit(run, calls, device):
        future = Future()
        if calls[0].trial.seed == 0:
            future.set_result(run(calls, device))
        else:
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
        return future

    _pretend(monkeypatch, submit)
    plans = [runner.plan(NAME, seeds=range(3), results=results)]
    with pytest.raises(McnnError, match="the workers are gone: killed"):
        runner.run(plans, CPU, results)
    assert not {1, 2} & {trial.seed for trial in metrics(results)}


class _BrokenClient:
    """A Dask client whose connection breaks before it notices, at one of its calls."""

    status = "running"
    at = "nthreads"

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_executor(self, pure):
        return self

    def nthreads(self):
        if self.at == "nthreads":
            raise CommClosedError("in <TCP (closed)>: Stream is closed")
        return {"tcp://127.0.0.1:1": 1}

    def submit(self, *_):
        raise ClosedClientError("Client is closed. Can't send update-graph message.")


@pytest.mark.parametrize("at", ["nthreads", "submit"])
def test_a_connection_that_breaks_is_one_error(results, monkeypatch, at):
    monkeypatch.setattr(distributed, "Client", _BrokenClient)
    monkeypatch.setattr(_BrokenClient, "at", at)
    plans = [runner.plan(NAME, seeds=range(3), results=results)]
    with pytest.raises(McnnError, match=r"^the scheduler at .* or its workers are gone"):
        runner.run(plans, CPU, results, scheduler="tcp://127.0.0.1:1")


def test_a_worker_with_other_code_is_refused(results, monkeypatch):
    def submit(run, calls, device):
        future = Future()
        (line,) = run(calls, device)
        line["provenance"] |= {"code": "f" * 16}
        future.set_result([line])
        return future

    _pretend(monkeypatch, submit)
    with pytest.raises(UsageError, match="a worker runs other code of fake-sum than is here"):
        runner.run([runner.plan(NAME, results=results)], CPU, results)
    assert metrics(results) == {}


def test_short_trials_are_sent_in_batches_and_long_ones_alone(results, monkeypatch):
    sizes = []

    def submit(run, calls, device):
        sizes.append(len(calls))
        future = Future()
        lines = run(calls, device)
        for line in lines:
            line["provenance"] |= {"seconds": 0.1 if calls[0].trial.seed < 100 else 5.0}
        future.set_result(list(map(records.seal, lines)))
        return future

    _pretend(monkeypatch, submit)
    assert runner.run([runner.plan(NAME, seeds=range(100), results=results)], CPU, results) == 100
    assert sizes[0] == 1
    assert max(sizes) == 10, "a second"
    assert sizes[-1] == 1, "what is left is shared out"
    sizes.clear()
    runner.run([runner.plan(NAME, seeds=range(100, 110), results=results)], CPU, results)
    assert sizes == [1] * 10
    assert len(metrics(results)) == 110


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_workers_end_with_their_driver(results, tmp_path, monkeypatch, capfd, how):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_FAULT", "sleep:1")
    forked = multiprocessing.get_context("fork")  # starts at once; nothing else differs here
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked)
    command = ["run", NAME, "--seeds", "0-1", "--jobs", "2", "--device", "cpu"]
    driver = os.fork()
    if driver == 0:
        os.setsid()
        os._exit(cli.main([*command, "--results", str(results)]))
    try:
        wait_for(lambda: metrics(results) and log.read_text().count("\n") == 2)
        (worker,) = {int(r.split()[1]) for r in log.read_text().splitlines() if r[0] == "1"}
        assert alive(worker)
        if how == "kill":
            os.kill(driver, signal.SIGKILL)
        else:  # Ctrl-C reaches the whole group
            os.killpg(driver, signal.SIGINT)
        wait_for(lambda: not alive(driver), seconds=20)
        wait_for(lambda: not alive(worker), seconds=20)
        _, status = os.waitpid(driver, 0)
        assert [t.seed for t in metrics(results)] == [0]
        if how == "interrupt":
            assert os.waitstatus_to_exitcode(status) == 130
            error = capfd.readouterr().err
            assert error == "mcnn: stopped; what was recorded stays, call again to go on\n"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver, signal.SIGKILL)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_with_much_work_waiting_is_one_line(results, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_NAP", "0.2")
    command = ["run", NAME, "--seeds", "0-60", "--jobs", "2", "--device", "cpu"]
    driver = os.fork()
    if driver == 0:
        os.setsid()
        os._exit(cli.main([*command, "--results", str(results)]))
    try:
        wait_for(lambda: len(metrics(results)) > 2)
        os.killpg(driver, signal.SIGINT)
        wait_for(lambda: not alive(driver), seconds=20)
        assert os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1]) == 130
        error = capfd.readouterr().err
        assert error == "mcnn: stopped; what was recorded stays, call again to go on\n"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver, signal.SIGKILL)


def test_a_results_folder_that_is_removed_meanwhile_is_not_counted(results, monkeypatch, capsys):
    true_run = runner.run_trial

    def remove(experiment, profile, trial, device):
        line = true_run(experiment, profile, trial, device)
        if trial.seed == 2:
            shutil.rmtree(results)
        return line

    monkeypatch.setattr(runner, "run_trial", remove)
    command = ["run", NAME, "--device", "cpu", "--results", str(results)]
    assert cli.main(command) == 2
    shown = capsys.readouterr()
    assert "was removed or replaced while trials ran" in shown.err
    assert "new records" not in shown.out
    monkeypatch.setattr(runner, "run_trial", true_run)
    assert cli.main(command) == 0
    assert sorted(t.seed for t in metrics(results)) == [0, 1, 2, 3]


# Several drivers


def test_two_drivers_share_the_work(results, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_NAP", "0.05")
    drivers = []
    for _ in range(2):
        driver = os.fork()
        if driver == 0:
            plans = [runner.plan(NAME, seeds=range(30), results=results)]
            runner.run(plans, CPU, results)
            os._exit(0)
        drivers.append(driver)
    assert [os.waitpid(d, 0)[1] for d in drivers] == [0, 0]
    rows = [row.split() for row in log.read_text().splitlines()]
    assert sorted(int(seed) for seed, _ in rows) == list(range(30)), "each once"
    shares = [[pid for _, pid in rows].count(str(d)) for d in drivers]
    assert min(shares) >= 8, "both of them"
    assert not (results / ".leases").exists()


def test_a_lease_that_nobody_touches_is_taken_over(results, monkeypatch):
    monkeypatch.setattr(leases, "_host", iter(map(str, range(99))).__next__)  # others each time
    first, second = leases.Leases(results), leases.Leases(results)
    assert first.take(results, "a")
    assert not second.take(results, "a")
    assert second.take(results, "b")
    long_ago = time.time() - 2 * leases.EXPIRES
    os.utime(results / ".leases" / "a", (long_ago, long_ago))
    assert second.take(results, "a")
    assert not first.take(results, "a")
    second.give_back(results, "a")
    assert first.take(results, "a")


def test_the_lease_of_a_killed_driver_is_free_at_once(results):
    driver = os.fork()
    if driver == 0:
        leases.Leases(results).take(results, "a")
        os._exit(0)
    os.waitpid(driver, 0)
    assert (results / ".leases" / "a").exists()
    assert leases.Leases(results).take(results, "a")


def test_a_driver_that_is_killed_while_it_takes_a_lease_leaves_none(results):
    pid = os.fork()
    if not pid:
        os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        leases.Leases(results).take(results, "a")
        os._exit(0)
    os.waitpid(pid, 0)
    assert not (results / ".leases" / "a").exists()
    assert leases.Leases(results).take(results, "a")


def test_leases_need_no_hard_links(results, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with leases.Leases(results) as first, leases.Leases(results) as second:
        assert first.take(results, "a")
        assert not second.take(results, "a")
    assert not (results / ".leases").exists()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_lease_of_a_dead_driver_expires_though_the_clock_was_set_back(
    results, monkeypatch, hours
):
    monkeypatch.setattr(leases, "_host", iter(map(str, range(99))).__next__)  # others each time
    assert leases.Leases(results).take(results, "a")
    then = time.time() + hours * 3600
    os.utime(results / ".leases" / "a", (then, then))
    assert leases.Leases(results).take(results, "a")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0" * 40, b"", b"x " * 999])
def test_a_damaged_lease_is_one_that_expires(results, content):
    file = results / ".leases" / "a"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert not leases.Leases(results).take(results, "a")
    long_ago = time.time() - 2 * leases.EXPIRES
    os.utime(file, (long_ago, long_ago))
    assert leases.Leases(results).take(results, "a")


def test_leases_are_touched_while_their_driver_lives(results, monkeypatch):
    monkeypatch.setattr(leases, "EXPIRES", 1.5)
    monkeypatch.setattr(leases, "BEAT", 0.05)
    with leases.Leases(results) as first, leases.Leases(results) as second:
        first.start()
        assert first.take(results, "a")
        time.sleep(2)
        assert not second.take(results, "a")
    assert not (results / ".leases").exists()


# Plans


def test_a_plan_is_what_has_no_record_yet(results):
    p = runner.plan(NAME, seeds=[2, 0, 2, 0], results=results)
    assert [t.seed for t in p.todo] == [2, 0], "a seed that is named twice runs once"
    runner.run([p], CPU, results)
    p = runner.plan(NAME, results=results)
    assert ([t.seed for t in p.todo], p.done) == ([1, 3], 2)
    assert runner.plan(NAME, "full", results=results).done == 0, "profiles do not mix"


def test_filters_leave_the_trials_that_fit(results):
    def sizes(**where):
        return [(t.seed, t.size) for t in runner.plan(NAME, "full", None, results, where).todo]

    assert sizes(size="4") == [(0, 4), (1, 4), (2, 4)]
    assert sizes(size="4", seed="1") == [(1, 4)]
    assert len(sizes(shape="(1, 2)")) == 6


@pytest.mark.parametrize(
    ("name", "profile", "where", "message"),
    [
        ("fake-som", "fast", {}, "no experiment 'fake-som'; did you mean fake-sum?"),
        (NAME, "fats", {}, "no profile 'fats'; there are: fast, full; did you mean fast?"),
        (NAME, "full", {"syze": "3"}, "'syze'; there are: seed, size, shape; did you mean size?"),
        (NAME, "full", {"config": "3"}, "'config'; there are: seed, size, shape"),
        (NAME, "full", {"size": "5"}, "no full trial of fake-sum has size=5; there are: 3, 4"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(results, name, profile, where, message):
    with pytest.raises(UsageError) as error:
        runner.plan(name, profile, None, results, where)
    assert message in str(error.value)


def test_missing_data_are_found_before_the_first_trial(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCNN_DATA", str(tmp_path))
    monkeypatch.setattr(data, "cache_path", lambda: tmp_path)
    command = ["run", "density-ternary", "--profile", "full", "--seeds", "0", "--device", "cpu"]
    assert cli.main([*command, "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcnn: error: MNIST is not in")
    assert error.count("\n") == 1


def test_devices(monkeypatch):
    assert runner.resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runner.resolve_device("auto") == CPU
    with pytest.raises(UsageError, match="finds no CUDA device here; use --device auto or cpu"):
        runner.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runner.resolve_device("auto").type == "cuda"
    with pytest.raises(UsageError, match="no device 'gpu'"):
        runner.resolve_device("gpu")


# Progress


def test_the_bar_shows_the_time_left_and_only_on_a_terminal(results, mcnn, capfd):
    command = ["run", NAME, "--device", "cpu", "--results"]
    driver, terminal = pty.fork()
    if driver == 0:
        termios.tcsetwinsize(2, (24, 80))
        with open(2, "w", closefd=False) as sys.stderr:  # not where pytest keeps what is printed
            os._exit(cli.main([*command, str(results)]))
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    _, status = os.waitpid(driver, 0)
    assert status == 0
    assert re.search(rb"trials: .*\d/4 \[\d\d:\d\d<[\d:?]+", shown)
    assert mcnn(*command, results.parent / "pipe") == 0
    assert capfd.readouterr().err == ""
