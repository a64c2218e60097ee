"""The training loop: the same iterations one after another, whether or not it was interrupted in between."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from compressor.core import Data, EventSink, OptimizerState, TrainingCost
from compressor.data.sampling import random_words
from compressor.errors import RecipeError, VerificationFailed
from compressor.tensors import batch_length
from compressor.training.checkpoint import TrainingCheckpoint
from compressor.training.cost_meter import CostMeter, Joules, no_energy_meter, training_cost
from compressor.training.distributed.runtime import Runtime, single_process
from compressor.training.loss import in_precision, make_loss
from compressor.training.memory import forward_and_backward, keep_freed_memory, suggest_batch_size_on_oom
from compressor.training.optimizers import load_optimizer_state, make_optimizer, optimizer_state
from compressor.training.penalty import ConstraintFactory
from compressor.training.precision import LAYOUT, LEAST_SCALE, precision_policy
from compressor.training.settings import TrainSettings
from compressor.training.state import (
    BestWeights,
    EpochRecord,
    StopMonitor,
    TrainState,
    ema_weights,
    iterations_of,
    validation_metric,
)
from compressor.training.train_step import Iterate, run_iteration, unfreeze

EMIT_EVERY = 0.2  # seconds
EXPLODED = 1e6  # times the first loss, or 1 where that is less: trainings that recovered were never far above 100


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training leaves beside the weights."""

    records: tuple[EpochRecord, ...]
    momentum: OptimizerState
    cost: TrainingCost
    stopped: bool = False  # by its rule


def train(
    module: nn.Module,
    data: Data,
    step: TrainSettings,
    *,
    seed: int,
    emit: EventSink,
    checkpoint: TrainingCheckpoint | None = None,
    teacher: nn.Module | None = None,
    constraints: Sequence[ConstraintFactory] = (),
    momentum: OptimizerState | None = None,
    runtime: Runtime | None = None,
    joules: Joules = no_energy_meter,
) -> TrainResult:
    """Train `module` in place as `step` says and leave it in eval mode, float32.

    The same seed on the same machine and threads gives the same weights; a run that finds its `checkpoint` goes on
    from there, to the same weights bit for bit. `momentum`: what the optimizer remembers of an earlier training.
    `teacher`: the dense model, where `step` distils from it.
    Raises VerificationFailed when it diverges: when the loss, all gradients or the answers are not finite, or when the
    loss is EXPLODED times what it was. Raises Temporary, with a batch size that fits, when memory runs out. Raises
    RecipeError where the best epoch is to be kept and nothing is held out: the test set is not there to choose by.
    """
    if step.keep == "best" and not data.has_holdout:
        problem = "it is best, but no training images are held out to choose the epoch by"
        raise RecipeError(
            "retrain/best-without-holdout", "retrain.keep", problem, "set data.holdout=10% or retrain.keep=last"
        )
    started = time.perf_counter()
    keep_freed_memory()
    runtime = runtime or single_process()
    unfreeze(module)
    computing = precision_policy(step.precision, module, runtime.device)
    meter = CostMeter(module, runtime.device, joules)
    module.to(runtime.device)
    module.to(memory_format=LAYOUT)
    optimizer = make_optimizer(module, step.optimizer)
    load_optimizer_state(module, optimizer, momentum or {})
    per_epoch, total = iterations_of(step, data)
    bound = [bind(module, total) for bind in constraints]
    session = TrainState(
        module,
        optimizer,
        computing.scaler(),
        ema_weights(module, step.ema),
        BestWeights() if step.keep == "best" else None,
        StopMonitor(step.stop, runtime.from_leader) if step.stop else None,
    )
    with (
        make_loss(module, runtime.forward(module), data, step, teacher, computing, emit) as loss,
        torch.random.fork_rng(devices=()),
    ):
        iterate = run_iteration(loss, optimizer, bound, step.clip, runtime, session.scaler)
        loop = _Loop(session, data, step, seed, iterate, per_epoch, total, runtime.part, meter, emit, checkpoint)
        if state := runtime.from_leader(checkpoint.restore(emit) if checkpoint else None):
            session.load(state)
        elif session.watch is not None:
            session.watch.look(0, module)
        module.train()
        attempt = partial(forward_and_backward, in_precision(computing, module), data, runtime.device)
        with suggest_batch_size_on_oom(attempt, step.batch_size, runtime.part[1]):
            while not loop.over:
                loop.epoch()
    module.load_state_dict(session.result())
    module.to("cpu")
    module.to(memory_format=torch.contiguous_format)
    module.zero_grad(set_to_none=True)
    module.eval()
    if checkpoint is not None:
        spent = {"written": checkpoint.written, "writing_seconds": checkpoint.seconds}
        emit("trained", {"stage": step.stage, "seconds": time.perf_counter() - started, **spent})
    records = tuple(session.progress.records)
    taken = training_cost(step, module, runtime.device, records)
    return TrainResult(records, optimizer_state(module, optimizer), taken, session.stopped)


@dataclass(frozen=True, slots=True)
class _Loop:
    """What is done with a session in each iteration: all that stays the same."""

    session: TrainState
    data: Data
    step: TrainSettings
    seed: int
    iterate: Iterate
    per_epoch: int  # iterations
    total: int  # iterations
    part: tuple[int, int]
    meter: CostMeter
    emit: EventSink
    checkpoint: TrainingCheckpoint | None

    def epoch(self) -> None:
        """What is left of the epoch at hand."""
        session, now, before = self.session, self.session.progress, self.session.progress.epoch
        number, past = self.step.start_epoch + before, self.step.start_epoch * self.per_epoch
        self.meter.begin()
        started = told = time.perf_counter()
        for inputs, targets in self.data.train_batches(
            self.step.batch_size, epoch=number, seed=self.seed, start=now.batches, part=self.part
        ):
            # For dropout and the like; the data have numbers of their own.
            torch.manual_seed(random_words(self.seed, past + now.iterations, self.part))
            loss = self.iterate(inputs, targets, now.iterations, self._lr(before + now.batches / self.per_epoch))
            self._check(loss)
            if session.average is not None:
                session.average.update_parameters(session.module)
            ended = time.perf_counter()
            now.add(loss, batch_length(inputs) * self.part[1], ended - started)
            started = ended
            if ended - told > EMIT_EVERY:
                told = ended
                self.emit("progress", self._told())
            if now.iterations == self.total:
                break
            if self.checkpoint and self.checkpoint.is_due:
                now.use(self.meter.energy())
                self.checkpoint.save(session.state)
        now.use(self.meter.energy())
        self._close_epoch()

    def _close_epoch(self) -> None:
        """Judge it, ask whether to stop, keep all that, and tell."""
        session, now = self.session, self.session.progress
        peak = self.meter.first_peak()
        try:
            quality = validation_metric(session.candidate, self.data)
        except VerificationFailed as error:
            raise self._diverged("its end", error.problem) from error
        record = now.close_epoch(self._lr(now.epoch))
        record |= peak | quality
        if session.best is not None and self.data.task is not None:
            session.best.offer(record["held_out"], session.candidate, self.data.task.metric)
        if session.watch is not None:
            record |= session.watch.look(now.epoch, session.module)
        if self.checkpoint and (self.checkpoint.is_cheap or self.over):
            self.checkpoint.save(session.state)
        self.emit("epoch", {**record, "epochs": self.epochs, "stage": self.step.stage})

    @property
    def over(self) -> bool:
        """Whether no iteration is left."""
        return self.session.progress.iterations >= self.total or self.session.stopped

    @property
    def epochs(self) -> int:
        """In all; the last may be cut short."""
        return math.ceil(self.total / self.per_epoch)

    def _lr(self, epochs_done: float) -> float:
        return self.step.optimizer.lr * self.step.schedule(epochs_done)

    def _told(self) -> dict[str, object]:
        now = self.session.progress
        return {
            "done": now.batches,
            "total": self.per_epoch,
            "what": f"epoch {now.epoch + 1}/{self.epochs}",
            "epoch": now.epoch + 1,
            "epochs": self.epochs,
            "loss": now.loss / now.images,
            "lr": self.session.optimizer.param_groups[0]["lr"],
            "images_per_second": now.images / now.seconds,
        }

    def _check(self, loss: float) -> None:
        """Raises VerificationFailed where the iteration just done can't be gone on from."""
        place = f"iteration {self.session.progress.batches + 1}"
        if not math.isfinite(loss):
            raise self._diverged(place, f"the loss is {loss}")
        if loss > EXPLODED * max(abs(first := self.session.progress.first), 1.0):
            raise self._diverged(place, f"the loss is {loss:.4g} and began at {first:.4g}")
        if self.session.scaler.get_scale() < LEAST_SCALE:
            raise self._diverged(place, "gradients are not finite at any scale of the loss")

    def _diverged(self, place: str, found: str) -> VerificationFailed:
        now, optimizer = self.session.progress, self.step.optimizer
        self.emit("diverged", {"stage": self.step.stage, "epoch": now.epoch + 1, "lr": optimizer.lr})
        before = f"the last finite loss was {now.last:.4g}" if math.isfinite(now.last) else "no loss was finite"
        hint = f"use a smaller learning rate, for example --resume --set {optimizer.key}={optimizer.lr / 10:g}"
        if self.session.scaler.is_enabled():
            hint += ", or start over with retrain.precision=bf16, which represents numbers above 65504"
        return VerificationFailed("training/diverged", f"epoch {now.epoch + 1}, {place}", f"{found}, {before}", hint)
