"""Code that computes a number from a width: the width stays, all others go, and what remains is proven."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal, groups_at_fault
from compressor.surgery.removal import remove_channels
from compressor.surgery.width_numbers import WHY


class Net(nn.Module):
    """Four layers; `number` is computed from the module and an activation, and scales it."""

    def __init__(self, number: Callable[[Net, Tensor], float]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3)
        self.c, self.d = nn.Conv2d(16, 20, 3), nn.Conv2d(20, 4, 1)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        x = self.c(x * self.number(self, x)).relu()
        return self.d(x).mean((2, 3))


@pytest.mark.parametrize(
    ("number", "frozen"),
    [
        (lambda net, x: 1 / math.sqrt(x.shape[1]), {"b"}),
        (lambda net, x: net.b.out_channels / 16, {"b"}),
        (lambda net, x: net.c.weight.shape[0], {"c"}),  # of another layer than the one it scales
        (lambda net, x: net.b.weight.shape[1] ** -0.5, {"a"}),
        (lambda net, x: net.b.weight.numel() ** -0.5, {"a", "b"}),
        (lambda net, x: 0.25, set()),
    ],
    ids=["sqrt", "attribute", "another layer", "inputs", "all weights", "constant"],
)
def test_a_width_that_sets_a_number_is_frozen(number: Callable[[Net, Tensor], float], frozen: set[str]) -> None:
    torch.manual_seed(0)
    net, x = Net(number).eval(), torch.randn(1, 3, 12, 12)
    structure = analyze(net, x, name="net")
    assert {group.name for group in structure.groups if group.frozen and WHY in group.frozen.reason} == frozen
    free = [group for group in structure.groups if group.frozen is None]
    assert {group.name for group in free} == {"a", "b", "c"} - frozen
    plan = PrunePlan({group.name: np.arange(group.size) % 3 > 0 for group in free})
    slim = remove_channels(net, structure, plan)
    assert certify_removal(net, slim, structure, plan, x).ok


def test_groups_at_fault_are_named_where_a_removal_is_not_exact() -> None:
    """A table that code looks up by a width: no operator takes another number, only the value differs."""
    table = torch.linspace(1, 2, 32)
    net, x = Net(lambda net, x: table[x.shape[1]]), torch.randn(2, 3, 12, 12)  # type: ignore[arg-type, return-value]
    structure = analyze(net.eval(), x[:1], name="net")
    free = [group for group in structure.groups if group.frozen is None]
    plan = PrunePlan({group.name: np.arange(group.size) % 3 > 0 for group in free})
    assert {group.name for group in free} == {"a", "b", "c"}
    assert not certify_removal(net, remove_channels(net, structure, plan), structure, plan, x).ok
    assert list(groups_at_fault(net, structure, plan, x)) == ["b"]


def test_operators_that_ask_for_values_by_themselves_are_traced_with_values() -> None:
    class Enhanced(nn.Module):
        """A spectrum times a mask, and back: `istft` compares values."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))
            self.a, self.b = nn.Conv1d(17, 12, 3, padding=1), nn.Conv1d(12, 17, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.stft(x, 32, 16, window=self.window, return_complex=True)
            mask = self.b(self.a(spectrum.abs()).relu()).sigmoid()
            return torch.istft(spectrum * mask, 32, 16, window=self.window, length=x.shape[-1])

    structure = analyze(Enhanced().eval(), torch.rand(1, 320), name="enhanced")
    assert {group.name for group in structure.groups if group.frozen is None} == {"a"}


def test_attention_of_other_widths_keeps_its_scale() -> None:
    """With weights of attention returned, places within heads go; the scale stays that of the dense heads."""
    from compressor.models.preparation.prepare import prepare_module

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latent = nn.Parameter(torch.randn(1, 5, 16))
            self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=12, batch_first=True)
            self.embed, self.head = nn.Linear(6, 12), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(self.attention(self.latent.expand(len(x), -1, -1), x, x)[0]).mean(1)

    torch.manual_seed(0)
    dense, x = Reader().eval(), torch.randn(1, 7, 6)
    expected = dense(x)
    module, _ = prepare_module(dense)
    torch.testing.assert_close(module(x), expected)
    structure = analyze(module, x, name="reader")
    free = [group for group in structure.groups if group.frozen is None]
    assert any("attention" in group.name for group in free)
    plan = PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in free})
    assert certify_removal(module, remove_channels(module, structure, plan), structure, plan, x).ok
