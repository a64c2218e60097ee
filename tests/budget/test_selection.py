"""From scores and a target to a plan: the hand-computed cases of the method literature, and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from failures import raises_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.budget.layer_rules import LayerRule, apply_freeze_rules
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget, Scope
from compressor.core import ChannelGroup, Cost, Freeze, PrunePlan, TensorSlot
from compressor.criteria.magnitude import l1
from compressor.errors import RecipeError, TargetNotReached
from compressor.graph.cost import CostModel


def group(name: str, size: int, entries: int = 1) -> ChannelGroup:
    positions = np.arange(size * entries).reshape(size, entries)
    return ChannelGroup(name, size, (TensorSlot(f"{name}.weight", 0, positions, "writer"),))


def cost_of(groups: list[ChannelGroup]) -> CostModel:
    """A chain: layer i has size_i * size_{i-1} weights, each used `repeats` times."""
    count = len(groups)
    return CostModel(
        groups=tuple(each.name for each in groups),
        base_D=np.array([each.size for each in groups]),
        entries_DG=np.eye(count),
        tensors=np.array([[index, index - 1 if index else count] for index in range(count)]),
        weights=np.array([[index, index - 1 if index else count] for index in range(count)]),
        repeats_W=np.full(count, 10),
        kernels=np.array([[index, index - 1 if index else count] for index in range(count)]),
        outputs=np.arange(count),
        fixed_params=0,
    )


def removed(plan: PrunePlan, name: str) -> list[int]:
    return np.flatnonzero(~plan.kept[name]).tolist() if name in plan.kept else []


def pick(groups: list[ChannelGroup], values: dict[str, list[float]], selection: PruningTarget) -> PrunePlan:
    cost = cost_of(groups)
    original = cost.cost(np.zeros(len(groups), dtype=np.int64))
    graded = {name: np.array(each, dtype=np.float64) for name, each in values.items()}
    return select_channels(groups, graded, selection, cost, original)[0]


@pytest.mark.parametrize(
    ("ratio", "gone"),
    [(0.5, [1, 3]), (0.3, [1, 3]), (0.9, [1, 2, 3])],  # ceil(0.3 * 4) = 2; 0.9 leaves one
)
def test_ratio_removes_the_ceiling_of_the_share(ratio: float, gone: list[int]) -> None:
    plan = pick([group("a", 4)], {"a": [0.5, 0.1, 0.3, 0.2]}, PruningTarget(ratio=ratio))
    assert removed(plan, "a") == gone


@pytest.mark.parametrize(("ratio", "size", "gone"), [(0.07, 100, 8), (0.3, 10, 3), (0.7, 10, 7), (0.999, 1000, 999)])
def test_the_ceiling_is_taken_of_the_floating_point_product(ratio: float, size: int, gone: int) -> None:
    plan = pick([group("a", size)], {"a": list(range(size))}, PruningTarget(ratio=ratio))
    assert len(removed(plan, "a")) == gone


@pytest.mark.parametrize(("finer", "kept"), [(False, 8), (True, 14)])  # 15 are allowed; 12 of 15 would use 77 %
def test_finer_multiples_where_coarse_ones_leave_a_fifth_of_the_budget(finer: bool, kept: int) -> None:
    selection = PruningTarget(macs=0.49, round_to=8, allow_finer_rounding=finer)
    plan = pick([group("a", 32)], {"a": list(range(32))}, selection)
    assert int(plan.kept["a"].sum()) == kept
    assert plan.round_to == (2 if finer else 8)


def test_global_scope_compares_scores_across_layers() -> None:
    groups = [group("a", 4), group("b", 4)]
    values = {"a": [1.0, 2, 3, 4], "b": [0.1, 0.2, 0.3, 10]}
    plan = pick(groups, values, PruningTarget(ratio=0.5, scope="global"))
    assert removed(plan, "a") == [0]
    assert removed(plan, "b") == [0, 1, 2]


def test_global_scope_never_empties_a_layer() -> None:
    groups = [group("a", 4), group("b", 4)]
    plan = pick(groups, {"a": [0.1] * 4, "b": [5.0] * 4}, PruningTarget(ratio=0.6, scope="global"))
    assert len(removed(plan, "a")) == 3


def test_isomorphic_scope_takes_the_same_share_of_groups_made_alike() -> None:
    """a and b are alike and compared with each other; c spreads over two entries a channel and is on its own."""
    groups = [group("a", 4), group("b", 4), group("c", 4, entries=2)]
    values = {"a": [1.0, 2, 3, 4], "b": [5.0, 6, 7, 8], "c": [100.0, 200, 300, 400]}
    plan = pick(groups, values, PruningTarget(ratio=0.5, scope="isomorphic"))
    assert [removed(plan, name) for name in "abc"] == [[0, 1, 2], [0], [0, 1]]


def test_ties_go_by_index() -> None:
    plan = pick([group("a", 6)], {"a": [1.0] * 6}, PruningTarget(ratio=0.5))
    assert removed(plan, "a") == [0, 1, 2]


def test_the_criterion_is_the_mean_absolute_weight_and_coupled_writers_are_averaged() -> None:
    module = nn.Module()
    module.a = nn.Linear(2, 2)
    module.b = nn.Linear(2, 2)
    with torch.no_grad():
        module.a.weight.copy_(torch.tensor([[1.0, -3.0], [0.5, 0.5]]))
        module.b.weight.copy_(torch.tensor([[0.0, 0.0], [4.0, -2.0]]))
    slots = tuple(TensorSlot(f"{name}.weight", 0, np.arange(2).reshape(2, 1), "writer") for name in "ab")
    found = l1.score_channels(module, [ChannelGroup("a", 2, slots)])
    assert found["a"].tolist() == [(2.0 + 0.0) / 2, (0.5 + 3.0) / 2]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0.2, 0.95),
    round_to=st.sampled_from([1, 4, 8]),
    scope=st.sampled_from(["local", "global", "isomorphic"]),
)
def test_targets_hold_from_the_safe_side_and_widths_are_rounded(
    sizes: list[int], share: float, round_to: int, scope: Scope
) -> None:
    groups = [group(f"g{index}", size) for index, size in enumerate(sizes)]
    cost = cost_of(groups)
    original = cost.cost(np.zeros(len(groups), dtype=np.int64))
    random = np.random.default_rng(0)
    values = {each.name: random.random(each.size) for each in groups}
    selection = PruningTarget(macs=share, round_to=round_to, scope=scope)
    try:
        plan, _ = select_channels(groups, values, selection, cost, original)
    except TargetNotReached:
        least = cost.cost(np.array([each.size - min(each.size, round_to) for each in groups]))
        assert least.macs > share * original.macs
        return
    assert cost.of(plan).macs <= share * original.macs
    for each in groups:
        kept = int(plan.kept.get(each.name, np.ones(each.size)).sum())
        assert kept == each.size or kept % round_to == 0
    again, _ = select_channels(groups, values, selection, cost, original)
    assert all((again.kept[name] == kept).all() for name, kept in plan.kept.items())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_free_widths_meet_the_target_within_a_percent(share: float) -> None:
    groups = [group(f"g{index}", 64) for index in range(8)]
    cost = cost_of(groups)
    original = cost.cost(np.zeros(8, dtype=np.int64))
    random = np.random.default_rng(1)
    values = {each.name: random.random(64) for each in groups}
    plan, _ = select_channels(groups, values, PruningTarget(macs=share), cost, original)
    assert share - 0.01 < cost.of(plan).macs / original.macs <= share


def test_rounding_counts_the_entries_of_the_layer() -> None:
    """A group of 8 channels with 4 entries each writes 32 filters: widths in multiples of 16 are 4 channels."""
    plan = pick([group("a", 8, entries=4)], {"a": list(range(8))}, PruningTarget(ratio=0.3, round_to=16))
    assert len(removed(plan, "a")) == 0
    plan = pick([group("a", 8, entries=4)], {"a": list(range(8))}, PruningTarget(ratio=0.5, round_to=16))
    assert len(removed(plan, "a")) == 4


@pytest.mark.parametrize(
    ("selection", "round_to", "kept"),
    [
        (
            PruningTarget(macs=0.3, round_to=16, allow_finer_rounding=True),
            8,
            [8, 16],
        ),  # 16s leave all of a and half of b: 50 %
        (PruningTarget(macs=0.6, round_to=16, allow_finer_rounding=True), 16, [16, 16]),
        (
            PruningTarget(ratio=0.5, round_to=16, allow_finer_rounding=True),
            16,
            [16, 16],
        ),  # a loses nothing, b 16 of the 24 asked for
        (
            PruningTarget(ratio=0.2, round_to=16, allow_finer_rounding=True),
            4,
            [12, 28],
        ),  # 16s and 8s lose none of the 11 asked for
    ],
)
def test_steps_too_coarse_for_the_target_are_halved(selection: PruningTarget, round_to: int, kept: list[int]) -> None:
    groups = [group("a", 16), group("b", 32)]
    plan = pick(groups, {"a": list(range(16)), "b": list(range(32))}, selection)
    assert plan.round_to == round_to
    assert [each.size - len(removed(plan, each.name)) for each in groups] == kept


def test_rules_freeze_fix_and_leave_to_the_target() -> None:
    groups = [group("layer1.0.conv1", 8), group("layer1.0.conv2", 8), group("layer2.0.conv1", 8)]
    values = {each.name: list(range(8)) for each in groups}
    rules = (LayerRule("layer2", ratio=0.25), LayerRule("*.conv2", freeze=True))
    cost = cost_of(groups)
    graded = {name: np.array(each, dtype=np.float64) for name, each in values.items()}
    plan, marked = select_channels(groups, graded, PruningTarget(ratio=0.5, rules=rules), cost, Cost(1, 1))
    assert [len(removed(plan, each.name)) for each in groups] == [4, 0, 2]
    assert [each.frozen for each in marked] == [None, Freeze("recipe", "frozen by the recipe (match: *.conv2)"), None]


def test_globs_that_name_nothing_are_all_reported() -> None:
    rules = (LayerRule("layr1.*"), LayerRule("nothing"))
    with raises_error(RecipeError, "recipe-does-not-fit-the-model/unmatched-layer-rule") as caught:
        pick([group("layer1.0", 4)], {"layer1.0": [1, 2, 3, 4]}, PruningTarget(ratio=0.5, rules=rules))
    first, second = map(str, caught.value.errors)
    assert "'layr1.*'" in first
    assert "layer1.0" in first
    assert "'nothing'" in second


def test_a_layer_of_several_groups_is_suggested_once() -> None:
    groups = [group("layer1", 4), group("layer1", 4)]
    with raises_error(RecipeError, "recipe-does-not-fit-the-model/unmatched-layer-rule") as caught:
        apply_freeze_rules(groups, (LayerRule("other"),))
    assert caught.value.hint.count("layer1") == 1


def test_a_target_out_of_reach_says_what_is() -> None:
    groups = [group("a", 4), group("b", 4)]
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "macs", "10.0%", "5.0%"):
        pick(groups, {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, PruningTarget(macs=0.05))
