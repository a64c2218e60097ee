"""Which of several things is at fault where all of them together fail a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def items_at_fault(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool]) -> Iterator[Item]:
    """Find the items that fail a test alone, by halving: n of N items take about 2 n log2(N) tests.

    Args:
        items: At least one item. All of them together fail the test.
        fails: Whether some of the items, which are never all of them, fail the test.

    Yields:
        An item; none where only several of them together fail.
    """
    if len(items) == 1:
        yield items[0]
        return
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        if fails(half):
            yield from items_at_fault(half, fails)
