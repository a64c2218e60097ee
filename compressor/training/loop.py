"""The training loop. A resumed training does the same iterations as one without interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from compressor.batches import batch_length
from compressor.core import Data, EventSink, OptimizerState, TrainingCost
from compressor.data.sampling import random_words
from compressor.errors import RecipeError, VerificationFailed
from compressor.execution.unfreeze import unfreeze
from compressor.training.cost_meter import CostMeter, Joules, no_energy_meter, training_cost
from compressor.training.distributed.runtime import Runtime, single_process
from compressor.training.evaluate import validation_metric
from compressor.training.loss import in_precision, make_loss
from compressor.training.optimizers import copy_optimizer_state, load_optimizer_state, make_optimizer
from compressor.training.penalty import ConstraintFactory
from compressor.training.precision import LAYOUT, LEAST_SCALE, precision_policy
from compressor.training.train_settings import TrainSettings
from compressor.training.train_state import (
    BestWeights,
    EpochRecord,
    StopMonitor,
    TrainState,
    ema_weights,
    iterations_of,
)
from compressor.training.train_step import Iterate, make_iteration
from compressor.training.training_checkpoint import TrainingCheckpoint
from compressor.training.training_memory import forward_and_backward, keep_freed_memory, suggest_batch_size_on_oom

EMIT_EVERY = 0.2  # seconds
EXPLODED = 1e6  # times the first loss or 1, whichever is larger; losses that recovered were never far above 100 times


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training besides the weights."""

    records: tuple[EpochRecord, ...]
    optimizer_state: OptimizerState
    cost: TrainingCost
    stopped: bool = False  # by its stopping rule


def train(
    module: nn.Module,
    data: Data,
    settings: TrainSettings,
    *,
    seed: int,
    emit: EventSink,
    checkpoint: TrainingCheckpoint | None = None,
    teacher: nn.Module | None = None,
    constraints: Sequence[ConstraintFactory] = (),
    optimizer_state: OptimizerState | None = None,
    runtime: Runtime | None = None,
    joules: Joules = no_energy_meter,
) -> TrainResult:
    """Train a network in place and leave it in eval mode, float32 and on the CPU.

    The same seed, machine and number of threads give the same weights. A training that is resumed from its checkpoint
    gives the same weights bit for bit.

    Args:
        module: The network.
        data: The data.
        settings: The settings.
        seed: Seed of batches, augmentation and dropout.
        emit: Takes progress, epochs, notes and warnings.
        checkpoint: Stores the state of the training; None = it cannot be resumed.
        teacher: The dense model, if `settings` distill from it.
        constraints: Bound to the network; they act in every iteration.
        optimizer_state: That of an earlier training.
        runtime: Device and processes; None = this process alone.
        joules: The energy meter.

    Returns:
        The epochs, the state of the optimizer, and the cost.

    Raises:
        VerificationFailed: The training diverged: the loss, all gradients or the outputs are not finite, or the loss is
            EXPLODED times its first value.
        Temporary: Memory ran out; the error names a batch size that fits.
        RecipeError: The best epoch is to be kept, but no images are held out to choose it by.
    """
    if settings.keep == "best" and not data.has_holdout:
        problem = "it is best, but no training images are held out to choose the epoch by"
        raise RecipeError(
            "retrain/best-without-holdout", "retrain.keep", problem, "set data.holdout=10% or retrain.keep=last"
        )
    started = time.perf_counter()
    keep_freed_memory()
    runtime = runtime or single_process()
    unfreeze(module)
    precision = precision_policy(settings.precision, module, runtime.device)
    meter = CostMeter(module, runtime.device, joules)
    module.to(runtime.device)
    module.to(memory_format=LAYOUT)
    optimizer = make_optimizer(module, settings.optimizer)
    load_optimizer_state(module, optimizer, optimizer_state or {})
    per_epoch, total = iterations_of(settings, data)
    bound = [bind(module, total) for bind in constraints]
    state = TrainState(
        module,
        optimizer,
        precision.scaler(),
        ema_weights(module, settings.ema),
        BestWeights() if settings.keep == "best" else None,
        StopMonitor(settings.stop, runtime.broadcast) if settings.stop else None,
    )
    with (
        make_loss(module, runtime.forward(module), data, settings, teacher, precision, emit) as loss,
        torch.random.fork_rng(devices=()),
    ):
        iterate = make_iteration(loss, optimizer, bound, settings.clip, runtime, state.scaler)
        loop = _Loop(
            state=state,
            data=data,
            settings=settings,
            seed=seed,
            iterate=iterate,
            per_epoch=per_epoch,
            total=total,
            runtime=runtime,
            meter=meter,
            emit=emit,
            checkpoint=checkpoint,
        )
        if saved := runtime.broadcast(checkpoint.restore(emit) if checkpoint else None):
            state.load(saved)
        elif state.monitor is not None:
            state.monitor.step(0, module)
        module.train()
        attempt = partial(forward_and_backward, in_precision(precision, module), data, runtime.device)
        with suggest_batch_size_on_oom(attempt, settings.batch_size, runtime.world_size):
            while not loop.is_over:
                loop.run_epoch()
    module.load_state_dict(state.result())
    module.to("cpu")
    module.to(memory_format=torch.contiguous_format)
    module.zero_grad(set_to_none=True)
    module.eval()
    if checkpoint is not None:
        writing = {"written": checkpoint.written, "writing_seconds": checkpoint.seconds}
        emit("trained", {"stage": settings.stage, "seconds": time.perf_counter() - started, **writing})
    records = tuple(state.progress.records)
    cost = training_cost(settings, module, runtime.device, records)
    return TrainResult(records, copy_optimizer_state(module, optimizer), cost, state.stopped)


@dataclass(frozen=True, slots=True)
class _Loop:
    """Everything that is the same in all iterations, and the state, which changes."""

    state: TrainState
    data: Data
    settings: TrainSettings
    seed: int
    iterate: Iterate
    per_epoch: int  # iterations
    total: int  # iterations
    runtime: Runtime
    meter: CostMeter
    emit: EventSink
    checkpoint: TrainingCheckpoint | None

    def run_epoch(self) -> None:
        """Do the remaining iterations of the current epoch."""
        state, progress, epoch = self.state, self.state.progress, self.state.progress.epoch
        epochs_before, iterations_before = self.settings.start_epoch, self.settings.start_epoch * self.per_epoch
        self.meter.begin()
        started = logged = time.perf_counter()
        part = self.runtime.part
        for inputs, targets in self.data.train_batches(
            self.settings.batch_size, epoch=epochs_before + epoch, seed=self.seed, start=progress.batches, part=part
        ):
            # For dropout and the like; data have their own random numbers.
            self.runtime.seed(random_words(self.seed, iterations_before + progress.iterations, part))
            lr = self.settings.lr_at(epoch + progress.batches / self.per_epoch)
            loss = self.iterate(inputs, targets, progress.iterations, lr)
            self._check(loss)
            if state.average is not None:
                state.average.update_parameters(state.module)
            ended = time.perf_counter()
            progress.add(loss, batch_length(inputs, self.data.batch_dims) * self.runtime.world_size, ended - started)
            started = ended
            if ended - logged > EMIT_EVERY:
                logged = ended
                self.emit("progress", self._progress_fields())
            if progress.iterations == self.total:
                break
            if self.checkpoint and self.checkpoint.is_due:
                progress.add_energy(self.meter.energy())
                self.checkpoint.save(state.state)
        progress.add_energy(self.meter.energy())
        self._close_epoch()

    def _close_epoch(self) -> None:
        """Compute the metric, ask the stopping rule, save the state, and log the epoch."""
        state, progress = self.state, self.state.progress
        peak = self.meter.first_peak()
        try:
            metric = validation_metric(state.candidate, self.data)
        except VerificationFailed as error:
            raise self._diverged("its end", error.problem) from error
        if state.best is not None and self.data.task is not None:
            state.best.update(metric["held_out"], state.candidate, self.data.task.metric)
        judged = state.monitor.step(progress.epoch + 1, state.module) if state.monitor is not None else {}
        record = progress.close_epoch(self.settings.lr_at(progress.epoch), {**peak, **metric, **judged})
        if self.checkpoint and (self.checkpoint.is_cheap or self.is_over):
            self.checkpoint.save(state.state)
        self.emit("epoch", {**record, "epochs": self.epochs, "stage": self.settings.stage})

    @property
    def is_over(self) -> bool:
        """Whether no iteration is left."""
        return self.state.progress.iterations >= self.total or self.state.stopped

    @property
    def epochs(self) -> int:
        """Number of epochs; the last may be incomplete."""
        return math.ceil(self.total / self.per_epoch)

    def _progress_fields(self) -> dict[str, object]:
        progress = self.state.progress
        return {
            "done": progress.batches,
            "total": self.per_epoch,
            "what": f"epoch {progress.epoch + 1}/{self.epochs}",
            "epoch": progress.epoch + 1,
            "epochs": self.epochs,
            "loss": progress.loss / progress.images,
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "images_per_second": progress.images / progress.seconds,
        }

    def _check(self, loss: float) -> None:
        """Raise VerificationFailed if the training cannot continue after the last iteration."""
        place = f"iteration {self.state.progress.batches + 1}"
        if not math.isfinite(loss):
            raise self._diverged(place, f"the loss is {loss}")
        if loss > EXPLODED * max(abs(first := self.state.progress.first), 1.0):
            raise self._diverged(place, f"the loss is {loss:.4g}, and the first was {first:.4g}")
        if self.state.scaler.get_scale() < LEAST_SCALE:
            raise self._diverged(place, "gradients are not finite at any scale of the loss")

    def _diverged(self, place: str, problem: str) -> VerificationFailed:
        progress, optimizer = self.state.progress, self.settings.optimizer
        self.emit("diverged", {"stage": self.settings.stage, "epoch": progress.epoch + 1, "lr": optimizer.lr})
        before = (
            f"the last finite loss was {progress.last:.4g}" if math.isfinite(progress.last) else "no loss was finite"
        )
        hint = f"use a smaller learning rate, for example --resume --set {optimizer.key}={optimizer.lr / 10:g}"
        if self.state.scaler.is_enabled():
            hint += ", or start over with retrain.precision=bf16, which represents numbers above 65504"
        return VerificationFailed(
            "training/diverged", f"epoch {progress.epoch + 1}, {place}", f"{problem}, {before}", hint
        )
