"""The processes of one training run, as `torchrun` starts them; without it there is one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among `size`, and the device it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes."""
        if self.size == 1:
            return net
        # an MSDNet's last layers make features that no exit reads
        return DistributedDataParallel(net, find_unused_parameters=True, broadcast_buffers=False)

    def any(self, flag: bool) -> bool:
        """Whether it holds for any process."""
        if self.size == 1:
            return flag
        return self.mean(torch.tensor(float(flag), device=self.device)).item() > 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(value)
            value /= self.size
        return value

    def shared(self, value: Tensor) -> Tensor:
        """The first process's, of one shape in all of them."""
        if self.size == 1:
            return value
        given = value.to(self.device)
        distributed.broadcast(given, 0)
        return given.to(value.device)


@contextmanager
def join() -> Iterator[World]:
    """The world this process belongs to, left again at the end."""
    has_gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        yield World(torch.device("cuda" if has_gpu else "cpu"))
        return
    device = torch.device("cpu")
    if has_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield World(device, distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # no one tears down what another still needs
    finally:
        distributed.destroy_process_group()


def leave() -> None:
    """Ends a process of `torchrun` that is done, as it is; does nothing to any other.

    Threads of gloo may still let go of tensors: where the interpreter is ending that aborts.
    """
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
