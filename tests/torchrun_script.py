"""One training, by as many processes as torchrun starts: each takes its share of every batch."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mcnn.partition import DropoutPartition
from mcnn.paths import PathMLP

STEPS, BATCH, WIDTH = 7, 24, 12  # steps: no multiple of the parts, so the last cycle is cut short


def nets():
    torch.manual_seed(0)
    yield "paths", PathMLP([WIDTH, 16, 16, 4], paths=40, seed=1)
    hidden = nn.Linear(WIDTH, 16), nn.ReLU(), DropoutPartition(3, seed=2)
    yield "partition", nn.Sequential(*hidden, nn.Linear(16, 4))


def train(net, rank, world):
    """Train on this process' share of batches that depend on no process."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        x = torch.randn(BATCH, WIDTH, generator=generator)  # [batch, units]
        y = torch.randint(4, (BATCH,), generator=generator)  # [batch]
        optimizer.zero_grad()
        cross_entropy(net(x[rank::world]), y[rank::world]).backward()
        optimizer.step()


def trained(rank, world, wrap):
    """Return all that the networks hold after training, by name."""
    states = {}
    for name, net in nets():
        train(wrap(net), rank, world)
        states |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
    return states


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert dist.get_world_size() == 2
    torch.save(trained(rank, 2, DistributedDataParallel), f"{sys.argv[1]}/{rank}.pt")
    dist.destroy_process_group()
