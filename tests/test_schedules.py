"""Schedules against torch's, at the points where both are defined, and against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from compressor.core import Schedule
from compressor.schedules import constant, cosine, multistep, onecycle, step, warmup

LR = 0.4


def torch_factors(make: object, count: int, **settings: object) -> list[float]:
    """What a torch scheduler sets at steps 0 .. count - 1, divided by LR."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler = make(optimizer, **settings)  # type: ignore[operator]
    factors = []
    for _ in range(count):
        factors.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (step(7, 0.3), lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.3}),
        (multistep([5, 12], 0.1), lr_scheduler.MultiStepLR, {"milestones": [5, 12], "gamma": 0.1}),
        (cosine(20), lr_scheduler.CosineAnnealingLR, {"T_max": 20}),
        (cosine(20, end=0.25), lr_scheduler.CosineAnnealingLR, {"T_max": 20, "eta_min": 0.25 * LR}),
    ],
)
def test_equals_torch_at_whole_epochs(ours: Schedule, theirs: object, settings: dict[str, object]) -> None:
    assert [ours(t) for t in range(20)] == pytest.approx(torch_factors(theirs, 20, **settings), abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.3, 0.5])
def test_onecycle_equals_torch(rise: float) -> None:
    """Torch's 101 steps are places 0..100 of a cycle, with its peak at `rise * total - 1`."""
    total = 101
    top = rise * total - 1
    theirs = torch_factors(
        lr_scheduler.OneCycleLR,
        total,
        max_lr=LR,
        total_steps=total,
        pct_start=rise,
        div_factor=25,
        final_div_factor=400,
    )
    ours = onecycle(total - 1, rise=top / (total - 1), start=1 / 25, end=1 / 25 / 400)
    assert [ours(t) for t in range(total)] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        (constant(), 17.3, 1.0),
        (step(30, 0.1), 29.999, 1.0),
        (step(30, 0.1), 30, 0.1),
        (step(30, 0.1), 60.5, 0.01),
        (multistep([60, 90], 0.1), 59.99, 1.0),
        (multistep([60, 90], 0.1), 60, 0.1),
        (multistep([60, 90], 0.1), 90, 0.01),
        (multistep([], 0.1), 90, 1.0),
        (cosine(10), 2.5, (1 + math.sqrt(0.5)) / 2),
        (cosine(10, end=0.2), 5, 0.6),
        (cosine(10, end=0.2), 11, 0.2),
        (onecycle(10), 0, 0.04),
        (onecycle(10), 1.5, 0.52),
        (onecycle(10), 3, 1.0),
        (onecycle(10, end=0.0), 6.5, 0.5),
        (onecycle(10), 10, 1e-4),
        (onecycle(10, rise=0.0), 0, 1.0),
        (onecycle(10, rise=1.0), 10, 1.0),
        (warmup(constant(), 5), 0, 0.0),
        (warmup(constant(), 5), 2, 0.4),
        (warmup(constant(), 5, start=0.1), 2.5, 0.55),
        (warmup(constant(), 0), 0, 1.0),
        (warmup(multistep([3], 0.5), 4), 2, 0.25),  # towards 0.5, the value after four epochs
        (warmup(multistep([3, 8], 0.5), 4), 8, 0.25),
    ],
)
def test_values(schedule: Schedule, done: float, expected: float) -> None:
    assert schedule(done) == pytest.approx(expected, abs=1e-12)


def test_a_list_of_milestones_changed_later_changes_nothing() -> None:
    milestones = [2.0]
    schedule = multistep(milestones, 0.1)
    milestones.append(1.0)
    assert schedule(1.5) == 1.0
