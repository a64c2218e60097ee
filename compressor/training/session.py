"""All that changes from one iteration of a training to the next: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from compressor.training.judge import Best
from compressor.training.progress import Progress
from compressor.training.watch import Watch


@dataclass(slots=True)
class Session:
    """A training under way."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    best: Best | None
    watch: Watch | None
    progress: Progress = field(default_factory=Progress)

    def state(self) -> Mapping[str, object]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "average": self.average.state_dict() if self.average is not None else None,
            "best": self.best.state() if self.best is not None else None,
            "watch": self.watch.state() if self.watch is not None else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.best is not None:
            self.best.load(state["best"])
        if self.watch is not None:
            self.watch.load(state["watch"])

    @property
    def stopped(self) -> bool:
        """Whether a rule has ended it."""
        return self.watch is not None and self.watch.done

    @property
    def candidate(self) -> nn.Module:
        """What the weights would be if training ended here."""
        return self.module if self.average is None else self.average.module

    def result(self) -> Mapping[str, Tensor]:
        """The weights to keep, at the end."""
        best = self.best.weights if self.best is not None else None
        return best or self.candidate.state_dict()
