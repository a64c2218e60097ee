"""The device and the processes of a training. This is the only file that uses Lightning Fabric."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from compressor.errors import Temporary
from compressor.training.distributed.sync_batchnorm import synchronized_batchnorm

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_Any = TypeVar("_Any")

# Other processes wait while the leader prunes and measures. A lost connection reveals a process that died.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One of the processes that train together. Each works on its share of every batch."""

    fabric: Fabric

    @property
    def part(self) -> tuple[int, int]:
        """(rank, world size)"""
        return self.fabric.global_rank, self.world_size

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.fabric.world_size

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    def seed(self, seed: int) -> None:
        """Seed the random numbers of PyTorch on the CPU and on the device of this process."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.6 ms to look for other devices
        else:
            torch.manual_seed(seed)

    def to_device(self, batch: _Any) -> _Any:
        """Move the tensors of a tree to the device of this process."""
        return cast(_Any, self.fabric.to_device(batch))

    def forward(self, module: nn.Module) -> Callable[[Tensor], Any]:
        """Return the forward pass of training, in which BatchNorm sees the shares of all processes."""
        return synchronized_batchnorm(module, self.average, self.world_size) if self.world_size > 1 else module

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over all processes. A gradient that only other processes have counts as zero here.

        All gradients are averaged together after the backward pass. This is a few percent slower than
        DistributedDataParallel, which overlaps both, but works for networks whose outputs are not all in the loss.
        """
        if self.world_size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        present = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=self.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        averaged = self.average(torch.cat([present, *(gradient.flatten() for gradient in gradients)]))
        present_share, *means = torch.split(averaged, [len(trained), *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, mean, used in zip(trained, gradients, means, present_share.tolist(), strict=True):
            parameter.grad = gradient.copy_(mean.view_as(gradient)) if used else None

    def average(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return cast(Tensor, self.fabric.all_reduce(value, reduce_op="mean")) if self.world_size > 1 else value

    def broadcast(self, value: _Any) -> _Any:
        """Return the value that the leading process passed."""
        return self.fabric.broadcast(value)


def single_process() -> Runtime:
    """Make the runtime of one process on one device, a GPU if there is one."""
    from lightning_fabric import Fabric

    return Runtime(Fabric(accelerator="auto", devices=1))


@contextmanager
def distributed_runtime() -> Iterator[Runtime]:
    """Join the group of processes that the environment variables of `torchrun` describe.

    Yields:
        The runtime of this process.

    Raises:
        Temporary: The connection to another process was lost.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the leader reports progress
    local_size, world_size = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator="auto",
            devices=local_size,
            num_nodes=world_size // local_size,
            strategy=DDPStrategy(timeout=TIMEOUT),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
        yield Runtime(fabric)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        place = f"process {int(os.environ['RANK']) + 1} of {world_size}"
        problem = "the connection to another process was lost"
        hint = "find out what ended that process, then run again with --resume"
        raise Temporary("training/connection-lost", place, problem, hint) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
