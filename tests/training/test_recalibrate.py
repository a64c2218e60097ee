"""Recalibration against statistics computed directly from the activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.training.batchnorm_statistics import interpolate_statistics, recalibrate_batchnorm


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2)
    )


def test_statistics_are_those_of_the_images_given() -> None:
    """mean = over all values; var = mean over batches, weighted by their images, of the unbiased variance."""
    module = net()
    with torch.no_grad():
        module[1].running_mean.fill_(torch.nan)  # what was there before must not matter
    batches = [torch.randn(8, 3, 6, 6) + 1, torch.randn(8, 3, 6, 6), torch.randn(4, 3, 6, 6) - 1]
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    assert recalibrate_batchnorm(module, batches) == 1
    with torch.no_grad():
        seen = [module[0](batch).double() for batch in batches]
    mean = torch.cat(seen).mean(dim=(0, 2, 3))
    var = sum(len(each) * each.transpose(0, 1).flatten(1).var(dim=1, unbiased=True) for each in seen) / 20
    torch.testing.assert_close(module[1].running_mean.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module[1].running_var.double(), var, atol=1e-6, rtol=1e-5)
    assert module[1].momentum == 0.2
    assert not any(each.training for each in module.modules())
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())
    assert all(each.grad is None for each in module.parameters())


def test_later_layers_see_what_earlier_ones_give_now() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    images = torch.randn(16, 2, 4, 4) * 3 + 5
    assert recalibrate_batchnorm(module, [images]) == 2
    normalised = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(module[2].running_mean, module[1](normalised).mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


def test_all_calls_of_a_norm_count_that_a_forward_makes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) + self.norm(10 + x / 2)

    module, batches = Twice(), [torch.randn(6, 2), torch.randn(3, 2)]
    assert recalibrate_batchnorm(module, batches) == 1
    whole = torch.cat(batches)
    torch.testing.assert_close(module.norm.running_mean, torch.cat([whole, 10 + whole / 2]).mean(0))


def test_a_single_odd_image_is_left_out() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12))
    images = torch.randn(9, 3, 2, 2)
    recalibrate_batchnorm(module, [images[:8], images[8:]])
    torch.testing.assert_close(module[1].running_mean, images[:8].flatten(1).mean(0))


def test_batches_weigh_what_they_have_of_samples() -> None:
    module = nn.BatchNorm1d(5)  # of 5 steps, time first as the network's own
    x = torch.randn(5, 12, 3) + torch.arange(12.0)[:, None]
    taken = nn.Sequential(Transposed(), module)
    recalibrate_batchnorm(taken, [x[:, :8], x[:, 8:]], (1,))
    torch.testing.assert_close(module.running_mean, x.mean((1, 2)))


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1)


def test_without_batch_norm_there_is_nothing_to_do() -> None:
    def never() -> torch.Tensor:
        pytest.fail("read an image for nothing")

    assert recalibrate_batchnorm(nn.Linear(2, 2), (never() for _ in range(1))) == 0


def test_statistics_between_those_of_two_networks() -> None:
    first, last = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    first.running_mean, first.running_var = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 4.0])
    last.running_mean, last.running_var = torch.tensor([2.0, 1.0]), torch.tensor([4.0, 1.0])
    half = interpolate_statistics(first, last, 0.5)
    assert half.running_mean.tolist() == [1.0, 1.0]
    assert half.running_var.tolist() == [2.0, 2.0]
    assert torch.equal(interpolate_statistics(first, last, 0.0).running_var, first.running_var)
    assert torch.equal(interpolate_statistics(first, last, 1.0).running_var, last.running_var)
