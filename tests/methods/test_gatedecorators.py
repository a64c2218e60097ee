"""Gate Decorators: what gates matter for, what ticks train, what stays, and the order of it all."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.budget.greedy import Budget
from compressor.budget.rounds import exponential_targets
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import ChannelGroup, PrunePlan, TensorSlot
from compressor.criteria._aggregate import sum_over_norms
from compressor.criteria.batchnorm_gate import BatchNormGateCriterion, gate_scores, gate_taylor
from compressor.methods.gatedecorators import GateDecorators
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.surgery.analysis import analyze
from compressor.training.constraints import ScalesOnly
from compressor.training.loop import train
from compressor.training.schedules import triangle
from tests.training.toys import STEP, quiet, toy_data, toy_net


def test_a_gate_matters_by_its_gradient_and_not_by_its_size() -> None:
    """g = (.5, -.2), dL/dg = (.1, 1): scores (.05, .2); channel 0 goes although |g| is larger."""
    scale, by_scale, nothing = torch.tensor([0.5, -0.2]), torch.tensor([0.1, 1.0]), torch.zeros(2)
    assert gate_taylor(scale, by_scale, nothing, nothing).tolist() == pytest.approx([0.05, 0.2])


def test_gates_of_shared_channels_count_together() -> None:
    places = np.array([[0], [1]])
    slots = tuple(TensorSlot(f"{name}.weight", 0, places, "per_channel") for name in ("a", "b"))
    gates = {"a.weight": torch.tensor([1.0, 2.0]), "b.weight": torch.tensor([5.0, 1.0])}
    scores = sum_over_norms([ChannelGroup("conv", 2, slots)], gates)
    assert scores["conv"].tolist() == [6.0, 3.0]
    assert sum_over_norms([ChannelGroup("conv", 2, slots)], {}) == {}


class Gated(nn.Module):
    """The toy network with a gate behind its normalisation."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net, self.gate = net, nn.Parameter(torch.ones(6))

    def forward(self, images: Tensor) -> Tensor:
        return self.net[2:](self.net[:2](images) * self.gate[:, None, None])


def test_scores_are_derivatives_to_gates_summed_batch_by_batch() -> None:
    net, data = toy_net(0), toy_data()
    with torch.no_grad():
        net[1].weight.uniform_(-1, 1)
        net[1].bias.uniform_(-1, 1)
    before = copy.deepcopy(net.state_dict())
    scores = gate_scores(net, BatchNormGateCriterion(3, 8), data, 0, epoch=1)
    gated, expected = Gated(copy.deepcopy(net)).train(), torch.zeros(6)
    for number, (images, labels) in enumerate(data.train_batches(8, epoch=1, seed=0)):
        if number < 3:
            loss = nn.functional.cross_entropy(gated(images), labels)
            expected += torch.autograd.grad(loss, gated.gate)[0].abs()
    assert scores.keys() == {"1.weight"}
    torch.testing.assert_close(scores["1.weight"], expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items()), (
        "the module stays as it was"
    )


def test_a_tick_trains_scales_and_shifts_only() -> None:
    net = toy_net()
    before = copy.deepcopy(net.state_dict())
    train(net, toy_data(), STEP, seed=0, emit=quiet, constraints=[ScalesOnly])
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"1.weight", "1.bias"} <= changed
    assert not changed & {"0.weight", "5.weight", "5.bias"}
    train(net, toy_data(), STEP, seed=0, emit=quiet)
    assert not torch.equal(net[0].weight, before["0.weight"]), "a later training has all of them again"


def test_every_group_keeps_its_floor_of_what_it_had_at_first() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 30, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(30, 2),
    ).eval()  # fmt: skip
    structure = analyze(module, torch.randn(1, 3, 8, 8), name="net")
    graded = {"0": np.arange(20.0), "3": 100 + np.arange(30.0)}
    dense = structure.cost.of(PrunePlan({}))

    def widths(target: PruningTarget, gone: dict[str, int]) -> dict[str, int]:
        plan, _ = select_channels(structure.groups, graded, target, structure.cost, dense, removed_before=gone)
        return {name: int(kept.sum()) for name, kept in plan.kept.items()}

    half = PruningTarget(ratio=0.5, scope="global", min_keep_ratio=0.25)
    assert widths(half, {}) == {"0": 5, "3": 20}
    assert widths(replace(half, min_keep_ratio=0.0), {})["0"] == 1
    assert widths(replace(half, ratio=0.6), {"0": 20}) == {"0": 10, "3": 18}, "a quarter of 40 that it had"
    assert widths(PruningTarget(ratio=0.99, min_keep_ratio=0.1), {}) == {"0": 2, "3": 3}
    assert PruningTarget(min_keep_ratio=0.1).is_empty

    size_G = np.array([group.size for group in structure.groups])
    price_G = np.array([{"0": 10.0, "3": 1.0}.get(group.name, 0.0) for group in structure.groups])
    latency = Budget("latency", lambda gone_MG: (size_G - gone_MG) @ price_G, 0.22 * 230, 230)  # 10 * 20 + 30
    plan, _ = select_channels(
        structure.groups, {"0": np.ones(20), "3": np.ones(30)}, PruningTarget(latency=0.22, min_keep_ratio=0.2),
        structure.cost, dense, [latency], lambda groups, multiple: np.ones(len(groups), dtype=np.int64),
    )  # fmt: skip
    assert {name: int(kept.sum()) for name, kept in plan.kept.items()} == {"0": 4, "3": 10}


def test_ticks_and_tocks() -> None:
    settings = GateDecorators(ticks=5, every=2)
    steps = settings.steps(PruningTarget(nodes=0.5, scope="global"))
    kinds = [step.stage if isinstance(step, Train) else type(step).__name__ for step in steps]
    tick = ["tick", "SelectChannels", "RemoveChannels"]
    assert kinds == ["tock", *tick, *tick, "tock", *tick, *tick, "tock", *tick]
    tock, first = (next(step for step in steps if isinstance(step, Train) and step.stage == stage)
                   for stage in ("tock", "tick"))  # fmt: skip
    assert [tock.optimizer.lr * tock.schedule(done) for done in (0, 2.5, 5, 10)] == pytest.approx(
        [0.001, 0.0055, 0.01, 0.001]
    )
    assert (tock.epochs, tock.trainable, tock.evaluate) == (10, "all", False)
    assert tock.penalty is not None
    assert tock.penalty.terms[0].strength(3, 10) == 1e-3
    assert (first.epochs, first.trainable, first.penalty) == (1, "scales", None)
    assert first.optimizer.lr * first.schedule(0.5) == pytest.approx(0.001)
    trainings = [step for step in steps if isinstance(step, Train)]
    assert [training.start_epoch for training in trainings] == [0, 10, 11, 12, 22, 23, 24, 34], "no epoch comes twice"
    targets = [step.target for step in steps if isinstance(step, SelectChannels)]
    assert [target.nodes for target in targets] == pytest.approx([0.5 ** (number / 5) for number in range(1, 6)])
    assert all(target.min_keep_ratio == 0.1 for target in targets)
    assert [step.last for step in steps if isinstance(step, RemoveChannels)] == [False] * 4 + [True]


def test_each_round_removes_the_same_share_of_what_is_left() -> None:
    targets = exponential_targets(PruningTarget(ratio=0.36, latency_ms=3.0), 2)
    assert [target.ratio for target in targets] == pytest.approx([0.2, 0.36])
    assert [target.latency_ms for target in targets] == [None, 3.0]
    milliseconds = PruningTarget(latency_ms=3.0)
    assert exponential_targets(milliseconds, 4) == (milliseconds,)
    removals = [step for step in GateDecorators().steps(milliseconds) if isinstance(step, RemoveChannels)]
    assert removals == [RemoveChannels(last=True)], "the test set is read after the only one"


def test_a_triangle_of_learning_rates() -> None:
    assert [triangle(4, 0.1)(done) for done in (0, 1, 2, 3, 4, 5)] == pytest.approx([0.1, 0.55, 1, 0.55, 0.1, 0.1])
