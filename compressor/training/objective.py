"""What is minimised: the task's loss, on mixed images where the recipe mixes them, and the distance to a teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.core import Data, Distill, Emit, Train
from compressor.training.distill import distance, divergence, matching, watching
from compressor.training.iteration import Objective
from compressor.training.mixing import mixing
from compressor.training.nested import in_float32
from compressor.training.precision import LAYOUT, Arithmetic
from compressor.training.tasks import main

Answer = Callable[[Tensor], Any]
"""images -> what a model says of them, in float32"""

Lesson = Callable[[Tensor, Any], Tensor]
"""images and the student's answer -> what the teacher adds to `(1 - weight) * task`"""


@contextmanager
def objective(
    module: nn.Module,
    forward: Answer,
    data: Data,
    step: Train,
    teacher: nn.Module | None,
    arithmetic: Arithmetic,
    emit: Emit,
) -> Iterator[Objective]:
    """The loss of a batch, as `step` says; `forward` runs `module`, `teacher` is there to distil from."""
    mix = mixing(step.mixup, step.cutmix, data.num_classes)
    answer = computed_in(arithmetic, forward)

    def of_task(images: Tensor, targets: Any) -> tuple[Tensor, Tensor, Any]:
        images, targets = mix(images, targets)
        output = answer(images)
        return data.task.loss(output, targets, step.label_smoothing), images, output

    if step.distill is None:
        yield lambda images, targets: of_task(images, targets)[0]
        return
    assert teacher is not None, "distillation needs the dense model"
    with _lesson(module, teacher, data, step.distill, arithmetic, emit) as lesson:
        share = 1 - step.distill.weight

        def taught(images: Tensor, targets: Any) -> Tensor:
            loss, images, output = of_task(images, targets)
            return share * loss + lesson(images, output)

        yield taught


def computed_in(arithmetic: Arithmetic, forward: Answer) -> Answer:
    """`forward` in that arithmetic, on images laid out as it likes them, with answers in float32."""

    def answer(images: Tensor) -> Any:
        with arithmetic.autocast():
            return in_float32(forward(images.contiguous(memory_format=LAYOUT)))

    return answer


@contextmanager
def _lesson(
    module: nn.Module, teacher: nn.Module, data: Data, settings: Distill, arithmetic: Arithmetic, emit: Emit
) -> Iterator[Lesson]:
    """`weight * divergence of the answers + features * distance of the maps`; mean squares without classes."""
    teacher = copy.deepcopy(teacher).to(arithmetic.device).to(memory_format=LAYOUT).eval()
    answer = computed_in(arithmetic, teacher)
    names: tuple[str, ...] = ()
    if settings.features:
        names = matching(module, teacher, next(iter(data.plain_batches(2, images=2))).to(arithmetic.device))
        if names:
            emit("note", {"text": f"feature maps are compared after {', '.join(names)}"})
        else:
            found = "retrain.distill.features does nothing: no feature map has the shape it has in the dense model"
            emit("warning", {"text": found})
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
