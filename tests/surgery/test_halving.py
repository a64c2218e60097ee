"""The search by halving finds exactly the items that fail alone, and tests no set of items twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from compressor.surgery.halving import items_at_fault


@given(
    st.integers(1, 40).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1)))
)
def test_all_items_at_fault_are_found(case: tuple[int, set[int]]) -> None:
    count, at_fault = case
    tested: list[tuple[int, ...]] = []

    def fails(items: Sequence[int]) -> bool:
        tested.append(tuple(items))
        return not at_fault.isdisjoint(items)

    assert list(items_at_fault(range(count), fails)) == sorted(at_fault)
    assert len(set(tested)) == len(tested)


def test_items_that_fail_only_together_are_none_alone() -> None:
    assert list(items_at_fault(range(8), lambda items: {1, 6} <= set(items))) == []
