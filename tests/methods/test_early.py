"""Channels that go before or early in training: rounds, scores and steps by hand, and every short recipe performed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.budget.removal_order import clamped_groups
from compressor.budget.rounds import halving_removed, halving_targets
from compressor.budget.target import PruningTarget
from compressor.commands.plan import plan_run
from compressor.core import LoadedModel, ModelSpec, PrunePlan, one_image
from compressor.criteria.gradient import GradientCriterion, gradient_scores
from compressor.criteria.magnitude import l1
from compressor.errors import RecipeError, VerificationFailed
from compressor.graph.cost import count_cost
from compressor.methods import methods
from compressor.methods._shared import ScoringImages
from compressor.methods.snip import connection_sensitivity
from compressor.recipe import read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import Shortcut, quiet, toy_data

FAMILY = ("crop-s", "cropit-s", "snap", "snap-it", "random-s", "efficientconvnets", "earlycrop-s")
AT_ONCE = ("crop-s", "snap", "random-s", "efficientconvnets")

# ---------------------------------------------------------------- rounds


@pytest.mark.parametrize(
    ("limit", "shares"),
    [
        (0.95, [0.5, 0.725, 0.8375, 0.89375, 0.921875, 0.9359375, 0.95]),
        (0.98, [0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]),
        (0.4, [0.2, 0.3, 0.35, 0.375, 0.3875, 0.39375, 0.4]),
    ],
)
def test_shares_removed_by_round(limit: float, shares: list[float]) -> None:
    assert halving_removed(limit) == pytest.approx(shares)


def test_of_what_each_round_finds_it_takes_these_shares() -> None:
    removed = [0.0, *halving_removed(0.66)]
    shares = [(after - before) / (1 - before) for before, after in itertools.pairwise(removed)]
    assert shares == pytest.approx([0.5, 0.16, 0.095238, 0.052632, 0.027778, 0.014286, 0.014493], abs=1e-6)


@given(limit=st.floats(0.01, 0.999), rounds=st.integers(1, 10))
def test_rounds_come_nearer_and_end_at_the_limit(limit: float, rounds: int) -> None:
    shares = halving_removed(limit, rounds)
    assert len(shares) == rounds
    assert all(before < after for before, after in itertools.pairwise(shares))
    assert shares[-1] == limit


def test_every_target_has_its_own_course_and_milliseconds_wait_for_the_end() -> None:
    last = PruningTarget(nodes=0.05, macs=0.6, latency_ms=8.0, scope="global")
    targets = halving_targets(last)
    assert [target.nodes for target in targets] == pytest.approx([1 - share for share in halving_removed(0.95)])
    assert [target.macs for target in targets] == pytest.approx([1 - share for share in halving_removed(0.4)])
    assert [target.latency_ms for target in targets] == [None] * 6 + [8.0]
    assert targets[-1] is last
    assert halving_targets(PruningTarget(latency_ms=8.0)) == (PruningTarget(latency_ms=8.0),)
    ratios = [target.ratio for target in halving_targets(PruningTarget(ratio=0.66))]
    assert ratios == pytest.approx(list(halving_removed(0.66)))


# ---------------------------------------------------------------- methods


def criterion_of(name: str, **settings: object) -> object:
    steps = methods()[name](**settings).steps(PruningTarget(nodes=0.5))
    return next(step.criterion for step in steps if isinstance(step, SelectChannels))


def test_the_quadratic_drops_its_first_weight_by_every_score() -> None:
    w, g, h = torch.tensor([1.0, -2.0]), torch.tensor([0.0, -5.0]), torch.tensor([-5.0, -15.0])
    for name, settings, expected in (
        ("crop-s", {}, [5.0, 30.0]),
        ("crop-s", {"score": "gated"}, [5.0, 55.0]),
        ("snap", {}, [0.0, 10.0]),
    ):
        criterion = criterion_of(name, **settings)
        assert isinstance(criterion, GradientCriterion)
        assert criterion.value(w, g, h).abs().tolist() == expected
        assert not criterion.signed, "magnitudes are compared: a loss below zero turns no order round"
        assert not criterion.training, "statistics of the batch would undo the gates"


def test_gates_before_a_norm_count_nothing_while_it_takes_statistics_of_the_batch() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 4),
    ).eval()  # fmt: skip
    criterion = connection_sensitivity("snap", ScoringImages(), "task")
    by_mode = [
        gradient_scores(module, replace(criterion, training=mode, batches=1, batch_size=16), toy_data(), 0)["0.weight"]
        for mode in (True, False)
    ]
    training, running = (float(scores.flatten(1).sum(dim=1).abs().max()) for scores in by_mode)
    assert training < 0.01 * running


@pytest.mark.parametrize("name", FAMILY)
def test_random_weights_come_first_and_the_test_set_last(name: str) -> None:
    method = methods()[name](start="random")
    steps = method.steps(PruningTarget(nodes=0.34))
    assert steps[0] == Reinitialize()
    assert methods()[name]().steps(PruningTarget(nodes=0.34))[0] != Reinitialize()
    assert not method.trained
    cuts = sum(isinstance(step, RemoveChannels) for step in steps)
    assert cuts == (1 if name in AT_ONCE or name == "earlycrop-s" else 7)


def test_the_early_training_is_the_released_one_and_stops_in_the_lazy_regime() -> None:
    train, choice, _ = methods()["earlycrop-s"]().steps(PruningTarget(nodes=0.34))
    assert isinstance(train, Train)
    assert isinstance(choice, SelectChannels)
    assert (train.epochs, train.batch_size, train.clip) == (100, 256, 10.0)
    assert (train.optimizer.name, train.optimizer.lr, train.optimizer.weight_decay) == ("adam", 2e-3, 5e-5)
    assert train.stop is not None
    assert train.stop.rule.keywords == {"factor": pytest.approx(0.9 - 0.66)}  # type: ignore[attr-defined]
    assert isinstance(choice.criterion, GradientCriterion)
    assert (choice.criterion.order, choice.criterion.batch_size, choice.criterion.batches) == (2, 256, 5)
    iterative = methods()["earlycrop-s"](iterative=True).steps(PruningTarget(nodes=0.34))
    assert sum(isinstance(step, RemoveChannels) for step in iterative) == 7


def test_groups_that_only_a_guard_saves_are_told() -> None:
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0, 9.0]), "c": np.array([5.0, 8.0])}
    kept = {"a": np.array([False, True]), "b": np.array([False, False, True])}
    assert clamped_groups(scores, PrunePlan(kept)) == ["a"]


# ---------------------------------------------------------------- performed


def small() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Shortcut().eval(), ModelSpec("net", one_image((3, 8, 8)), 4), "it")


def performed(name: str, tmp_path: Path, *more: str) -> tuple[PruningState, list[dict[str, object]]]:
    own = {"earlycrop-s": ["prune.earlycrop-s.epochs=2", "prune.earlycrop-s.start=random"]}.get(name, [])
    sizes = [
        "retrain.batch_size=8",
        *([] if name in ("random-s", "efficientconvnets") else [f"prune.{name}.batch_size=8"]),
    ]
    recipe = read_recipe(name, ["retrain.epochs=1", "retrain.recalibrate=false", *sizes, *own, *more])
    events: list[dict[str, object]] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        events.append({"event": event, **fields})

    context = Context(toy_data(40), recipe.seed, RunLog(emit=emit), Checkpoints(tmp_path, ""))
    state = initial_state(small(), context, trained=recipe.method.trained)
    for step in build_steps(recipe, 1, retrain=True):
        state = run_step(step, state, context)
    return state, events


@pytest.mark.parametrize("name", FAMILY)
def test_a_recipe_leaves_the_nodes_it_asks_for(name: str, tmp_path: Path) -> None:
    state, events = performed(name, tmp_path)
    target = read_recipe(name).pruning_target().nodes
    assert target is not None
    share = count_cost(state.model.module, *state.example_inputs()).nodes / state.baseline.cost.nodes
    assert target - 0.06 < share <= target, "one step of the shared channels is two of 40 nodes"
    assert state.certificate is not None
    assert state.certificate.ok
    assert state.certificate.kind == "masked-dense-float64"
    warnings = [str(event["text"]) for event in events if event["event"] == "warning"]
    assert not any("the dense model" in warning for warning in warnings), "weights drawn anew are no mistake"
    notes = [str(event["text"]) for event in events if event["event"] == "note"]
    assert any("drawn anew with seed 0" in note for note in notes)
    early = ["after early training"] if name == "earlycrop-s" else []
    assert list(state.quality) == ["dense", *early, "after surgery", "after retraining"]


def test_given_weights_are_kept_and_random_ones_follow_the_seed(tmp_path: Path) -> None:
    def weights(*more: str) -> Tensor:
        state, _ = performed("random-s", tmp_path, "retrain.epochs=0", *more)
        return state.model.module.get_parameter("stem.weight").detach()

    given_rows = {tuple(row.flatten().tolist()) for row in small().module.get_parameter("stem.weight")}
    assert {tuple(row.flatten().tolist()) for row in weights("prune.random-s.start=given")} < given_rows
    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights("seed=1"))


def test_layers_behind_a_norm_that_begins_at_zero_are_warned_of(tmp_path: Path) -> None:
    model = small()
    nn.init.zeros_(model.module.get_parameter("outer.weight"))
    criterion = criterion_of("snap")
    assert isinstance(criterion, GradientCriterion)
    notes: list[str] = []
    log = RunLog(emit=lambda _, fields: notes.append(str(fields.get("text"))))
    context = Context(toy_data(), 0, log, Checkpoints(tmp_path, ""))
    selection = PruningTarget(nodes=0.9, scope="global")
    run_step(
        SelectChannels(replace(criterion, batches=1, batch_size=8), selection),
        initial_state(model, context, trained=False),
        context,
    )
    assert any(note.startswith("no gradient reaches inner: all channels there score 0") for note in notes)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model, context = small(), Context(None, 0, RunLog(), Checkpoints(tmp_path, ""))
    model.module.get_parameter("inner.weight").data[3] = math.nan
    with raises_error(VerificationFailed, "scores/non-finite", "inner", "1 of 16", "channels"):
        run_step(SelectChannels(l1, PruningTarget(nodes=0.5)), initial_state(model, context), context)


def test_scores_by_images_need_images(tmp_path: Path) -> None:
    recipe = read_recipe("crop-s", ["bench.target=none"])
    with raises_error(RecipeError, "recipe/data-required", "crop", "--data"):
        plan_run("cifar:resnet8@digits", recipe, data=None, trust_pickle=False, emit=quiet)
