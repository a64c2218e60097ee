"""The class count and the input channels that the shapes of a checkpoint imply."""

from __future__ import annotations

import pytest

from compressor.models.identification.shape_match import FreeDim, class_counts

STEM = FreeDim("conv1.weight", 1, "channels", 1, 0)
HEAD = FreeDim("fc.weight", 0, "classes", 1, 0)
BOXES = FreeDim("boxes.bias", 0, "classes", 4, 4)  # four numbers for each class and for the background


@pytest.mark.parametrize(
    ("classes", "boxes", "expected"),
    [
        (7, 32, {"channels": 3, "classes": 7}),
        (7, 36, None),  # eight classes: the two contradict each other
        (7, 33, None),  # no whole number of classes
        (0, 4, None),
    ],
)
def test_shapes_imply_counts_where_all_agree(classes: int, boxes: int, expected: dict[str, int] | None) -> None:
    shapes = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (classes, 64), "boxes.bias": (boxes,)}
    assert class_counts(shapes, (STEM, HEAD, BOXES)) == expected


def test_a_missing_tensor_implies_nothing() -> None:
    assert class_counts({"conv1.weight": (16, 3, 3, 3)}, (STEM, HEAD)) is None
