"""The stages of a run that are not steps of a method: where recipe settings become plain arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from compressor import __version__
from compressor.bench.device.target import DeviceTarget
from compressor.bench.device_timer import DeviceTimer
from compressor.bench.width_multiples import preferred_width_multiple
from compressor.core import Data, FinetuneSegment, LoadedModel, Recalibrate, Step, Train
from compressor.data.locate import is_source
from compressor.data.open_data import open_data
from compressor.data.tasks import open_task
from compressor.errors import ModelError, RecipeError
from compressor.export.onnx import export_onnx
from compressor.models.source import load_model
from compressor.recipe import Recipe
from compressor.run_data import require_recipe_data
from compressor.run_log import RunLog
from compressor.steps.state import calibration_inputs, example_inputs

WITHOUT_TARGET = 8  # channels; what most runtimes reward, when there is no device to ask
COARSEST = 32
ROUNDS = 8  # whole models that are measured for a latency target, at the most
SAMPLED_IMAGES = 64  # that tell one data set from another


def load_recipe_model(source: str, recipe: Recipe, trust_pickle: bool, journal: RunLog) -> LoadedModel:
    """The dense model, as the recipe's `model` block narrows it down."""
    settings = recipe.model
    with journal.stage("load"):
        dense = load_model(
            source,
            arch=settings.arch,
            num_classes=None if settings.num_classes == "auto" else settings.num_classes,
            input=None if settings.input == "auto" else settings.input,
            trust_pickle=trust_pickle,
        )
        for note in dense.notes:
            journal("note", {"text": note})
    return dense


def open_recipe_data(recipe: Recipe, path: str | None, dense: LoadedModel, journal: RunLog) -> Data | None:
    """The images to retrain and measure with: what `--data` points to, or the recipe's own; None for neither.

    Raises RecipeError where the method takes training images before anything goes, DataError where data are wrong.
    """
    settings, place = recipe.data, require_recipe_data(recipe, path)
    if place is None:
        return None
    if dense.spec.image is None:
        shapes = " and ".join("x".join(map(str, each.shape)) for each in dense.spec.inputs)
        takes = f"it takes inputs of shape {shapes}, not one image"
        raise ModelError(
            "data/model-takes-no-image", dense.name, takes, "compress it without data, then retrain it in your own code"
        )
    base = Path(path) if path and not is_source(path) else Path()
    with journal.stage("read data"):
        return open_data(
            place.source,
            train=place.train,
            val=place.val,
            base=place.base,
            input=dense.spec.image,
            num_classes=None if dense.untrained and recipe.model.num_classes == "auto" else dense.spec.num_classes,
            mean=settings.mean if settings and settings.mean else dense.mean,
            std=settings.std if settings and settings.std else dense.std,
            augment=settings.augment if settings else "none",
            task=open_task(settings.task, base, loss=settings.loss, metric=settings.metric) if settings else None,
            holdout=(settings.holdout or 0.0) if settings else 0.0,
            workers=settings.workers if settings and settings.workers != "auto" else None,
        )


def resize_head(dense: LoadedModel, data: Data | None, journal: RunLog) -> LoadedModel:
    """With a last layer for the classes of the data, where its weights are random anyway."""
    classes = data.num_classes if data else None
    if not dense.untrained or classes in (None, dense.spec.num_classes):
        return dense
    journal("note", {"text": f"built for the {classes} classes of the data instead of {dense.spec.num_classes}"})
    return load_model(dense.name, num_classes=classes, input=dense.spec.input)


def run_fingerprint(recipe: Recipe, round_to: int, dense: LoadedModel, data: Data | None) -> str:
    """What training depends on: how to prune and train, weights, images, version. Only the same run is continued.

    Learning rates are no part of it: checkpoints keep their own, which may change once it has failed.
    """
    asked = recipe.model_dump(mode="json", by_alias=True, include={"prune", "retrain", "data", "seed"})
    settings = json.dumps(_without_rates(asked), sort_keys=True)
    images = (data.name, data.train_size, data.num_classes) if data else None
    digest = hashlib.sha256(f"{__version__}\n{settings}\n{round_to}\n{dense.spec}\n{images}\n".encode())
    sample = {"sample": calibration_inputs(dense, data, SAMPLED_IMAGES)[0]} if data else {}
    for name, tensor in {**dense.module.state_dict(), **sample}.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _without_rates(asked: object) -> object:
    if isinstance(asked, dict):
        return {key: _without_rates(value) for key, value in asked.items() if key != "lr"}
    return asked


def check_device(target: DeviceTarget | None, journal: RunLog) -> None:
    """A device that can't be reached must fail now, not after hours of training; nor may it be a surprise which one
    the models go to."""
    if target is None or target.is_here:
        return
    with journal.stage("find the target"), target.opened() as device:
        about = f"{device.facts.get('cpu', 'unknown processor')}, {device.runtime}, {device.provider}"
        journal(
            "note", {"text": f"target {target.name} is a {about}; both models will be sent there and removed again"}
        )


def width_multiple(recipe: Recipe, target: DeviceTarget | None, journal: RunLog) -> int:
    """Widths are multiples of this: the recipe's number, or what the target device rewards."""
    asked: int | Literal["auto"] = 1 if recipe.method.unstructured else recipe.prune.round_to
    if asked != "auto":
        return asked
    if recipe.selection(COARSEST).allocates_per_layer:
        return COARSEST  # the surface tells of each layer what it rewards
    if target is None:
        return WITHOUT_TARGET
    about: dict[str, object] = {"target": target.name, "provider": target.provider, "threads": target.threads}
    for event in journal.events:  # of a run that is resumed: a second answer might be another one
        same = event["event"] == "rounding" and about.items() <= event.items()
        if same and isinstance(event["round_to"], int):
            return event["round_to"]
    with journal.stage("ask the target"), target.opened() as device:
        found: int = preferred_width_multiple(device, emit=journal)
    journal("rounding", {**about, "round_to": found})
    journal("note", {"text": f"target {target.name} rewards widths that are multiples of {found}"})
    return found


def latency_probe(
    recipe: Recipe, target: DeviceTarget | None, dense: LoadedModel, journal: RunLog, *, rounds: int = ROUNDS
) -> DeviceTimer | None:
    """What latency targets are met against: the files of the run itself, at the first batch size it measures.

    A batch of one is exported as such: a free batch takes the exporter three times as long, and no less time to run.
    """
    if target is None:
        return None
    batch = recipe.bench.batch[0]

    def export(module: nn.Module, path: Path) -> None:
        opset, inputs = recipe.export.version, example_inputs(dense, images=2)
        export_onnx(module, inputs, path, opset=opset, dynamic_batch=batch > 1, metadata={})

    return DeviceTimer(target, batch, rounds, export, journal)


def resumed_widths(journal: RunLog) -> tuple[Mapping[str, int], ...]:
    """Widths that an earlier part of this run found for a latency: measured again, they would be others."""
    kept = [event["kept"] for event in journal.events if event["event"] == "widths"]
    return tuple({str(name): int(width) for name, width in each.items()} for each in kept if isinstance(each, dict))


def build_steps(recipe: Recipe, round_to: int, *, retrain: bool) -> tuple[Step, ...]:
    """The method's steps, then the recipe's retraining where there is data for it, or where the method asks for it.

    Raises RecipeError where a method needs more of the retraining than the recipe has.
    """
    pruning, finish = recipe.method.steps(recipe.selection(round_to)), recipe.method.finish()
    training = recipe.train_step()
    if training is not None:
        training = replace(training, penalty=recipe.method.retraining())
    if any(isinstance(each, FinetuneSegment) for each in pruning):
        parts = (_trained(each, training, recipe) if isinstance(each, FinetuneSegment) else each for each in pruning)
        return (*parts, *finish)
    if not retrain:
        return (*pruning, *finish)
    recalibration = (Recalibrate(),) if recipe.retrain.recalibrate else ()
    return (*pruning, *recalibration, *((training,) if training else ()), *finish)


def _trained(step: FinetuneSegment, training: Train | None, recipe: Recipe) -> Train:
    """What a method asks of the recipe's retraining."""
    if training is None or training.epochs <= step.first:
        problem = f"it is {recipe.retrain.epochs}, but {recipe.method.name} trains from epoch {step.first} on"
        raise RecipeError("recipe/too-few-epochs", "retrain.epochs", problem, f"set retrain.epochs above {step.first}")
    return step.of(training)
