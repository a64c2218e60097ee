"""A recorded program ends where a call depends on values, because the calls behind it are others on another batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compressor.reconstruction.program import record


class Routed(nn.Module):
    """A layer, rows of its output chosen by values, and another layer."""

    def __init__(self, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.choose = nn.Linear(4, 4), nn.Linear(4, 4), choose

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(self.choose(y))


def repeated(y: Tensor) -> Tensor:
    return y.repeat_interleave((y[:, 0] > 0).long() + 1, dim=0)


@pytest.mark.parametrize(
    "choose",
    [
        lambda y: y[torch.where(y[:, 0] > 0)],
        lambda y: y[(y[:, 0] > 0).nonzero(as_tuple=True)],
        lambda y: y[y[:, 0] > 0],
        lambda y: y if (y > 0).any() else -y,
        lambda y: y * float(y.sum()),
        repeated,
        lambda y: torch.tensor_split(y, (y[:, 0] > 0).sum().reshape(1))[0],
    ],
)
def test_layers_behind_a_choice_by_values_are_not_recorded(choose: Callable[[Tensor], Tensor]) -> None:
    program = record(Routed(choose), torch.randn(8, 4))
    assert not program.complete
    assert [operation.op for operation in program.operations].count("aten.linear") == 1


def test_a_choice_of_a_fixed_number_is_recorded() -> None:
    program = record(Routed(lambda y: y[y[:, 0].topk(3).indices]), torch.randn(8, 4))
    assert program.complete
    assert [operation.op for operation in program.operations].count("aten.linear") == 2
