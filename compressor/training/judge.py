"""How a network does after an epoch, without a look at the test set; and the epoch that does best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressor.core import Data, Metric
from compressor.training.evaluate import BATCH_SIZE, measure

SAMPLE = 2048  # images


def judged(module: nn.Module, data: Data) -> dict[str, float]:
    """The task's metric on the held-out split (`held_out`), or where there is none on a sample of the training images
    as they are (`train_sample`)."""
    metric = data.task.metric
    if data.holds_out:
        return {"held_out": measure(module, data.held_out_batches(BATCH_SIZE), metric)}
    return {"train_sample": measure(module, data.sample_batches(BATCH_SIZE, images=SAMPLE), metric)}


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
