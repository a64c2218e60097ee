"""The state of a training: its weights, optimizer and progress, its best epoch and its stopping rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressor.core import Data, Metric
from compressor.training.early_stopping import EarlyStop, RuleState
from compressor.training.train_settings import TrainSettings

EpochRecord = dict[str, float]
"""One epoch: epoch (from 1), loss (mean), lr (at its start), seconds, images_per_second, batch_ms (median), energy_j if
it is metered, the metric of the task (`held_out` or `train_sample`), and in the first epoch peak_bytes."""


def iterations_of(settings: TrainSettings, data: Data) -> tuple[int, int]:
    """Compute the length of a training.

    Args:
        settings: Its settings.
        data: Its data.

    Returns:
        Iterations per epoch, and of the training.
    """
    per_epoch = max(1, data.train_size // settings.batch_size)
    return per_epoch, settings.epochs * per_epoch if settings.iterations is None else settings.iterations


@dataclass(slots=True)
class TrainProgress:
    """The counters of a training that can be resumed."""

    iterations: int = 0  # done
    records: list[EpochRecord] = field(default_factory=list)  # of finished epochs
    batches: int = 0  # done in the current epoch
    images: int = 0  # in these batches
    loss: float = 0.0  # sum over these images
    first: float = math.nan  # loss of the first batch of the training
    last: float = math.nan  # loss of the last batch
    times: list[float] = field(default_factory=list)  # seconds of each batch of the current epoch
    energy_j: float | None = 0.0  # in the current epoch

    @property
    def seconds(self) -> float:
        """Time of the current epoch."""
        return sum(self.times)

    @property
    def epoch(self) -> int:
        """Index of the current epoch, from 0."""
        return len(self.records)

    def add(self, loss: float, images: int, seconds: float) -> None:
        """Count a batch.

        Args:
            loss: Its mean loss.
            images: Its size, over all processes.
            seconds: Its time.
        """
        self.iterations += 1
        self.batches += 1
        self.images += images
        self.loss += loss * images
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.times.append(seconds)

    def add_energy(self, joules: float | None) -> None:
        """Count energy of the current epoch; None makes it unknown."""
        self.energy_j = None if joules is None or self.energy_j is None else self.energy_j + joules

    def close_epoch(self, lr: float, measured: Mapping[str, float]) -> EpochRecord:
        """Finish the current epoch.

        Args:
            lr: The learning rate at its start.
            measured: What else is recorded of it.

        Returns:
            Its record.
        """
        record = {
            "epoch": self.epoch + 1,
            "loss": self.loss / self.images,
            "lr": lr,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
            "batch_ms": 1e3 * median(self.times),
            **({} if self.energy_j is None else {"energy_j": self.energy_j}),
            **measured,
        }
        self.records.append(record)
        self.batches = self.images = 0
        self.loss = self.energy_j = 0.0
        self.times = []
        return record


@dataclass(slots=True)
class TrainState:
    """A training in progress."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None  # moving average of the weights
    best: BestWeights | None  # None = the last epoch is kept
    monitor: StopMonitor | None  # None = no stopping rule
    progress: TrainProgress = field(default_factory=TrainProgress)

    def state(self) -> Mapping[str, object]:
        """Return everything that a checkpoint stores."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "average": self.average.state_dict() if self.average is not None else None,
            "best": self.best.state() if self.best is not None else None,
            "monitor": self.monitor.state() if self.monitor is not None else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = TrainProgress(**state["progress"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.best is not None:
            self.best.load(state["best"])
        if self.monitor is not None:
            self.monitor.load(state["monitor"])

    @property
    def stopped(self) -> bool:
        """Whether its stopping rule has ended it."""
        return self.monitor is not None and self.monitor.done

    @property
    def candidate(self) -> nn.Module:
        """The network with the weights that the training would give if it ended now."""
        return self.module if self.average is None else self.average.module

    def result(self) -> Mapping[str, Tensor]:
        """Return the weights to keep at the end."""
        best = self.best.weights if self.best is not None else None
        return best or self.candidate.state_dict()


@dataclass(slots=True)
class BestWeights:
    """The best metric so far, and its weights."""

    value: float | None = None
    weights: Mapping[str, Tensor] | None = None

    def update(self, value: float, module: nn.Module, metric: Metric) -> None:
        """Keep the weights if their metric is better than all before.

        Args:
            value: The metric.
            module: The network.
            metric: Says whether higher is better.
        """
        if self.value is None or (value > self.value if metric.higher_is_better else value < self.value):
            self.value = value
            self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"value": self.value, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.value, self.weights = state["value"], state["weights"]


@dataclass(slots=True)
class StopMonitor:
    """Asks a stopping rule after each epoch."""

    stop: EarlyStop
    agree: Callable[[bool], bool]  # the decision of the leading process, in all processes
    memory: RuleState = field(default_factory=dict)
    done: bool = False

    def step(self, epoch: int, module: nn.Module) -> dict[str, float]:
        """Ask the rule.

        Args:
            epoch: Epochs done so far.
            module: The network.

        Returns:
            The numbers that the rule compared, for the record of the epoch.
        """
        weights = {name: weight.detach().to("cpu", copy=True) for name, weight in module.named_parameters()}
        decision = self.stop.rule(self.memory, epoch, weights)
        self.memory, self.done = decision.memory, self.agree(decision.done)
        compared = {"stop_value": decision.value, "stop_limit": decision.limit}
        return {key: value for key, value in compared.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"memory": dict(self.memory), "done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.memory, self.done = state["memory"], state["done"]


def ema_weights(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """Make an exponential moving average of weights and buffers, `a <- decay a + (1 - decay) w`.

    Polyak and Juditsky, 1992; with decay: Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780.

    Args:
        module: The network, whose present weights are the first average.
        decay: The decay; None = no average.

    Returns:
        The average, which `update_parameters(module)` updates.
    """
    if decay is None:
        return None
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    average.update_parameters(module)  # the first update copies
    return average
