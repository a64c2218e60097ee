"""The settings of a training: its length, optimizer, learning rates, loss and precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compressor.core import RETRAINING
from compressor.training.early_stopping import EarlyStop

Precision = Literal["auto", "fp32", "bf16", "fp16"]

Schedule = Callable[[float], float]
"""epochs done so far (fractional) -> factor on the optimizer's learning rate"""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """An optimizer and its hyperparameters."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    decay_all: bool = True  # False = no decay of biases and normalizations
    key: str = "retrain.optimizer.lr"  # the recipe's key for `lr`


@dataclass(frozen=True, slots=True)
class Distillation:
    """Learn from the dense model: `(1 - weight) * task + weight * answers + features * maps`.

    Without `labels` the loss is `answers + features * maps`, without the task.
    """

    temperature: float = 4.0
    weight: float = 0.5
    features: float = 0.0
    labels: bool = True


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """A training of `epochs` epochs or `iterations` iterations, which `stop` may end earlier."""

    batch_size: int
    optimizer: OptimizerSettings
    schedule: Schedule
    epochs: int = 0
    iterations: int | None = None  # instead of epochs
    stop: EarlyStop | None = None
    start_epoch: int = 0  # the index of the first epoch, if this training continues an earlier one
    stage: str = RETRAINING  # what the training is for
    precision: Precision = "auto"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution; 0 = off
    cutmix: float = 0.0  # alpha of CutMix's Beta distribution; 0 = off
    distill: Distillation | None = None
    clip: float | None = None  # maximum norm of all gradients together
    ema: float | None = None  # decay of the moving average of the weights, which replaces them at the end
    keep: Literal["last", "best"] = "last"  # the epoch whose weights are kept; best = on the held-out split

    def lr_at(self, epochs_done: float) -> float:
        """The learning rate after so many epochs of this training."""
        return self.optimizer.lr * self.schedule(epochs_done)
