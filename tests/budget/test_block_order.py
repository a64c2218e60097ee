"""The order of blocks, against hand-computed cases."""

from __future__ import annotations

import pytest

from compressor.budget.block_order import best_count, order_of_blocks

ALONE = {"a": 1.0, "b": 2.0, "c": 4.0}
TOGETHER = {frozenset("ab"): 9.0, frozenset("ac"): 5.0, frozenset("bc"): 7.0, frozenset("abc"): 20.0}


def divergence(names: tuple[str, ...]) -> float:
    return ALONE[names[0]] if len(names) == 1 else TOGETHER[frozenset(names)]


def test_blocks_are_measured_again_beside_those_that_are_gone() -> None:
    """b is cheaper than c alone, but beside a it costs 8 and c costs 4."""
    drops = order_of_blocks({"a": 1, "b": 1, "c": 1}, divergence, lambda names: len(names) == 3)
    assert [(drop.name, drop.divergence) for drop in drops] == [("a", 1.0), ("c", 5.0), ("b", 20.0)]


def test_a_block_is_worth_what_it_saves() -> None:
    drops = order_of_blocks({"a": 1, "b": 1, "c": 10}, divergence, lambda names: len(names) == 1)
    assert [drop.name for drop in drops] == ["c"]


def test_a_block_that_saves_nothing_is_not_dropped() -> None:
    drops = order_of_blocks({"a": 0, "b": 1, "c": 1}, divergence, lambda names: False)
    assert [drop.name for drop in drops] == ["b", "c"]


@pytest.mark.parametrize("best", [0, 3, 7, 11, 16])
def test_the_best_number_is_approached(best: int) -> None:
    values = best_count(16, lambda count: float(abs(count - best)), trials=6)
    assert len(values) <= 6
    assert abs(min(values, key=values.__getitem__) - best) <= 1


def test_numbers_that_miss_the_target_are_left_out() -> None:
    values = best_count(4, lambda count: None if count < 3 else float(count), trials=8)
    assert values == {3: 3.0, 4: 4.0}


def test_no_number_reaches_the_target() -> None:
    assert best_count(4, lambda count: None, trials=8) == {}
