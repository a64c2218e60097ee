"""N:M masks: the hand-computed cases, every pattern by brute force, and what no mask may do."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.core import NMPattern
from compressor.sparsity.nm_masks import magnitude_mask, retained_share, satisfies_pattern, upper_bound_share

TWO_FOUR = NMPattern(2, 4)
PATTERNS = [NMPattern(1, 2), TWO_FOUR, NMPattern(1, 4), NMPattern(2, 8), NMPattern(4, 8)]


def test_a_row_by_hand() -> None:
    row = torch.tensor([[0.1, -0.9, 0.4, -0.3, 2, -1.1, 1, 0.5]], dtype=torch.float64)
    mask = magnitude_mask(row, TWO_FOUR)
    assert mask.int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]
    assert retained_share(row, mask) == pytest.approx(4.4 / 6.3)


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    weight = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 2.0, -2.0, 2.0]])
    assert magnitude_mask(weight, TWO_FOUR).tolist() == [[True, True, False, False], [False, True, True, False]]


def test_groups_run_along_input_channels_at_one_place_of_the_kernel() -> None:
    """w[0, c, 0, :] = (1,8), (2,7), (3,6), (4,5): grouping the flattened kernel would break the runtimes' rule."""
    weight = torch.tensor([[1.0, 8], [2, 7], [3, 6], [4, 5]]).reshape(1, 4, 1, 2)
    mask = magnitude_mask(weight, TWO_FOUR)
    assert mask[0, :, 0, 0].tolist() == [False, False, True, True]
    assert mask[0, :, 0, 1].tolist() == [True, True, False, False]
    assert satisfies_pattern(weight.masked_fill(~mask, 0), TWO_FOUR)
    flat = magnitude_mask(weight.reshape(1, 8), TWO_FOUR).reshape(weight.shape)
    assert flat[0, :, 0, 1].all(), "all four channels at the second place: 4 of 4"
    assert not satisfies_pattern(weight.masked_fill(~flat, 0), TWO_FOUR)


def best_by_trying_all(weight: Tensor, pattern: NMPattern) -> float:
    """Largest sum of |w| of any choice of N places in each group, counted one by one."""
    total = 0.0
    rows = weight.abs().movedim(1, -1).reshape(-1, weight.shape[1]).tolist()
    for row in rows:
        for begin in range(0, len(row), pattern.m):
            group = row[begin : begin + pattern.m]
            total += max(sum(choice) for choice in combinations(group, pattern.n))
    return total


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PATTERNS), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**31))
def test_the_mask_keeps_the_most_of_all_patterns(p: NMPattern, k: int, groups: int, kernel: int, seed: int) -> None:
    shape = (k, groups * p.m, *(2,) * kernel)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = magnitude_mask(weight, p)
    assert float(weight.abs()[mask].sum()) == pytest.approx(best_by_trying_all(weight, p))
    parts = mask.movedim(1, -1).reshape(-1, p.m)
    assert (parts.sum(dim=1) == p.n).all()
    assert satisfies_pattern(weight.masked_fill(~mask, 0), p)
    assert retained_share(weight, mask) <= upper_bound_share(weight, p) + 1e-12


def test_equal_magnitudes_give_the_same_number_of_zeros() -> None:
    assert magnitude_mask(torch.ones(2, 8), TWO_FOUR).sum(dim=1).tolist() == [4, 4]
    assert magnitude_mask(torch.zeros(2, 8), TWO_FOUR).sum(dim=1).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("weight", "fits"),
    [
        (torch.zeros(1, 4), True),
        (torch.tensor([[1.0, 1, 0, 0]]), True),
        (torch.tensor([[1.0, 1, 1, 0]]), False),
        (torch.zeros(1, 6), False),  # no whole number of groups
        (torch.zeros(4), False),
        (torch.tensor([[0.0, 1, 1, 0, 1, 1, 1, 0]]), False),
    ],
)
def test_the_rule(weight: Tensor, fits: bool) -> None:
    assert satisfies_pattern(weight, TWO_FOUR) == fits
