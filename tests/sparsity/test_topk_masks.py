"""The best of all weights: exactly so many, whatever is equal, and nothing outside of what is open."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.sparsity.topk_masks import topk_masks


def everything(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(each, dtype=torch.bool) for name, each in scores.items()}


def test_half_of_ten_distinct_scores_is_five() -> None:
    """Keeping what is strictly above the threshold would be one less."""
    scores = {"a": torch.tensor([3.0, 9.0, 1.0, 7.0]), "b": torch.tensor([[2.0, 8.0, 0.0], [4.0, 6.0, 5.0]])}
    found = topk_masks(scores, 5, everything(scores))
    assert found.masks["a"].tolist() == [False, True, False, True]
    assert found.masks["b"].tolist() == [[False, True, False], [False, True, True]]
    assert found.saved == ()


def test_equal_scores_are_kept_from_the_front() -> None:
    """Keeping all that reach the threshold would be all ten."""
    scores = {"a": torch.tensor([0.0, 0, 0, 3, 0, 0, 0, 0, 0, 0])}
    found = topk_masks(scores, 3, everything(scores))
    assert found.masks["a"].nonzero().flatten().tolist() == [0, 1, 3]


def test_signed_scores_keep_the_largest_and_not_the_largest_magnitudes() -> None:
    """GraSP: of theta Hg = (-5, 30, -2, 1) the lowest go, where -theta Hg is largest."""
    scores = {"a": torch.tensor([-5.0, 30.0, -2.0, 1.0])}
    assert topk_masks(scores, 2, everything(scores)).masks["a"].nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize("guard", [True, False])
def test_a_layer_that_would_be_emptied_keeps_its_best_weight(guard: bool) -> None:
    scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([0.1, 0.2]), "c": torch.tensor([9.0])}
    found = topk_masks(scores, 3, everything(scores), guard=guard)
    assert found.saved == ("b",)
    assert found.masks["b"].tolist() == [False, guard]
    assert found.masks["a"].tolist() == [True, not guard, False], "the count stays, the next best gives way"
    assert found.masks["c"].all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_exactly_so_many_of_what_is_open_and_none_worse_than_one_left_out(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    values = [data.draw(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0]), min_size=n, max_size=n)) for n in sizes]
    opened = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in sizes]
    scores = {str(index): torch.tensor(each) for index, each in enumerate(values)}
    within = {str(index): torch.tensor(each) for index, each in enumerate(opened)}
    total, holders = sum(map(sum, opened)), sum(map(any, opened))
    if not total:
        return
    keep = data.draw(st.integers(holders, total))
    found = topk_masks(scores, keep, within)
    assert sum(int(mask.sum()) for mask in found.masks.values()) == keep
    assert not any(bool((mask & ~within[name]).any()) for name, mask in found.masks.items())
    assert all(bool(found.masks[name].any()) == bool(within[name].any()) for name in scores)
    dropped = [float(scores[n][within[n] & ~m].max()) for n, m in found.masks.items() if (within[n] & ~m).any()]
    spare = [scores[n][m].tolist() for n, m in found.masks.items()]
    spare = [each for part in spare for each in sorted(part)[:-1]]  # beyond the best of each layer
    assert not dropped or not spare or min(spare) >= max(dropped)
