"""One training, by as many processes as torchrun starts: each takes its share of every batch."""

import copy
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mcnn.errors import UsageError
from mcnn.partition import DropoutPartition
from mcnn.paths import PathMLP, grow

STEPS, BATCH, WIDTH = 7, 24, 12  # steps: no multiple of the parts, so the last cycle is cut short
MIDST, GROWTH = 4, 20  # a step in mid cycle, after which networks grow by as many paths, or stop


def partition():
    torch.manual_seed(0)
    hidden = nn.Linear(WIDTH, 16), nn.ReLU(), DropoutPartition(3, seed=2)
    return nn.Sequential(*hidden, nn.Linear(16, 4))


def paths(number=40):
    torch.manual_seed(0)
    return PathMLP([WIDTH, 16, 16, 4], paths=number, seed=1)


class Training:
    """A network in training on a process' share of batches that depend on no process."""

    def __init__(self, net, rank, world, wrap):
        self.net, self.share, self.wrap = net, slice(rank, None, world), wrap
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        self.generator = torch.Generator().manual_seed(3)

    def steps(self, number):
        wrapped = self.wrap(self.net)  # anew, for its parameters may have grown
        for _ in range(number):
            x = torch.randn(BATCH, WIDTH, generator=self.generator)  # [batch, units]
            y = torch.randint(4, (BATCH,), generator=self.generator)  # [batch]
            self.optimizer.zero_grad()
            cross_entropy(wrapped(x[self.share]), y[self.share]).backward()
            self.optimizer.step()

    def state(self):
        saved = self.net.state_dict(), self.optimizer.state_dict(), self.generator.get_state()
        return copy.deepcopy(saved)

    def load(self, state):
        net, optimizer, generator = state
        self.net.load_state_dict(net)
        self.optimizer.load_state_dict(optimizer)
        self.generator.set_state(generator)


def trained(rank, world, wrap):
    """Return all that the networks hold after training, by name."""
    states = {}
    for make in (paths, partition):
        training = Training(make(), rank, world, wrap)
        training.steps(STEPS)
        states |= {f"{make.__name__}.{k}": v for k, v in training.net.state_dict().items()}
    growing = Training(paths(), rank, world, wrap)
    growing.steps(MIDST)
    grow(growing.net, GROWTH)
    growing.steps(STEPS - MIDST)
    return states | {f"growth.{k}": v for k, v in growing.net.state_dict().items()}


def resumed(rank, world, wrap):
    """Return what trainings come to that go on, and that stop and start in mid cycle, by name."""
    found = {}
    for name, make, fresh in (
        ("partition", partition, partition),
        ("growth", paths, lambda: paths(40 + GROWTH)),  # as large as it was saved
    ):
        going = Training(make(), rank, world, wrap)
        going.steps(MIDST)
        if name == "growth":
            grow(going.net, GROWTH)
            going.steps(1)
        again = Training(fresh(), rank, world, wrap)
        again.load(going.state())
        for kind, training in (("on", going), ("again", again)):
            training.steps(STEPS - MIDST)
            found[f"{name}, {kind}"] = training.state()
    return found


def refused(wrap):
    """Return what growing says to a network that is wrapped, whose gradients would be lost."""
    net = paths()
    wrapped = wrap(net)
    wrapped(torch.zeros(1, WIDTH)).sum().backward()
    try:
        grow(net, GROWTH)
    except UsageError as error:
        return str(error)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert dist.get_world_size() == 2
    wrap = DistributedDataParallel
    found = trained(rank, 2, wrap), resumed(rank, 2, wrap), refused(wrap)
    torch.save(found, f"{sys.argv[1]}/{rank}.pt")
    dist.destroy_process_group()
