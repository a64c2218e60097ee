"""What steps run with: the same for all steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from compressor.core import Data
from compressor.run_log import RunLog
from compressor.steps.latency_probe import LatencyProbe
from compressor.training.loop import TrainResult, train
from compressor.training.training_checkpoint import Checkpoints

MAX_HELD_OUT = 512
"""Training samples that choices between networks are made by."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """What steps run with."""

    data: Data | None
    seed: int
    log: RunLog
    checkpoints: Checkpoints
    train: Callable[..., TrainResult] = train  # or a function that trains with several processes
    latency_probe: LatencyProbe | None = None  # of the device; latency targets need one
    compares_answers: bool = False  # whether the agreement with the dense model is measured at every stage

    @property
    def training_data(self) -> Data:
        """The data, for steps that need them."""
        assert self.data is not None, "run_step refuses steps that need data without data"
        return self.data

    def decision(self, what: str, compute: Callable[[], T]) -> T:
        """Decide as the interrupted run did if it was this run, with the same recipe and device; or compute it.

        Args:
            what: What is decided; unique within a run.
            compute: Makes the decision, which JSON can hold.

        Returns:
            The decision.
        """
        return self.log.decision(f"{what} ({self.checkpoints.fingerprint})", compute)

    def progress(self, what: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that logs the progress of `what`."""
        return lambda done, total: self.log("progress", {"done": done, "total": total, "what": what})

    @property
    def data_with_holdout(self) -> Data:
        """The data with a held-out split, for steps that choose between networks without labels."""
        return self.training_data.with_holdout(MAX_HELD_OUT)
