"""Which channels stay or go together, on small networks whose answer is known by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup, Freeze, PrunePlan
from compressor.graph.dependency_graph import DependencyGraph, build_dependency_graph
from compressor.graph.rules import table as rules
from compressor.graph.trace import trace_module
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels


def structure_of(module: nn.Module, *shape: int) -> DependencyGraph:
    module.eval()
    return build_dependency_graph(module, trace_module(module, torch.randn(1, *shape), known=rules.has_rule))


def by_name(structure: DependencyGraph) -> dict[str, ChannelGroup]:
    return {group.name: group for group in structure.groups}


class Residual(nn.Module):
    """x -> a -> (b + c) -> d -> classes: a, c write what is added."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = x + self.c(torch.relu(self.b(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def test_an_addition_ties_its_writers_and_flattening_spreads_a_channel_over_its_positions() -> None:
    groups = by_name(structure_of(Residual(), 3, 8, 8))
    stream = groups["a"]
    assert stream.size == 8
    assert stream.frozen is None
    found = {(slot.tensor, slot.dim): slot for slot in stream.slots}
    roles = {key: slot.role for key, slot in found.items()}
    assert roles == {
        ("a.weight", 0): "writer",
        ("norm.weight", 0): "per_channel",
        ("norm.bias", 0): "per_channel",
        ("norm.running_mean", 0): "per_channel",
        ("norm.running_var", 0): "per_channel",
        ("b.weight", 1): "reader",
        ("c.weight", 0): "writer",
        ("c.bias", 0): "per_channel",
        ("head.weight", 1): "reader",
    }
    assert found["head.weight", 1].positions[3].tolist() == [12, 13, 14, 15]
    assert groups["b"].size == 4
    assert groups["head"].frozen == Freeze("model", "output of the model")


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1))).mean((2, 3))


def test_concatenation_shifts_the_second_writers_channels() -> None:
    groups = by_name(structure_of(Concatenated(), 3, 4, 4))
    places = {slot.tensor: slot.positions[:, 0].tolist() for slot in groups["b"].slots}
    assert places["b.weight"] == [0, 1, 2, 3, 4, 5]
    assert places["norm.weight"] == places["c.weight"] == [4, 5, 6, 7, 8, 9]


class ZeroPadded(nn.Module):
    """An option-A shortcut: 4 channels land at places 2..5 of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0)
        self.b = nn.Conv2d(4, 8, 1)
        self.c = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.pad(x) + self.b(x)).mean((2, 3))


def test_a_padded_shortcut_shifts_channels_and_its_padding_follows_the_plan() -> None:
    structure = structure_of(ZeroPadded(), 3, 4, 4)
    groups = by_name(structure)
    tied = {slot.tensor: slot.positions[:, 0].tolist() for slot in groups["a"].slots if slot.dim == 0}
    assert tied["a.weight"] == [0, 1, 2, 3]
    assert tied["b.weight"] == [2, 3, 4, 5]
    own = {slot.tensor: slot.positions[:, 0].tolist() for slot in groups["b"].slots if slot.dim == 0}
    assert own["b.weight"] == [0, 1, 6, 7]
    left, right = (each for each in structure.attributes if each.name == "padding")
    assert (left.index, left.width.channels["b"].tolist()) == (4, [0, 1])
    assert (right.index, right.width.channels["b"].tolist()) == (5, [2, 3])


class Depthwise(nn.Module):
    """A channel multiplier of 2, then a convolution in 3 groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.deep = nn.Conv2d(6, 12, 3, groups=6)
        self.grouped = nn.Conv2d(12, 9, 1, groups=3)
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(self.deep(self.a(x)))).mean((2, 3))


def test_depthwise_channels_go_with_their_input_and_groups_lose_the_same_places() -> None:
    structure = structure_of(Depthwise(), 3, 6, 6)
    groups = by_name(structure)
    first = groups["a"]
    # 12 outputs of the depthwise layer in 3 groups of 4: place 0 of each is output 0, 4, 8, written by inputs 0, 2, 4
    places = {(slot.tensor, slot.dim): slot.positions.tolist() for slot in first.slots}
    assert first.size == 2
    assert places["a.weight", 0] == [[0, 2, 4], [1, 3, 5]]
    assert places["deep.weight", 0] == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert places["grouped.weight", 1] == [[0, 1], [2, 3]]
    assert groups["grouped"].size == 3
    assert {each.name for each in structure.attributes if each.module == "deep"} == {
        "in_channels",
        "out_channels",
        "groups",
    }


class OneOutput(nn.Module):
    """A layer with one output channel is no depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.gate = nn.Conv2d(4, 1, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(x * torch.sigmoid(self.gate(x))).mean((2, 3))


def test_a_single_output_channel_is_not_read_as_depthwise() -> None:
    groups = by_name(structure_of(OneOutput(), 3, 4, 4))
    assert groups["a"].frozen is None
    readers = {slot.tensor for slot in groups["a"].slots if slot.role == "reader"}
    assert readers == {"gate.weight", "head.weight"}


class Shuffled(nn.Module):
    """A channel shuffle between two layers: entries move, channels of a shuffle column go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        count, channels, height, width = x.shape
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, channels, height, width)
        return self.b(x).mean((2, 3))


def test_a_channel_shuffle_is_followed_entry_by_entry() -> None:
    groups = by_name(structure_of(Shuffled(), 3, 4, 4))
    places = {(slot.tensor, slot.dim): slot.positions.tolist() for slot in groups["a"].slots}
    assert places["a.weight", 0] == [[0, 3], [1, 4], [2, 5]]
    assert places["b.weight", 1] == [[0, 1], [2, 3], [4, 5]]


class SumsOverChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * x.mean(1, keepdim=True)).mean((2, 3))


def test_what_mixes_channels_is_frozen_with_reason_module_and_line() -> None:
    reason = by_name(structure_of(SumsOverChannels(), 3, 4, 4))["a"].frozen.reason
    assert reason is not None
    assert "reduced over channels" in reason
    assert "aten.mean" in reason
    assert "test_dependency_graph.py:" in reason


class Tied(nn.Module):
    """The same layer twice: its own output is what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.again = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(torch.relu(self.again(self.a(x.mean((2, 3)))))))


def test_a_module_used_twice_has_its_rows_and_columns_tied() -> None:
    groups = by_name(structure_of(Tied(), 3, 4, 4))
    assert {(slot.tensor, slot.dim) for slot in groups["a"].slots} >= {("again.weight", 0), ("again.weight", 1)}


def test_frozen_parameters_make_no_difference() -> None:
    free, frozen = Residual(), Residual()
    frozen.requires_grad_(requires_grad=False)
    names = [(group.name, group.size, group.frozen) for group in structure_of(free, 3, 8, 8).groups]
    assert names == [(group.name, group.size, group.frozen) for group in structure_of(frozen, 3, 8, 8).groups]


class Attention(nn.Module):
    """Two blocks of multi-head self-attention over rows, as most code writes it."""

    def __init__(self, width: int, heads: int, each: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, each
        self.embed = nn.Conv2d(3, width, 1)
        self.qkv = nn.Linear(width, 3 * heads * each)
        self.proj = nn.Linear(heads * each, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(1, x.shape[1], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.proj(y)).mean(1))


def test_whole_heads_go_from_q_k_and_v_alike_and_the_stored_number_of_heads_follows() -> None:
    module = Attention(width=12, heads=4, each=6).eval()
    structure = analyze(module, torch.randn(1, 3, 3, 3), name="attention")
    heads = by_name(structure)["qkv"]
    assert heads.size == 4
    assert heads.frozen is None
    rows = {slot.tensor: slot.positions for slot in heads.slots}
    assert rows["qkv.weight"][1].tolist() == [24 * part + 6 + place for part in range(3) for place in range(6)]
    assert rows["proj.weight"][1].tolist() == list(range(6, 12))
    slim = remove_channels(module, structure, PrunePlan({"qkv": np.array([True, False, True, True])}))
    assert slim.num_heads == 3
    assert slim.head_dim == 6


class Halves(nn.Module):
    """An unequal split whose sizes the module stores."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [6, 10]
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.a(x), self.parts, dim=1)
        return self.head(torch.cat([torch.relu(self.b(left)), right], 1).mean((2, 3)))


def test_sizes_of_an_unequal_split_follow_the_channels_that_stay() -> None:
    module = Halves().eval()
    structure = analyze(module, torch.randn(1, 3, 4, 4), name="halves")
    sizes = {name: group.size for name, group in by_name(structure).items() if group.frozen is None}
    assert sizes == {"a": 6, "a#2": 10, "b": 4}
    keep = {"a": np.arange(6) < 2, "a#2": np.arange(10) != 3}
    assert remove_channels(module, structure, PrunePlan(keep)).parts == [2, 9]


def test_whole_groups_of_a_group_normalisation_go() -> None:
    module = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GroupNorm(4, 12), nn.Conv2d(12, 5, 1)).eval()
    structure = analyze(module, torch.randn(1, 3, 4, 4), name="groups")
    group = by_name(structure)["0"]
    assert (group.size, group.frozen) == (4, None)
    slim = remove_channels(module, structure, PrunePlan({"0": np.array([True, False, False, True])}))
    assert (slim[1].num_groups, slim[1].num_channels) == (2, 6)


class OneByOne(nn.Module):
    """A split into single channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 3, 1), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x).chunk(3, 1)
        return self.head(torch.cat([a * b, c], 1).mean((2, 3)))


def test_channels_that_are_taken_one_by_one_are_frozen_by_the_split() -> None:
    group = by_name(structure_of(OneByOne(), 3, 4, 4))["a"]
    assert group.frozen is not None
    assert "aten.chunk" in group.frozen.reason


class ScaledByANumber(nn.Module):
    """Scales channels by what an operator along dimension 0 makes of a single number, which PyTorch allows."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.head, self.operator = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), operator
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.a(x) * self.operator(self.scale)).mean((2, 3)))


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: x.sum(0),
        lambda x: x.max(0).values,
        lambda x: x.mean(),
        lambda x: x.cumsum(0),
        lambda x: x.sort(0).values,
        lambda x: x.softmax(0),
        lambda x: x.unfold(0, 1, 1),
        lambda x: x.gather(0, torch.tensor(0)),
        lambda x: x.scatter(0, torch.tensor(0), 3.0),
        lambda x: x.index_add(0, torch.tensor([0]), torch.tensor(1.0)),
    ],
)
def test_operators_along_the_dimension_that_a_single_number_does_not_have(
    operator: Callable[[Tensor], Tensor],
) -> None:
    assert by_name(structure_of(ScaledByANumber(operator), 3, 4, 4))["a"].frozen is None
