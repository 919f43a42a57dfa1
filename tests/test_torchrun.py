"""A network on two processes, as ``torchrun`` starts them, is the one of a single process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
import torchrun_script

SCRIPT = Path(torchrun_script.__file__)

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch is built without torch.distributed and gloo",
)


def test_two_processes_train_the_network_of_one(tmp_path):
    """Path networks and partitions under DDP: a joint batch, the same weights and turns."""
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of the host leads to
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc_per_node", "2", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = torchrun_script.trained(0, 1, lambda net: net)
    assert {name.partition(".")[0] for name in alone} == {"paths", "partition"}
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert state.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6, msg=name)
