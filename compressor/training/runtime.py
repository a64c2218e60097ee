"""Where training runs: on which device, in how many processes. The only file that knows Lightning Fabric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn, optim

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process among those that train together. Each works on its part of every batch."""

    fabric: Fabric

    @property
    def part(self) -> tuple[int, int]:
        """(number of this process, processes in all)"""
        return self.fabric.global_rank, self.fabric.world_size

    @property
    def leads(self) -> bool:
        """Whether this is the process that tells and writes."""
        return self.fabric.is_global_zero

    def prepare(self, module: nn.Module, optimizer: optim.Optimizer) -> tuple[nn.Module, optim.Optimizer]:
        """Both on this process's device, their gradients averaged over all processes."""
        wrapped, wrapped_optimizer = self.fabric.setup(module, optimizer)
        return wrapped, cast(optim.Optimizer, wrapped_optimizer)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def mean(self, value: Tensor) -> float:
        """Over all processes."""
        reduced = self.fabric.all_reduce(value, reduce_op="mean") if self.part[1] > 1 else value
        return float(cast(Tensor, reduced).item())


def alone() -> Runtime:
    """One process on one device."""
    from lightning_fabric import Fabric

    return Runtime(Fabric(accelerator="cpu", devices=1))
