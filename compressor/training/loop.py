"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Data, Emit, Optimizer, Train
from compressor.errors import VerificationFailed
from compressor.training import checkpoint as saved
from compressor.training.memory import keep_freed_memory
from compressor.training.precision import uses_bf16

Record = dict[str, float]
"""One epoch: epoch (from 1), loss (mean), lr (its first), seconds, images_per_second."""

EMIT_EVERY = 0.2  # seconds


def train(
    module: nn.Module,
    data: Data,
    step: Train,
    *,
    seed: int,
    emit: Emit,
    checkpoint: Path | None = None,
    identity: str = "",
) -> list[Record]:
    """Train `module` in place as `step` says and leave it in eval mode, float32; one record for each epoch.

    The same seed on the same machine and threads gives the same weights. With `checkpoint`, the state is written
    there after each epoch, and a file of the same `identity` is continued from, to the same weights bit for bit.
    Raises VerificationFailed when the loss is not finite.
    """
    keep_freed_memory()
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # checkpoints come with frozen layers
    bf16 = uses_bf16(step.precision)
    layout = torch.contiguous_format if bf16 else torch.channels_last
    module.to(memory_format=layout)
    optimizer = make_optimizer(module, step.optimizer)

    def forward(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = module(images.contiguous(memory_format=layout))
        # Inception and GoogLeNet return auxiliary logits after the main ones while they train.
        logits: Tensor = output if isinstance(output, Tensor) else output[0]
        return logits.float()

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)  # dropout; the data have a generator of their own
        records = saved.restore(checkpoint, identity, module, optimizer) if checkpoint else []
        for epoch in range(len(records), step.epochs):
            module.train()
            records.append(_epoch(forward, data, step, optimizer, epoch, seed, emit))
            if checkpoint:
                saved.save(checkpoint, identity, module, optimizer, records)
            emit("epoch", {**records[-1], "epochs": step.epochs})
    module.to(memory_format=torch.contiguous_format)
    module.zero_grad(set_to_none=True)
    module.eval()
    return records


def make_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """SGD decays every parameter, as the literature does; AdamW (arXiv:1711.05101) no bias and no normalisation."""
    parameters = list(module.parameters())
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            foreach=True,
        )
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, foreach=True)


def _epoch(
    forward: Callable[[Tensor], Tensor],
    data: Data,
    step: Train,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seed: int,
    emit: Emit,
) -> Record:
    iterations = max(1, data.train_size // step.batch_size)
    first_lr = step.optimizer.lr * step.schedule(epoch)
    total, images_seen, last_loss = 0.0, 0, math.nan
    started = told = time.perf_counter()
    for iteration, (images, labels) in enumerate(data.train_batches(step.batch_size, epoch=epoch, seed=seed)):
        for group in optimizer.param_groups:
            group["lr"] = step.optimizer.lr * step.schedule(epoch + iteration / iterations)
        loss_tensor = F.cross_entropy(forward(images), labels, label_smoothing=step.label_smoothing)
        loss = loss_tensor.item()
        if not math.isfinite(loss):
            raise _diverged(epoch, iteration, loss, last_loss, step.optimizer.lr)
        optimizer.zero_grad(set_to_none=True)
        loss_tensor.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        last_loss = loss
        total += loss * len(labels)
        images_seen += len(labels)
        if (now := time.perf_counter()) - told > EMIT_EVERY:
            told = now
            emit("progress", {"done": iteration + 1, "total": iterations, "what": f"epoch {epoch + 1}/{step.epochs}"})
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "loss": total / images_seen,
        "lr": first_lr,
        "seconds": seconds,
        "images_per_second": images_seen / seconds,
    }


def _diverged(epoch: int, iteration: int, loss: float, last: float, lr: float) -> VerificationFailed:
    before = f"the last finite one was {last:.4g}" if math.isfinite(last) else "from the first one of the epoch on"
    return VerificationFailed(
        "training",
        f"epoch {epoch + 1}, iteration {iteration + 1}",
        f"the loss is {loss}, {before}",
        f"use a smaller learning rate, for example retrain.optimizer.lr={lr / 10:g}",
    )
