"""How a network does on the held-out split, and the epoch that does best there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressor.core import Data, Metric
from compressor.training.evaluate import BATCH_SIZE, measure


def on_held_out(module: nn.Module, data: Data) -> float | None:
    """The task's metric on the held-out split; None where nothing is held out."""
    if not data.holds_out:
        return None
    return measure(module, data.held_out_batches(BATCH_SIZE), data.task.metric)


@dataclass(slots=True)
class Best:
    """The best so far: its value and its weights."""

    value: float | None = None
    weights: Mapping[str, Tensor] | None = None

    def offer(self, value: float, module: nn.Module, metric: Metric) -> None:
        """Keep the weights of `module` if its value is better than all before."""
        if self.value is None or (value > self.value if metric.higher_is_better else value < self.value):
            self.value = value
            self.weights = {name: each.detach().clone() for name, each in module.state_dict().items()}

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.value, self.weights = state["value"], state["weights"]
