from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from compressor.agreement import AgreementMeter, measure_agreement


def test_class_scores_by_hand() -> None:
    meter = AgreementMeter()
    meter.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    meter.update(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]]))
    result = meter.compute()
    (output,) = result.outputs
    share = math.exp(2) / (1 + math.exp(2))
    assert result.samples == 2
    assert output.top1 == 0.5
    assert output.kl == pytest.approx((share * 2 - (1 - share) * 2) / 2)
    assert output.relative_error == pytest.approx((8 / 13) ** 0.5)
    assert result.divergence == output.kl


def test_pixels_and_trees_of_outputs() -> None:
    class Two(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"mask": torch.stack([x, -x + self.shift], 1), "depth": x * (1 + self.shift)}

    x = torch.tensor([[[[1.0, 2.0], [3.0, -1.0]]]])[0]
    result = measure_agreement(Two(0.0), Two(5.0), [(x,), (x,)], num_classes=2)
    mask, depth = result.outputs
    assert (mask.name, depth.name) == ("mask", "depth")
    assert mask.top1 == 0.5  # of four pixels, 2 * x > 5 for one more than before
    assert (depth.top1, depth.kl) == (None, None)
    assert depth.relative_error == pytest.approx(5)
    assert depth.divergence == depth.relative_error
    plain = measure_agreement(Two(0.0), Two(0.0), [(x,)])
    assert [output.relative_error for output in plain.outputs] == [0, 0]
    assert plain.outputs[0].kl is None
