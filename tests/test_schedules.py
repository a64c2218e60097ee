"""Schedules against torch's, at the points where both are defined, and against values worked out by hand.

Those of the literature's retrainings are checked against the numbers in its papers and code: Le and Hua's CIFAR setting
(160 epochs, a tenth of 0.1 from epoch 80 on and a hundredth from 120 on) and Wang et al.'s `P30F90, 1e-1`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from compressor.training.schedules import (
    clr,
    constant,
    cosine,
    ft,
    halving,
    halving_milestones,
    lrw,
    multistep,
    onecycle,
    polynomial,
    scaled_milestones,
    slr,
    step,
    warmup,
)
from compressor.training.train_settings import Schedule

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
    ("ours", "torch_schedule", "settings"),
    [
        (step(7, 0.3), lr_scheduler.StepLR, {"step_size": 7, "gamma": 0.3}),
        (multistep([5, 12], 0.1), lr_scheduler.MultiStepLR, {"milestones": [5, 12], "gamma": 0.1}),
        (cosine(20), lr_scheduler.CosineAnnealingLR, {"T_max": 20}),
        (cosine(20, end=0.25), lr_scheduler.CosineAnnealingLR, {"T_max": 20, "eta_min": 0.25 * LR}),
        (polynomial(16, power=0.9), lr_scheduler.PolynomialLR, {"total_iters": 16, "power": 0.9}),
    ],
)
def test_equals_torch_at_whole_epochs(ours: Schedule, torch_schedule: object, settings: dict[str, object]) -> None:
    assert [ours(t) for t in range(20)] == pytest.approx(torch_factors(torch_schedule, 20, **settings), abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.3, 0.5])
def test_onecycle_equals_torch(rise: float) -> None:
    """Torch's 101 steps are places 0..100 of a cycle, with its peak at `rise * total - 1`."""
    total = 101
    top = rise * total - 1
    torch_schedule = torch_factors(
        lr_scheduler.OneCycleLR,
        total,
        max_lr=LR,
        total_steps=total,
        pct_start=rise,
        div_factor=25,
        final_div_factor=400,
    )
    ours = onecycle(total - 1, rise=top / (total - 1), start=1 / 25, end=1 / 25 / 400)
    assert [ours(t) for t in range(total)] == pytest.approx(torch_schedule, abs=1e-12)


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
        (polynomial(10), 2.5, 0.75),
        (polynomial(10, power=2), 5, 0.25),
        (polynomial(10, power=2, end=0.2), 5, 0.4),
        (polynomial(10, end=0.2), 11, 0.2),
        (ft(cosine(2), 2), 7.3, 0.5),  # the rate of the second and last epoch
        (lrw(cosine(10), 10, epochs=5), 0, 0.5),
        (lrw(cosine(10), 10, epochs=5), 2.5, (1 - math.sqrt(0.5)) / 2),
        (slr(constant(), rise=4, start=0.2), 0, 0.2),
        (slr(constant(), rise=4, start=0.2), 2, 0.6),
        (slr(constant(), rise=0, start=0.2), 0, 1.0),
        (slr(step(5, 0.5), rise=4, start=0.2), 8.9, 1.0),
        (slr(step(5, 0.5), rise=4, start=0.2), 9, 0.5),
        (halving(4, lr=1e-3, end=3e-4), 3.9, 0.3),  # never below its end
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


# ---------------------------------------------------------------- the original training, repeated in part

CIFAR = multistep([80, 120], 0.1)


def rates(schedule: Schedule, epochs: int, lr: float) -> dict[int, float]:
    """First epoch of each rate -> rate, of a schedule that changes at whole epochs."""
    rates: dict[int, float] = {}
    for epoch in range(epochs):
        rate = float(f"{lr * schedule(epoch):.6g}")
        assert float(f"{lr * schedule(epoch + 0.999):.6g}") == rate
        if not rates or rate != list(rates.values())[-1]:
            rates[epoch] = rate
    return rates


def test_fine_tuning_stays_at_the_last_rate() -> None:
    assert rates(ft(CIFAR, 160), 200, 0.1) == {0: 0.001}


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (40, {0: 0.001}),
        (56, {0: 0.01, 16: 0.001}),
        (72, {0: 0.01, 32: 0.001}),
        (80, {0: 0.01, 40: 0.001}),
        (88, {0: 0.1, 8: 0.01, 48: 0.001}),
        (120, {0: 0.1, 40: 0.01, 80: 0.001}),
        (152, {0: 0.1, 72: 0.01, 112: 0.001}),
        (160, {0: 0.1, 80: 0.01, 120: 0.001}),
    ],
)
def test_rewinding(epochs: int, expected: dict[int, float]) -> None:
    assert rates(lrw(CIFAR, 160, epochs), epochs, 0.1) == expected


@pytest.mark.parametrize(("epochs", "rise", "milestones"), [(56, 5, (25, 37)), (152, 15, (68, 102))])
def test_scaled_restart(epochs: int, rise: int, milestones: tuple[int, int]) -> None:
    """Half and three quarters of the nine tenths that follow the rise, counted from its end."""
    assert scaled_milestones([80, 120], 160, 0.9 * epochs) == milestones
    scaled = multistep(scaled_milestones([80, 120], 160, 0.9 * epochs), 0.1)
    restart = slr(scaled, rise, start=0.01)
    assert restart(0) == pytest.approx(0.01)
    assert restart(rise / 2) == pytest.approx((0.01 + 1) / 2)
    after = rates(lambda done: restart(rise + done), epochs - rise, 0.1)
    assert after == {0: 0.1, milestones[0]: 0.01, milestones[1]: 0.001}


def test_scaled_milestones_lose_no_epoch_to_rounding() -> None:
    milestones = [scaled_milestones([80, 120], 160, 0.9 * epochs) for epochs in range(1, 401)]
    assert milestones == [(45 * epochs // 100, 675 * epochs // 1000) for epochs in range(1, 401)]


def test_cyclic_restart_over_a_hundred_steps() -> None:
    """The cycle of the papers' code: 100 steps, the tenth at the peak, and the last one at the end."""
    torch_schedule = torch_factors(
        lr_scheduler.OneCycleLR, 100, max_lr=LR, total_steps=100, pct_start=0.1, div_factor=100, final_div_factor=100
    )
    cycle = clr(99, rise=9 / 99)
    ours = [cycle(t) for t in range(100)]
    assert ours == pytest.approx(torch_schedule, abs=1e-12)
    assert ours.index(max(ours)) == 9
    assert [0.1 * ours[t] for t in (0, 9, 99)] == pytest.approx([0.001, 0.1, 1e-5], rel=1e-9)


# ---------------------------------------------------------------- P30F90, 1e-1


@pytest.mark.parametrize(
    ("epochs", "lr", "expected"),
    [
        (90, 1e-1, {0: 0.1, 30: 0.01, 60: 0.001, 75: 1e-4, 83: 1e-5}),  # P30F90
        (60, 1e-2, {0: 0.01, 30: 0.001, 45: 1e-4, 53: 1e-5}),  # P60F60
        (90, 1e-2, {0: 0.01, 30: 0.001, 60: 1e-4, 75: 1e-5}),  # P30F90
        (30, 1e-4, {0: 1e-4, 15: 1e-5}),  # P90F30
        (30, 1e-2, {0: 0.01, 15: 0.001, 23: 1e-4, 27: 1e-5}),  # P90F30
        (120, 1e-1, {0: 0.1, 30: 0.01, 60: 0.001, 90: 1e-4, 105: 1e-5}),  # the dense training
        (105, 1e-1, {0: 0.1, 30: 0.01, 60: 0.001, 83: 1e-4, 94: 1e-5}),  # P15F105
        (90, 1e-5, {0: 1e-5}),
        (40, 2e-2, {0: 0.02, 20: 0.002, 30: 2e-4, 35: 2e-5, 38: 1e-5}),  # worked out by the rule, ends at 1e-5 too
    ],
)
def test_halving(epochs: int, lr: float, expected: dict[int, float]) -> None:
    assert rates(halving(epochs, lr), epochs, lr) == expected


@pytest.mark.parametrize(
    ("dense", "expected"),
    [
        (15, {0: 0.1, 15: 0.01, 45: 0.001, 75: 1e-4, 90: 1e-5}),
        (30, {0: 0.01, 30: 0.001, 60: 1e-4, 75: 1e-5}),
        (60, {0: 0.001, 30: 1e-4, 45: 1e-5}),
        (90, {0: 1e-4, 15: 1e-5}),
    ],
)
def test_the_scratch_schedule_shifted_by_the_dense_epochs(dense: int, expected: dict[int, float]) -> None:
    """Setup S4.2. Shift and halving agree for 30, 60 and 90 dense epochs, and not for 15."""
    epochs, lr = 120 - dense, next(iter(expected.values()))
    scratch = multistep([30, 60, 90, 105], 0.1)
    assert rates(lrw(scratch, 120, epochs), epochs, 0.1) == expected
    assert (rates(halving(epochs, lr), epochs, lr) == expected) == (dense != 15)


@given(st.integers(1, 500), st.floats(1e-6, 10), st.integers(1, 60))
def test_stages_halve_what_is_left(epochs: int, lr: float, longest: int) -> None:
    milestones = halving_milestones(epochs, lr, longest=longest)
    starts = (0, *milestones)
    for start, end in zip(starts, milestones, strict=False):
        assert end - start == longest or abs(2 * (end - start) - (epochs - start)) <= 1
        assert end - start <= longest
    last = lr * halving(epochs, lr, longest=longest)(epochs)
    assert last == pytest.approx(1e-5, rel=1e-6)


# ---------------------------------------------------------------- properties

shares = st.floats(0.01, 0.99)
lengths = st.integers(1, 300)
smooth: st.SearchStrategy[Callable[[int], Schedule]] = st.one_of(
    st.builds(lambda end: lambda epochs: cosine(epochs, end), shares),
    st.builds(lambda power, end: lambda epochs: polynomial(epochs, power, end), st.floats(1, 4), shares),
    st.builds(lambda rise, start: lambda epochs: onecycle(epochs, rise, start), shares, shares),
    st.builds(lambda rise: lambda epochs: clr(epochs, rise), shares),
    st.builds(lambda rise: lambda epochs: slr(cosine((1 - rise) * epochs, 0.01), rise * epochs, 0.01), shares),
    st.just(lambda epochs: lrw(cosine(300, 0.01), 300, epochs)),
)
stepped: st.SearchStrategy[Callable[[int], Schedule]] = st.one_of(
    st.builds(lambda size, gamma: lambda epochs: step(size * epochs, gamma), shares, shares),
    st.builds(lambda at, gamma: lambda epochs: multistep([at * epochs], gamma), shares, shares),
    st.just(lambda epochs: halving(epochs, 0.1)),
    st.just(lambda epochs: ft(CIFAR, epochs)),
    st.just(lambda epochs: lrw(multistep([80, 120], 0.1), 300, epochs)),
)
progress = st.floats(0, 1, exclude_max=True)


@given(st.one_of(smooth, stepped), lengths, progress)
def test_a_factor_is_positive_and_at_most_one(make: Callable[[int], Schedule], epochs: int, share: float) -> None:
    schedule = make(epochs)
    assert 0 < schedule(share * epochs) <= 1 + 1e-12
    assert 0 <= warmup(schedule, 0.1 * epochs)(share * epochs) <= 1 + 1e-12


@given(smooth, lengths, progress, shares)
def test_smooth_schedules_do_not_jump(make: Callable[[int], Schedule], epochs: int, share: float, warm: float) -> None:
    """No slope is steeper than that of a rise within a hundredth of the epochs."""
    for schedule in (make(epochs), warmup(make(epochs), warm * epochs)):
        here, near = share * epochs, (share + 1e-7) * epochs
        assert abs(schedule(near) - schedule(here)) < 1e-7 * 2 * 100


@given(stepped, lengths, progress, progress)
def test_stepped_schedules_only_fall(make: Callable[[int], Schedule], epochs: int, one: float, other: float) -> None:
    earlier, later = sorted((one * epochs, other * epochs))
    assert make(epochs)(later) <= make(epochs)(earlier)


@given(lengths, st.data())
def test_rewinding_is_the_end_of_the_original(original_epochs: int, data: st.DataObject) -> None:
    epochs = data.draw(st.integers(1, original_epochs))
    done = data.draw(st.integers(0, epochs))
    for original in (cosine(original_epochs), step(7, 0.3), warmup(halving(original_epochs, 0.1), 2)):
        assert lrw(original, original_epochs, epochs)(done) == original(original_epochs - epochs + done)
    assert lrw(CIFAR, original_epochs, original_epochs)(done) == CIFAR(done)


@given(st.one_of(smooth, stepped), lengths, progress)
def test_a_schedule_remembers_nothing(make: Callable[[int], Schedule], epochs: int, share: float) -> None:
    asked = make(epochs)
    for done in (epochs, 0, 0.5 * epochs):
        asked(done)
    assert asked(share * epochs) == make(epochs)(share * epochs)
