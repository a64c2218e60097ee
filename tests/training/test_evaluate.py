from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.errors import VerificationFailed
from compressor.training.evaluate import accuracy
from compressor.training.images import ImageData
from compressor.training.splits import Split


def data(labels: list[int]) -> ImageData:
    """One-pixel float images whose two channels are the logits (0, 1): class 1 is always the answer."""
    images = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).repeat(len(labels), 1, 1, 1)
    split = Split("here", images, torch.tensor(labels), [f"item {index}" for index in range(len(labels))])
    return ImageData("toy", 2, (0.0, 0.0), (1.0, 1.0), split, split, augmented=False)


@pytest.mark.parametrize(("labels", "expected"), [([1, 1], 100.0), ([0, 1, 1, 1, 0], 60.0), ([0], 0.0)])
@pytest.mark.parametrize("batch_size", [1, 2, 512])
def test_counts_every_image_once(labels: list[int], expected: float, batch_size: int) -> None:
    module = nn.Flatten().train()
    assert accuracy(module, data(labels), batch_size) == pytest.approx(expected)
    assert module.training, "the module is left as it was"


def test_answers_that_are_not_finite_are_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) / 0

    with pytest.raises(VerificationFailed, match=r"test images 0 to 1: .* not finite") as caught:
        accuracy(Broken(), data([1, 1]))
    assert caught.value.exit_code == 6
