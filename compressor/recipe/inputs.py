"""The model and the data that a run begins with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from compressor.core import Data, LoadedModel
from compressor.data.for_model import estimated_normalization, open_data_for, samples_shown, with_sample_sizes
from compressor.data.locate import is_source
from compressor.models.inputs.user_inputs import no_samples
from compressor.models.source import load_model, resize_head
from compressor.recipe.data_location import locate_recipe_data
from compressor.recipe.recipe_config import Recipe
from compressor.run_log import RunLog


def load_inputs(
    source: str | LoadedModel, recipe: Recipe, data: object, log: RunLog, *, trust_pickle: bool, needs_data: bool
) -> tuple[LoadedModel, Data | None]:
    """Load the dense model and open the data, if any are named.

    Args:
        source: The model: a checkpoint, a folder or a name; or the model itself.
        recipe: Its `model` and `data` blocks narrow both down.
        data: The option `--data`, or the data themselves.
        log: Receives the stages and notes.
        trust_pickle: Whether to unpickle files that may contain code.
        needs_data: Whether a method that needs training images is refused without them.

    Returns:
        The model, whose last layer fits the classes of the data where its weights are random, and the data.

    Raises:
        RecipeError: The method needs data, and none are named.
        DataError: The data cannot be used.
        ModelError: The model cannot be loaded, or takes no images.
    """
    location = locate_recipe_data(recipe, data, required=needs_data)
    with log.stage("load"):
        model = source
        if not isinstance(model, LoadedModel):
            samples = no_samples if location is None else partial(samples_shown, *location)
            model = load_model(model, **recipe.model.load_options(), trust_pickle=trust_pickle, samples=samples)
        for note in model.notes:
            log.note(note)
    if location is None:
        return model, None
    settings, base = location
    any_classes = model.untrained and recipe.model.num_classes == "auto"
    with log.stage("read data"):
        sized = with_sample_sizes(model, settings, base)
        if sized is not model:
            sizes = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))}" for one in sized.spec.inputs)
            log.note(f"input sizes as in the samples: {sizes}")
            model = sized
        opened = open_data_for(
            model,
            settings,
            base,
            task_base=Path(data) if isinstance(data, str) and not is_source(data) else Path(),
            num_classes=None if any_classes else model.spec.num_classes,
        )
    normalize = estimated_normalization(model, settings, opened)
    if normalize is not None and not model.untrained:
        mean, std = ([round(value, 4) for value in values] for values in (normalize.mean, normalize.std))
        used = f"images are normalized by their own statistics, data.mean={mean} and data.std={std}"
        log.warning(f"{used}; set both if the model was trained with others")
    resized = resize_head(model, opened.num_classes)
    if resized is not model:
        log.note(f"built for the {opened.num_classes} classes of the data instead of {model.spec.num_classes}")
    return resized, opened
