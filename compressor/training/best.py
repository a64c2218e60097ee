"""The epoch that does best on the held-out split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compressor.core import Data
from compressor.errors import RecipeError
from compressor.training.evaluate import BATCH_SIZE, measure


@dataclass(slots=True)
class Best:
    """The best so far: its value and its weights."""

    value: float | None = None
    weights: Mapping[str, Tensor] | None = None

    def offer(self, module: nn.Module, data: Data) -> float:
        """Measure `module` on the held-out split, and keep its weights if it is better than all before.

        Raises RecipeError where the data hold nothing out: the test set is not there to choose by.
        """
        batches = list(data.held_out_batches(BATCH_SIZE))
        if not batches:
            found = "best, with nothing held out of the training images to tell by"
            raise RecipeError("retrain", "keep", found, "set data.holdout=10%, or retrain.keep=last")
        metric = data.task.metric
        value = measure(module, batches, metric)
        if self.value is None or (value > self.value if metric.higher_is_better else value < self.value):
            self.value = value
            self.weights = {name: each.detach().clone() for name, each in module.state_dict().items()}
        return value

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.value, self.weights = state["value"], state["weights"]
