"""The training loop: the same iterations one after another, whether or not it was interrupted in between."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from compressor.core import Bind, Data, Emit, Momentum, Train, TrainingCost
from compressor.errors import RecipeError, VerificationFailed
from compressor.training.average import averaged
from compressor.training.checkpoint import Checkpoint
from compressor.training.iteration import Iterate, everything_trains, iteration
from compressor.training.judge import Best, judged
from compressor.training.memory import keep_freed_memory
from compressor.training.meter import Joules, Meter, cost, unmetered
from compressor.training.objective import computed_in, objective
from compressor.training.optimizers import make_optimizer, momentum_of, recall
from compressor.training.order import draw
from compressor.training.precision import LEAST_SCALE, arithmetic
from compressor.training.progress import Progress, Record
from compressor.training.room import forward_and_backward, largest_batch_told
from compressor.training.runtime import Runtime, alone
from compressor.training.watch import Watch

EMIT_EVERY = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training leaves beside the weights."""

    records: tuple[Record, ...]
    momentum: Momentum
    cost: TrainingCost
    stopped: bool = False  # by its rule


def train(
    module: nn.Module,
    data: Data,
    step: Train,
    *,
    seed: int,
    emit: Emit,
    checkpoint: Checkpoint | None = None,
    teacher: nn.Module | None = None,
    constraints: Sequence[Bind] = (),
    momentum: Momentum | None = None,
    runtime: Runtime | None = None,
    joules: Joules = unmetered,
) -> Trained:
    """Train `module` in place as `step` says and leave it in eval mode, float32.

    The same seed on the same machine and threads gives the same weights; a run that finds its `checkpoint` goes on
    from there, to the same weights bit for bit. `momentum`: what the optimizer remembers of an earlier training.
    `teacher`: the dense model, where `step` distils from it.
    Raises VerificationFailed when the loss is not finite; the checkpoint then holds a state from before. Raises
    Temporary, with a batch size that fits, when memory runs out. Raises RecipeError where the best epoch is to be kept
    and nothing is held out: the test set is not there to choose by.
    """
    if step.keep == "best" and not data.holds_out:
        found = "best, with nothing held out of the training images to tell by"
        raise RecipeError("retrain", "keep", found, "set data.holdout=10%, or retrain.keep=last")
    keep_freed_memory()
    runtime = runtime or alone()
    everything_trains(module)
    computing = arithmetic(step.precision, runtime.device)
    meter = Meter(module, runtime.device, joules)
    module.to(runtime.device)
    module.to(memory_format=computing.layout)
    optimizer = make_optimizer(module, step.optimizer)
    recall(module, optimizer, momentum or {})
    per_epoch = max(1, data.train_size // step.batch_size)
    total = step.epochs * per_epoch if step.iterations is None else step.iterations
    bound = [bind(module, total) for bind in constraints]
    with (
        objective(module, runtime.forward(module), data, step, teacher, computing) as loss,
        torch.random.fork_rng(devices=()),
    ):
        scaler = computing.scaler()
        iterate = iteration(loss, optimizer, bound, step.clip, runtime, scaler)
        best = Best() if step.keep == "best" else None
        watch = Watch(step.stop, runtime.from_leader) if step.stop else None
        average = averaged(module, step.ema)
        session = Session(module, optimizer, scaler, iterate, per_epoch, total, average, best, watch, meter)
        if state := runtime.from_leader(checkpoint.restore() if checkpoint else None):
            session.load(state)
        elif watch is not None:
            watch.look(0, module)
        module.train()
        attempt = partial(forward_and_backward, computed_in(computing, module), data, runtime.device)
        with largest_batch_told(attempt, step.batch_size, runtime.part[1]):
            while not session.over:
                session.epoch(data, step, seed, emit, checkpoint, runtime.part)
    module.load_state_dict(session.result())
    module.to("cpu")
    module.to(memory_format=torch.contiguous_format)
    module.zero_grad(set_to_none=True)
    module.eval()
    records, stopped = tuple(session.progress.records), watch is not None and watch.done
    taken = cost(step, module, runtime.device, records)
    return Trained(records, momentum_of(module, optimizer), taken, stopped)


@dataclass(slots=True)
class Session:
    """A training under way: all that changes from one iteration to the next."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iterate: Iterate
    per_epoch: int  # iterations
    total: int  # iterations
    average: AveragedModel | None
    best: Best | None
    watch: Watch | None
    meter: Meter
    progress: Progress = field(default_factory=Progress)

    def epoch(
        self, data: Data, step: Train, seed: int, emit: Emit, checkpoint: Checkpoint | None, part: tuple[int, int]
    ) -> None:
        """What is left of the epoch at hand."""
        now, before = self.progress, self.progress.epoch
        number, past = step.first + before, step.first * self.per_epoch
        self.meter.begin()
        started = told = time.perf_counter()
        batches = data.train_batches(step.batch_size, epoch=number, seed=seed, start=now.batches, part=part)
        for images, targets in batches:
            lr = step.optimizer.lr * step.schedule(before + now.batches / self.per_epoch)
            torch.manual_seed(draw(seed, past + now.iterations, part))  # dropout; the data have numbers of their own
            loss = self.iterate(images, targets, now.iterations, lr)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", step)
            if self.scaler.get_scale() < LEAST_SCALE:
                raise self._diverged("gradients are not finite at any scale of the loss", step)
            if self.average is not None:
                self.average.update_parameters(self.module)
            ended = time.perf_counter()
            now.add(loss, len(images) * part[1], ended - started)
            started = ended
            if ended - told > EMIT_EVERY:
                told = ended
                emit("progress", self._told(step))
            if now.iterations == self.total:
                break
            if checkpoint and checkpoint.is_due:
                now.use(self.meter.energy())
                checkpoint.save(self.state)
        now.use(self.meter.energy())
        record = now.close_epoch(step.optimizer.lr * step.schedule(before))
        record |= self.meter.first_peak()
        record |= judged(self.candidate, data)
        if self.best is not None:
            self.best.offer(record["held_out"], self.candidate, data.task.metric)
        if self.watch is not None:
            record |= self.watch.look(now.epoch, self.module)
        if checkpoint and (checkpoint.is_cheap or self.over):
            checkpoint.save(self.state)
        emit("epoch", {**record, "epochs": self.epochs, "stage": step.stage})

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
    def over(self) -> bool:
        """Whether no iteration is left."""
        return self.progress.iterations >= self.total or (self.watch is not None and self.watch.done)

    @property
    def epochs(self) -> int:
        """In all; the last may be cut short."""
        return math.ceil(self.total / self.per_epoch)

    @property
    def candidate(self) -> nn.Module:
        """What the weights would be if training ended here."""
        return self.module if self.average is None else self.average.module

    def result(self) -> Mapping[str, Tensor]:
        """The weights to keep, at the end."""
        best = self.best.weights if self.best is not None else None
        return best or self.candidate.state_dict()

    def _told(self, step: Train) -> dict[str, object]:
        now = self.progress
        return {
            "done": now.batches,
            "total": self.per_epoch,
            "what": f"epoch {now.epoch + 1}/{self.epochs}",
            "epoch": now.epoch + 1,
            "epochs": self.epochs,
            "loss": now.loss / now.images,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": now.images / now.seconds,
        }

    def _diverged(self, found: str, step: Train) -> VerificationFailed:
        now, optimizer = self.progress, step.optimizer
        before = f"the last finite loss was {now.last:.4g}" if math.isfinite(now.last) else "from the first one on"
        todo = f"use a smaller learning rate, for example {optimizer.key}={optimizer.lr / 10:g}"
        if self.scaler.is_enabled():
            todo += ", or retrain.precision=bf16, whose numbers go beyond 65504"
        return VerificationFailed(
            "training", f"epoch {now.epoch + 1}, iteration {now.batches + 1}", f"{found}, {before}", todo
        )
