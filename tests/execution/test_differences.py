"""Differences of outputs, relative to the largest; what is infinite or NaN on both sides is equal."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.execution.differences import differences, is_close

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([INF, 1.0], [INF, 2.0], 0.5),
        ([-INF, 1.0], [-INF, 2.0], 0.5),
        ([-INF, 1.0], [INF, 2.0], INF),
        ([INF, 1.0], [3.0, 2.0], INF),
        ([NAN, 1.0], [NAN, 2.0], 0.5),
        ([NAN, 2.0], [2.0, 2.0], INF),
        ([2.0, 2.0], [NAN, 2.0], INF),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], INF),
        ([], [], 0.0),
    ],
)
def test_relative_differences(actual: list[float], expected: list[float], difference: float) -> None:
    assert differences([torch.tensor(actual)], [torch.tensor(expected)])[1] == difference


def test_the_largest_of_several_tensors_counts_whatever_their_order() -> None:
    expected = [torch.tensor([1.0]), torch.tensor([4.0])]
    assert differences([torch.tensor([2.0]), torch.tensor([4.0])], expected) == (1.0, 0.25)
    assert differences([torch.tensor([1.0]), torch.tensor([NAN])], expected) == (INF, INF)


def test_whole_numbers_are_close_where_they_are_equal() -> None:
    expected = torch.tensor([1, 1_000_000])
    assert is_close(expected.clone(), expected, 1e-3)
    assert not is_close(expected + 1, expected, 1e-3)
    assert not is_close(torch.zeros(2), torch.zeros(3), 1e-3)
    assert is_close(torch.tensor([1.0 + 1e-4]), torch.tensor([1.0]), 1e-3)
    assert is_close(torch.tensor([True]), torch.tensor([True]), 0.0)
