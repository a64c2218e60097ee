from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from compressor.agreement import AgreementMeter, OutputAgreement, measure_agreement


def test_class_scores_by_hand() -> None:
    meter = AgreementMeter()
    meter.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 1)
    meter.update(torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 3.0]]), 1)
    result = meter.compute()
    (output,) = result.outputs
    share = math.exp(2) / (1 + math.exp(2))
    assert result.samples == 2
    assert output.top1 == 0.5
    assert output.kl == pytest.approx((share * 2 - (1 - share) * 2) / 2)
    assert output.relative_error == pytest.approx((8 / 13) ** 0.5)
    assert result.divergence == output.squared_divergence == output.kl


def test_values_diverge_by_their_error_or_by_its_square() -> None:
    output = OutputAgreement("output", relative_error=0.5)
    assert (output.divergence, output.squared_divergence) == (0.5, 0.25)


class Tagger(nn.Module):
    """Time first: a mean over samples, then a number for each step and sample."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor, gain: Tensor) -> dict[str, Tensor]:
        tags = gain * x.sum(2) * (1 + self.error)
        return {"loss": tags.square().mean(), "tags": tags}


@pytest.mark.parametrize("steps", [3, 4, 7])
def test_samples_are_counted_and_classes_looked_for_where_the_batch_is(steps: int) -> None:
    batches = [(torch.randn(steps, size, 5), torch.tensor(2.0)) for size in (4, 4, 3)]
    result = measure_agreement(Tagger(), Tagger(0.1), batches, batch_dims=(1, None))
    loss, tags = result.outputs
    assert result.samples == 11
    assert tags.relative_error == pytest.approx(0.1)
    assert (loss.top1, tags.top1) == (None, None), "steps and samples are no classes"


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
