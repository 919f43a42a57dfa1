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


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found, as they are started together."""
    folder = tmp_path_factory.mktemp("two")
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of the host leads to
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc_per_node", "2", str(SCRIPT), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_train_the_network_of_one(two):
    """Path networks, also one that grows, and partitions: a joint batch, the same weights."""
    alone = torchrun_script.trained(0, 1, lambda net: net)
    assert {name.partition(".")[0] for name in alone} == {"paths", "partition", "growth"}
    grown, small = (alone[f"{name}.layers.0.weight"] for name in ("growth", "paths"))
    assert len(grown) > len(small)
    for state, _, _ in two:
        assert state.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6, msg=name)


def test_a_checkpoint_resumes_in_mid_cycle_bit_for_bit(two):
    for _, found, _ in two:
        for name in ("partition", "growth"):
            on, again = tensors(found[f"{name}, on"]), tensors(found[f"{name}, again"])
            assert len(on) == len(again) > 9
            assert all(map(torch.equal, on, again)), name
    first, second = (tensors(found["growth, on"]) for _, found, _ in two)
    assert all(map(torch.equal, first, second)), "both processes have one network"


def test_a_network_that_is_wrapped_does_not_grow(two):
    for _, _, said in two:
        assert "before the network is wrapped in DistributedDataParallel" in said


def tensors(state):
    """Yield all tensors of nested states."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        state = [state[key] for key in sorted(state, key=str)]
    return [t for s in state for t in tensors(s)] if isinstance(state, list | tuple) else []
