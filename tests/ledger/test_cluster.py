"""A Dask cluster on this machine: a scheduler and workers, each a process that can be killed.

``make cluster-test`` runs these; they need nothing but the loopback interface.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fake_experiments import FAKE, NAME

from mcnn.errors import McnnError
from mcnn.ledger import cli, engines, records, runner

distributed = pytest.importorskip("distributed")
CPU = torch.device("cpu")
TESTS = Path(__file__).parents[1]
# A worker that knows the experiment of the tests, from a folder that may hold other code.
WORKER = """
import sys; sys.path.insert(0, {folder!r})
import fake_experiments as f
from mcnn.ledger import registry
registry.all_experiments()[f.NAME] = f.FAKE
from dask.__main__ import main
main()
"""


class Cluster:
    """A scheduler, and what is started besides; all of it is killed in the end."""

    def __init__(self, folder, code=TESTS):
        self.folder, self.started = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self._start(
            ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(self.port)],
            {
                "PYTHONPATH": os.pathsep.join([str(code), str(TESTS.parent)])
            },  # it reads what is sent
        )
        wait_for(self._answers)

    def _answers(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def worker(self, code=TESTS, log="log"):
        """Start a worker with the experiment of a folder; each trial leaves a line in its log."""
        words = ["worker", self.address, "--nthreads", "1", "--no-nanny"]
        log = {"FAKE_LOG": str(self.folder / log)}
        return self._start(["-c", WORKER.format(folder=str(code)), *words], log)

    def _start(self, words, environment=()):
        env = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *words, "--no-dashboard"],
            cwd=self.folder,
            env=env | dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.started.append(process)
        return process

    def wait_for_workers(self, number):
        """Wait until they are there: on a busy machine one may start long after the other."""
        with distributed.Client(self.address) as client:
            client.wait_for_workers(number, timeout=120)

    def log(self, name):
        """Return the seeds of the trials that were begun by workers with that log."""
        file = self.folder / name
        rows = file.read_text().splitlines() if file.exists() else []
        return [int(row.split()[0]) for row in rows]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextmanager
def running(*options):
    found = Cluster(*options)
    try:
        yield found
    finally:
        for process in reversed(found.started):
            process.kill()
            process.wait(60)


@pytest.fixture
def cluster(tmp_path, fake):
    with running(tmp_path) as found:
        yield found


@pytest.fixture
def stripped(tmp_path, fake):
    """One whose scheduler knows no experiment of the tests."""
    with running(tmp_path, tmp_path) as found:
        yield found


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def run(results, **options):
    plans = [runner.plan(NAME, seeds=range(12), results=results)]
    return runner.run(plans, CPU, results, **options)


def metrics(results):
    return {r.config: r.metrics for r in records.held(FAKE, results, "fast")}


def later(condition, act):
    """Do something in another thread as soon as a condition holds."""
    thread = threading.Thread(target=lambda: (wait_for(condition), act()), daemon=True)
    thread.start()
    return thread


def test_a_worker_that_is_killed_costs_no_trial(cluster, results, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_NAP", "0.3")
    victim = cluster.worker(log="victim")
    cluster.worker(log="other")
    cluster.wait_for_workers(2)
    kill = later(
        lambda: (tmp_path / "victim").exists() and (tmp_path / "other").exists(),
        lambda: victim.send_signal(signal.SIGKILL),
    )
    assert run(results, scheduler=cluster.address) == 12
    kill.join(60)
    assert victim.wait(60) == -signal.SIGKILL
    lost = cluster.log("victim")[-1]
    assert lost in cluster.log("other"), "the trial that it was at"
    monkeypatch.setenv("FAKE_NAP", "0")
    run(tmp_path / "alone")
    assert metrics(results) == metrics(tmp_path / "alone")


def test_a_worker_with_other_code_is_refused(cluster, results, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_NAP", "0.3")
    text = (TESTS / "fake_experiments.py").read_text()
    other = tmp_path / "other"
    other.mkdir()
    changed = text.replace('"parts": parts.tolist()', '"parts": (2 * parts).tolist()')
    assert changed != text
    (other / "fake_experiments.py").write_text(changed)
    cluster.worker(log="same")
    cluster.worker(other, log="changed")
    cluster.wait_for_workers(2)
    command = ["run", NAME, "--seeds", "0-99", "--device", "cpu", "--results", str(results)]
    assert cli.main([*command, "--scheduler", cluster.address]) == 2
    error = capsys.readouterr().err
    assert error == f"mcnn: error: a worker runs other code of {NAME} than is here: update it\n"
    assert cluster.log("changed")
    monkeypatch.setenv("FAKE_NAP", "0")
    for config, held in metrics(results).items():
        assert held == FAKE.run(config, CPU), "of the worker with the same code"


def test_a_scheduler_without_the_code_is_one_error(stripped, results, capsys):
    stripped.worker()
    stripped.wait_for_workers(1)
    command = ["run", NAME, "--device", "cpu", "--results", str(results)]
    assert cli.main([*command, "--scheduler", stripped.address]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcnn: error: the scheduler cannot read what it is sent: install there")
    assert error.count("\n") == 1


def test_a_cluster_without_workers_is_an_error_once_patience_ends(cluster, results, capsys):
    command = ["run", NAME, "--device", "cpu", "--results", str(results), "--patience", "2"]
    start = time.monotonic()
    assert cli.main([*command, "--scheduler", cluster.address]) == 2
    assert 2 <= time.monotonic() - start < 60
    assert capsys.readouterr().err == (
        f"mcnn: error: the scheduler at {cluster.address} has no worker: "
        f"start some with `dask worker {cluster.address}`\n"
    )
    assert metrics(results) == {}


def test_a_cluster_without_workers_is_named_once_and_waited_for(
    cluster, results, monkeypatch, capfd
):
    assert engines.SILENT == 10
    monkeypatch.setattr(engines, "SILENT", 1.0)
    said = []
    monkeypatch.setattr(engines.tqdm, "write", lambda text, file: said.append(text))
    later(lambda: said, cluster.worker)
    assert run(results, scheduler=cluster.address) == 12
    text = f"mcnn: the scheduler at {cluster.address} has no worker: "
    assert said == [f"{text}start some with `dask worker {cluster.address}`; waiting for one"]


def test_a_scheduler_that_is_killed_is_one_error(cluster, results, monkeypatch):
    monkeypatch.setenv("FAKE_NAP", "0.3")
    cluster.worker()
    cluster.wait_for_workers(1)
    later(lambda: len(cluster.log("log")) > 1, cluster.scheduler.kill)
    with pytest.raises(McnnError, match=r"^the scheduler at .* or its workers are gone; .* again"):
        run(results, scheduler=cluster.address)
    kept = len(metrics(results))
    assert kept < 12
    assert run(results) == 12 - kept, "what was recorded stays"
