from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compressor.reconstruction.refinement import refine
from compressor.reconstruction.solver_options import ReconstructionSettings


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.last(self.relu(self.norm(self.first(x))))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


@pytest.fixture
def networks() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    dense = Block().eval()
    slim = copy.deepcopy(dense)
    with torch.no_grad():
        slim.last.weight[:, 0] = 0
        slim.last.weight += 0.05 * torch.randn_like(slim.last.weight)
    return dense, slim, torch.randn(80, 3, 5, 5)


def test_outputs_come_closer_and_zeros_do_not_change(networks: tuple[nn.Module, nn.Module, Tensor]) -> None:
    dense, slim, x = networks
    before = {name: value.clone() for name, value in slim.state_dict().items()}
    masks = {"last.weight": slim.last.weight != 0}
    refined = refine(dense, slim, {}, [(x,)], ReconstructionSettings(), 4, masks)
    assert refined is not None
    with torch.no_grad():
        assert (refined(x) - dense(x)).norm() < 0.9 * (slim(x) - dense(x)).norm()
    assert not refined.last.weight[~masks["last.weight"]].any()
    assert torch.equal(refined.norm.running_mean, dense.norm.running_mean)
    assert not torch.equal(refined.first.weight, dense.first.weight), "all layers change together"
    assert all(torch.equal(value, before[name]) for name, value in slim.state_dict().items())
    again = refine(dense, slim, {}, [(x,)], ReconstructionSettings(), 4, masks)
    assert again is not None
    assert torch.equal(again.last.weight, refined.last.weight)


def test_kept_channels_are_compared_with_the_same_ones_of_the_dense_model() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 2, 1)).eval()
    slim = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh(), nn.Conv1d(3, 2, 1)).eval()
    rows = (0, 1, 3)
    kept = {"0.weight": {0: rows}, "0.bias": {0: rows}, "2.weight": {1: rows}}
    with torch.no_grad():
        slim[0].weight.copy_(dense[0].weight[list(rows)])
        slim[0].bias.copy_(dense[0].bias[list(rows)])
        slim[2].weight.copy_(dense[2].weight[:, list(rows)])
        slim[2].bias.copy_(dense[2].bias)
    x = torch.randn(64, 2, 5)
    refined = refine(dense, slim, kept, [(x,)], ReconstructionSettings(), 4)
    assert refined is not None
    with torch.no_grad():
        assert (refined(x) - dense(x)).norm() < (slim(x) - dense(x)).norm()


def test_a_network_without_gradients_is_not_refined_and_a_full_memory_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.randn(8, 3)

    def refined_where_the_gradient_raises(problem: str) -> nn.Module | None:
        def backward(self: Tensor) -> None:
            raise RuntimeError(problem)

        monkeypatch.setattr(Tensor, "backward", backward)
        return refine(dense, copy.deepcopy(dense), {}, [(x,)], ReconstructionSettings(), 1)

    assert refined_where_the_gradient_raises("element 0 of tensors does not require grad") is None
    with pytest.raises(RuntimeError, match="out of memory"):
        refined_where_the_gradient_raises("CUDA out of memory. Tried to allocate 2.00 GiB")
