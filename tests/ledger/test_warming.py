"""Workers of a cluster prepare while their driver starts; what is wrong with it is said later."""

import subprocess
import sys
import time

import pytest

from mcnn.ledger import provenance, registry, warming


def has(module):
    return module in sys.modules


def test_a_worker_imports_what_trials_need_before_one_is_sent(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        ready = ("mcnn.ledger.runner", "mcnn.experiments.nutshell")
        assert not any(client.run(has, ready[0]).values())
        end = time.monotonic() + 60
        with warming.warming(cluster.scheduler_address, ["nutshell-*"]):
            while not all(all(client.run(has, name).values()) for name in ready):
                assert time.monotonic() < end, "waited in vain"
                time.sleep(0.05)


@pytest.mark.parametrize("address", [None, "tcp://127.0.0.1:1", "carrier-pigeon://loft"])
def test_a_cluster_that_is_not_there_stops_nothing(address):
    entered = False
    with warming.warming(address, ["nutshell-*"]):
        entered = True
    assert entered


def test_nothing_fails_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with warming.warming("tcp://127.0.0.1:1", ["nutshell-*"]):
        pass


def test_what_a_block_raises_passes():
    with pytest.raises(KeyError), warming.warming(None, []):
        raise KeyError


def test_the_code_of_the_first_experiment_that_is_meant_is_read(monkeypatch):
    asked = []
    monkeypatch.setattr(provenance, "describe", lambda roots, device: asked.append(roots))
    warming.prepare(("nutshell-*",))
    warming.prepare(("no-such-experiment",))
    names = [name for name in registry.all_experiments() if name.startswith("nutshell-")]
    assert asked == [registry.get(names[0]).roots]


def test_it_begins_before_pytorch_is_imported():
    code = "import sys; from mcnn.ledger import warming; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_threads_that_ask_at_once_are_given_one_table():
    code = (
        "import threading\nfrom mcnn.ledger import registry\nfound = []\n"
        "ask = lambda: found.append(registry.all_experiments())\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "[t.start() for t in threads]\n[t.join() for t in threads]\n"
        "print(len(found), len({id(table) for table in found}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "4 1\n"
