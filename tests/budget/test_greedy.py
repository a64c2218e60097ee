"""Channels allotted against time: hand-computed cases, the limits, and what uniform pruning keeps at the same time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.budget.greedy import Budget, greedy_allocate, retained_score
from compressor.core import ChannelGroup, TensorSlot


def group(name: str, size: int, writers: int = 1) -> ChannelGroup:
    positions = np.arange(size)[:, None]
    return ChannelGroup(
        name, size, tuple(TensorSlot(f"{name}{n}.weight", 0, positions, "writer") for n in range(writers))
    )


def linear_time(sizes: list[int], price: list[float], share: float) -> Budget:
    """So much a channel."""
    whole = float(np.dot(sizes, price))
    return Budget("latency", lambda gone_MG: (np.array(sizes) - gone_MG) @ np.array(price), share * whole, whole)


def one_of(groups: int) -> np.ndarray:
    """One channel is kept of each group."""
    return np.ones(groups, np.int64)


def spread(sizes: list[int], price: list[float], share: float, unit: int = 1) -> list[int]:
    groups = [group(f"g{index}", size) for index, size in enumerate(sizes)]
    scores = {each.name: np.ones(each.size) for each in groups}
    count = len(groups)
    found = greedy_allocate(
        groups, scores, np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool),
        np.full(count, unit), [linear_time(sizes, price, share)], one_of(count),
    )  # fmt: skip
    return found.tolist()


def test_equal_prices_share_alike() -> None:
    """max log a + log b with a + b fixed is a = b."""
    assert spread([16, 16], [1.0, 1.0], 0.5) == [8, 8]


def test_a_dear_group_loses_more() -> None:
    """max log a + log b with 3 a + b <= 32 of 64: 6 * 14 is the largest product of whole numbers, 5 * 16 is less."""
    assert spread([16, 16], [3.0, 1.0], 0.5) == [10, 2]


def test_what_is_written_by_two_layers_counts_twice() -> None:
    """max 2 log a + log b with a + b <= 24: a = 16, b = 8."""
    groups = [group("a", 24, writers=2), group("b", 24)]
    scores = {each.name: np.ones(24) for each in groups}
    limit = linear_time([24, 24], [1.0, 1.0], 0.5)
    found = greedy_allocate(
        groups, scores, np.zeros(2, np.int64), np.ones(2, bool), np.ones(2, np.int64), [limit], one_of(2)
    )
    assert found.tolist() == [8, 16]


def test_frozen_groups_stay_and_what_a_rule_removed_stays_removed() -> None:
    groups = [group("a", 16), group("b", 16), group("c", 16)]
    scores = {each.name: np.ones(16) for each in groups}
    limit = linear_time([16] * 3, [1.0] * 3, 0.75)
    free = np.array([True, True, False])
    found = greedy_allocate(groups, scores, np.array([0, 0, 4]), free, np.ones(3, np.int64), [limit], one_of(3))
    assert found.tolist() == [4, 4, 4]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    share=st.floats(0.2, 0.95),
    unit=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 9),
)
def test_limits_hold_where_they_can_and_widths_are_on_the_steps(
    sizes: list[int], share: float, unit: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    groups = [group(f"g{index}", size) for index, size in enumerate(sizes)]
    scores = {each.name: random.random(each.size) for each in groups}
    price = random.random(len(sizes)).tolist()
    limit = linear_time(sizes, price, share)
    count = len(sizes)
    found = greedy_allocate(
        groups, scores, np.zeros(count, np.int64), np.ones(count, bool), np.full(count, unit), [limit], one_of(count)
    )
    for size, gone in zip(sizes, found.tolist(), strict=True):
        assert size - gone >= 1
        assert gone == 0 or (size - gone) % unit == 0
    least = [size - min(size, unit) if size > unit else 0 for size in sizes]
    if limit.value(np.array([least]))[0] <= limit.limit:
        assert limit.value(found[None])[0] <= limit.limit
        for index, (size, gone) in enumerate(zip(sizes, found.tolist(), strict=True)):
            if gone:  # one step back would not fit
                wider = found.copy()
                wider[index] = size - min(size, ((size - gone) // unit + 1) * unit)
                assert limit.value(wider[None])[0] > limit.limit


@pytest.mark.parametrize("seed", range(5))
def test_more_is_kept_than_by_uniform_pruning_at_the_same_time(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [32, 64, 128, 64]
    groups = [group(f"g{index}", size) for index, size in enumerate(sizes)]
    scores = {each.name: random.random(each.size) for each in groups}
    limit = linear_time(sizes, (random.random(4) + 0.05).tolist(), 0.5)
    found = greedy_allocate(
        groups, scores, np.zeros(4, np.int64), np.ones(4, bool), np.ones(4, np.int64), [limit], one_of(4)
    )
    uniform = np.array([size // 2 for size in sizes])

    def keeps(gone_G: np.ndarray) -> dict[str, np.ndarray]:
        plan = {}
        for each, gone in zip(groups, gone_G.tolist(), strict=True):
            ranks = np.argsort(np.argsort(scores[each.name]))
            plan[each.name] = ranks >= gone
        return plan

    assert limit.value(found[None])[0] <= limit.value(uniform[None])[0]
    assert retained_score(groups, scores, keeps(found)) > retained_score(groups, scores, keeps(uniform))


def test_kept_mass_by_hand() -> None:
    """Layers keep 3 of 4 and 1 of 2; the first stands for two layers: (2 * 0.75 + 0.5) / 3."""
    groups = [group("a", 2, writers=2), group("b", 2)]
    scores = {"a": np.array([1.0, 3.0]), "b": np.array([1.0, 1.0])}
    plan = {"a": np.array([False, True]), "b": np.array([True, False])}
    assert math.isclose(retained_score(groups, scores, plan), (2 * 0.75 + 0.5) / 3)
