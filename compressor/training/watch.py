"""A rule that ends a training, and what it remembers from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from compressor.core import Memory, Stop


@dataclass(slots=True)
class Watch:
    """`agree`: what the leading process decides, in all of them."""

    stop: Stop
    agree: Callable[[bool], bool]
    memory: Memory = field(default_factory=dict)
    done: bool = False

    def look(self, epoch: int, module: nn.Module) -> dict[str, float]:
        """Ask the rule after so many epochs; what it compares, for the epoch's record."""
        weights = {name: each.detach().to("cpu", copy=True) for name, each in module.named_parameters()}
        verdict = self.stop.rule(self.memory, epoch, weights)
        self.memory, self.done = verdict.memory, self.agree(verdict.done)
        told = {"stop_value": verdict.value, "stop_limit": verdict.limit}
        return {key: value for key, value in told.items() if value is not None}

    def state(self) -> dict[str, Any]:
        return {"memory": dict(self.memory), "done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.memory, self.done = state["memory"], state["done"]
