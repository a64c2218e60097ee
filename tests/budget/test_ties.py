"""Groups that one field of a library's configuration sets lose channels in whole steps, together."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.budget.ties import freeze_untied, remove_in_steps, ties_of
from compressor.core import ChannelGroup, ConfigStep, Freeze, TensorSlot
from compressor.errors import RecipeError


def group(name: str, size: int, *slots: tuple[str, int, int], frozen: str | None = None) -> ChannelGroup:
    """A group whose channels have `width` entries in each (tensor, dim, width)."""
    made = (TensorSlot(t, d, np.arange(size * w).reshape(size, w), "writer") for t, d, w in slots)
    return ChannelGroup(name, size, tuple(made), frozen)


STREAM = group("stream", 64, ("embed", 1, 1), ("embed", 1, 1), ("q", 1, 1))  # the embedding is tied: two slots
HEADS = group("heads", 4, ("q", 0, 16))
INNER = group("inner", 128, ("up", 0, 1), ("down", 1, 1))
OUTER = group("outer", 10, ("last", 0, 1))
GROUPS = (STREAM, HEADS, INNER, OUTER)
HIDDEN = ConfigStep({"hidden": 16, "heads": 1}, {"embed": {1: 16}, "q": {0: 16, 1: 16}})
WIDTH = ConfigStep({"width": 1}, {"up": {0: 1}, "down": {1: 1}})


def test_a_step_of_the_stream_is_worth_a_head() -> None:
    assert ties_of(GROUPS, [HIDDEN, WIDTH]) == [{0: 16, 1: 1}, {2: 1}]


def test_a_step_that_changes_a_frozen_group_ties_nothing() -> None:
    frozen = group("heads", 4, ("q", 0, 16), frozen=Freeze("model", "output of the model"))
    assert ties_of((STREAM, frozen, INNER, OUTER), [HIDDEN, WIDTH]) == [{2: 1}]


def test_groups_of_no_field_are_frozen() -> None:
    assert [bool(one.frozen) for one in freeze_untied(GROUPS, [HIDDEN, WIDTH])] == [False, False, False, True]
    with pytest.raises(RecipeError) as caught:
        freeze_untied(GROUPS, [])
    assert caught.value.code == "recipe-does-not-fit-the-model/no-configuration"


def test_whole_steps_meet_the_target_and_no_more() -> None:
    ties = ties_of(GROUPS, [HIDDEN, WIDTH])
    most, unit = np.array([63, 3, 127, 9]), np.array([1, 1, 8, 1])
    removed = np.array([20, 2, 61, 5])
    assert remove_in_steps(removed, ties, most, unit, None).tolist() == [32, 2, 64, 5]  # means 1.6 and 61, rounded up
    enough = remove_in_steps(removed, ties, most, unit, lambda plan: plan[0] >= 33)
    assert enough.tolist() == [48, 3, 0, 5]  # more of the stream; the inner width returns whole
    assert remove_in_steps(removed, ties, most, unit, lambda plan: False) is None
