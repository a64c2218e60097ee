"""Whether a module runs, without a trace of the attempt in the module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.execution.run_copy import forward_error


class Counting(nn.Module):
    """Counts its calls, and takes three features."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.shape[1] != 3:
            raise KeyError("three")
        return x


def test_the_error_is_returned_and_the_module_is_left_as_it_was() -> None:
    module = Counting()
    assert forward_error(module, torch.zeros(1, 3)) is None
    assert isinstance(forward_error(module, torch.zeros(1, 4)), KeyError)
    assert module.calls == 0
