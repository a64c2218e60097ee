"""Certificates of networks whose answers hang on more than their input: random numbers, state, types, near ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.core import Certificate, PrunePlan
from compressor.graph.cost import count_cost
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal, same_outputs
from compressor.surgery.removal import remove_channels


class Net(nn.Module):
    """Two convolutions and a linear layer around something special."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> object:
        x = torch.relu(self.special(torch.relu(self.a(x))))
        return self.answer(torch.relu(self.b(x)).flatten(2).transpose(1, 2))

    def special(self, x: Tensor) -> Tensor:
        return x

    def answer(self, tokens: Tensor) -> object:
        return self.head(tokens.mean(1))


class Noisy(Net):
    def special(self, x: Tensor) -> Tensor:
        return x * torch.rand(x.shape[0], 1, *x.shape[2:])


class Drawing(Net):
    """Draws for each channel, so that a smaller model draws fewer numbers."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def special(self, x: Tensor) -> Tensor:
        return self.draw(x)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: functional.dropout(x, 0.3, training=True),
    "in place": lambda x: functional.dropout(x, 0.3, training=True, inplace=True) + torch.empty_like(x).normal_(),
    "whole channels": lambda x: functional.dropout2d(x, 0.3, training=True) * torch.bernoulli(x.sigmoid()),
    "noise in another order": lambda x: with_noise(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "of a constant": lambda x: x * functional.dropout(torch.ones(len(x), x.shape[1], 1, 1), 0.3),
}


def with_noise(x: Tensor) -> Tensor:
    y = functional.dropout(x, 0.3)
    return y + torch.rand_like(y)


class NumpyNoise(Net):
    def special(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand())


class Counts(Net):
    """Keeps a buffer, a number and a plain tensor that change with every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.calls, self.last = 0, torch.zeros(())

    def special(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + x.mean((0, 2, 3))
        x = x - self.mean[:, None, None] + self.last + self.calls
        self.last = self.last + 1
        return x


class Rounds(Net):
    """Elementwise in float32, which no layer objects to."""

    def special(self, x: Tensor) -> Tensor:
        return torch.exp(x.float() / 3) * torch.tensor(0.1, dtype=torch.float32)


class Insists(Net):
    def special(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(x.dtype)
        return x


class BestTokens(Net):
    """Takes the best of tokens with nearly equal scores."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.score.weight, std=1e-17)

    def answer(self, tokens: Tensor) -> object:
        best = (self.score(tokens) + 1).squeeze(-1).topk(5, dim=1).indices
        return self.head(tokens.gather(1, best[..., None].expand(-1, -1, 8)))


class Labels(Net):
    """Answers with whole numbers only."""

    def answer(self, tokens: Tensor) -> object:
        return self.head(tokens).argmax(-1)


def halved(net: Net) -> tuple[Certificate, Certificate]:
    """The proof of a right cut, and that of one that kept other channels than it says."""
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    structure = analyze(net, x[:1], name="net")
    kept = {group.name: np.arange(group.size) % 2 == 0 for group in structure.groups if group.frozen is None}
    assert "a" in kept
    plan, wrong = PrunePlan(kept), PrunePlan({**kept, "a": ~kept["a"]})
    slim, other = remove_channels(net, structure, plan), remove_channels(net, structure, wrong)
    return certify_removal(net, slim, structure, plan, x), certify_removal(net, other, structure, plan, x)


def test_no_pass_changes_the_module_that_is_looked_at() -> None:
    net, x = Counts().eval(), torch.randn(1, 3, 6, 6)
    count_cost(net, x)
    halved(net)
    assert net.calls == 0
    assert not net.mean.any()
    assert not net.last.any()


@pytest.mark.parametrize("make", [Net, Noisy, NumpyNoise, Counts, Rounds])
def test_equal_passes_agree_in_float64(make: Callable[[], Net]) -> None:
    net = make().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    right, wrong = halved(net)
    assert right.ok, right
    assert right.kind == "masked-dense-float64"
    assert right.max_rel_error < 1e-12
    assert not wrong.ok
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_both_models_draw_the_same_numbers_for_the_channels_that_stay(draw: Callable[[Tensor], Tensor]) -> None:
    right, wrong = halved(Drawing(draw).eval())
    assert right.ok, right
    assert right.kind == "restricted-dense-float64"
    assert right.max_rel_error < 1e-12
    assert not wrong.ok


class DropsAttention(nn.Module):
    """Attention that drops some of its weights in eval mode, too; heads are removed."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.o = 4, nn.Linear(6, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.o(functional.scaled_dot_product_attention(q, k, v, dropout_p=0.2).transpose(1, 2).flatten(2))


def test_heads_whose_attention_weights_are_dropped() -> None:
    net, x = DropsAttention().eval(), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    structure = analyze(net, x[:1], name="net")
    plan = PrunePlan({"qkv": np.array([True, False, True, False])})
    proof = certify_removal(net, remove_channels(net, structure, plan), structure, plan, x)
    assert proof.ok, proof
    assert proof.kind == "restricted-dense-float64"


def test_a_forward_that_insists_on_its_types_is_compared_in_them() -> None:
    right, wrong = halved(Insists().eval())
    assert right.ok
    assert right.kind == "masked-dense-float32"
    assert right.tolerance == 1e-4
    assert 1e-9 < right.max_rel_error < 1e-5
    assert not wrong.ok


@pytest.mark.parametrize("make", [BestTokens, Labels])
def test_choices_by_value_are_taken_over_and_their_scores_compared(make: Callable[[], Net]) -> None:
    right, wrong = halved(make().eval())
    assert right.ok, right
    assert right.max_rel_error < 1e-9
    assert not wrong.ok
    if make is Labels:
        assert right.kind == "masked-dense-float64-equal-choices"


class Masked(Net):
    """Answers with logits of which some are masked, and with their probabilities."""

    def answer(self, tokens: Tensor) -> object:
        logits = self.head(tokens.mean(1)).masked_fill(torch.tensor([False, True, False, False]), -torch.inf)
        return logits, logits.softmax(-1)


def test_masked_logits_agree() -> None:
    right, wrong = halved(Masked().eval())
    assert right.ok, right
    assert right.max_rel_error < 1e-12
    assert not wrong.ok


class Divides(nn.Module):
    """Answers with its input, and with a division of zero."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 0 * x / self.divisor


def test_a_later_output_that_is_not_a_number_is_a_difference() -> None:
    proof = same_outputs(Divides(1.0), Divides(0.0), torch.randn(2, 3))
    assert (proof.ok, proof.max_abs_error) == (False, float("inf"))
    assert same_outputs(Divides(0.0), Divides(0.0), torch.randn(2, 3)).ok
