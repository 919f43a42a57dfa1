"""How much two processes, and two workers of a Dask cluster, gain on sixty trials of half a second.

``python tests/ledger/speed.py``: each is a command of its own, imports and all; the workers of the
cluster are there before, as on a cluster, and warm after the first run. The trials sleep for most
of their time, so that other work on the machine disturbs little; a last column lets them compute.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
CODE = """
import sys; sys.path.insert(0, {tests!r})
from mcnn.ledger import cli
go_on = cli._plans

def with_fake(args):  # as late as a command imports its experiments, and PyTorch with them
    import fake_experiments as f
    from mcnn.ledger import registry
    registry.all_experiments()[f.NAME] = f.FAKE
    return go_on(args)

cli._plans = with_fake
sys.exit(cli.main(sys.argv[1:]))
"""


def seconds(*options):
    with tempfile.TemporaryDirectory() as results:
        run = ["run", "fake-sum", "--seeds", "0-59", "--device", "cpu", "--results", results]
        command = [sys.executable, "-c", CODE.format(tests=str(TESTS)), *run, *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))  # which workers that are spawned take over
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    for kind in sys.argv[1:] or ("FAKE_NAP", "FAKE_WORK"):
        os.environ.pop("FAKE_NAP", None)
        os.environ[kind] = "0.5"
        one = seconds()
        two = seconds("--jobs", "2")
        print(f"{kind}: one {one:.1f} s; --jobs 2 {two:.1f} s, {one / two:.2f} times", flush=True)
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            for state in ("cold", "warm"):
                dask = seconds("--scheduler", cluster.scheduler_address)
                print(f"    Dask, {state}: {dask:.1f} s, {one / dask:.2f} times", flush=True)
