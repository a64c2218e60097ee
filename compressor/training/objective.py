"""What is minimised: the task's loss, on mixed images where the recipe mixes them, and the distance to a teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Data, Distill, Train
from compressor.training.distill import distance, divergence, matching, watching
from compressor.training.iteration import Objective
from compressor.training.mixing import mixing
from compressor.training.nested import in_float32
from compressor.training.precision import layout, uses_bf16
from compressor.training.tasks import main

Answer = Callable[[Tensor], Any]
"""images -> what a model says of them, in float32"""

Lesson = Callable[[Tensor, Any], Tensor]
"""images and the student's answer -> what the teacher adds to `(1 - weight) * task`"""


@contextmanager
def objective(
    module: nn.Module, forward: Answer, data: Data, step: Train, teacher: nn.Module | None
) -> Iterator[Objective]:
    """The loss of a batch, as `step` says; `forward` runs `module`, `teacher` is there to distil from."""
    mix = mixing(step.mixup, step.cutmix, data.num_classes)
    answer = in_precision(forward, step)

    def of_task(images: Tensor, targets: Any) -> tuple[Tensor, Tensor, Any]:
        images, targets = mix(images, targets)
        output = answer(images)
        return data.task.loss(output, targets, step.label_smoothing), images, output

    if step.distill is None:
        yield lambda images, targets: of_task(images, targets)[0]
        return
    assert teacher is not None, "distillation needs the dense model"
    with _lesson(module, teacher, data, step, step.distill) as lesson:
        share = 1 - step.distill.weight

        def taught(images: Tensor, targets: Any) -> Tensor:
            loss, images, output = of_task(images, targets)
            return share * loss + lesson(images, output)

        yield taught


def in_precision(forward: Answer, step: Train) -> Answer:
    """`forward` in the arithmetic and memory layout of `step`, with answers in float32."""
    bf16 = uses_bf16(step.precision)

    def answer(images: Tensor) -> Any:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            return in_float32(forward(images.contiguous(memory_format=layout(bf16))))

    return answer


@contextmanager
def _lesson(module: nn.Module, teacher: nn.Module, data: Data, step: Train, settings: Distill) -> Iterator[Lesson]:
    """`weight * divergence of the answers + features * distance of the maps`; mean squares without classes."""
    device = next(module.parameters()).device
    teacher = copy.deepcopy(teacher).to(device).to(memory_format=layout(uses_bf16(step.precision))).eval()
    answer = in_precision(teacher, step)
    names = (
        matching(module, teacher, next(iter(data.plain_batches(2, images=2))).to(device)) if settings.features else ()
    )
    with watching(module, names) as maps, watching(teacher, names) as theirs:

        def lesson(images: Tensor, output: Any) -> Tensor:
            with torch.no_grad():
                taught = main(answer(images))
            if data.task.name == "classification":
                loss = divergence(main(output), taught, settings.temperature)
            else:
                loss = F.mse_loss(main(output), taught)
            loss = settings.weight * loss
            return loss + settings.features * distance(maps, theirs, names) if names else loss

        yield lesson
