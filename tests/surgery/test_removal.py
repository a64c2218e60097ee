"""Surgery is exact: slim equals masked dense, on known architectures and on random ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import Cost, PrunePlan
from compressor.criteria.magnitude import l1
from compressor.graph.cost import count_cost
from compressor.graph.dependency_graph import DependencyGraph
from compressor.models.cifar import cifar_resnet
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal, verify_against_original
from compressor.surgery.masked_reference import with_readers_zeroed
from compressor.surgery.removal import compose_kept, remove_channels, size_attributes, slice_optimizer_state


def awake(module: nn.Module) -> nn.Module:
    """Random BatchNorm statistics: those a network is born with would hide a wrong index."""
    random = torch.Generator().manual_seed(0)
    for _, tensor in (*module.named_buffers(), *module.named_parameters()):
        if tensor.ndim == 1 and tensor.is_floating_point():
            with torch.no_grad():
                tensor.uniform_(0.5, 1.5, generator=random)
    return module.eval()


def halved(module: nn.Module, inputs: Tensor) -> tuple[DependencyGraph, PrunePlan, Cost]:
    structure = analyze(module, inputs, name="test")
    original = count_cost(module, inputs)
    graded = l1.score_channels(module, structure.groups)
    plan, _ = select_channels(structure.groups, graded, PruningTarget(macs=0.5), structure.cost, original)
    return structure, plan, original


MODELS: dict[str, dict[str, object]] = {  # with as few blocks of each kind as show what is special about it
    "torchvision:resnet18": {},
    "torchvision:mobilenet_v3_small": {},
    "torchvision:squeezenet1_1": {},
    "torchvision:regnet_y_400mf": {},
    "torchvision:shufflenet_v2_x0_5": {},
    "timm:resnet10t": {},
    "timm:mobilenetv3_small_050": {},
    "timm:densenet121": {"block_config": (2, 3, 2)},
    "timm:dpn48b": {"k_sec": (1, 1, 1, 1)},
    "timm:resnest14d": {},
    "timm:skresnet18": {"layers": (1, 1, 1, 1)},
    "timm:vit_tiny_patch16_224": {"depth": 3, "img_size": 64},
    "timm:rexnet_100": {"depth_mult": 0.4},  # slices up to a stored width
    "timm:mixnet_s": {},  # unequal splits by a stored list
    "timm:res2next50": {"layers": (1, 1, 1, 1)},
}


def small_densenet() -> nn.Module:
    return awake(torchvision.models.DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16))


@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_macs_go_and_nothing_else_changes(name: str) -> None:
    family, _, architecture = name.partition(":")
    torch.manual_seed(0)
    make = timm.create_model if family == "timm" else torchvision.models.get_model
    module = awake(make(architecture, **MODELS[name])).requires_grad_(requires_grad=False)
    inputs = torch.randn(1, 3, 64, 64)
    before = copy.deepcopy(module.state_dict())
    structure, plan, original = halved(module, inputs)
    slim = remove_channels(module, structure, plan)
    cost = count_cost(slim, inputs)
    assert 0.49 < cost.macs / original.macs <= 0.5
    assert cost == structure.cost.of(plan), "the prediction counts what is left exactly"
    certificate = certify_removal(module, slim, structure, plan, torch.randn(2, 3, 64, 64))
    assert certificate.ok, certificate
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items()), "dense is untouched"
    slim.train()
    for layer in slim.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == layer.running_mean.numel()
        if isinstance(layer, nn.Conv2d):
            assert layer.out_channels == layer.weight.shape[0]
            assert layer.in_channels == layer.weight.shape[1] * layer.groups


def test_the_certificate_fails_for_a_wrong_channel() -> None:
    module = awake(torchvision.models.resnet18())
    inputs = torch.randn(1, 3, 64, 64)
    structure, plan, _ = halved(module, inputs)
    name = next(iter(plan.kept))
    wrong = PrunePlan({**plan.kept, name: np.roll(plan.kept[name], 1)})
    assert not certify_removal(module, remove_channels(module, structure, wrong), structure, plan, inputs).ok


def test_masking_alone_changes_the_dense_model() -> None:
    module = awake(torchvision.models.resnet18())
    inputs = torch.randn(1, 3, 64, 64)
    structure, plan, _ = halved(module, inputs)
    with torch.inference_mode():
        assert not torch.allclose(
            with_readers_zeroed(module, structure.groups, plan)(inputs), module(inputs), rtol=1e-2
        )


def test_a_zero_classifier_proves_nothing_and_is_filled_first() -> None:
    module = awake(torchvision.models.resnet18())
    with torch.no_grad():
        module.fc.weight.zero_()
        module.fc.bias.zero_()
    inputs = torch.randn(1, 3, 64, 64)
    structure, plan, _ = halved(module, inputs)
    slim = remove_channels(module, structure, plan)
    certificate = certify_removal(module, slim, structure, plan, inputs)
    assert certificate.ok
    assert certificate.max_rel_error < float("inf")
    assert not module.fc.weight.any()
    kept = compose_kept({}, structure.groups, plan, slim)
    proof = verify_against_original(slim, copy.deepcopy(module), kept, inputs)
    assert (proof.ok, proof.max_rel_error < float("inf")) == (True, True)
    name, dims = next((name, dims) for name, dims in kept.items() if name.endswith("conv2.weight"))
    shifted = {dim: [index ^ 1 for index in indices] for dim, indices in dims.items()}
    assert not verify_against_original(slim, copy.deepcopy(module), {**kept, name: shifted}, inputs).ok
    assert not slim.fc.weight.any()


def test_indices_stay_in_the_original_numbering_through_two_cuts_and_a_concatenation() -> None:
    """DenseNet: a BatchNorm behind a concatenation sees shifted indices after the first cut."""
    module = small_densenet()
    original = copy.deepcopy(module)
    inputs = torch.randn(1, 3, 64, 64)
    first, plan, _ = halved(module, inputs)
    once = remove_channels(module, first, plan)
    kept = compose_kept({}, first.groups, plan, once)
    second, plan_again, _ = halved(once, inputs)
    twice = remove_channels(once, second, plan_again)
    kept = compose_kept(kept, second.groups, plan_again, twice)
    state = original.state_dict()
    for name, tensor in twice.state_dict().items():
        expected = state[name]
        for dim, indices in kept.get(name, {}).items():
            expected = expected.index_select(dim, torch.tensor(indices))
        assert torch.equal(expected, tensor), name
    assert verify_against_original(twice, copy.deepcopy(original), kept, torch.randn(2, 3, 64, 64)).ok
    sizes = size_attributes(second.attributes, twice)
    assert sizes["features.conv0"]["out_channels"] == twice.features.conv0.out_channels


class Attention(nn.Module):
    """Two heads over positions, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 3
        self.qkv, self.proj = nn.Linear(width, 18), nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(rows).reshape(*rows.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.proj(y).transpose(1, 2).reshape(x.shape)


class Shuffle(nn.Module):
    """Channels of two halves in turn."""

    def forward(self, x: Tensor) -> Tensor:
        batch, width, *size = x.shape
        return x.view(batch, 2, width // 2, *size).transpose(1, 2).reshape(batch, width, *size)


class Halves(nn.Module):
    """One half gates the other; a convolution brings the width back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.back = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return self.back(a * torch.sigmoid(b))


class Mixture(nn.Module):
    """A random network of plain, grouped, depthwise, dense, residual, gated, split, shuffled and attending blocks."""

    def __init__(self, blocks: list[str], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.kinds = blocks
        self.layers = nn.ModuleList()
        for kind in blocks:
            self.layers.append(self._block(kind, width))
            width += 4 if kind == "dense" else 0
        self.head = nn.Linear(width, 3)

    @staticmethod
    def _block(kind: str, width: int) -> nn.Module:
        norm = nn.BatchNorm2d(width)
        if kind == "plain":
            return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), norm, nn.ReLU())
        if kind == "depthwise":
            return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), norm, nn.Conv2d(width, width, 1))
        if kind == "grouped":
            return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=2), norm, nn.Conv2d(width, width, 1))
        if kind == "dense":
            return nn.Sequential(nn.Conv2d(width, 4, 3, padding=1), nn.BatchNorm2d(4))
        if kind == "gated":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1))
        if kind == "attention":
            return Attention(width)
        if kind == "shuffle":
            return nn.Sequential(Shuffle(), nn.Conv2d(width, width, 1))
        if kind == "halves":
            return Halves(width)
        if kind == "groupnorm":
            return nn.Sequential(nn.Conv2d(width, width, 1), nn.GroupNorm(2, width), nn.ReLU())
        return nn.Sequential(nn.Conv2d(width, 6, 1), nn.ReLU(), nn.Conv2d(6, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            if kind == "dense":
                x = torch.cat([x, layer(x)], 1)
            elif kind == "residual":
                x = x + layer(x)
            elif kind == "gated":
                x = x * torch.sigmoid(layer(x))
            else:
                x = layer(x)
        return self.head(x.mean((2, 3)))


KINDS = ["plain", "depthwise", "grouped", "dense", "gated", "residual", "attention", "shuffle", "halves", "groupnorm"]


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.sampled_from(KINDS), max_size=5),
    width=st.sampled_from([4, 6, 8]),
    ratio=st.floats(0.05, 0.95),
)
def test_random_networks_are_cut_exactly_at_any_ratio(blocks: list[str], width: int, ratio: float) -> None:
    torch.manual_seed(0)
    module = awake(Mixture(blocks, width))
    inputs = torch.randn(1, 3, 8, 8)
    structure = analyze(module, inputs, name="mixture")
    graded = l1.score_channels(module, structure.groups)
    plan, _ = select_channels(
        structure.groups, graded, PruningTarget(ratio=ratio), structure.cost, count_cost(module, inputs)
    )
    slim = remove_channels(module, structure, plan)
    assert certify_removal(module, slim, structure, plan, torch.randn(2, 3, 8, 8)).ok
    assert count_cost(slim, inputs) == structure.cost.of(plan)
    for group in structure.groups:
        assert plan.kept.get(group.name, np.ones(1, dtype=bool)).any(), "every group keeps a channel"


class InsistsOnWidth(nn.Module):
    """A reshape with a size fixed in code, as attention heads are."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.free = nn.Conv2d(8, 8, 1)
        self.b = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.free(torch.relu(self.a(x)))))
        x = x.reshape(x.shape[0], 2, 4, -1).mean(3)
        return self.head(x.reshape(x.shape[0], 8))


def test_sizes_fixed_in_code_are_frozen_with_their_line_and_the_rest_goes_on() -> None:
    structure = analyze(InsistsOnWidth().eval(), torch.randn(1, 3, 4, 4), name="insists")
    groups = {group.name: group.frozen for group in structure.groups}
    assert groups["a"] is None
    assert groups["free"] is None
    assert groups["b"] is not None
    assert "sizes fixed in the code" in groups["b"].reason
    assert "test_removal.py:" in groups["b"].reason


def test_momentum_is_sliced_as_its_weights_are() -> None:
    module = cifar_resnet("resnet20")
    structure = analyze(module, torch.randn(1, 3, 32, 32), name="resnet20")
    graded = l1.score_channels(module, structure.groups)
    plan, groups = select_channels(
        structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, structure.cost.of(PrunePlan({}))
    )
    slim = remove_channels(module, structure, plan)
    momentum = {
        name: {"momentum_buffer": each.detach() * 2, "step": torch.tensor(7.0)}
        for name, each in module.named_parameters()
    }
    after = slice_optimizer_state(momentum, groups, plan)
    for name, parameter in slim.named_parameters():
        assert torch.equal(after[name]["momentum_buffer"], parameter.detach() * 2)
        assert after[name]["step"] == 7
