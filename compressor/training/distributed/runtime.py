"""Where training runs: on which device, in how many processes. The only file that knows Lightning Fabric."""

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

# Processes that lend a hand wait while the leader prunes and measures; one that dies is noticed by its connection.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process among those that train together. Each works on its part of every batch."""

    fabric: Fabric

    @property
    def part(self) -> tuple[int, int]:
        """(number of this process, processes in all)"""
        return self.fabric.global_rank, self.fabric.world_size

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def place(self, batch: _Any) -> _Any:
        """Tensors, nested as they may be, on this process's device."""
        return cast(_Any, self.fabric.to_device(batch))

    def forward(self, module: nn.Module) -> Callable[[Tensor], Any]:
        """`module` as it answers in training, when a batch is the parts of all processes."""
        processes = self.part[1]
        return synchronized_batchnorm(module, self.average, processes) if processes > 1 else module

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Their mean over all processes; of one that has none here, but elsewhere, that counts as zero.

        All of them at once, after the backward pass: a few percent slower than what torch's DistributedDataParallel
        overlaps with it, but any network will do, also one whose answers are not all in the loss.
        """
        if self.part[1] == 1:
            return
        trained = [each for each in parameters if each.requires_grad]
        present = torch.tensor([each.grad is not None for each in trained], dtype=torch.float32, device=self.device)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        averaged = self.average(torch.cat([present, *(each.flatten() for each in gradients)]))
        somewhere, *parts = torch.split(averaged, [len(trained), *(each.numel() for each in gradients)])
        for parameter, gradient, part, used in zip(trained, gradients, parts, somewhere.tolist(), strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient)) if used else None

    def average(self, value: Tensor) -> Tensor:
        """Mean over all processes."""
        return cast(Tensor, self.fabric.all_reduce(value, reduce_op="mean")) if self.part[1] > 1 else value

    def from_leader(self, value: _Any) -> _Any:
        """What the leading process gave; what the others gave is dropped."""
        return self.fabric.broadcast(value)


def single_process() -> Runtime:
    """One process on one device: a GPU where there is one."""
    from lightning_fabric import Fabric

    return Runtime(Fabric(accelerator="auto", devices=1))


@contextmanager
def distributed_runtime() -> Iterator[Runtime]:
    """One process of the group that the environment describes, in the variables that `torchrun` sets.

    Raises Temporary where another process of the group is lost while the block runs.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # progress is told by the leader, as ever
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    try:
        fabric = Fabric(
            accelerator="auto",
            devices=here,
            num_nodes=everywhere // here,
            strategy=DDPStrategy(timeout=PATIENCE),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
        yield Runtime(fabric)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        place = f"process {int(os.environ['RANK']) + 1} of {everywhere}"
        problem = "the connection to another process was lost"
        raise Temporary(
            "training/connection-lost", place, problem, "find out what ended that process, then run again with --resume"
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
