"""Every short recipe with a method of its own, performed on few images: what it must leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.budget.target import PruningTarget
from compressor.commands.plan import plan_run
from compressor.core import EventSink, LoadedModel, ModelSpec, one_image
from compressor.data.image_data import ImageData
from compressor.errors import RecipeError
from compressor.methods._training import GrowingPenalty
from compressor.methods.tpp import TPP
from compressor.models.source import load_model
from compressor.recipe import Recipe, read_recipe
from compressor.recipe.build_steps import build_steps
from compressor.recipe.inputs import load_inputs
from compressor.report.findings.trainability import trainability_record
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.run import initial_state, run_step
from compressor.steps.state import PruningState
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints
from tests.training.toys import few_digits

SHORT = {  # recipe -> overrides that make it shorter still
    "tpp": ("tpp.epochs=2",),
    "greg-1": ("greg-1.epochs=1",),
    "greg-2": ("greg-2.epochs=1", "greg-2.pick_epochs=1"),
    "ssl": ("ssl.epochs=1",),
    "scratch": ("scratch.dense_epochs=1", "scratch.equal=flops"),
    "l1-orthp": (),
    "l1-kernorth": (),
    "l1-orthconv": (),
    "kernorth-l1": ("kernorth-l1.epochs=1",),
    "orthconv-l1": ("orthconv-l1.epochs=1",),
    "earlybird": ("earlybird.epochs=2", "earlybird.counted=false"),
    "gatedecorators": ("gatedecorators.ticks=2", "gatedecorators.every=2", "gatedecorators.tock_epochs=1"),
}
LATELY = "after regularisation"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return few_digits(192)


def shortened(name: str) -> Recipe:
    own = [f"prune.{each}" for each in SHORT[name]]
    return read_recipe(name, ["retrain.epochs=1", "retrain.schedule.name=constant", *own])


def performed(
    recipe: Recipe, model: LoadedModel, data: ImageData, folder: Path
) -> tuple[PruningState, list[dict[str, object]]]:
    events: list[dict[str, object]] = []

    def emit(event: str, fields: Mapping[str, object]) -> None:
        events.append({"event": event, **fields})

    around = Context(data, recipe.seed, RunLog(emit=emit), Checkpoints(folder, "test"))
    work = initial_state(model, around)
    for step in build_steps(recipe, 4, retrain=True):
        work = run_step(step, work, around)
    return work, events


@pytest.mark.parametrize("name", SHORT)
def test_a_short_recipe_runs(name: str, digits: ImageData, tmp_path: Path) -> None:
    recipe = shortened(name)
    model = load_model("cifar:resnet8@digits")
    work, events = performed(recipe, model, digits, tmp_path)
    assert work.certificate is not None
    assert work.certificate.ok
    dense, slim = (sum(each.numel() for each in net.module.parameters()) for net in (model, work.model))
    assert slim < 0.75 * dense
    assert work.quality["after retraining"] > (10 if name == "scratch" else 40)
    assert set(work.quality) == set(work.isometry)
    assert all(each.mean > 0 and each.images == 32 for each in work.isometry.values())
    found = trainability_record([training.records for training in work.trainings])
    assert found is not None
    assert found["epochs"] >= 1
    assert any(
        each in step
        for step in work.steps
        for each in ("tpp", "greg", "lasso", "Orth", "Reinit", "early bird", "gates")
    )
    warnings = [str(event["text"]) for event in events if event["event"] == "warning"]
    assert not [each for each in warnings if name != "scratch" or "the retrained model" not in each]
    if name == "scratch":
        assert any(step.startswith("Train(3 epochs") for step in work.steps)  # 1 + 1 * 2.04


def test_removal_after_tpp_is_lossless(digits: ImageData, tmp_path: Path) -> None:
    """Accuracy and isometry before and after surgery are the same; after L1 they are not."""
    model = load_model("cifar:resnet8@digits")
    work, _ = performed(shortened("tpp"), model, digits, tmp_path)
    assert work.quality[LATELY] == work.quality["after surgery"]
    assert work.isometry[LATELY].mean == pytest.approx(work.isometry["after surgery"].mean, rel=1e-4)
    other, _ = performed(read_recipe("l1", ["retrain.epochs=0"]), model, digits, tmp_path / "l1")
    assert other.quality["after surgery"] < other.quality["dense"] - 20


def unnormed(activation: Callable[[], nn.Module]) -> LoadedModel:
    """Linear layers and convolutions, one depthwise, without any normalisation."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), activation(), nn.Conv2d(8, 8, 3, groups=8), activation(), nn.Flatten(),
        nn.Linear(8 * 16, 24), activation(), nn.Linear(24, 10),
    )  # fmt: skip
    return LoadedModel(module.eval(), ModelSpec("net.py:net", one_image((1, 8, 8)), 10), "net")


def test_networks_without_normalisation_are_left_without_a_trace_too(digits: ImageData, tmp_path: Path) -> None:
    work, events = performed(shortened("tpp"), unnormed(nn.ReLU), digits, tmp_path)
    assert work.quality[LATELY] == work.quality["after surgery"]
    assert not any("lossless" in str(event.get("text")) for event in events)


def test_a_sigmoid_is_warned_of_before_training(digits: ImageData, tmp_path: Path) -> None:
    _, events = performed(shortened("tpp"), unnormed(nn.Sigmoid), digits, tmp_path)
    names = [str(event.get("text", event.get("epoch", ""))) for event in events]
    warned = next(place for place, name in enumerate(names) if "removal will not be lossless" in name)
    assert warned < names.index("1")


def test_removal_that_should_be_lossless_and_is_not_ends_the_run(digits: ImageData, tmp_path: Path) -> None:
    """Weights come back after they were zeroed: the run must not go on as if nothing had happened."""
    from compressor.errors import VerificationFailed

    def emit(event: str, fields: Mapping[str, object]) -> None:
        del event, fields

    model, told = load_model("cifar:resnet8@digits"), emit
    around = Context(digits, 0, RunLog(emit=told), Checkpoints(tmp_path, "test"))
    choose, train, remove = TPP(growing=GrowingPenalty(epochs=1)).steps(PruningTarget(ratio=0.5))
    work = initial_state(model, around)
    for step in (choose, train):
        work = run_step(step, work, around)
    spoiled = replace(work, model=model)
    with raises_error(VerificationFailed, "lossless-removal/outputs-differ"):
        run_step(remove, spoiled, around)


def test_what_trains_first_asks_for_data(tmp_path: Path) -> None:
    recipe = read_recipe("tpp")
    with raises_error(RecipeError, "recipe/data-required", "--data"):
        load_inputs("cifar:resnet8@digits", recipe, None, RunLog(), trust_pickle=False, needs_data=True)


@pytest.mark.parametrize("name", ["tpp", "greg-2", "tpp-cifar10"])
def test_plan_says_what_would_be_cut_without_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(name, ["bench.target=none", "data=null"])
    quiet: EventSink = lambda event, fields: None  # noqa: E731
    found = plan_run("cifar:resnet8@digits", recipe, data=None, trust_pickle=False, emit=quiet)
    assert found["slim"]["params"] < found["dense"]["params"]
    assert any(step.startswith("Train(") for step in found["steps"])


def test_the_published_settings() -> None:
    cifar, imagenet = read_recipe("tpp-cifar10"), read_recipe("tpp-imagenet")
    found = []
    for recipe in (cifar, imagenet):
        (train,) = (step for step in recipe.method.steps(recipe.pruning_target()) if isinstance(step, Train))
        retraining = recipe.train_step()
        assert retraining is not None
        rates = [retraining.optimizer.lr * retraining.schedule(epoch) for epoch in (0, 30, 60, 75, 89)]
        assert train.optimizer.weight_decay == retraining.optimizer.weight_decay
        found.append((train.iterations, train.batch_size, retraining.epochs, rates))
    assert found[0][:3] == (110_000, 128, 120)
    assert found[0][3] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-3])
    assert found[1][:3] == (90_000, 256, 90)
    assert found[1][3] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-5])
    rules = imagenet.pruning_target().rules
    assert [rule.ratio for rule in rules] == [0.21, None, None]
    assert imagenet.pruning_target().ratio == 0.6
