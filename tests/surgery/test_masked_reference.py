"""Norms that mix channels: the slim model equals the dense one whose norms see the kept channels only."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import PrunePlan
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal, verify_against_original
from compressor.surgery.removal import compose_kept, remove_channels


class Normed(nn.Module):
    """A residual stream under a layer norm, and a hidden width that none touches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 10)
        self.down = nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.norm.parameters():
                parameter.uniform_(0.5, 1.5, generator=random)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


class Standardised(nn.Conv2d):
    """A convolution whose weights are normalised over their fan-in before they are used."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = nn.functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return nn.functional.conv2d(x, weight, self.bias)


class Centred(nn.Conv2d):
    """The same written by hand, where a mean over the fan-in is subtracted."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, (self.weight - mean) / self.weight.std((1, 2, 3), keepdim=True), self.bias)


def test_inputs_of_a_weight_that_is_centred_by_hand_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Centred(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    x = torch.randn(2, 3, 5, 5)
    structure = analyze(module, x[:1], name="it", mixing=True)
    free = [group for group in structure.groups if group.frozen is None]
    assert [group.name for group in free] == ["2"]
    plan = PrunePlan({"2": np.arange(6) % 2 == 0})
    assert certify_removal(module, remove_channels(module, structure, plan), structure, plan, x).ok


def standardised() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Standardised(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))


class ResponseNormed(nn.Module):
    """A response divided by its mean over channels, as global response normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        response = x.norm(p=2, dim=(2, 3), keepdim=True)
        return self.b(x * (response / (response.mean(dim=1, keepdim=True) + 1e-6)))


CASES = {
    "layer norm": (Normed, (1, 6), "embed"),
    "standardised weights": (standardised, (1, 3, 4, 4), "0"),
    "response norm": (ResponseNormed, (1, 3, 4, 4), "a"),
}


@pytest.mark.parametrize("case", CASES)
def test_mixed_channels_stay_unless_asked_for_and_then_the_certificate_says_what_was_compared(case: str) -> None:
    make, shape, name = CASES[case]
    torch.manual_seed(0)
    module, inputs = make().eval(), torch.randn(*shape)
    frozen = {group.name: group.frozen for group in analyze(module, inputs, name=case).groups}
    assert frozen[name] is not None
    structure = analyze(module, inputs, name=case, mixing=True)
    plan = PrunePlan({name: np.array([True, False, True, True, False, False, True, True])})
    slim = remove_channels(module, structure, plan)
    certificate = certify_removal(module, slim, structure, plan, inputs)
    assert certificate.kind == "restricted-dense-float64"
    assert certificate.ok, certificate
    wrong = PrunePlan({name: np.roll(plan.kept[name], 1)})
    assert not certify_removal(module, remove_channels(module, structure, wrong), structure, plan, inputs).ok


def test_a_plan_that_leaves_the_norm_alone_is_proven_by_masking_alone() -> None:
    module, inputs = Normed().eval(), torch.randn(1, 6)
    structure = analyze(module, inputs, name="normed", mixing=True)
    plan = PrunePlan({"up": np.arange(10) < 4})
    certificate = certify_removal(module, remove_channels(module, structure, plan), structure, plan, inputs)
    assert certificate.ok
    assert certificate.kind == "masked-dense-float64"


def test_a_slim_model_is_checked_again_from_its_own_weights() -> None:
    module, inputs = Normed().eval(), torch.randn(2, 6)
    structure = analyze(module, inputs[:1], name="normed", mixing=True)
    plan = PrunePlan({"embed": np.arange(8) % 3 > 0, "up": np.arange(10) < 4})
    slim = remove_channels(module, structure, plan)
    kept = compose_kept({}, structure.groups, plan, slim)
    assert not verify_against_original(slim, copy.deepcopy(module), kept, inputs).ok
    assert verify_against_original(slim, copy.deepcopy(module), kept, inputs, graph=structure).ok


class Contiguous(nn.Module):
    """Attention whose result is made contiguous: a copy on one device, and nothing on another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        shape = (*x.shape[:-1], -1, 4)
        q = self.q(x).view(shape).transpose(1, 2)
        k = self.k(x).view(shape).transpose(1, 2)
        v = self.v(x).view(shape).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()
        return self.head(self.norm(x + self.o(y.reshape(*x.shape[:-1], -1))))


def test_norms_are_found_again_where_other_devices_copy_into_another_layout() -> None:
    dense, x = Contiguous().eval(), torch.randn(2, 5, 6)
    graph = analyze(dense, x, name="net", mixing=True)
    stream = next(group for group in graph.groups if group.name == "embed")
    plan = PrunePlan({"embed": np.arange(stream.size) % 3 > 0})
    proof = certify_removal(dense, remove_channels(dense, graph, plan), graph, plan, x)
    assert proof.ok
    assert proof.kind == "restricted-dense-float64"
