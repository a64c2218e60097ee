"""How far a training is, and what it tells of itself."""

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
from compressor.training.evaluate import BATCH_SIZE, evaluate
from compressor.training.settings import TrainSettings

EpochRecord = dict[str, float]
"""One epoch: epoch (from 1), loss (mean), lr (its first), seconds, images_per_second, batch_ms (median), energy_j where
it is metered, the task's metric (`held_out` or `train_sample`, see judge.py), and for one epoch peak_bytes."""


def iterations_of(step: TrainSettings, data: Data) -> tuple[int, int]:
    """Of an epoch, and of the whole training."""
    per_epoch = max(1, data.train_size // step.batch_size)
    return per_epoch, step.epochs * per_epoch if step.iterations is None else step.iterations


@dataclass(slots=True)
class TrainProgress:
    """What it takes, beside weights and random numbers, to go on."""

    iterations: int = 0  # done, in all
    records: list[EpochRecord] = field(default_factory=list)  # of the epochs done
    batches: int = 0  # done, of the epoch at hand; what follows is of this epoch as well
    images: int = 0
    loss: float = 0.0  # sum over the images
    first: float = math.nan  # loss of the first batch of all
    last: float = math.nan  # of the last one
    times: list[float] = field(default_factory=list)  # seconds of each batch
    energy_j: float | None = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.times)

    @property
    def epoch(self) -> int:
        """Number of the epoch at hand, from 0."""
        return len(self.records)

    def add(self, loss: float, images: int, seconds: float) -> None:
        """One batch more."""
        self.iterations += 1
        self.batches += 1
        self.images += images
        self.loss += loss * images
        self.first = loss if math.isnan(self.first) else self.first
        self.last = loss
        self.times.append(seconds)

    def use(self, joules: float | None) -> None:
        """Energy that the epoch at hand has taken as well."""
        self.energy_j = None if joules is None or self.energy_j is None else self.energy_j + joules

    def close_epoch(self, lr: float) -> EpochRecord:
        """The record of the epoch at hand, which is over."""
        record = {
            "epoch": self.epoch + 1,
            "loss": self.loss / self.images,
            "lr": lr,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
            "batch_ms": 1e3 * median(self.times),
            **({} if self.energy_j is None else {"energy_j": self.energy_j}),
        }
        self.records.append(record)
        self.batches = self.images = 0
        self.loss = self.energy_j = 0.0
        self.times = []
        return record


@dataclass(slots=True)
class TrainState:
    """A training under way."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    best: BestWeights | None
    watch: StopMonitor | None
    progress: TrainProgress = field(default_factory=TrainProgress)

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
        self.progress = TrainProgress(**state["progress"])
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


SAMPLE = 2048  # images


def validation_metric(module: nn.Module, data: Data) -> dict[str, float]:
    """The task's metric on the held-out split (`held_out`), or where there is none on a sample of the training images
    as they are (`train_sample`)."""
    if data.task is None:
        return {}
    metric = data.task.metric
    if data.has_holdout:
        return {"held_out": evaluate(module, data.holdout_batches(BATCH_SIZE), metric)}
    return {"train_sample": evaluate(module, data.sample_batches(BATCH_SIZE, images=SAMPLE), metric)}


@dataclass(slots=True)
class BestWeights:
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


@dataclass(slots=True)
class StopMonitor:
    """`agree`: what the leading process decides, in all of them."""

    stop: EarlyStop
    agree: Callable[[bool], bool]
    memory: RuleState = field(default_factory=dict)
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


def ema_weights(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """A copy of `module` that `update_parameters(module)` moves: `a <- decay a + (1 - decay) w`, buffers as well.

    It starts as the weights themselves. Polyak and Juditsky, 1992; decayed as in Tarvainen and Valpola, NeurIPS 2017,
    arXiv:1703.01780.
    """
    if decay is None:
        return None
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    average.update_parameters(module)  # the first one copies
    return average
