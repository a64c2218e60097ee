"""Lottery tickets: how much each round masks, which trainings there are, what is rewound, and resuming."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.data.image_data import ImageData
from compressor.errors import RecipeError
from compressor.methods.lottery import IMP, LRR, LTH
from compressor.recipe import read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.context import Context
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.remove_dead_channels import RemoveDeadChannels
from compressor.steps.rewind import RewindWeights
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import few_digits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shares(build_steps: tuple[Step, ...]) -> list[float]:
    return [share for step in build_steps if isinstance(step, MaskUnstructured) for share in step.keep]


def test_each_round_masks_the_same_share_of_the_survivors() -> None:
    """Three rounds of 0.5358411166387221 leave 10 %, ten rounds of 20 % leave 10.74 %."""
    keep = shares(LTH(rounds=3).steps(PruningTarget(weights=0.1)))
    assert [1 - keep[0], 1 - keep[1] / keep[0], 1 - keep[2] / keep[1]] == pytest.approx([0.5358411166387221] * 3)
    ten = shares(LRR(rounds=10).steps(PruningTarget(weights=0.8**10)))
    assert ten == pytest.approx([0.8**number for number in range(1, 11)])
    assert ten[-1] == pytest.approx(0.1074, abs=5e-5)


def test_every_training_is_a_part_of_the_same_course() -> None:
    """12 epochs at 0.1, 0.01 from epoch 6 and 0.001 from epoch 9 on; back to epoch 2."""
    overrides = ["retrain.epochs=12", "retrain.schedule={name: multistep, milestones: [6, 9], gamma: 0.1}"]
    expected = {
        "imp": [("early training", 2), ("dense training", 10), ("round 1", 10), ("round 2", 10), ("retraining", 10)],
        "lth": [("dense training", 12), ("round 1", 12), ("round 2", 12), ("retraining", 12)],
        "lrr": [("dense training", 12), ("round 1", 10), ("round 2", 10), ("retraining", 10)],
    }
    expected["ltr"] = expected["imp"]
    for name, trainings in expected.items():
        recipe = read_recipe(name, [*overrides, f"prune.{name}.rounds=3"])
        performed = build_steps(recipe, 1, retrain=True)
        trains = [step for step in performed if isinstance(step, Train)]
        assert [(train.stage, train.epochs) for train in trains] == trainings
        for train in trains:
            assert train.start_epoch == (12 - train.epochs if train.stage != "early training" else 0)
            for epoch in range(train.start_epoch, 12 if train.start_epoch else train.epochs):
                lr = 0.1 if epoch < 6 else 0.01 if epoch < 9 else 0.001
                assert train.optimizer.lr * train.schedule(epoch - train.start_epoch) == pytest.approx(lr)
        assert sum(isinstance(step, RewindWeights) for step in performed) == (0 if name == "lrr" else 3)
        assert isinstance(performed[-1], RemoveDeadChannels)


@pytest.mark.parametrize("epochs", [0, 2])
def test_going_back_beyond_the_training_is_refused(epochs: int) -> None:
    recipe = read_recipe("imp", [f"retrain.epochs={epochs}", "retrain.schedule={name: constant}"])
    with raises_error(
        RecipeError, "recipe/too-few-epochs", "retrain.epochs", str(epochs), re.compile("from epoch [02] on")
    ):
        build_steps(recipe, 1, retrain=True)


# ---------------------------------------------------------------- performed


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(96)


def net() -> LoadedModel:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    return LoadedModel(module.eval(), ModelSpec("net.py:net", one_image((1, 8, 8)), 10), "net")


def run(
    name: str, context: Context, after: Callable[[Step, PruningState], None] = lambda step, state: None
) -> PruningState:
    own = [
        f"prune.{name}.start=given",
        f"prune.{name}.rounds=2",
        *([f"prune.{name}.rewind_to=1"] if name != "lth" else []),
    ]
    schedule = "retrain.schedule={name: step, size: 1, gamma: 0.5}"
    recipe = read_recipe(name, ["retrain.epochs=3", "retrain.batch_size=32", schedule, *own])
    state = initial_state(net(), context)
    for step in build_steps(recipe, 1, retrain=True):
        state = run_step(step, state, context)
        after(step, state)
    return state


@pytest.mark.parametrize("name", [IMP.name, LTH.name])
def test_survivors_are_what_they_were_and_the_rest_is_zero(name: str, digits: ImageData, tmp_path: Path) -> None:
    rewound = []

    def check(step: Step, state: PruningState) -> None:
        if isinstance(step, RewindWeights):
            assert state.saved is not None
            for name, tensor in state.model.module.state_dict().items():
                expected = state.saved.weights[name] * state.masks.get(name, 1)
                assert torch.equal(tensor, expected.to(tensor.dtype)), name
            rewound.append(state.masks)

    state = run(name, Context(digits, 0, RunLog(), Checkpoints(tmp_path, "test")), check)
    first, second = rewound
    weights = sum(mask.numel() for mask in first.values())
    remaining = [sum(int(mask.sum()) for mask in masks.values()) for masks in rewound]
    assert remaining == [int(0.2**0.5 * weights), int(0.2 * weights)]
    assert all((second[tensor] <= first[tensor]).all() for tensor in first), "what is masked stays masked"
    initial = net().module.state_dict()
    assert state.saved is not None
    assert torch.equal(state.saved.weights["4.weight"], initial["4.weight"]) == (name == "lth")
    for tensor, mask in state.masks.items():
        assert not state.model.module.get_parameter(tensor)[~mask].any()


def test_rates_are_gone_back_to_and_weights_are_not(digits: ImageData, tmp_path: Path) -> None:
    before: list[torch.Tensor] = []
    rates: list[tuple[object, object]] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            rates.append((fields["stage"], fields["lr"]))

    def check(step: Step, state: PruningState) -> None:
        weight = state.model.module.get_parameter("4.weight").detach()
        if isinstance(step, MaskUnstructured):
            mask = state.masks["4.weight"]
            assert torch.equal(weight[mask], before[-1][mask])
        before.append(weight.clone())

    run("lrr", Context(digits, 0, RunLog(emit=emit), Checkpoints(tmp_path, "test")), check)
    dense, rest = [0.1, 0.05, 0.025], [0.05, 0.025]
    assert [rate for _, rate in rates] == pytest.approx([*dense, *rest, *rest])
    assert [stage for stage, _ in rates][3:5] == ["round 1"] * 2


@pytest.fixture(scope="module")
def ticket(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a search that nothing interrupts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run("imp", Context(digits, 0, RunLog(), Checkpoints(folder, "test"))).model.module.state_dict()


@pytest.mark.parametrize(("stage", "epoch"), [("early training", 1), ("round 1", 2), ("retraining", 1)])
def test_an_interrupted_search_ends_with_the_same_ticket(
    stage: str,
    epoch: int,
    ticket: dict[str, torch.Tensor],
    digits: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compressor.training.training_checkpoint.MAX_SHARE", 1e9)
    trained: list[object] = []

    def interrupted(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch" and (fields["stage"], fields["epoch"]) == (stage, epoch):
            raise KeyboardInterrupt

    def listening(event: str, fields: Mapping[str, object]) -> None:
        if event == "epoch":
            trained.append((fields["stage"], fields["epoch"]))

    with pytest.raises(KeyboardInterrupt):
        run("imp", Context(digits, 0, RunLog(emit=interrupted), Checkpoints(tmp_path / "run", "test")))
    resumed = run(
        "imp", Context(digits, 0, RunLog(emit=listening), Checkpoints(tmp_path / "run", "test"))
    ).model.module.state_dict()
    for name, tensor in ticket.items():
        assert torch.equal(tensor, resumed[name]), name
    assert (stage, epoch) not in trained
    assert ("early training", 1) not in trained, "what was done is not done again"
