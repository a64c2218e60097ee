"""Stop rules against courses of weights written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compressor.budget.target import PruningTarget, pruned_channel_share, pruned_weight_share
from compressor.errors import ModelError
from compressor.training.early_stopping import RuleState, StopRule
from compressor.training.stopping_rules import (
    bn_scales,
    channel_patience,
    early_bird,
    earlybird_mask,
    lazy_regime,
    lazy_regime_squared,
    weight_patience,
)

DISTANCES = (1.0, 1.4, 1.56, 1.60, 1.603)  # after epochs 2 to 6, of weights whose norm was 10 after epoch 1


def along(distances: Sequence[float]) -> list[dict[str, Tensor]]:
    """Weights before training and after every epoch: two parameters, at these distances from (10, 0) of epoch 1."""
    steps = [{"a.weight": torch.tensor([[3.0]]), "b.bias": torch.tensor([4.0])}]
    for distance in (0.0, *distances):
        steps.append({"a.weight": torch.tensor([[10.0]]), "b.bias": torch.tensor([distance])})
    return steps


def ends(rule: StopRule, course: Sequence[dict[str, Tensor]]) -> int | None:
    """The epoch after which the rule is first done."""
    memory: RuleState = {}
    for epoch, weights in enumerate(course):
        verdict = rule(memory, epoch, weights)
        if verdict.done:
            return epoch
        memory = verdict.memory
    return None


@pytest.mark.parametrize(
    ("factor", "epoch"),
    [
        (weight_patience(0.95), 5),
        (weight_patience(0.80), 4),
        (channel_patience(0.66), 4),
        (channel_patience(0.88), 6),
        (0.9 - 0.95, None),  # as released: nothing is below a negative number
        (channel_patience(0.95), 6),  # mended: 0.1 * 0.005 = 0.0005 is above 0.0003
    ],
)
def test_the_lazy_regime_begins(factor: float, epoch: int | None) -> None:
    assert ends(partial(lazy_regime, factor=factor), along(DISTANCES)) == epoch


def test_what_the_rule_compares_is_told() -> None:
    memory: RuleState = {}
    told = []
    for epoch, weights in enumerate(along(DISTANCES)):
        verdict = lazy_regime(memory, epoch, weights, factor=0.05)
        memory = verdict.memory
        told.append((verdict.value, verdict.limit))
    assert told[:2] == [(None, None)] * 2
    changes = [value for value, _ in told[2:]]
    assert changes == pytest.approx([0.1, 0.04, 0.016, 0.004, 0.0003], abs=1e-7)
    assert [limit for _, limit in told[2:]] == pytest.approx([0.005] * 5, abs=1e-7)


def test_squared_distances_from_the_initial_weights() -> None:
    """D = 4, 9, 12.25, 12.96: changes 5, 3.25, 0.71 against 4 * factor."""
    course = [{"weight": torch.tensor([1.0, 7.0 + way])} for way in (0.0, 2.0, 3.0, 3.5, 3.6)]
    assert ends(partial(lazy_regime_squared, factor=0.9), course) == 3
    assert ends(partial(lazy_regime_squared, factor=0.2), course) == 4
    assert ends(partial(lazy_regime_squared, factor=0.1), course) is None


def test_the_norm_of_the_reference_does_not_matter() -> None:
    for rule, factor in ((lazy_regime, 0.05), (lazy_regime_squared, 0.9)):
        course = along(DISTANCES)
        larger = [{name: 7 * each for name, each in weights.items()} for weights in course]
        assert ends(partial(rule, factor=factor), course) == ends(partial(rule, factor=factor), larger)


def test_weights_that_never_move_are_no_lazy_regime() -> None:
    assert ends(partial(lazy_regime, factor=0.5), along((0.0,) * 8)) is None


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_patience_is_released_or_mended_and_never_gone(removed: float) -> None:
    factor = channel_patience(removed)
    assert 0 < factor <= 0.99
    if removed < 0.888:
        assert factor == min(0.9 - removed, 0.99)


def test_the_share_of_channels_behind_a_target() -> None:
    assert pruned_channel_share(PruningTarget(ratio=0.66)) == 0.66
    assert pruned_channel_share(PruningTarget(params=0.25)) == 0.5
    assert pruned_channel_share(PruningTarget(params=0.25, macs=0.04)) == pytest.approx(0.8)
    assert pruned_channel_share(PruningTarget(nodes=0.34)) == pytest.approx(0.66)
    assert pruned_channel_share(PruningTarget(nodes=0.34, weights=0.09)) == pytest.approx(0.7)
    assert pruned_weight_share(PruningTarget(weights=0.05)) == pytest.approx(0.95)
    assert pruned_weight_share(PruningTarget(params=0.05)) is None
    assert pruned_channel_share(PruningTarget(latency=0.81)) == pytest.approx(0.1)
    assert pruned_channel_share(PruningTarget(latency_ms=8.0)) is None


# ---------------------------------------------------------------- early-bird


def norms(mask: str) -> dict[str, Tensor]:
    """Scales of two normalisations, from which a share of 0.5 draws `mask`; and parameters that are no scales."""
    first, second = ([0.5 + place / 100 if bit == "1" else place / 100 for place, bit in enumerate(part)]
                     for part in (mask[:5], mask[5:]))  # fmt: skip
    return {
        "conv.weight": torch.ones(5, 1, 1, 1),
        "1.weight": torch.tensor(first),
        "1.bias": torch.zeros(5),
        "2.weight": -torch.tensor(second),  # size counts, not sign
        "2.bias": torch.zeros(5),
        "prelu.weight": torch.tensor([9.0]),
        "head.weight": torch.ones(2, 5),
        "head.bias": torch.zeros(2),
    }


def test_the_mask_keeps_what_is_strictly_above_its_threshold() -> None:
    kept = earlybird_mask(torch.arange(1, 11) / 10, 0.3)
    assert kept.tolist() == [False] * 4 + [True] * 6


def test_scales_are_those_of_normalisations() -> None:
    found = bn_scales(norms("1111100000"))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.51, 0.52, 0.53, 0.54, 0.0, 0.01, 0.02, 0.03, 0.04]))
    with pytest.raises(ModelError):
        bn_scales({"head.weight": torch.ones(2, 5), "head.bias": torch.zeros(2)})


def test_early_birds_emerge_when_the_newest_of_five_masks_is_like_the_other_four() -> None:
    """Masks 1111100000, then 1111010000: distances 0.2, 0, 0, 0, and one epoch later all 0."""
    masks = ["1111100000", *["1111010000"] * 5]
    course = [norms(mask) for mask in masks]
    rule = partial(early_bird, removed=0.4)
    memory: RuleState = {}
    told = []
    for epoch, weights in enumerate(course):
        assert "".join("01"[int(bit)] for bit in earlybird_mask(bn_scales(weights), 0.4)) == masks[epoch]
        verdict = rule(memory, epoch, weights)
        memory = verdict.memory
        told.append((verdict.value, verdict.done))
    assert told == [*[(None, False)] * 4, (pytest.approx(0.2), False), (0.0, True)]
    assert ends(partial(early_bird, removed=0.4, distance=0.2), course) == 4, "no sooner than five masks are there"


def test_a_fresh_network_has_no_early_bird_in_its_equal_scales() -> None:
    fresh = {"1.weight": torch.ones(10), "1.bias": torch.zeros(10)}
    assert not earlybird_mask(bn_scales(fresh), 0.4).any()
    assert ends(partial(early_bird, removed=0.4), [fresh, *[norms("1111010000")] * 4]) is None
    assert math.isclose(early_bird({}, 0, fresh, removed=0.4).memory["0"].double().mean().item(), 0)
